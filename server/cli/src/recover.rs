//! `holdfast operator raft recover`: set a stopped member's folder right where the cluster cannot come back by
//! itself. It says first what it would do and what may be lost, and does it with -yes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_cluster::recover::{Recovery, join_anew};
use holdfast_config::{Config, Offer, Storage};

use crate::server::{SEALS, STORAGES, leave_guarded_panics_untold};

const USAGE: &str =
    "Must specify -config=FILE (or -path=FOLDER), and one of -alone, -rejoin and -address=NODE-ID=HOST:PORT.";

/// What shall be done.
enum Work {
    /// Go on without all others.
    Alone,
    /// Forget what is stored, and join anew.
    Rejoin,
    /// The others are at these addresses now.
    Addresses(BTreeMap<String, String>),
}

struct Wanted {
    folder: PathBuf,
    work: Work,
    yes: bool,
}

pub fn main(args: &[OsString]) -> ExitCode {
    leave_guarded_panics_untold();
    let done = parse(args).and_then(|wanted| match &wanted.work {
        Work::Rejoin => rejoin(&wanted),
        _ => recover(wanted),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // Nothing was done yet.
        Ok(false) => ExitCode::from(3),
        Err(text) => {
            eprintln!("Error: {text}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Wanted, String> {
    let (mut config, mut folder, mut yes) = (Vec::new(), None, false);
    let (mut alone, mut rejoin, mut addresses) = (false, false, BTreeMap::new());
    for arg in args {
        let text = arg.to_string_lossy();
        let flag = text.trim_start_matches('-');
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("config", path) if !path.is_empty() => config.push(PathBuf::from(path)),
            ("path", path) if !path.is_empty() => folder = Some(PathBuf::from(path)),
            ("address", said) => {
                let (id, address) = said
                    .split_once('=')
                    .filter(|(id, a)| !id.is_empty() && a.contains(':'))
                    .ok_or("-address takes NODE-ID=HOST:PORT: the port is the one at which members hear each other")?;
                addresses.insert(id.to_owned(), address.to_owned());
            }
            ("alone", "") => alone = true,
            ("rejoin", "") => rejoin = true,
            ("yes", "") => yes = true,
            _ => return Err(format!("operator raft recover does not know {text:?}. {USAGE}")),
        }
    }
    let work = match (alone, rejoin, addresses.is_empty()) {
        (true, false, true) => Work::Alone,
        (false, true, true) => Work::Rejoin,
        (false, false, false) => Work::Addresses(addresses),
        _ => return Err(USAGE.into()),
    };
    let folder = match folder {
        Some(folder) => folder,
        None if config.is_empty() => return Err(USAGE.into()),
        None => {
            let (config, _) = Config::load(&config, &Offer::new(STORAGES, SEALS)).map_err(|e| e.to_string())?;
            match config.storage {
                Some(Storage::Raft(raft)) => raft.path,
                _ => return Err("the configuration's storage is not \"raft\"".into()),
            }
        }
    };
    Ok(Wanted { folder, work, yes })
}

fn recover(wanted: Wanted) -> Result<bool, String> {
    let found = Recovery::open(&wanted.folder)?;
    println!("Node {}: its log ends with entry {} of term {}.", found.node_id, found.last.index, found.last.term);
    for member in &found.members {
        let votes = if member.votes { "votes" } else { "does not vote" };
        println!("  member {} at {}, {votes}", member.id, member.peer.cluster_addr);
    }
    match &wanted.work {
        Work::Addresses(new) => {
            for (id, address) in new {
                println!("This node will look for {id} at {address}.");
            }
            println!("Nothing is lost by it. Do the same on each node, then start them.");
        }
        _ => {
            println!(
                "This node will be the only member, with all that its log holds.\n\
                 What may be lost: writes that were acknowledged and that this node has not heard of. Of the nodes that \
                 are left, choose the one whose log ends with the highest term, and of these with the highest entry.\n\
                 What may appear: writes whose outcome was said to be unknown."
            );
            for other in found.others() {
                println!(
                    "Never start {} again with what it has stored: it would go on without this one. If its disk is \
                     left, run operator raft recover -rejoin there first.",
                    other.id
                );
            }
        }
    }
    if !wanted.yes {
        println!("Nothing was done yet. Run the same command with -yes to do it.");
        return Ok(false);
    }
    match wanted.work {
        Work::Addresses(new) => found.look_at(new)?,
        _ => found.keep_only_this()?,
    }
    println!("Success! Start the node.");
    Ok(true)
}

fn rejoin(wanted: &Wanted) -> Result<bool, String> {
    println!(
        "What this node has stored will be set aside in a folder beside, and the node joins its cluster anew when it is \
         started: by retry_join of its configuration, or with operator raft join. It keeps its name and gets a new key: \
         where the others still list it, it is let in when operator raft remove-peer has removed it.\n\
         What may be lost: nothing, as long as the cluster goes on elsewhere."
    );
    if !wanted.yes {
        println!("Nothing was done yet. Run the same command with -yes to do it.");
        return Ok(false);
    }
    let aside = join_anew(&wanted.folder)?;
    println!("Success! What was stored is in {}; remove it when the node has joined.", aside.display());
    Ok(true)
}
