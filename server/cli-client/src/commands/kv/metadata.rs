//! `kv metadata get | put | patch | delete`.

use serde_json::{Map, Value, json};

use super::{Key, MOUNT, path_section, section};
use crate::call::Call;
use crate::commands::write::finished;
use crate::commands::{Command, Prints};
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, sorted};

const MAX_VERSIONS: Flag = Flag::int("max-versions", "How many versions are kept; 0: as the mount says.");
const CAS_REQUIRED: Flag = Flag::bool("cas-required", "Every write must name the current version.");
const DELETE_AFTER: Flag = Flag::duration("delete-version-after", "How long a version is kept.");
const CUSTOM: Flag = Flag::pairs("custom-metadata", "A pair to keep with the key. May be given several times.");

static ONLY_MOUNT: [Flag; 1] = [MOUNT];
static PUT: [Flag; 5] = [MOUNT, MAX_VERSIONS, CAS_REQUIRED, DELETE_AFTER, CUSTOM];
static PATCH: [Flag; 6] = [
    MOUNT,
    MAX_VERSIONS,
    CAS_REQUIRED,
    DELETE_AFTER,
    CUSTOM,
    Flag::list("remove-custom-metadata", "A pair's key to take away. May be given several times."),
];

pub static COMMANDS: &[Command] = &[
    Command::new("kv metadata get", "Read the metadata of a key", get)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .prints(Prints::Answer)
        .flags(&ONLY_MOUNT),
    Command::new("kv metadata put", "Set the metadata of a key", put)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .about("Sets what is kept about a key; custom metadata is replaced whole. What is not named stays.")
        .prints(Prints::Answer)
        .flags(&PUT),
    Command::new("kv metadata patch", "Change some metadata of a key", patch)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .about("Changes what is named; custom metadata pair by pair.")
        .prints(Prints::Answer)
        .flags(&PATCH),
    Command::new("kv metadata delete", "Delete a key with all its versions", delete)
        .takes("[options] KEY")
        .completes(&[Values::Key])
        .flags(&ONLY_MOUNT),
];

fn get(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    key.needs_v2("Metadata")?;
    let path = key.route("metadata");
    let secret = client.read(&path, &[]).explain(format!("Error reading {path}"))?;
    let Some(secret) = secret else {
        return Err(Failure::refused(format!("No value found at {path}")));
    };
    if call.format != Format::Table || secret.wrap_info.is_some() {
        return output::secret(call, &secret);
    }
    let mut data = secret.data.clone().unwrap_or_default();
    let versions = data.remove("versions").and_then(|v| v.as_object().cloned()).unwrap_or_default();
    call.console.say(path_section("Metadata Path", &path));
    call.console.say(section("Metadata", &data));
    let mut versions: Vec<_> =
        versions.iter().filter_map(|(n, v)| Some((n.parse::<u64>().ok()?, v.as_object()?))).collect();
    versions.sort_by_key(|(number, _)| *number);
    for (number, version) in versions {
        call.console.say(format_args!("\n{}", section(&format!("Version {number}"), version)));
    }
    output::warnings(call, &secret);
    Ok(0)
}

fn put(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    key.needs_v2("Metadata")?;
    let path = key.route("metadata");
    let body = wanted(call, call.flags.pairs("custom-metadata").into_iter().map(|(k, v)| (k, v.into())).collect());
    finished(call, &path, client.write(&path, &body))
}

fn patch(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    key.needs_v2("Metadata")?;
    let path = key.route("metadata");
    let mut custom: Map<String, Value> =
        call.flags.pairs("custom-metadata").into_iter().map(|(k, v)| (k, v.into())).collect();
    custom.extend(call.flags.list("remove-custom-metadata").into_iter().map(|k| (k, Value::Null)));
    // Named even when empty: with nothing at all to change the server sees an update.
    let mut body = wanted(call, custom);
    if body.get("custom_metadata").is_none() {
        body["custom_metadata"] = json!({});
    }
    finished(call, &path, client.patch(&path, &body))
}

/// What the flags ask for; what they do not name is left out.
fn wanted(call: &Call, custom: Map<String, Value>) -> Value {
    let flags = &call.flags;
    let mut body = Map::new();
    if flags.is_set("cas-required") {
        body.insert("cas_required".into(), flags.bool("cas-required").into());
    }
    if !custom.is_empty() {
        body.insert("custom_metadata".into(), sorted(&Value::Object(custom)));
    }
    if let Some(after) = flags.duration("delete-version-after").filter(|d| d.as_secs() >= 0) {
        body.insert("delete_version_after".into(), after.long().into());
    }
    if let Some(max) = flags.int("max-versions").filter(|n| *n >= 0) {
        body.insert("max_versions".into(), json!(max));
    }
    Value::Object(body)
}

fn delete(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    key.needs_v2("Metadata")?;
    let path = key.route("metadata");
    client.delete(&path, &[]).explain(format!("Error deleting {path}"))?;
    call.success(format_args!("Data deleted (if it existed) at: {path}"))
}
