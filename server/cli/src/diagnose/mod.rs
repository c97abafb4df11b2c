//! `holdfast operator diagnose -config=FILE`: what would keep a server with this configuration from starting or from
//! staying up, and what to do about it. It changes nothing, asks for no secret, and may run beside the server. With `-login`
//! it logs in to the devices and tries the keys of the seals; without it no PIN leaves its place.

mod cluster;
mod devices;
mod files;
mod host;
mod listeners;
mod report;
mod seal;
mod storage;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_config::{Config, Offer};
use report::{Check, Status};

use crate::server::{SEALS, STORAGES};

/// Exit codes: of a failure, of warnings alone, of a call that names no configuration, of one that cannot be read.
const FAILURE: u8 = 1;
const WARNINGS: u8 = 2;
const NONE_NAMED: u8 = 3;
const UNREADABLE: u8 = 4;

/// What may be left out.
const SKIPPABLE: [&str; 4] = ["listener", "storage", "autounseal", "device"];

#[derive(Default)]
struct Wanted {
    config: Vec<PathBuf>,
    skip: Vec<String>,
    debug: bool,
    json: bool,
    login: bool,
}

impl Wanted {
    fn skips(&self, what: &str) -> bool {
        self.skip.iter().any(|s| s == what)
    }
}

pub fn main(args: &[OsString]) -> ExitCode {
    let mut wanted = match parse(args) {
        Ok(wanted) => wanted,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(FAILURE);
        }
    };
    let offer = Offer::new(STORAGES, SEALS);
    if wanted.config.is_empty() {
        wanted.config.extend(offer.variable("CONFIG_PATH").map(|(_, path)| PathBuf::from(path)));
    }
    if wanted.config.is_empty() {
        eprintln!("Must specify a configuration file using -config.");
        return ExitCode::from(NONE_NAMED);
    }
    let loaded = Config::load(&wanted.config, &offer);
    let (report, code) = match &loaded {
        Ok((config, warnings)) => {
            let report = look(&wanted, config, warnings);
            let code = match report.status() {
                Status::Fail => FAILURE,
                Status::Warn => WARNINGS,
                Status::Ok | Status::Skipped => 0,
            };
            (report, code)
        }
        Err(e) => {
            let parsing = Check::fail("Parse Configuration", e.to_string(), "Correct it; nothing else was looked at.");
            (Check::of(TITLE, vec![host::check(None), parsing]), UNREADABLE)
        }
    };
    if wanted.json {
        println!("{:#}", report.json(wanted.debug));
    } else {
        println!("Holdfast v{}\n\nResults:", holdfast_core::bare::VERSION);
        print!("{}", report.tree(std::io::stdout().is_terminal(), wanted.debug));
    }
    ExitCode::from(code)
}

const TITLE: &str = "Holdfast Diagnose";

fn look(wanted: &Wanted, config: &Config, warnings: &[holdfast_config::Warning]) -> Check {
    let parsing = match warnings {
        [] => Check::ok("Parse Configuration", ""),
        some => {
            let warned = |w: &holdfast_config::Warning| {
                Check::warn("Configuration Entry", w.to_string(), "It has no effect: take it away, or correct it.")
            };
            Check::of("Parse Configuration", some.iter().map(warned).collect())
        }
    };
    // Before any thread.
    let helpers = seal::Helpers::of(config);
    let seal = match wanted.skips("autounseal") {
        true => Check::skipped("Check Seal", "it is to be left out"),
        false => seal::check(config, &helpers, wanted.login),
    };
    let devices = match wanted.skips("device") {
        true => Check::skipped(devices::NAME, "they are to be left out"),
        false => devices::check(config, &helpers, wanted.login),
    };
    let held = storage::is_held(config);
    Check::of(
        TITLE,
        vec![
            host::check(Some(config)),
            parsing,
            files::check(&wanted.config, config),
            match wanted.skips("storage") {
                true => Check::skipped("Check Storage", "it is to be left out"),
                false => storage::check(config, held),
            },
            seal,
            devices,
            match wanted.skips("listener") {
                true => Check::skipped("Start Listeners", "they are to be left out"),
                false => listeners::check(config, held),
            },
            cluster::check(config, held),
            files::audit(config),
        ],
    )
}

fn parse(args: &[OsString]) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    let mut rest = args.iter().map(|a| a.to_string_lossy().into_owned());
    while let Some(arg) = rest.next() {
        let flag = arg.strip_prefix("--").or(arg.strip_prefix('-')).filter(|f| !f.is_empty());
        let flag = flag.ok_or_else(|| format!("operator diagnose takes no arguments, got {arg:?}"))?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let switch = match name {
            "debug" => Some(&mut wanted.debug),
            "login" => Some(&mut wanted.login),
            _ => None,
        };
        if let Some(switch) = switch {
            *switch = !matches!(value.as_deref(), Some("false" | "0"));
            continue;
        }
        let value = value.or_else(|| rest.next()).ok_or_else(|| format!("flag needs an argument: -{name}"))?;
        match (name, value.as_str()) {
            ("config", path) => wanted.config.push(path.into()),
            ("skip", what) if SKIPPABLE.contains(&what) => wanted.skip.push(what.to_owned()),
            ("skip", other) => {
                return Err(format!("invalid check {other:?}: -skip takes {}", SKIPPABLE.join(", ")));
            }
            ("format", "json") => wanted.json = true,
            ("format", "table") => wanted.json = false,
            ("format", other) => return Err(format!("invalid output format {other:?}: it is table or json")),
            _ => return Err(format!("flag provided but not defined: -{name}")),
        }
    }
    Ok(wanted)
}
