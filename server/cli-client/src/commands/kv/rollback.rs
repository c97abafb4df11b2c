//! `kv rollback`: an old version's data as a new version.

use serde_json::{Map, Value, json};

use super::Key;
use super::put::written;
use crate::call::Call;
use crate::client::Client;
use crate::failure::{Explain, Failure, Outcome};

pub fn run(call: &Call) -> Outcome {
    if call.args.len() != 1 {
        return Err(Failure::usage(format!("Invalid number of arguments (expected 1, got {})", call.args.len())));
    }
    let version = match call.flags.int("version") {
        None => return Err(Failure::usage("Version flag must be specified")),
        Some(version @ 1..) => version,
        Some(_) => {
            return Err(Failure::usage("The version to go back to must be 1 or more"));
        }
    };
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    if !key.is_v2 {
        return Err(Failure::refused("K/V engine mount must be version 2 for rollback support"));
    }
    let path = key.route("data");
    let (_, latest) = at(&client, &path, None)?;
    let (data, _) = at(&client, &path, Some(version))?;
    let body = json!({ "data": data, "options": { "cas": latest } });
    written(call, &key, &path, client.write(&path, &body))
}

/// Data and number of a version that is neither deleted nor destroyed.
fn at(client: &Client, path: &str, version: Option<i64>) -> Result<(Map<String, Value>, Value), Failure> {
    let query: Vec<_> = version.map(|v| ("version".to_string(), v.to_string())).into_iter().collect();
    let nothing = || Failure::refused(format!("No value found at {path}"));
    let secret = client.read(path, &query).explain(format!("Error doing pre-read at {path}"))?.ok_or_else(nothing)?;
    let data = secret.get("data").and_then(Value::as_object).ok_or_else(nothing)?;
    let number = secret.get("metadata").and_then(|m| m.get("version")).ok_or_else(nothing)?;
    Ok((data.clone(), number.clone()))
}
