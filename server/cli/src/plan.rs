//! `holdfast operator seal plan -config=FILE`: try the seals of a configuration that no server has yet, on this machine.
//! Without a file it is a client's command: the servers try what their own files say by now.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use holdfast_config::{Config, Offer};
use holdfast_core::Seals;
use holdfast_hsm::{Spawner, memory};

use crate::seals::ConfiguredSeals;
use crate::server::{SEALS, STORAGES};

pub fn main(args: &[OsString]) -> ExitCode {
    let mut files: Vec<PathBuf> = Vec::new();
    for arg in args {
        let text = arg.to_string_lossy();
        match text.trim_start_matches('-').split_once('=') {
            Some(("config", path)) => files.push(path.into()),
            _ => {
                eprintln!("operator seal plan takes -config=FILE, got {text:?}");
                return ExitCode::from(1);
            }
        }
    }
    match tried(&files) {
        Ok(works) => ExitCode::from(if works { 0 } else { 2 }),
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::from(1)
        }
    }
}

fn tried(files: &[PathBuf]) -> Result<bool, String> {
    // Before any thread, as in a server.
    let spawner = Arc::new(Spawner::start().map_err(|e| format!("the device helper's spawner: {e}"))?);
    memory::allow_unlocked();
    let (config, _) = Config::load(files, &Offer::new(STORAGES, SEALS)).map_err(|e| e.to_string())?;
    let configured = ConfiguredSeals::new(Some(spawner), Box::new(|| Err("it is read once".into())));
    let Seals { present, former } = configured.of(&config)?;
    if present.is_empty() {
        println!("Shares open the store by this configuration: no device is tried.");
    }
    let mut works = true;
    for seal in present.iter().chain(&former) {
        println!("Seal {:?} ({}), {}", seal.shown(), seal.device.backend(), seal.device.place());
        for step in seal.device.trial() {
            let (mark, said) = match &step.said {
                Ok(said) => ("works", said),
                Err(why) => ("FAILS", why),
            };
            works &= step.said.is_ok();
            println!("  {mark}  {:<10}  {said}", step.what);
        }
    }
    println!(
        "\n{} What becomes of the store's locks the servers say, when the file is in its place: operator seal plan",
        if works { "Every seal works from here." } else { "Not every seal works from here." }
    );
    Ok(works)
}
