//! `kv patch`: by PATCH, or by reading and writing where that is refused.

use serde_json::{Map, Value, json};

use super::Key;
use super::put::{options, written};
use crate::call::Call;
use crate::client::{Client, Error};
use crate::commands::write::data_of;
use crate::failure::{Explain, Failure, Outcome};
use crate::output::sorted;
use crate::secret::Secret;

pub fn run(call: &Call) -> Outcome {
    call.between(1, usize::MAX, ">1")?;
    let removed = call.flags.list("remove-data");
    if call.args.len() == 1 && removed.is_empty() {
        return Err(Failure::usage("Must supply data"));
    }
    let client = call.client()?;
    let mut data = data_of(call, &call.args[1..])?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    if !key.is_v2 {
        return Err(Failure::refused("K/V engine mount must be version 2 for patch support"));
    }
    // In a merge patch null takes a key away.
    data.extend(removed.into_iter().map(|name| (name, Value::Null)));
    let path = key.route("data");
    let answer = match call.flags.text("method").unwrap_or_default() {
        "rw" => by_rewriting(&client, &path, data)?,
        "patch" => by_patching(call, &client, &path, &data),
        "" => match by_patching(call, &client, &path, &data) {
            Err(e) if matches!(e.status(), Some(403 | 405)) => {
                call.console.warn(format_args!(
                    "PATCH was refused ({}); reading and writing instead. It may be missing in the token's policy.",
                    e.status().unwrap_or_default()
                ));
                by_rewriting(&client, &path, data)?
            }
            answer => answer,
        },
        other => {
            return Err(Failure::refused(format!("Unsupported method provided to -method flag: {other}")));
        }
    };
    written(call, &key, &path, answer)
}

fn by_patching(call: &Call, client: &Client, path: &str, data: &Map<String, Value>) -> Result<Option<Secret>, Error> {
    client.patch(path, &json!({ "data": sorted(&Value::Object(data.clone())), "options": options(call) }))
}

/// Reads the latest version and writes it back changed, if it is still the latest then.
fn by_rewriting(
    client: &Client,
    path: &str,
    changes: Map<String, Value>,
) -> Result<Result<Option<Secret>, Error>, Failure> {
    let nothing = || Failure::refused(format!("No value found at {path}"));
    let secret = client.read(path, &[]).explain(format!("Error doing pre-read at {path}"))?.ok_or_else(nothing)?;
    let mut data = secret.get("data").and_then(Value::as_object).cloned().ok_or_else(nothing)?;
    let version = secret.get("metadata").and_then(|m| m.get("version")).cloned().ok_or_else(nothing)?;
    for (name, value) in changes {
        match value {
            Value::Null => {
                data.remove(&name);
            }
            value => {
                data.insert(name, value);
            }
        }
    }
    Ok(client.write(path, &json!({ "data": sorted(&Value::Object(data)), "options": { "cas": version } })))
}
