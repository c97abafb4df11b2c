//! `delete`: away with what is at a path.

use super::write::refused;
use super::{Command, Prints};
use crate::call::{Call, sanitized};
use crate::client::Error;
use crate::completion::Values;
use crate::data;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};
use crate::secret::Secret;

pub static COMMANDS: [Command; 1] = [Command::new("delete", "Delete what is at a path", run)
    .takes("[options] PATH [K=V...]")
    .completes(&[Values::Path])
    .about("Deletes what is at a path of the API, if anything is. Pairs are sent as its query.")
    .prints(Prints::Object)];

fn run(call: &Call) -> Outcome {
    call.between(1, usize::MAX, "at least 1")?;
    let path = sanitized(call.arg(0));
    let query = data::parse_texts(&call.args[1..], call.console)
        .map_err(|why| Failure::usage(format!("Failed to parse string list data: {why}")))?;
    let client = call.client()?;
    finished(call, &path, client.delete(&path, &query))
}

/// Prints what a deletion answered.
pub fn finished(call: &Call, path: &str, answer: Result<Option<Secret>, Error>) -> Outcome {
    let secret = match answer {
        Err(e) => return refused(call, e, format!("Error deleting {path}")),
        Ok(secret) => secret,
    };
    match (secret, call.field()) {
        (None, _) if call.format != Format::Table => Ok(0),
        (None, _) => call.success(format_args!("Data deleted (if it existed) at: {path}")),
        (Some(secret), Some(field)) => output::secret_field(call, &secret, field),
        (Some(secret), None) => output::secret(call, &secret),
    }
}
