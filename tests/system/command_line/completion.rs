//! Completion in the shells themselves: what is installed completes commands, flags, values and names.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::{Server, Terminal};
use serde_json::json;
use tempfile::TempDir;

/// A home folder in which completion is installed, and a server in memory that its environment names.
struct Home {
    folder: TempDir,
    server: Server,
}

/// What is typed, with the key that completes at its end, and what the line is then.
const LINES: [(&str, &str); 9] = [
    ("kv g\t", "kv get"),
    ("operator raft snap\t", "operator raft snapshot"),
    ("operator init -st\t", "operator init -status"),
    ("kv get -mo\tsecret x", "kv get -mount=secret x"),
    ("read -format=y\tx", "read -format=yaml x"),
    ("read -format y\tx", "read -format yaml x"),
    ("policy read def\t", "policy read default"),
    ("kv get secret/app/d\t", "kv get secret/app/db"),
    ("secrets disable cub\t", "secrets disable cubbyhole/"),
];

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::dev(folder.path());
        let root = server.client().with_token("root");
        for name in ["app/db", "app/other"] {
            root.post(&format!("secret/data/{name}"), json!({ "data": { "a": "b" } })).expect(200);
        }
        Home { folder, server }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn shell(&self, program: &str) -> Command {
        let mut shell = command(program);
        shell.env("HOME", self.path()).env("VAULT_ADDR", self.server.url()).env("VAULT_TOKEN", "root");
        // fish completes only what it finds.
        let folder = holdfast().parent().expect("a folder").display().to_string();
        shell.env("PATH", format!("{folder}:{}", std::env::var("PATH").expect("a path")));
        shell.env("TERM", "xterm").env("PS1", "> ").env_remove("XDG_CONFIG_HOME").env_remove("ZDOTDIR");
        shell
    }

    fn call(&self, args: &[&str]) -> Output {
        run(self.shell(holdfast().to_str().expect("a path")).args(args))
    }
}

/// What the shell makes of each line: a function of the program's name shows what it was called with.
fn completes(home: &Home, shell: &str, flags: &[&str]) {
    for (typed, meant) in LINES {
        let mut terminal = Terminal::start(home.shell(shell).args(flags), 200);
        terminal.until_shown("> ");
        terminal.type_keys("holdfast() { echo \"<$*>\"; echo d''one; }\r");
        terminal.type_keys(&format!("holdfast {typed}\r"));
        terminal.until_shown("done\r\n");
        let shown = terminal.shown();
        assert!(shown.contains(&format!("<{meant}>\r\n")), "{shell}: {typed:?} gives {shown}");
    }
}

#[test]
fn bash_completes_commands_flags_values_and_names() {
    let home = Home::new();
    fs::write(home.path().join(".bashrc"), "PS1='> '\n").expect("a start file");
    home.call(&["-autocomplete-install"]).good();
    completes(&home, "bash", &["-i"]);
}

#[test]
fn zsh_completes_commands_flags_values_and_names() {
    let home = Home::new();
    fs::write(home.path().join(".zshrc"), "PS1='> '\nunsetopt beep\n").expect("a start file");
    home.call(&["-autocomplete-install"]).good();
    completes(&home, "zsh", &["-i"]);
}

#[test]
fn fish_completes_commands_flags_values_and_names() {
    let home = Home::new();
    fs::create_dir_all(home.path().join(".config/fish")).expect("a folder");
    home.call(&["-autocomplete-install"]).good();
    for (typed, meant) in LINES {
        let line = format!("holdfast {}", typed.split('\t').next().expect("a line"));
        let said = run(home.shell("fish").args(["-c", "complete -C $argv[1]", &line])).good();
        let words: Vec<&str> = said.lines().map(|l| l.split('\t').next().expect("a word")).collect();
        let word = meant.split(' ').find(|w| words.contains(w) || words.iter().any(|o| w.starts_with(o)));
        assert!(words.len() == 1 && word.is_some(), "{line:?} gives {said:?}");
    }
    let said = run(home.shell("fish").args(["-c", "complete -C 'holdfast stat'"])).good();
    assert_eq!(said, "status\tSeal and cluster state of the server\n");
}

#[test]
fn installing_and_uninstalling_leave_a_start_file_as_it_was() {
    let home = Home::new();
    let text = "alias ll='ls -l'\n# no line end";
    let real = home.path().join("dotfiles");
    fs::write(&real, text).expect("a file");
    std::os::unix::fs::symlink(&real, home.path().join(".bashrc")).expect("a link");
    let refused = home.call(&["-autocomplete-uninstall"]).bad(1);
    assert!(refused.contains("not installed in"), "{refused}");
    home.call(&["-autocomplete-install"]).good();
    assert!(home.call(&["--autocomplete-install"]).bad(1).contains("already installed in"));
    let installed = fs::read_to_string(&real).expect("the file");
    assert!(installed.starts_with(text) && installed.lines().count() == 3, "{installed}");
    home.call(&["-autocomplete-uninstall"]).good();
    assert_eq!(fs::read_to_string(home.path().join(".bashrc")).expect("the file").trim_end(), text);
    assert!(home.path().join(".bashrc").is_symlink());
    home.call(&["-autocomplete-install", "-autocomplete-uninstall"]).bad(1);
}

#[test]
fn where_no_shell_is_used_nothing_is_installed() {
    let home = Home::new();
    assert!(home.call(&["-autocomplete-install"]).bad(1).contains("Did not find any shells"));
    let left: Vec<_> = fs::read_dir(home.path()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with('.')), "{left:?}");
}

/// A secret's name is chosen by others: what it holds is never run by the shell.
#[test]
fn a_name_from_the_server_is_only_a_name() {
    let home = Home::new();
    let root = home.server.client().with_token("root");
    root.post("secret/data/odd/x$(touch%20made)y", json!({ "data": { "a": "b" } })).expect(200);
    for (start, shell) in [(".bashrc", "bash"), (".zshrc", "zsh")] {
        fs::write(home.path().join(start), "PS1='> '\n").expect("a start file");
        let _other_shell_already = home.call(&["-autocomplete-install"]);
        let mut shell = home.shell(shell);
        let mut terminal = Terminal::start(shell.arg("-i").current_dir(home.path()), 200);
        terminal.until_shown("> ");
        terminal.type_keys("holdfast() { echo \"<$*>\"; echo d''one; }\rholdfast kv get secret/odd/x\t\r");
        terminal.until_shown("done\r\n");
        assert!(terminal.shown().contains("<kv get secret/odd/x$(touch made)y>"), "{}", terminal.shown());
        assert!(!home.path().join("made").exists());
    }
}
