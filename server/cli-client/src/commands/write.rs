//! `write` and `patch`: data to a path.

use serde_json::{Map, Value};

use super::{Command, Prints};
use crate::call::{Call, sanitized};
use crate::client::Error;
use crate::completion::Values;
use crate::data;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, sorted};
use crate::secret::Secret;

static FLAGS: [Flag; 1] = [Flag::bool("force", "Go on without any data. -f is short for it.").also(&["f"])];

pub static COMMANDS: [Command; 2] = [
    Command::new("write", "Write data to a path", write)
        .takes("[options] PATH [DATA K=V...]").completes(&[Values::Path])
        .about("Writes data to a path of the API. A value is a text; key=@file takes a file's content, key=- what stdin gives, @file.json and - a whole object.")
        .prints(Prints::Object)
        .flags(&FLAGS),
    Command::new("patch", "Change some fields at a path", patch)
        .takes("[options] PATH [DATA K=V...]").completes(&[Values::Path])
        .about("Changes the given fields at a path of the API and leaves the others, where the path allows it.")
        .prints(Prints::Object)
        .flags(&FLAGS),
];

fn write(call: &Call) -> Outcome {
    let (path, body) = prepared(call)?;
    let client = call.client()?;
    finished(call, &path, client.write(&path, &body))
}

fn patch(call: &Call) -> Outcome {
    let (path, body) = prepared(call)?;
    let client = call.client()?;
    finished(call, &path, client.patch(&path, &body))
}

fn prepared(call: &Call) -> Result<(String, Value), Failure> {
    call.between(1, usize::MAX, "1")?;
    let force = call.flags.bool("force");
    if call.args.len() == 1 && !force {
        return Err(Failure::usage("Must supply data or use -force"));
    }
    let body = data_of(call, &call.args[1..])?;
    Ok((sanitized(call.arg(0)), sorted(&Value::Object(body))))
}

/// Data arguments, with the failure that every command has for bad ones.
pub fn data_of(call: &Call, args: &[String]) -> Result<Map<String, Value>, Failure> {
    data::parse(args, call.console).map_err(|why| Failure::usage(format!("Failed to parse K=V data: {why}")))
}

/// Prints what a write answered: its secret, or that it went well.
pub fn finished(call: &Call, path: &str, answer: Result<Option<Secret>, Error>) -> Outcome {
    let what = format!("Error writing data to {path}");
    let secret = match answer {
        Err(e) => return refused(call, e, what),
        Ok(secret) => secret,
    };
    match (secret, call.field()) {
        (None, _) if call.format != Format::Table => Ok(0),
        (None, _) => call.success(format_args!("Data written to: {path}")),
        (Some(secret), Some(field)) => output::secret_field(call, &secret, field),
        (Some(secret), None) => output::secret(call, &secret),
    }
}

/// Fails, and prints what the server gave beside its error.
pub fn refused(call: &Call, error: Error, what: String) -> Outcome {
    if let Some(secret) = error.secret() {
        call.console.warn(format_args!("{what}: {error}"));
        output::secret(call, secret)?;
        return Ok(2);
    }
    Err(error).explain(what)
}
