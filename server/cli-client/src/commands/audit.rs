//! `audit enable | disable | list | public-key | checkpoints | verify`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use holdfast_chain::{Checkpoint, PublicKeys, verify as verify_chain};
use serde_json::{Map, Value, json};

use super::mount::{self, listed};
use super::{Command, Prints};
use crate::call::{Call, with_slash};
use crate::client::Request;
use crate::completion::Values;
use crate::data;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain};

static ENABLE: [Flag; 3] = [
    Flag::text("description", "Words that say what it is for."),
    Flag::text("path", "The device's name; without this, its type."),
    Flag::bool("local", "It is not replicated."),
];
static LIST: [Flag; 1] = [Flag::bool("detailed", "With the options of each.")];

static VERIFY: [Flag; 2] = [
    Flag::text("public-key", "A file with the keys that `audit public-key` prints.").values(Values::File),
    Flag::text("checkpoints", "A file with what `audit checkpoints` prints.").values(Values::File),
];

pub static COMMANDS: [Command; 6] = [
    Command::new("audit enable", "Enable an audit device", enable)
        .takes("[options] TYPE [CONFIG K=V...]")
        .completes(&[Values::Words(&["file", "http", "socket", "syslog"])])
        .flags(&ENABLE),
    Command::new("audit disable", "Disable an audit device", disable)
        .takes("[options] PATH")
        .completes(&[Values::AuditDevice]),
    Command::new("audit list", "List enabled audit devices", list).prints(Prints::Answer).flags(&LIST),
    Command::new("audit public-key", "Print the public keys that seal audit logs", public_key),
    Command::new("audit checkpoints", "Print the last checkpoint of each audit log", checkpoints),
    Command::new("audit verify", "Check that an audit log is what was written", verify)
        .takes("[options] FILE...")
        .completes(&[Values::File])
        .flags(&VERIFY),
];

fn enable(call: &Call) -> Outcome {
    if call.args.is_empty() {
        return Err(Failure::usage(
            "Error enabling audit device: its type is missing, such as file, socket, syslog or http.",
        ));
    }
    let kind = call.arg(0).trim();
    let path = with_slash(call.flags.text("path").filter(|p| !p.is_empty()).unwrap_or(kind));
    let options: Map<String, Value> = data::parse_texts(&call.args[1..], call.console)
        .map_err(|why| Failure::usage(format!("Failed to parse K=V data: {why}")))?
        .into_iter()
        .map(|(k, v)| (k, v.into()))
        .collect();
    let client = call.client()?;
    let body = json!({
        "type": kind,
        "description": call.flags.text("description").unwrap_or_default(),
        "options": options,
        "local": call.flags.bool("local"),
    });
    client
        .send(&Request::new("PUT", format!("sys/audit/{path}")).json(&body))
        .explain("Error enabling audit device")?;
    call.success(format_args!("Enabled the {kind} audit device at: {path}"))
}

fn disable(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = with_slash(call.arg(0));
    let client = call.client()?;
    client.send(&Request::new("DELETE", format!("sys/audit/{path}"))).explain("Error disabling audit device")?;
    call.success(format_args!("Disabled audit device (if it was enabled) at: {path}"))
}

fn list(call: &Call) -> Outcome {
    call.exactly(0)?;
    let devices = listed(&call.client()?, "sys/audit", "Error listing audits")?;
    if call.format != Format::Table {
        return output::value(call, &output::sorted(&Value::Object(devices)));
    }
    if devices.is_empty() {
        call.console.say("No audit devices are enabled.");
        return Ok(2);
    }
    if call.flags.bool("detailed") {
        return mount::print_list(
            call,
            devices,
            &["Path", "Type", "Description", "Replication", "Options"],
            detailed_row,
        );
    }
    mount::print_list(call, devices, &["Path", "Type", "Description"], |path, d| {
        vec![path.to_string(), mount::text(d, "type"), mount::text(d, "description")]
    })
}

fn detailed_row(path: &str, device: &Value) -> Vec<String> {
    let replication = if device.get("local").and_then(Value::as_bool) == Some(true) { "local" } else { "replicated" };
    let options = device.get("options").and_then(Value::as_object);
    let mut options: Vec<String> = options.into_iter().flatten().map(|(k, v)| format!("{k}={}", plain(v))).collect();
    options.sort();
    let (kind, description) = (mount::text(device, "type"), mount::text(device, "description"));
    vec![path.to_string(), kind, description, replication.to_string(), options.join(" ")]
}

