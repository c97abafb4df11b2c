//! `holdfast operator raft snapshot inspect FILE`: what a saved store is of, without a server.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

pub fn main(args: &[OsString]) -> ExitCode {
    let mut json = false;
    let mut file = None;
    for arg in args {
        match arg.to_str() {
            Some("-format=json" | "--format=json") => json = true,
            Some("-format=table" | "--format=table") => json = false,
            Some(flag) if flag.starts_with('-') => {
                eprintln!("operator raft snapshot inspect does not know {flag:?}");
                return ExitCode::from(1);
            }
            _ if file.is_some() => {
                eprintln!("operator raft snapshot inspect takes one FILE");
                return ExitCode::from(1);
            }
            _ => file = Some(PathBuf::from(arg)),
        }
    }
    let Some(file) = file else {
        eprintln!("operator raft snapshot inspect takes a FILE");
        return ExitCode::from(1);
    };
    match holdfast_core::inspect_snapshot(&file) {
        Ok(found) if json => println!("{:#}", Value::Object(found)),
        Ok(found) => {
            for (name, value) in found {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                println!("{name:<14}{value}");
            }
            println!("It is whole, and its checksums are right.");
        }
        Err(e) => {
            eprintln!("Error: {}: {e}", file.display());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
