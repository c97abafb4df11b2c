//! The table of all client commands, and how words find theirs.
//!
//! Each command is a [`Command`] in a file of its own or of its group: its words, its help, its
//! flags, and the function that runs it. A new command is a new line in [`COMMANDS`].

mod audit;
mod auth;
mod debug;
mod delete;
mod groups;
mod kv;
mod lease;
mod list;
mod login;
mod monitor;
mod mount;
mod namespace;
mod operator;
mod outside;
mod path_help;
mod plugin;
mod policy;
mod print;
mod read;
mod secrets;
mod ssh;
mod status;
mod token;
mod token_report;
mod transit;
mod unwrap;
mod version;
mod write;

use crate::call::Call;
use crate::completion::Values;
use crate::failure::Outcome;
use crate::flags::{Flag, global, help};

use groups::GROUPS;
pub use groups::Group;

/// Commands that the program's help names first.
pub const COMMON: [&str; 9] = ["read", "write", "delete", "list", "login", "agent", "server", "status", "unwrap"];

/// What a command prints, which decides its output flags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Prints {
    /// Words for people.
    Words,
    /// An answer: `-format`.
    Answer,
    /// One object: `-format` and `-field`.
    Object,
}

/// One command.
pub struct Command {
    /// As it is typed: `kv get`.
    pub words: &'static str,
    /// A line for the list of its group.
    pub summary: &'static str,
    /// What the usage line says behind the name.
    pub arguments: &'static str,
    pub about: &'static str,
    pub prints: Prints,
    pub flags: &'static [Flag],
    /// What a shell offers as its arguments, by place.
    pub completes: &'static [Values],
    /// Whether it is a client command; without a server there are no flags at all.
    pub asks_server: bool,
    pub run: fn(&Call) -> Outcome,
}

impl Command {
    pub const fn new(words: &'static str, summary: &'static str, run: fn(&Call) -> Outcome) -> Command {
        Command {
            words,
            summary,
            arguments: "[options]",
            about: summary,
            prints: Prints::Words,
            flags: &[],
            completes: &[],
            asks_server: true,
            run,
        }
    }

    pub const fn takes(mut self, arguments: &'static str) -> Command {
        self.arguments = arguments;
        self
    }

    pub const fn about(mut self, about: &'static str) -> Command {
        self.about = about;
        self
    }

    pub const fn prints(mut self, prints: Prints) -> Command {
        self.prints = prints;
        self
    }

    pub const fn flags(mut self, flags: &'static [Flag]) -> Command {
        self.flags = flags;
        self
    }

    pub const fn completes(mut self, arguments: &'static [Values]) -> Command {
        self.completes = arguments;
        self
    }

    pub const fn without_server(mut self) -> Command {
        self.asks_server = false;
        self
    }

    /// Its flags by section of the help.
    pub fn flag_tables(&self) -> Vec<(&'static str, &'static [Flag])> {
        if !self.asks_server {
            return vec![("Command options", self.flags)];
        }
        let mut tables: Vec<(&'static str, &'static [Flag])> = vec![("Command options", self.flags)];
        if self.prints == Prints::Object {
            tables.push(("Output option for one field", &global::FIELD));
        }
        if self.prints != Prints::Words {
            tables.push(("Output options", &global::FORMAT));
        }
        tables.push(("HTTP options", &global::HTTP));
        tables
    }
}

/// What words can name.
#[derive(Clone, Copy)]
pub enum Entry {
    Command(&'static Command),
    Group(&'static Group),
}

impl Entry {
    pub fn words(&self) -> &'static str {
        match self {
            Entry::Command(command) => command.words,
            Entry::Group(group) => group.words,
        }
    }

    fn summary(&self) -> &'static str {
        match self {
            Entry::Command(command) => command.summary,
            Entry::Group(group) => group.summary,
        }
    }

    pub fn help(&self) -> String {
        match self {
            Entry::Command(command) => help::of_command(command),
            Entry::Group(group) => help::of_group(group),
        }
    }
}

