//! `holdfast server`.

mod dev;
mod flags;
mod listeners;
mod logging;
mod shown_config;
mod start;
pub mod storage;
pub mod walls;

use std::ffi::OsString;
use std::process::ExitCode;

use holdfast_config::Offer;

/// The storages and seals that this program has.
pub const STORAGES: &[&str] = &["inmem", "file", "raft"];
pub const SEALS: &[&str] = &["pkcs11", "shamir", "software", "static", "tpm", "yubihsm"];

/// Run the server until it is told to stop.
pub fn main(args: &[OsString]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let flags = match flags::parse(&args) {
        Ok(flags::Parsed::Run(f)) => *f,
        Ok(flags::Parsed::Help) => {
            print!("{}", flags::HELP);
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(1);
        }
    };
    if let Err(text) = hold_level_back() {
        eprintln!("Error: {text}");
        return ExitCode::from(1);
    }
    leave_guarded_panics_untold();
    match start::run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("Error: {text}");
            ExitCode::from(1)
        }
    }
}

/// Know no more than a feature level, so that the programs of a cluster can go back to an earlier one.
fn hold_level_back() -> Result<(), String> {
    let Some((name, text)) = Offer::new(STORAGES, SEALS).variable("MAX_FEATURE_LEVEL") else { return Ok(()) };
    let level = text.parse().map_err(|_| format!("{name}={text:?} is no feature level: unset it, or give a number"))?;
    holdfast_storage::level::hold_back(level);
    Ok(())
}

/// A damaged store is told of in one line that says what to do; a panic of its library before that would only frighten.
pub(crate) fn leave_guarded_panics_untold() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !holdfast_storage::panics_are_errors() {
            tell(panic);
        }
    }));
}
