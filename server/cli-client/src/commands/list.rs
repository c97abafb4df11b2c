//! `list` and `scan`: names at a path, and all names below it.

use serde_json::{Map, Value};

use super::{Command, Prints};
use crate::call::{Call, sanitized};
use crate::client::Error;
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format};
use crate::secret::Secret;

static FLAGS: [Flag; 3] = [
    Flag::text("after", "Only names behind this one, in order."),
    Flag::int("limit", "At most so many names."),
    Flag::bool("detailed", "With what the server tells about each name."),
];

pub static COMMANDS: [Command; 2] = [
    Command::new("list", "List names at a path", list)
        .takes("[options] PATH")
        .completes(&[Values::Path])
        .about("Lists the names at a path of the API. A name that ends in a slash has others below it.")
        .prints(Prints::Answer)
        .flags(&FLAGS),
    Command::new("scan", "List all names below a path", scan)
        .takes("[options] PATH")
        .completes(&[Values::Path])
        .about("Lists the names at a path of the API and everything below it.")
        .prints(Prints::Answer)
        .flags(&FLAGS),
];

fn list(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = sanitized(call.arg(0));
    let client = call.client()?;
    finished(call, &path, "listing", client.list(&path, &query(call)))
}

fn scan(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = sanitized(call.arg(0));
    let client = call.client()?;
    finished(call, &path, "scanning", client.scan(&path, &query(call)))
}

fn query(call: &Call) -> Vec<(String, String)> {
    let pair = |name: &str| call.flags.text(name).map(|v| (name.to_string(), v.to_string()));
    ["after", "limit"].into_iter().filter_map(pair).collect()
}

/// Prints what a list answered. Nothing there: exit 2, with an empty object in JSON and YAML.
pub fn finished(call: &Call, path: &str, doing: &str, answer: Result<Option<Secret>, Error>) -> Outcome {
    let secret = answer.explain(format!("Error {doing} {path}"))?;
    if let Some(secret) = secret.as_ref().filter(|s| s.is_wrapped()) {
        return output::secret(call, secret);
    }
    let has_keys = secret.as_ref().is_some_and(|s| s.keys().is_some());
    if call.format != Format::Table && !has_keys {
        output::value(call, &Value::Object(Map::new()))?;
        return Ok(2);
    }
    match secret {
        None => Err(Failure::refused(format!("No value found at {path}"))),
        // There is no data, but there are warnings.
        Some(secret) if secret.data.is_none() => output::secret(call, &secret),
        Some(_) if !has_keys => Err(Failure::refused(format!("No entries found at {path}"))),
        Some(secret) => output::list(call, &secret),
    }
}
