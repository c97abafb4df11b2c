//! `kv put`.

use serde_json::{Map, Value, json};

use super::{Key, print_written};
use crate::call::Call;
use crate::client::{Client, Error};
use crate::commands::write::{data_of, finished};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format, sorted};
use crate::secret::Secret;

pub fn run(call: &Call) -> Outcome {
    call.between(1, usize::MAX, ">1")?;
    if call.args.len() == 1 {
        return Err(Failure::usage("Must supply data"));
    }
    let client = call.client()?;
    let data = sorted(&Value::Object(data_of(call, &call.args[1..])?));
    let key = Key::resolve(call, &client, call.arg(0))?;
    if !key.is_v2 && call.flags.int("cas").is_some_and(|cas| cas >= 0) {
        // Who asks for a check and gets none loses what another has written.
        return Err(Failure::usage("Check-and-set not supported on KV Version 1"));
    }
    let path = key.route("data");
    let body = if key.is_v2 { json!({ "data": data, "options": options(call) }) } else { data };
    let answer = client.write(&path, &body);
    let hint = match &answer {
        Err(Error::Api(e)) if call.flags.int("cas") == Some(0) && e.says("did not match the current version") => {
            hidden_version(&client, &key)
        }
        _ => None,
    };
    match (written(call, &key, &path, answer), hint) {
        (Err(Failure::Stop { code, message }), Some(hint)) => {
            Err(Failure::Stop { code, message: format!("{message}\n\n{hint}") })
        }
        (outcome, _) => outcome,
    }
}

/// Who sees no value may take a key for one that was never written: which version it has, if that is deleted.
fn hidden_version(client: &Client, key: &Key) -> Option<String> {
    let metadata = client.read(&key.route("metadata"), &[]).ok().flatten()?;
    let current = metadata.get("current_version")?.as_u64()?;
    let version = metadata.get("versions")?.get(current.to_string())?;
    let is_deleted = version["deletion_time"].as_str().is_some_and(|t| !t.is_empty()) || version["destroyed"] == true;
    is_deleted.then(|| {
        format!(
            "The current version is {current}, which is deleted. -cas=0 writes only what was never written; -cas={current} \
             writes the next version."
        )
    })
}

/// `options` of a write: the version that must be the current one, if one is given.
pub fn options(call: &Call) -> Map<String, Value> {
    let cas = call.flags.int("cas").filter(|cas| *cas >= 0);
    cas.map(|cas| ("cas".to_string(), cas.into())).into_iter().collect()
}

/// Prints what a write answered; for version 2 with sections.
pub fn written(call: &Call, key: &Key, path: &str, answer: Result<Option<Secret>, Error>) -> Outcome {
    match answer {
        Ok(Some(secret))
            if key.is_v2 && call.field().is_none() && call.format == Format::Table && secret.wrap_info.is_none() =>
        {
            print_written(call, path, &secret);
            Ok(0)
        }
        Ok(Some(secret)) if call.field().is_none() => output::secret(call, &secret),
        other => finished(call, path, other),
    }
}
