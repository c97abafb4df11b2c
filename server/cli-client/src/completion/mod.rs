//! Completion of a command line in bash, zsh and fish, from the tables of commands and flags.
//!
//! [`install`] adds a line to the shell's start file. From then on the shell runs this program for
//! every press of the key, with the line so far in `COMP_LINE`, as the reference does; what is
//! printed are the words that could stand there, one a line. Names of mounts, paths and policies are
//! asked of the server, which has a second to tell them. Nothing is ever said of an error: the
//! person is in the middle of a line.

mod install;
mod line;
mod names;

pub use install::{INSTALL, UNINSTALL, run as install};

use std::fs;

use crate::commands::{self, Command, Entry};
use crate::console::Console;
use crate::environment::Environment;
use crate::flags::{Flag, Flags, Kind};
use line::Line;

/// The variable with the line so far, and the one with the place of the cursor in it.
pub const LINE: &str = "COMP_LINE";
const POINT: &str = "COMP_POINT";
/// More words than this help nobody.
const MOST: usize = 1000;

/// What can stand in a place of a command line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Anything; nothing is offered.
    Any,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A file of this machine.
    File,
    /// A path of the API.
    Path,
    /// A key of the key-value engine, beside its mount or with -mount.
    Key,
    /// A mount of a secrets engine.
    Mount,
    /// A mount of an auth method.
    AuthMount,
    /// The name of a policy.
    Policy,
    /// The path of an audit device.
    AuditDevice,
}

/// The shells, as their functions name themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// A word that could stand there.
struct Candidate {
    text: String,
    about: &'static str,
    /// Whether the word is whole: a blank follows.
    is_whole: bool,
}

impl Candidate {
    fn whole(text: impl Into<String>) -> Candidate {
        Candidate { text: text.into(), about: "", is_whole: true }
    }

    /// A name that may have others below it if it ends in a slash.
    fn name(text: String) -> Candidate {
        Candidate { is_whole: !text.ends_with('/'), text, about: "" }
    }
}

