//! `path-help`: what the server tells about one of its paths.

use serde_json::Value;

use super::{Command, Prints};
use crate::call::{Call, sanitized};
use crate::client::Request;
use crate::completion::Values;
use crate::failure::{Explain, Outcome};
use crate::output::{self, Format, plain};

pub static COMMANDS: [Command; 1] = [Command::new("path-help", "The server's help about a path", run)
    .takes("[options] PATH")
    .completes(&[Values::Path])
    .about("Prints the help that the server has for a path of its API.")
    .prints(Prints::Answer)];

fn run(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = sanitized(call.arg(0));
    let client = call.client()?;
    let request = Request::new("GET", path).query("help", "1");
    let answer = client.send(&request).explain("Error retrieving help")?;
    let help = answer.object().bare()?;
    match call.format {
        Format::Json => call.console.say(output::sorted(help.get("openapi").unwrap_or(&Value::Null))),
        Format::Pretty => return Err(output::no_pretty()),
        _ => call.console.say(help.get("help").map(plain).unwrap_or_default()),
    }
    Ok(0)
}
