//! `audit enable | disable | list`.

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

pub static COMMANDS: [Command; 3] = [
    Command::new("audit enable", "Enable an audit device", enable)
        .takes("[options] TYPE [CONFIG K=V...]")
        .completes(&[Values::Words(&["file", "http", "socket", "syslog"])])
        .flags(&ENABLE),
    Command::new("audit disable", "Disable an audit device", disable)
        .takes("[options] PATH")
        .completes(&[Values::AuditDevice]),
    Command::new("audit list", "List enabled audit devices", list).prints(Prints::Answer).flags(&LIST),
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
