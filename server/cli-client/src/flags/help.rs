//! The help texts, made from the tables of commands and flags.

use std::fmt::Write;

use super::{Flag, Kind};
use crate::PROGRAM;
use crate::commands::{self, Command, Group};

/// Width at which the text of a flag is broken.
const WIDTH: usize = 78;

/// Help of a command: usage, what it does, its flags.
pub fn of_command(command: &Command) -> String {
    let usage = format!("Usage: {PROGRAM} {} {}", command.words, command.arguments);
    let mut text = format!("{}\n\n", usage.trim_end());
    for paragraph in command.about.split("\n\n") {
        wrap(&mut text, 2, paragraph);
        text.push('\n');
    }
    for (title, flags) in command.flag_tables() {
        let mut flags: Vec<&Flag> = flags.iter().collect();
        flags.sort_by_key(|f| f.name);
        if flags.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{title}:\n");
        for flag in flags {
            of_flag(&mut text, flag);
        }
    }
    text.trim_end().to_string()
}

/// Help of a group of commands.
pub fn of_group(group: &Group) -> String {
    let mut text = format!("Usage: {PROGRAM} {} <subcommand> [options] [args]\n\n", group.words);
    wrap(&mut text, 2, group.about);
    text.push_str("\nSubcommands:\n");
    listing(&mut text, &commands::below(group.words));
    text.trim_end().to_string()
}

/// Help of the program.
pub fn of_program() -> String {
    let mut text = format!("Usage: {PROGRAM} <command> [args]\n");
    let all = commands::below("");
    let (common, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| commands::COMMON.contains(name));
    text.push_str("\nCommon commands:\n");
    listing(&mut text, &common);
    text.push_str("\nOther commands:\n");
    listing(&mut text, &other);
    text.trim_end().to_string()
}

fn listing(text: &mut String, entries: &[(&str, &str)]) {
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, summary) in entries {
        let _ = writeln!(text, "    {name:width$}    {summary}");
    }
}

fn of_flag(text: &mut String, flag: &Flag) {
    let value = match flag.kind {
        Kind::Bool => "",
        Kind::Int => "=<int>",
        Kind::Uint => "=<uint>",
        Kind::Duration => "=<duration>",
        Kind::Text | Kind::List => "=<string>",
        Kind::Pairs => "=<key=value>",
    };
    let _ = writeln!(text, "  -{}{value}", flag.name);
    let mut about = flag.about.to_string();
    if let Some(default) = flag.default {
        let _ = write!(about, " The default is {default}.");
    }
    if let Some(setting) = flag.setting {
        let _ = write!(about, " The environment's HOLDFAST_{setting} says the same.");
    }
    wrap(text, 6, &about);
    text.push('\n');
}

/// Appends a paragraph, broken at blanks. Lines that begin with blanks (examples) stay as they are.
fn wrap(text: &mut String, indent: usize, paragraph: &str) {
    let pad = " ".repeat(indent);
    if paragraph.starts_with(' ') {
        for line in paragraph.lines() {
            let _ = writeln!(text, "{pad}{line}");
        }
        return;
    }
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        if !line.is_empty() && indent + line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{pad}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{pad}{line}");
}
