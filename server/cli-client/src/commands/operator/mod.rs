//! `operator …`: what operators do with a server.

pub mod attest;
mod compact;
pub mod custodians;
pub mod device;
mod init;
mod keyring;
mod members;
pub mod pgp;
pub mod raft;
pub mod root;
pub mod rotate_keys;
mod seal;

pub use seal::share;
use serde_json::{Map, Value};

use super::{Command, Prints};
use crate::flags::Flag;
use crate::output::plain;

static UNSEAL: [Flag; 2] = [
    Flag::bool("reset", "Forget the shares given so far."),
    Flag::bool("migrate", "The share is for moving from one seal to another."),
];

pub static COMMANDS: &[Command] = &[
    Command::new("operator init", "Initialise a server", init::run)
        .about("Initialises a server that has no data yet, and prints its key shares and the first root token. They are shown this once.\n\nWith -status the exit code is 0 where the server is initialised, 2 where it is not, 1 on an error.")
        .prints(Prints::Answer)
        .flags(&init::FLAGS),
    Command::new("operator unseal", "Give a key share to unseal", seal::unseal)
        .takes("[options] [KEY]")
        .about("Gives one key share. When enough of them are given the server is unsealed. Without an argument the share is asked for and not shown, which keeps it out of the shell's history.")
        .prints(Prints::Answer)
        .flags(&UNSEAL),
    Command::new("operator seal", "Seal the server", seal::seal)
        .about("Seals the server: it forgets its keys and answers nothing more until it is unsealed."),
    Command::new("operator seal rewrap", "Bring the locks in line with the seals of the configuration", seal::rewrap)
        .about("Each seal of the configuration, on each node, wraps the root key where it has no lock around the present one: a seal that was added, or whose device was away when the root key was made anew. Then locks whose seal is gone from the configuration are taken away, with a new root key.\n\nThe exit code is 2 if a seal could not, or a lock had to stay.")
        .prints(Prints::Answer),
    Command::new("operator seal plan", "Try a change of seals beforehand", seal::plan)
        .about("Each node reads its configuration file again and tries each seal that it names by now: library, token, PIN, mechanisms, key, and whether it opens what it has wrapped. It says what a restart and operator seal rewrap would do. Nothing is changed: where a key is yet to be made, one of its kind is made for the trial and destroyed.\n\nWith -config=FILE the seals of that file are tried on this machine, without asking a server.\n\nThe exit code is 2 if the store would not open, or a seal does not work.")
        .prints(Prints::Answer)
        .flags(&seal::PLAN_FLAGS),
    Command::new("operator step-down", "Give up leading the cluster", seal::step_down)
        .about("Makes the node that leads the cluster give it up; another one, or the same, takes over."),
    Command::new("operator key-status", "The key in use for storage", keyring::status).prints(Prints::Answer),
    Command::new("operator rotate", "Make a new key for storage", keyring::rotate)
        .about("Makes a new key for everything written from now on. Old keys are kept for reading.")
        .prints(Prints::Answer),
    Command::new("operator compact", "Give unused room of the store back", compact::run)
        .about("Asks the server to copy what is stored to a new file without the room that nothing uses, and says how far it is. The server goes on serving. With -config=FILE the store of a stopped server is compacted instead, on this machine.")
        .flags(&compact::FLAGS),
    Command::new("operator members", "Nodes of the cluster", members::run).prints(Prints::Answer),
];

/// A field of an object as a table shows it; the empty text where there is none.
fn text(object: &Map<String, Value>, name: &str) -> String {
    object.get(name).filter(|v| !v.is_null()).map(plain).unwrap_or_default()
}

fn is(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// The `data` of an answer that has an envelope, else the answer itself.
pub fn unwrapped(mut object: Map<String, Value>) -> Map<String, Value> {
    match object.remove("data") {
        Some(Value::Object(data)) => data,
        Some(other) if !other.is_null() => Map::from_iter([("data".to_string(), other)]),
        _ => object,
    }
}

/// These fields of an answer in this order, for JSON and YAML.
fn picked(object: &Map<String, Value>, names: &[(&str, Value)]) -> Value {
    Value::Object(names.iter().map(|(n, empty)| (n.to_string(), object.get(*n).unwrap_or(empty).clone())).collect())
}
