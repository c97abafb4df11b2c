//! `holdfast operator migrate -config=FILE`: copy what one storage holds into another, while no server has either open.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_cluster::recover::Recovery;
use holdfast_cluster::{KeyKept, Node, Set};
use holdfast_config::{LogLevel, Migration, Offer, RaftStorage, Storage};
use holdfast_storage::{Copied, KeepFree, Options, Store, Whole};

use crate::server::{SEALS, STORAGES, leave_guarded_panics_untold, storage};

/// The variable that names the configuration where no flag does.
const CONFIG: &str = "MIGRATE_CONFIG_PATH";

#[derive(Default)]
struct Wanted {
    config: Vec<PathBuf>,
    reset: bool,
}

pub fn main(args: &[OsString]) -> ExitCode {
    leave_guarded_panics_untold();
    let offer = Offer::new(STORAGES, SEALS);
    let wanted = match parse(args) {
        Ok(wanted) => wanted,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(1);
        }
    };
    let config = match &wanted.config[..] {
        [one] => one.clone(),
        [] if let Some((_, path)) = offer.variable(CONFIG) => path.into(),
        _ => {
            eprintln!("Must specify exactly one config path using -config");
            return ExitCode::from(1);
        }
    };
    let (migration, warnings) = match Migration::load(&config, &offer) {
        Ok(loaded) => loaded,
        Err(e) => {
            eprintln!("Error loading configuration from {}: {e}", config.display());
            return ExitCode::from(1);
        }
    };
    warnings.iter().for_each(|w| eprintln!("Warning: {w}"));
    if wanted.reset {
        // A store is locked by whoever has it open, and by nothing that could be left behind.
        println!("Success! Migration lock reset (if it was set).");
        return ExitCode::SUCCESS;
    }
    match migrate(&migration) {
        Ok(Copied { entries, .. }) => {
            println!("Success! All of the keys have been migrated.");
            eprintln!("{entries} entries were copied; the source is as it was. Start no server with it any more.");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("Error migrating: {text}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    let mut args = args.iter().map(|a| a.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let flag = arg.strip_prefix("--").or(arg.strip_prefix('-')).filter(|f| !f.is_empty());
        let flag = flag.ok_or_else(|| format!("Too many arguments (expected 0, got {arg:?})"))?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (flag.to_owned(), None),
        };
        let mut value = || value.clone().or_else(|| args.next()).ok_or_else(|| format!("-{name} takes a value"));
        match name.as_str() {
            "config" => wanted.config.push(value()?.into()),
            "reset" => wanted.reset = true,
            "start" => {
                return Err(
                    "-start is for going on where a migration broke off: here it is whole or not done, begin anew"
                        .into(),
                );
            }
            "log-level" => {
                let level = value()?;
                if LogLevel::parse(&level).is_none() {
                    return Err(format!(
                        "{level} is an unknown log level. Valid log levels are: [trace debug info warn error]"
                    ));
                }
            }
            // Files are copied in order, by one.
            "max-parallel" => match value()?.parse::<u64>() {
                Ok(1..) => {}
                _ => return Err("Argument to flag -max-parallel must be between 1 and 18446744073709551615".into()),
            },
            _ => return Err(format!("operator migrate does not know {arg:?}")),
        }
    }
    Ok(wanted)
}

fn migrate(migration: &Migration) -> Result<Copied, String> {
    let Migration { source, destination, cluster_addr } = migration;
    let (to, raft) = match destination {
        Storage::File { path } => (path, None),
        Storage::Raft(raft) => match cluster_addr {
            Some(address) => (&raft.path, Some((raft, address))),
            None => return Err("error mounting 'storage_destination': cluster_addr config not set".into()),
        },
        Storage::Inmem => return Err("storage_destination: what is in memory is gone with this command".into()),
    };
    let copied = match source {
        Storage::File { path } => of_file(path, to)?,
        Storage::Raft(raft) => of_member(&raft.path, to)?,
        Storage::Inmem => return Err("storage_source: what is in memory is of a running server alone".into()),
    };
    if let Some((raft, address)) = raft {
        found(raft, address)?;
    }
    Ok(copied)
}

fn of_file(from: &Path, to: &Path) -> Result<Copied, String> {
    // Opening it would make one.
    if !from.is_dir() {
        return Err(format!("storage_source: {} is no folder", from.display()));
    }
    let store = Store::open(&options(from)).map_err(|e| e.to_string())?;
    if store.info().applied_index == 0 {
        return Err(format!("storage_source: {} holds nothing", from.display()));
    }
    let copied = Whole::Alone(&store).copy_to(to).map_err(|e| e.to_string());
    store.close();
    copied
}

fn of_member(from: &Path, to: &Path) -> Result<Copied, String> {
    let member = Recovery::open(from)?;
    if let Some(other) = member.others().next() {
        return Err(format!(
            "storage_source: {} is a member beside it, and may know more: remove the others first (operator raft \
             remove-peer), or where they are lost, operator raft recover -alone",
            other.id
        ));
    }
    member.copy_to(to)
}

/// Make what was copied the first member of a cluster, as its server would at the start.
fn found(raft: &RaftStorage, cluster_addr: &str) -> Result<(), String> {
    let set = Set {
        path: raft.path.clone(),
        node_id: raft.node_id.clone(),
        cluster_addr: storage::host_and_port(cluster_addr),
        api_addr: String::new(),
        max_entry_bytes: options(&raft.path).max_entry_bytes,
        performance_multiplier: raft.performance_multiplier,
        snapshot_threshold: raft.snapshot_threshold,
        trailing_logs: raft.trailing_logs,
        trailing_log_bytes: raft.trailing_log_bytes,
        keep_free: storage::keep_free(raft.min_free_disk),
        autopilot_every: None,
        standby_reads: false,
        stale_reads: std::time::Duration::ZERO,
        // The server closes it at its first start, where its configuration says so.
        key: KeyKept::InFile,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let (store, node) = Node::open(set).await?;
        node.stop().await;
        store.close();
        Ok(())
    })
}

fn options(folder: &Path) -> Options {
    // Nothing is proposed.
    Options { folder: Some(folder.to_owned()), max_entry_bytes: usize::MAX, keep_free: KeepFree::Usual }
}
