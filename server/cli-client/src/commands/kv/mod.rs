//! `kv …`: the key-value engine, version 1 or 2 as the mount has it.

mod delete;
mod get;
mod list;
pub mod metadata;
mod mount;
mod patch;
mod put;
mod rollback;
mod versions;

use serde_json::{Map, Value};

use super::{Command, Prints};
use crate::call::Call;
use crate::completion::Values;
use crate::flags::Flag;
use crate::output::{cell, table};
use crate::secret::Secret;

pub use mount::Key;

const MOUNT: Flag = Flag::text(
    "mount",
    "The engine's mount; the argument is then a key in it. Without this, the argument is both, as M/key.",
)
.values(Values::Mount);
const VERSIONS: Flag =
    Flag::list("versions", "Numbers of versions, with commas between them or the flag given several times.");
const CAS: Flag = Flag::int("cas", "Write only if the current version has this number; 0: only if there is nothing.");

static GET: [Flag; 2] = [MOUNT, Flag::int("version", "The version to read, if not the latest.")];
static PUT: [Flag; 2] = [MOUNT, CAS];
static PATCH: [Flag; 4] = [
    MOUNT,
    CAS,
    Flag::text(
        "method",
        "patch: by PATCH alone; rw: by reading and writing. Without this, PATCH, and the other where it is refused.",
    )
    .words(&["patch", "rw"]),
    Flag::list("remove-data", "A key to take away. May be given several times."),
];
static SOME_VERSIONS: [Flag; 2] = [MOUNT, VERSIONS];
static ROLLBACK: [Flag; 2] = [MOUNT, Flag::int("version", "The version whose data shall be the latest again.")];
static ONLY_MOUNT: [Flag; 1] = [MOUNT];

pub static COMMANDS: [Command; 10] = [
    Command::new("kv get", "Read a secret", get::run)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .about("Reads a secret: its data, and with version 2 what is kept about that version.")
        .prints(Prints::Object)
        .flags(&GET),
    Command::new("kv put", "Write a secret", put::run)
        .takes("[options] KEY [DATA K=V...]")
        .completes(&[Values::Key])
        .about("Writes a secret whole; with version 2 as a new version.")
        .prints(Prints::Object)
        .flags(&PUT),
    Command::new("kv patch", "Change some keys of a secret", patch::run)
        .takes("[options] KEY [DATA K=V...]")
        .completes(&[Values::Key])
        .about("Writes a new version in which the given keys are changed and the others stay. Version 2 only.")
        .prints(Prints::Object)
        .flags(&PATCH),
    Command::new("kv delete", "Delete versions of a secret", delete::run)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .about(
            "Deletes the latest version, or those named. With version 2 they can be brought back by \"kv undelete\".",
        )
        .prints(Prints::Object)
        .flags(&SOME_VERSIONS),
    Command::new("kv undelete", "Bring deleted versions back", versions::undelete)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .prints(Prints::Answer)
        .flags(&SOME_VERSIONS),
    Command::new("kv destroy", "Remove versions for ever", versions::destroy)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .prints(Prints::Answer)
        .flags(&SOME_VERSIONS),
    Command::new("kv rollback", "Make an old version the latest", rollback::run)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .about("Writes the data of an old version as a new one.")
        .prints(Prints::Answer)
        .flags(&ROLLBACK),
    Command::new("kv list", "List keys", list::list)
        .takes("[options] PATH")
        .completes(&[Values::Key])
        .prints(Prints::Answer)
        .flags(&ONLY_MOUNT),
    Command::new("kv scan", "List all keys below a path", list::scan)
        .takes("[options] PATH")
        .completes(&[Values::Key])
        .prints(Prints::Answer)
        .flags(&ONLY_MOUNT),
    Command::new("kv enable-versioning", "Make version 1 to version 2", versions::enable)
        .takes("[options] MOUNT")
        .completes(&[Values::Mount])
        .about("Turns a version 1 mount into version 2. There is no way back.")
        .prints(Prints::Answer),
];

/// A section of a table: its title, about as wide as its keys, and its pairs.
fn section(title: &str, data: &Map<String, Value>) -> String {
    // The gap between the columns, and the word "Value".
    const BESIDE_THE_KEY: usize = 4 + 5;
    let widest = data.keys().map(String::len).max().unwrap_or(0);
    let mut rows: Vec<(String, String)> = data.iter().map(|(k, v)| (k.clone(), cell(k, v))).collect();
    rows.sort();
    format!("{}\n{}", table::section(title, widest + BESIDE_THE_KEY), table::key_value(rows))
}

/// The lines that name where a secret or its metadata is.
fn path_section(title: &str, path: &str) -> String {
    format!("{}\n{path}\n", table::section(title, path.len()))
}

/// Prints what a write to version 2 answered.
fn print_written(call: &Call, path: &str, secret: &Secret) {
    call.console.say(path_section("Secret Path", path));
    if let Some(data) = &secret.data {
        call.console.say(section("Metadata", data));
    }
    crate::output::warnings(call, secret);
}
