//! `read`: what is at a path.

use super::{Command, Prints};
use crate::call::{Call, sanitized};
use crate::client::Request;
use crate::completion::Values;
use crate::data;
use crate::failure::{Explain, Failure, Outcome};
use crate::output::{self, Format};

pub static COMMANDS: [Command; 1] = [Command::new("read", "Read data from a path", run)
    .takes("[options] PATH [K=V...]")
    .completes(&[Values::Path])
    .about("Reads what is at a path of the API. Pairs are sent as its query.")
    .prints(Prints::Object)];

fn run(call: &Call) -> Outcome {
    call.between(1, usize::MAX, "1")?;
    let path = sanitized(call.arg(0));
    let query = data::parse_texts(&call.args[1..], call.console)
        .map_err(|why| Failure::usage(format!("Failed to parse K=V data: {why}")))?;
    let client = call.client()?;
    if call.format == Format::Raw {
        let mut request = Request::new("GET", path.as_str());
        request.query = query;
        let answer = client.send(&request).explain(format!("Error reading {path}"))?;
        call.console.say_bytes(&answer.body);
        call.console.say("");
        return Ok(0);
    }
    let secret = client.read(&path, &query).explain(format!("Error reading {path}"))?;
    let Some(secret) = secret else {
        return Err(Failure::refused(format!("No value found at {path}")));
    };
    match call.field() {
        Some(field) => output::secret_field(call, &secret, field),
        None => output::secret(call, &secret),
    }
}
