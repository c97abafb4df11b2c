//! `holdfast operator compact -config=FILE`: give unused room of a stopped server's store back.
//! Without a configuration it is a client's command: a server that runs does it while it serves.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_config::{Config, Offer, Storage};
use holdfast_storage::Store;

use crate::server::{SEALS, STORAGES, leave_guarded_panics_untold};

/// Whether the store of a configuration is meant, and not a server that runs.
pub fn names_files(args: &[OsString]) -> bool {
    args.iter().any(|a| a.to_string_lossy().trim_start_matches('-').starts_with("config"))
}

pub fn main(args: &[OsString]) -> ExitCode {
    let mut config = Vec::new();
    for arg in args {
        let text = arg.to_string_lossy();
        let flag = text.trim_start_matches('-');
        match flag.split_once('=') {
            Some(("config", path)) => config.push(PathBuf::from(path)),
            _ => {
                eprintln!("operator compact takes -config=FILE, got {text:?}");
                return ExitCode::from(1);
            }
        }
    }
    leave_guarded_panics_untold();
    match compact(&config) {
        Ok((before, after)) => {
            println!("Success! The store had {} KiB and has {} KiB now.", before >> 10, after >> 10);
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("Error: {text}");
            ExitCode::from(2)
        }
    }
}

fn compact(config: &[PathBuf]) -> Result<(u64, u64), String> {
    let (config, _) = Config::load(config, &Offer::new(STORAGES, SEALS)).map_err(|e| e.to_string())?;
    match &config.storage {
        Some(Storage::File { path }) => Store::compact(path).map_err(|e| e.to_string()),
        // Its own files alone: other members know nothing of it.
        Some(Storage::Raft(raft)) => Store::compact(&raft.path).map_err(|e| e.to_string()),
        _ => Err("a store in memory has no file to compact".into()),
    }
}
