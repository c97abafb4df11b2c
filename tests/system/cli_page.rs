//! `docs/cli.md` says what the binary does: its second half is made from the help of every command,
//! and every command line in its table of exit codes is run.
//!
//! `make cli-page` writes the second half anew.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use holdfast_tests::Server;
use holdfast_tests::program::{Output, command, holdfast, repository, run};

/// Behind this line everything is made here.
const MARK: &str = "<!-- From here on made from the commands' own help: `make cli-page`. -->\n";
/// Sections of help that are the same in every command that has them; they are shown once.
const SHARED: [&str; 3] = ["Output option for one field", "Output options", "HTTP options"];
/// What a command says that has its place and its help, but not its work yet.
const NOT_BUILT: &str = "is not part of this version";
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn the_cli_page_says_what_every_command_says_of_itself() {
    let path = page();
    let text = fs::read_to_string(&path).expect("the page");
    let (written, made) = text.split_once(MARK).expect("the mark between the two halves");
    let reference = reference();
    if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{written}{MARK}{reference}")).expect("the page can be written");
        return;
    }
    let differs = made.lines().zip(reference.lines()).find(|(page, help)| page != help);
    assert_eq!(differs, None, "the page, and what the command says; `make cli-page` writes it anew");
    assert!(made == reference, "the page ends elsewhere than the commands do; `make cli-page` writes it anew");
}

#[test]
fn every_command_line_in_the_table_of_exit_codes_ends_as_the_table_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dev = command(holdfast());
    dev.args(["server", "-dev", "-dev-root-token-id=root", "-dev-listen-address=127.0.0.1:0"]);
    dev.env("HOME", folder.path());
    let server = Server::start(&mut dev, folder.path(), 1, None);

    let text = fs::read_to_string(page()).expect("the page");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let code: i32 = cells.next()?.parse().ok()?;
        Some((code, cells.last()?))
    });
    let mut tried = 0;
    for (code, examples) in rows {
        for line in examples.split('`').filter(|part| part.starts_with("holdfast ")) {
            let mut call = command(holdfast());
            call.args(line.split(' ').skip(1)).env("HOME", folder.path()).env("VAULT_ADDR", server.url());
            let output = run(&mut call);
            assert_eq!(output.code, Some(code), "{line}: {output:?}");
            tried += 1;
        }
    }
    assert!(tried >= 15, "the table has lost its examples: {tried}");
}

fn page() -> PathBuf {
    repository().join("docs/cli.md")
}

/// The second half of the page.
fn reference() -> String {
    let mut built = Vec::new();
    let mut not_built = Vec::new();
    commands_below("", &mut |words| {
        let output = ask(words.split(' ').collect());
        match (output.stdout + &output.stderr).contains(NOT_BUILT) {
            true => not_built.push(words.to_owned()),
            false => built.push(words.to_owned()),
        }
    });
    let mut shared: Vec<Option<String>> = vec![None; SHARED.len()];
    let mut entries = String::new();
    for words in &built {
        let (own, also) = split(&help(words), &mut shared);
        let _infallible = write!(entries, "\n### {words}\n\n```text\n{}\n```\n", own.trim_end());
        if !also.is_empty() {
            let _infallible = write!(entries, "\nAnd: {}.\n", also.join(", "));
        }
    }
    let mut text = String::from("\n## Flags that many commands take\n");
    for (title, body) in SHARED.iter().zip(shared) {
        let body = body.unwrap_or_else(|| panic!("no command has the section {title:?}"));
        let _infallible = write!(text, "\n### {title}\n\n```text\n{}\n```\n", body.trim_end());
    }
    text.push_str("\n## Commands\n");
    text.push_str(&entries);
    text.push_str("\n## Commands that are not in this version\n\nThey have their help (`-h`) and end with 1.\n\n");
    for words in not_built {
        let _infallible = writeln!(text, "* `{words}`");
    }
    text
}

/// The help of one command without the shared sections, and links to those.
fn split(help: &str, shared: &mut [Option<String>]) -> (String, Vec<String>) {
    let mut own = String::new();
    let mut also = Vec::new();
    let mut section: Option<usize> = None;
    for line in help.lines() {
        if let Some(title) = line.strip_suffix(':').filter(|t| !t.starts_with(' ')) {
            section = SHARED.iter().position(|s| *s == title);
            if let Some(at) = section {
                also.push(format!("[{title}](#{})", title.to_lowercase().replace(' ', "-")));
                // The first command that has it shows it; the walks hold that it is the same in all.
                if shared[at].is_none() {
                    shared[at] = Some(section_of(help, title));
                }
            }
        }
        if section.is_none() {
            own.push_str(line);
            own.push('\n');
        }
    }
    (own, also)
}

/// What stands below a title, up to the next one.
fn section_of(help: &str, title: &str) -> String {
    let lines = help.lines().skip_while(|l| l.strip_suffix(':') != Some(title)).skip(2);
    let mut body = String::new();
    for line in lines.take_while(|l| l.is_empty() || l.starts_with(' ')) {
        body.push_str(line);
        body.push('\n');
    }
    body
}

/// Every command below a group, in the order of the help; `""` is the program.
fn commands_below(group: &str, found: &mut impl FnMut(&str)) {
    let text = help(group);
    for name in text.lines().filter_map(subcommand) {
        let words = if group.is_empty() { name.to_owned() } else { format!("{group} {name}") };
        match help(&words).lines().any(|l| l == "Subcommands:") {
            true => commands_below(&words, found),
            false => found(&words),
        }
    }
    if group.is_empty() {
        // As in the stock command line, the list leaves it out.
        found("version");
    }
}

/// The name in a line of a list of commands.
fn subcommand(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("    ").filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase()))?;
    Some(rest.split_once("  ")?.0)
}

fn help(words: &str) -> String {
    let output = ask(words.split(' ').filter(|w| !w.is_empty()).chain(["-h"]).collect());
    assert!(output.stderr.is_empty(), "help is no error: {output:?}");
    output.good()
}

/// Run a command where no server is.
fn ask(words: Vec<&str>) -> Output {
    run(command(holdfast()).args(words).env("VAULT_ADDR", NOBODY).env("HOME", "/nonexistent"))
}
