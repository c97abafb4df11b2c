#![forbid(unsafe_code)]
//! The `holdfast` binary: the server, its device helper, and every client command.
//!
//! `holdfast server` is put together here: the table of engines, the seal, the store, the listeners.

mod compact;
mod diagnose;
mod engines;
mod inspect;
mod migrate;
mod named_devices;
mod node_key;
mod plan;
mod recover;
mod seal_device;
mod seal_trial;
mod seals;
mod server;
mod static_key;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: holdfast_hsm::memory::WipingAllocator = holdfast_hsm::memory::WipingAllocator;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|a| a.to_str()) {
        Some(holdfast_hsm::helper::SUBCOMMAND) => holdfast_hsm::helper::main(holdfast_hsm::DeviceConfig::open),
        Some("server") => server::main(&args[2..]),
        Some("operator") if args.get(2).is_some_and(|a| a == "compact") && compact::names_files(&args[3..]) => {
            compact::main(&args[3..])
        }
        Some("operator")
            if args.get(2..4).is_some_and(|words| words == ["raft", "recover"]) && !validate::asks_help(&args[4..]) =>
        {
            recover::main(&args[4..])
        }
        Some("operator")
            if args.get(2..5).is_some_and(|words| words == ["raft", "snapshot", "inspect"])
                && !validate::asks_help(&args[5..]) =>
        {
            inspect::main(&args[5..])
        }
        Some("operator") if args.get(2).is_some_and(|a| a == "migrate") && !validate::asks_help(&args[3..]) => {
            migrate::main(&args[3..])
        }
        Some("operator") if args.get(2).is_some_and(|a| a == "validate-config") && !validate::asks_help(&args[3..]) => {
            validate::main(&args[3..])
        }
        Some("operator") if args.get(2).is_some_and(|a| a == "diagnose") && !validate::asks_help(&args[3..]) => {
            diagnose::main(&args[3..])
        }
        Some("operator")
            if args.get(2..4).is_some_and(|words| words == ["seal", "plan"]) && compact::names_files(&args[4..]) =>
        {
            plan::main(&args[4..])
        }
        _ => {
            let code = holdfast_cli_client::run(args.into_iter().skip(1).collect());
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}