/// Prints what can stand at the end of the line that the shell gave, if it gave one.
///
/// `args` are the shell's: bash gives the program's name, the word as it splits it, and the one
/// before; our functions for zsh and fish give the shell's name.
pub fn answer(args: &[String], environment: &Environment, console: &Console) -> Option<i32> {
    let line = Line::parse(environment.variable(LINE)?, environment.variable(POINT));
    let shell = match args.first().map(String::as_str) {
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut candidates = candidates(&line, environment);
    candidates.retain(|c| c.text.starts_with(&line.word) && !c.text.contains(char::is_control));
    candidates.truncate(MOST);
    // What bash replaces is less than the word: it splits at = and : too.
    let kept = match (shell, args.get(1)) {
        (Shell::Bash, Some(part)) => line.raw.strip_suffix(part.as_str()).map(line::plain),
        _ => None,
    };
    let kept = kept.unwrap_or_default();
    for candidate in candidates {
        let text = candidate.text.strip_prefix(&kept).unwrap_or(&candidate.text);
        let end = if candidate.is_whole { " " } else { "" };
        match shell {
            Shell::Bash => console.say(format_args!("{}{end}", line::escaped(text))),
            Shell::Zsh => console.say(format_args!("{text}{end}")),
            Shell::Fish => console.say(format_args!("{text}\t{}", candidate.about)),
        }
    }
    Some(0)
}

fn candidates(line: &Line, environment: &Environment) -> Vec<Candidate> {
    let (command, used) = match commands::find(&line.before) {
        Some((Entry::Command(command), used)) => (Some(command), used),
        Some((Entry::Group(_), used)) => (None, used),
        None => (None, 0),
    };
    let below = line.before[..used].join(" ");
    let mut words = Vec::new();
    if used == line.before.len() {
        let entries = commands::below(&below).into_iter().filter(|(name, _)| !name.contains(' '));
        words.extend(entries.map(|(name, about)| Candidate { text: name.to_string(), about, is_whole: true }));
    }
    if let Some(command) = command {
        words.extend(of_command(command, &line.before[used..], &line.word, environment));
    }
    words
}

/// What can stand behind `before`, the words behind the command's own.
fn of_command(command: &'static Command, before: &[String], word: &str, environment: &Environment) -> Vec<Candidate> {
    let tables: Vec<_> = command.flag_tables().into_iter().map(|(_, flags)| flags).collect();
    let find = |name: &str| tables.iter().copied().flatten().find(|f| f.name == name || f.also.contains(&name));
    // A flag that waits for its value is no flag yet.
    let waiting = before.last().and_then(|last| find(last.strip_prefix("--").or(last.strip_prefix('-'))?));
    let waiting = waiting.filter(|flag| flag.kind != Kind::Bool);
    let complete = &before[..before.len() - usize::from(waiting.is_some())];
    let (flags, args) = Flags::parse(complete, &tables).unwrap_or_default();
    let place = names::Place { flags: &flags, environment };
    if let Some(flag) = waiting.filter(|_| args.is_empty()) {
        return of_values(flag.values, word, &place);
    }
    if args.is_empty() && word.starts_with('-') {
        let (dashes, bare) = word.split_at(if word.starts_with("--") { 2 } else { 1 });
        return match bare.split_once('=') {
            None => tables.iter().copied().flatten().map(|flag| of_flag(dashes, flag)).collect(),
            Some((name, value)) => {
                let values = find(name).map(|flag| of_values(flag.values, value, &place)).unwrap_or_default();
                let behind = |c: Candidate| Candidate { text: format!("{dashes}{name}={}", c.text), ..c };
                values.into_iter().map(behind).collect()
            }
        };
    }
    let values = command.completes.get(args.len()).copied().unwrap_or(Values::Any);
    of_values(values, word, &place)
}

fn of_flag(dashes: &str, flag: &Flag) -> Candidate {
    let takes_value = flag.kind != Kind::Bool;
    let end = if takes_value { "=" } else { "" };
    Candidate { text: format!("{dashes}{}{end}", flag.name), about: flag.about, is_whole: !takes_value }
}

fn of_values(values: Values, word: &str, place: &names::Place) -> Vec<Candidate> {
    match values {
        Values::Any => Vec::new(),
        Values::Words(words) => words.iter().map(|w| Candidate::whole(*w)).collect(),
        Values::File => files(word).into_iter().map(Candidate::name).collect(),
        of_server => place.names(of_server, word).into_iter().map(Candidate::name).collect(),
    }
}

/// Files and folders whose paths begin so.
fn files(word: &str) -> Vec<String> {
    let folder = word.rfind('/').map_or("", |slash| &word[..=slash]);
    let entries = fs::read_dir(if folder.is_empty() { "." } else { folder });
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .take(MOST)
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let end = if entry.path().is_dir() { "/" } else { "" };
            Some(format!("{folder}{}{end}", entry.file_name().to_str()?))
        })
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        let environment = Environment::of(&[("VAULT_ADDR", "http://127.0.0.1:1"), ("HOME", "/nonexistent")]);
        let line = Line::parse(line, None);
        let mut candidates = candidates(&line, &environment);
        candidates.retain(|c| c.text.starts_with(&line.word));
        candidates.into_iter().map(|c| c.text).collect()
    }

    #[test]
    fn commands_are_offered_by_their_group() {
        assert_eq!(offered("holdfast stat"), ["status"]);
        assert_eq!(offered("holdfast kv g"), ["get"]);
        assert_eq!(offered("holdfast kv metadata p"), ["patch", "put"]);
        assert!(offered("holdfast operator ").contains(&"raft".to_string()));
        assert!(offered("holdfast nosuch g").is_empty());
    }

    #[test]
    fn flags_are_offered_until_the_first_argument() {
        assert_eq!(offered("holdfast kv get -mo"), ["-mount="]);
        assert_eq!(offered("holdfast kv get --mo"), ["--mount="]);
        assert_eq!(offered("holdfast operator init -st"), ["-status"]);
        assert_eq!(offered("holdfast kv get -mount=x -fi"), ["-field="]);
        assert!(offered("holdfast kv get key -mo").is_empty());
        assert!(offered("holdfast version -").is_empty());
    }

    #[test]
    fn values_of_a_flag_are_offered_behind_an_equals_sign_and_a_blank() {
        assert_eq!(offered("holdfast status -format=j"), ["-format=json"]);
        assert_eq!(offered("holdfast status -format j"), ["json"]);
        assert_eq!(offered("holdfast monitor -log-level=w"), ["-log-level=warn"]);
        assert!(offered("holdfast kv get -field ").is_empty());
    }

    #[test]
    fn a_server_that_is_not_there_offers_nothing() {
        assert!(offered("holdfast secrets disable ").is_empty());
        assert!(offered("holdfast read secret/").is_empty());
    }

    #[test]
    fn files_are_offered_with_their_folder() {
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(offered(&format!("holdfast policy fmt {here}/Cargo")), [format!("{here}/Cargo.toml")]);
        assert_eq!(offered(&format!("holdfast policy fmt {here}/sr")), [format!("{here}/src/")]);
    }
}
