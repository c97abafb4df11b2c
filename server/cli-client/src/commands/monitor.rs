//! `monitor`: the server's log as it is written.

use std::ops::ControlFlow;

use super::Command;
use super::outside::{LOG_FORMAT, LOG_LEVEL};
use crate::call::Call;
use crate::client::Request;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];
const FORMATS: [&str; 2] = ["standard", "json"];

static FLAGS: [Flag; 2] = [LOG_LEVEL, LOG_FORMAT];

pub static COMMANDS: [Command; 1] = [Command::new("monitor", "Follow the server's log", run)
    .about(
        "Prints the lines of the server's log from now on, as they are written, until it is interrupted or the \
         server is sealed or ends. The levels of the server's own log do not count, only -log-level.",
    )
    .flags(&FLAGS)];

fn run(call: &Call) -> Outcome {
    call.exactly(0)?;
    let level = one_of(call, "log-level", "log level", "info", &LEVELS)?;
    let format = one_of(call, "log-format", "log format", "standard", &FORMATS)?;
    let client = call.client()?;
    let request = Request::new("GET", "sys/monitor").query("log_level", level).query("log_format", format);
    let print = |part: &[u8]| match call.console.say_at_once(part) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    client.follow(&request, print).explain("Error following the log").map_err(|f| f.with_code(1))?;
    Ok(0)
}

/// The value of a flag in lower case, if it is one of those that the server knows.
fn one_of(call: &Call, flag: &str, name: &str, default: &str, known: &[&str]) -> Result<String, Failure> {
    let value = call.flags.text(flag).unwrap_or(default).to_lowercase();
    match known.contains(&value.as_str()) {
        true => Ok(value),
        false => Err(Failure::usage(format!("{value} is an unknown {name}. There are: {}", known.join(", ")))),
    }
}