/// What the server says of its chains.
fn chains(call: &Call) -> Result<Map<String, Value>, Failure> {
    call.exactly(0)?;
    let answer = call.client()?.send(&Request::new("GET", "sys/audit-chain")).explain("Error reading audit keys")?;
    let data = answer.object().ok().and_then(|mut object| object.remove("data"));
    match data {
        Some(Value::Object(data)) => Ok(data),
        _ => Err(Failure::refused("Error reading audit keys: the server's answer has no data")),
    }
}

fn public_key(call: &Call) -> Outcome {
    let keys = mount::text(&Value::Object(chains(call)?), "public_keys");
    if keys.is_empty() {
        return Err(Failure::refused("No key seals an audit log yet: there is no file device."));
    }
    call.console.say_value(keys.trim_end());
    Ok(0)
}

fn checkpoints(call: &Call) -> Outcome {
    let all = chains(call)?.remove("checkpoints").unwrap_or_default();
    call.console.say(serde_json::to_string_pretty(&all).unwrap_or_default());
    Ok(0)
}

/// Offline: files and the public key are all that it needs. Exit 1 names the first line that is wrong.
fn verify(call: &Call) -> Outcome {
    if call.args.is_empty() {
        return Err(Failure::usage("Not enough arguments: name the files of one log, the oldest first"));
    }
    let read = |path: &str| fs::read_to_string(path).map_err(|e| Failure::usage(format!("{path}: {e}")));
    let Some(path) = call.flags.text("public-key").filter(|p| !p.is_empty()) else {
        return Err(Failure::usage("-public-key is needed: `audit public-key` prints it"));
    };
    let keys = PublicKeys::from_pem(&read(path)?).map_err(|e| Failure::usage(format!("{path}: {e}")))?;
    let exported = match call.flags.text("checkpoints").filter(|p| !p.is_empty()) {
        Some(path) => exported(&read(path)?).map_err(|e| Failure::usage(format!("{path}: {e}")))?,
        None => Vec::new(),
    };
    let open = |path: &String| match File::open(path) {
        Ok(file) => Ok(BufReader::new(file)),
        Err(e) => Err(Failure::usage(format!("{path}: {e}"))),
    };
    let mut readers = call.args.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
    let files = call.args.iter().zip(&mut readers).map(|(name, file)| (name.as_str(), file as &mut dyn BufRead));
    let report = verify_chain(files, &keys, &exported).map_err(Failure::usage)?;
    let say = |count: u64, what: &str| {
        if count > 0 {
            call.console.say(format_args!("{count} {what}"));
        }
    };
    let (first, last) = (report.first, report.last);
    match report.log.as_deref() {
        Some(log) => call.console.say(format_args!(
            "The chain of {log} is intact: lines {first} to {last}, sealed by {} checkpoints.",
            report.checkpoints
        )),
        None if report.unsealed < report.lines => call
            .console
            .say(format_args!("The chain is intact: lines {first} to {last}, sealed by the given checkpoints.")),
        None => call.console.say(format_args!(
            "Lines {first} to {last} name each other, and nothing seals them: no checkpoint shows who wrote them."
        )),
    }
    match &report.unsealed_from {
        Some((file, line)) => {
            call.console.say(format_args!("{} lines are not sealed yet, from {file}:{line} on.", report.unsealed));
        }
        None => call.console.say("0 lines are not sealed yet."),
    }
    say(report.before, "lines are of before the chain: nothing is known of them.");
    say(report.torn, "times a crash or a full disk has cut a line.");
    Ok(0)
}

/// Checkpoints as `audit checkpoints` prints them, or in the server's answer.
fn exported(text: &str) -> Result<Vec<Checkpoint>, serde_json::Error> {
    let mut value: Value = serde_json::from_str(text)?;
    for at in ["/data/checkpoints", "/checkpoints"] {
        if let Some(inner) = value.pointer_mut(at) {
            return serde_json::from_value(inner.take());
        }
    }
    serde_json::from_value(value)
}
