//! From words to a command: finds it, reads its flags, runs it, and turns its end into an exit code.

use crate::call::Call;
use crate::commands::{self, Command, Entry};
use crate::completion;
use crate::console::Console;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::flags::{Flags, help};
use crate::output::Format;

/// Exit code of a word that is no command.
const NO_COMMAND: i32 = 127;

pub fn run(args: &[String], environment: &Environment, console: &Console) -> i32 {
    if let Some(code) = completion::answer(args, environment, console) {
        return code;
    }
    if let Some(code) = installs(args, environment, console) {
        return code;
    }
    if matches!(args.first().map(String::as_str), Some("-v" | "-version" | "--version")) {
        return run(&["version".to_string()], environment, console);
    }
    let words = args.iter().position(|a| !a.starts_with('-')).unwrap_or(args.len());
    let found = commands::find(&args[words..]);
    if asks_help(args) {
        match found {
            Some((entry, _)) => console.say(entry.help()),
            None if words == args.len() => console.say(help::of_program()),
            None => {
                console.warn(help::of_program());
                return NO_COMMAND;
            }
        }
        return 0;
    }
    let Some((entry, used)) = found else {
        console.warn(help::of_program());
        return NO_COMMAND;
    };
    if words > 0 {
        console.warn("Flags stand behind the command's name, not before it.\n");
        console.warn(entry.help());
        return 1;
    }
    match entry {
        Entry::Group(group) => {
            console.warn(help::of_group(group));
            1
        }
        Entry::Command(command) => ended(command_run(command, &args[used..], environment, console), console),
    }
}

fn command_run(
    command: &'static Command,
    args: &[String],
    environment: &Environment,
    console: &Console,
) -> Result<i32, Failure> {
    if !command.asks_server {
        let (flags, args) = (Flags::default(), args.to_vec());
        return (command.run)(&Call { command, flags, args, format: Format::Table, console, environment });
    }
    let tables: Vec<_> = command.flag_tables().into_iter().map(|(_, flags)| flags).collect();
    let (flags, args) = Flags::parse(args, &tables).map_err(Failure::usage)?;
    let wanted = flags.text("format").or_else(|| behind(&args, "format")).or(environment.text("FORMAT"));
    let format = Format::parse(wanted.unwrap_or("table"))?;
    if format == Format::Raw && command.words != "read" {
        return Err(Failure::usage("This command does not support the -format=raw option."));
    }
    if format == Format::Table {
        warn_of_late_flags(&args, console);
    }
    (command.run)(&Call { command, flags, args, format, console, environment })
}

fn ended(outcome: Result<i32, Failure>, console: &Console) -> i32 {
    match outcome {
        Ok(code) => code,
        Err(Failure::Rehearsed(text)) => {
            console.say(text);
            0
        }
        Err(Failure::Stop { code, message }) => {
            if !message.is_empty() {
                console.warn(message);
            }
            code
        }
    }
}

/// `-autocomplete-install` and `-autocomplete-uninstall`, which stand where a command's name stands.
fn installs(args: &[String], environment: &Environment, console: &Console) -> Option<i32> {
    let flags = args.iter().take_while(|a| a.starts_with('-'));
    let flags: Vec<&str> = flags.map(|a| a.strip_prefix("--").unwrap_or(&a[1..])).collect();
    match (flags.contains(&completion::INSTALL), flags.contains(&completion::UNINSTALL)) {
        (false, false) => None,
        (true, true) => {
            console.warn("Either of -autocomplete-install and -autocomplete-uninstall may be given, not both.");
            Some(1)
        }
        (is_install, _) => Some(completion::install(is_install, environment, console)),
    }
}

fn asks_help(args: &[String]) -> bool {
    args.iter().take_while(|a| *a != "--").any(|a| matches!(a.as_str(), "-h" | "-help" | "--help"))
}

/// The value of a flag behind the arguments. A few flags count even there.
fn behind<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter()
        .find_map(|a| a.trim_start_matches('-').strip_prefix(name)?.strip_prefix('=').filter(|_| a.starts_with('-')))
}

/// Flags behind the first argument are arguments; who typed them meant something else.
fn warn_of_late_flags(args: &[String], console: &Console) {
    const UNDERSTOOD_ANYWHERE: [&str; 3] = ["format", "output-curl-string", "output-policy"];
    let late: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|a| a.starts_with('-') && *a != "-")
        .filter(|a| {
            let name = a.trim_start_matches('-').split('=').next().unwrap_or_default();
            !UNDERSTOOD_ANYWHERE.contains(&name)
        })
        .collect();
    if !late.is_empty() {
        console
            .warn(format_args!("Flags stand before the arguments; these are taken as arguments: [{}]", late.join(" ")));
    }
}
