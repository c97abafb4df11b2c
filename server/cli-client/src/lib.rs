//! The client commands of `holdfast`: everything that asks a server over its HTTP API and prints
//! what it answered. Words, flags, streams and exit codes are those of the reference client, so
//! that a runbook works with the program's name changed; what holds is written in
//! `contract/cli.md` and checked by the `cli_*` walks.
//!
//! ```no_run
//! let arguments = std::env::args_os().skip(1).collect();
//! std::process::exit(holdfast_cli_client::run(arguments));
//! ```
//!
//! How a command line becomes an answer:
//!
//! 1. [`commands`] is the table of all commands; [`dispatch`] finds the one that is meant.
//! 2. [`flags`] reads the command's flags by its table, which also makes its help text.
//! 3. The command's function gets a [`call::Call`]: flags, arguments, environment, streams.
//! 4. [`client`] sends the request; [`output`] prints the answer in the wanted format.
//!
//! Commands never see sockets and the client never prints.
#![forbid(unsafe_code)]

mod call;
mod client;
mod commands;
mod completion;
mod console;
mod data;
mod dispatch;
mod duration;
mod environment;
mod failure;
mod flags;
mod output;
mod secret;
mod token_file;

use std::ffi::OsString;

/// Runs one client command and returns the exit code of the process.
///
/// `args` is the command line without the program's name. Everything is printed here, on the
/// process's own streams: results on stdout, the rest on stderr.
pub fn run(args: Vec<OsString>) -> i32 {
    let args: Vec<String> = args.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let environment = environment::Environment::of_process();
    let console = console::Console::of_process();
    let code = dispatch::run(&args, &environment, &console);
    match console.lost() {
        Some(e) if code == 0 => {
            console.warn(format_args!("Error writing the result: {e}"));
            1
        }
        _ => code,
    }
}

/// The name of the program in help and other texts.
const PROGRAM: &str = "holdfast";
