//! `holdfast operator validate-config -config=FILE`: what a server would say of a configuration.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_config::{Config, Offer};
use serde_json::json;

use crate::server::{SEALS, STORAGES};

/// Exit code of a call that names no configuration.
const NONE_NAMED: u8 = 3;

/// The help comes from the client's table of commands.
pub fn asks_help(args: &[OsString]) -> bool {
    args.iter().any(|a| matches!(a.to_str(), Some("-h" | "-help" | "--help")))
}

pub fn main(args: &[OsString]) -> ExitCode {
    let wanted = match parse(args) {
        Ok(wanted) => wanted,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(1);
        }
    };
    if wanted.config.is_empty() {
        eprintln!("Must specify a configuration file using -config.");
        return ExitCode::from(NONE_NAMED);
    }
    let (warnings, error) = match Config::load(&wanted.config, &Offer::new(STORAGES, SEALS)) {
        Ok((config, warnings)) => {
            let seals = config.seals_in_use().err().map(|e| e.to_string());
            (warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), seals)
        }
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    if wanted.json {
        println!("{:#}", json!({ "valid": error.is_none(), "error": error, "warnings": warnings }));
    } else {
        warnings.iter().for_each(|w| eprintln!("Warning: {w}"));
        match &error {
            Some(e) => eprintln!("Error: {e}"),
            None => println!("Success! A server would start with this configuration."),
        }
    }
    ExitCode::from(u8::from(error.is_some()))
}

#[derive(Default)]
struct Wanted {
    config: Vec<PathBuf>,
    json: bool,
}

fn parse(args: &[OsString]) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    let mut rest = args.iter().map(|a| a.to_string_lossy().into_owned());
    while let Some(arg) = rest.next() {
        let flag = arg.strip_prefix("--").or(arg.strip_prefix('-')).filter(|f| !f.is_empty());
        let flag = flag.ok_or_else(|| format!("operator validate-config takes no arguments, got {arg:?}"))?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (flag.to_owned(), None),
        };
        let value = value.or_else(|| rest.next()).ok_or_else(|| format!("flag needs an argument: -{name}"))?;
        match (name.as_str(), value.as_str()) {
            ("config", path) => wanted.config.push(path.into()),
            ("format", "json") => wanted.json = true,
            ("format", "table") => wanted.json = false,
            ("format", other) => return Err(format!("invalid output format {other:?}: it is table or json")),
            _ => return Err(format!("flag provided but not defined: -{name}")),
        }
    }
    Ok(wanted)
}
