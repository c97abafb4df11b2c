//! `holdfast operator compact`: give unused room of a stopped server's store back.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_config::{Config, Offer, Storage};
use holdfast_storage::Store;

use crate::server::{SEALS, STORAGES};

const HELP: &str = "\
Usage: holdfast operator compact -config=FILE

  Gives the room that the store of storage \"file\" does not use back to the
  file system. The server must be stopped: the store is locked meanwhile. No
  key is needed, nothing is decrypted.
";

pub fn main(args: &[OsString]) -> ExitCode {
    let mut config = Vec::new();
    for arg in args {
        let text = arg.to_string_lossy();
        let flag = text.trim_start_matches('-');
        match flag.split_once('=') {
            Some(("config", path)) => config.push(PathBuf::from(path)),
            _ if matches!(flag, "h" | "help") => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("operator compact takes -config=FILE, got {text:?}");
                return ExitCode::from(1);
            }
        }
    }
    if config.is_empty() {
        eprint!("{HELP}");
        return ExitCode::from(1);
    }
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
        _ => Err("only storage \"file\" has something to compact".into()),
    }
}