/// Every command of this crate, by group.
static COMMANDS: &[&[Command]] = &[
    &audit::COMMANDS,
    &auth::COMMANDS,
    &delete::COMMANDS,
    &kv::COMMANDS,
    kv::metadata::COMMANDS,
    &lease::COMMANDS,
    &list::COMMANDS,
    &login::COMMANDS,
    &debug::COMMANDS,
    &monitor::COMMANDS,
    &namespace::COMMANDS,
    operator::COMMANDS,
    operator::attest::COMMANDS,
    operator::custodians::COMMANDS,
    operator::device::COMMANDS,
    operator::raft::COMMANDS,
    operator::root::COMMANDS,
    operator::rotate_keys::COMMANDS,
    outside::COMMANDS,
    &path_help::COMMANDS,
    &plugin::COMMANDS,
    &policy::COMMANDS,
    &print::COMMANDS,
    &read::COMMANDS,
    &secrets::COMMANDS,
    &ssh::COMMANDS,
    &status::COMMANDS,
    &token::COMMANDS,
    &transit::COMMANDS,
    &unwrap::COMMANDS,
    &version::COMMANDS,
    &write::COMMANDS,
];

fn all() -> impl Iterator<Item = Entry> {
    let commands = COMMANDS.iter().copied().flatten().map(Entry::Command);
    commands.chain(GROUPS.iter().map(Entry::Group))
}

/// The entry with the most words that `args` begin with, and how many words those are.
pub fn find(args: &[String]) -> Option<(Entry, usize)> {
    let begins = |entry: &Entry| {
        let words: Vec<&str> = entry.words().split(' ').collect();
        let same = args.len() >= words.len() && words.iter().zip(args).all(|(word, arg)| word == arg);
        same.then_some(words.len())
    };
    all().filter_map(|entry| begins(&entry).map(|count| (entry, count))).max_by_key(|(_, count)| *count)
}

/// Names and summaries of what is directly below a group (`""`: the program), in order; what is below a command of it
/// (`seal rewrap`) is among them.
pub fn below(group: &str) -> Vec<(&'static str, &'static str)> {
    let mut entries: Vec<(&str, &str)> = all()
        .filter_map(|entry| {
            let words = entry.words();
            let name = if group.is_empty() { words } else { words.strip_prefix(group)?.strip_prefix(' ')? };
            let is_below_a_command = || {
                let (first, rest) = name.split_once(' ').unwrap_or_default();
                let command = format!("{group} {first}");
                !rest.contains(' ') && COMMANDS.iter().copied().flatten().any(|c| c.words == command)
            };
            (!name.contains(' ') || is_below_a_command()).then_some((name, entry.summary()))
        })
        .filter(|(name, _)| *name != "version")
        .collect();
    entries.sort_unstable();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_is_there_twice() {
        let mut words: Vec<&str> = COMMANDS.iter().flat_map(|c| c.iter()).map(|c| c.words).collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn the_longest_words_win() {
        let find = |line: &str| {
            let args: Vec<String> = line.split(' ').map(str::to_string).collect();
            super::find(&args).map(|(entry, count)| (entry.words(), count))
        };
        assert_eq!(find("kv metadata get a"), Some(("kv metadata get", 3)));
        assert_eq!(find("kv nosuch"), Some(("kv", 1)));
        assert_eq!(find("status extra"), Some(("status", 1)));
        assert_eq!(find("nosuch"), None);
    }

    #[test]
    fn no_command_is_there_twice_and_no_flag_twice_in_one() {
        let mut words: Vec<&str> = all().map(|e| e.words()).collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
        for command in COMMANDS.iter().copied().flatten() {
            let mut names: Vec<&str> =
                command.flag_tables().iter().flat_map(|(_, t)| t.iter().map(|f| f.name)).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", command.words);
        }
    }

    #[test]
    fn every_group_has_commands_and_every_command_its_group() {
        for group in GROUPS.iter() {
            assert!(!below(group.words).is_empty(), "{}", group.words);
        }
        for entry in all() {
            if let Some((group, _)) = entry.words().rsplit_once(' ') {
                let known = all().any(|e| e.words() == group);
                assert!(known, "{}", entry.words());
            }
        }
    }
}
