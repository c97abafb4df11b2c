//! `operator unseal | seal | seal rewrap | seal plan | step-down`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{is, text, unwrapped};
use crate::call::Call;
use crate::client::Request;
use crate::commands::status;
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, table};

const REWRAP: &str = "sys/seal/rewrap";
const LOOK: Duration = Duration::from_millis(100);
/// Exit code where something is not as it should be.
const NOT_ALL: i32 = 2;

/// The program itself answers where it is given.
pub static PLAN_FLAGS: [Flag; 1] =
    [Flag::list("config", "A configuration file or folder whose seals are tried on this machine.")
        .values(Values::File)];

pub fn unseal(call: &Call) -> Outcome {
    call.between(0, 1, "1")?;
    let client = call.client()?.in_root_namespace();
    let body = if call.flags.bool("reset") {
        json!({ "reset": true })
    } else {
        json!({ "key": share(call, 0)?, "reset": false, "migrate": call.flags.bool("migrate") })
    };
    let answer = client.send(&Request::new("PUT", "sys/unseal").json(&body)).explain("Error unsealing")?;
    let mut state = answer.object().bare()?;
    if !state.contains_key("ha_enabled") {
        let clustered = state.get("storage_type").is_some_and(|t| t == "raft");
        state.insert("ha_enabled".into(), clustered.into());
    }
    status::print(call, &state)
}

/// The key share that is the argument at `index`, or asked for.
pub fn share(call: &Call, index: usize) -> Result<String, Failure> {
    if let Some(share) = call.args.get(index) {
        return Ok(share.trim().to_string());
    }
    if call.flags.bool("non-interactive") {
        return Err(Failure::usage("The key share is missing, and -non-interactive forbids to ask for it."));
    }
    let share = call.console.ask_hidden_on_stdout("Unseal Key (will be hidden): ").map_err(|e| {
        Failure::usage(format!(
            "The key share is asked for on a terminal only. Where there is none it can be given\nas the argument, which others may then see. The error was: {e}"
        ))
    })?;
    Ok(share.trim().to_string())
}

pub fn seal(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    client.send(&Request::new("PUT", "sys/seal")).explain("Error sealing")?;
    call.success("Holdfast is sealed.")
}

pub fn rewrap(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    client.send(&Request::new("POST", REWRAP)).explain("Error starting to wrap anew")?;
    let done = loop {
        let answer = client.send(&Request::new("GET", REWRAP)).explain("Error reading how far it is")?;
        let now = unwrapped(answer.object().bare()?);
        if !is(&now, "is_running") {
            break now;
        }
        std::thread::sleep(LOOK);
    };
    if let Some(why) = done.get("error").and_then(Value::as_str) {
        return Err(Failure::refused(format!("the seals were not wrapped anew: {why}")));
    }
    let failed = done.get("entries").and_then(|e| e.get("failed")).and_then(Value::as_u64).unwrap_or(0);
    let code = if failed == 0 { 0 } else { NOT_ALL };
    if call.format != Format::Table {
        output::value(call, &Value::Object(done))?;
        return Ok(code);
    }
    let row = |of: &Map<String, Value>| ["name", "node", "outcome", "error"].map(|field| text(of, field)).to_vec();
    let rows = objects(&done, "seals").map(row).collect();
    call.console.say(table::titled(&["Seal", "Node", "Outcome", "Trouble"], rows));
    Ok(code)
}

pub fn plan(call: &Call) -> Outcome {
    call.exactly(0)?;
    // Devices that are away take their time.
    let client = call.client()?.in_root_namespace().without_timeout();
    let answer = client.send(&Request::new("POST", "sys/seal/plan")).explain("Error planning the seals")?;
    let planned = unwrapped(answer.object().bare()?);
    let code = if is(&planned, "possible") { 0 } else { NOT_ALL };
    if call.format != Format::Table {
        output::value(call, &Value::Object(planned))?;
        return Ok(code);
    }
    for node in objects(&planned, "nodes") {
        let name = text(node, "node");
        if !name.is_empty() {
            call.console.say(format_args!("Node {name}"));
        }
        if let Some(why) = node.get("error").and_then(Value::as_str) {
            call.console.say(format_args!("It cannot be tried: {why}\n"));
            continue;
        }
        let mut rows = Vec::new();
        for seal in objects(node, "seals") {
            let failed = objects(seal, "steps").find(|step| !is(step, "works"));
            let said = match failed {
                Some(step) => format!("{}: {}", text(step, "what"), text(step, "error")),
                None => text(seal, "would"),
            };
            rows.push(vec![
                text(seal, "name"),
                text(seal, "type"),
                text(seal, "priority"),
                text(seal, "place"),
                is(seal, "works").to_string(),
                said,
            ]);
        }
        call.console.say(table::titled(&["Seal", "Type", "Priority", "Place", "Works", "What Happens"], rows));
        let rows: Vec<_> = objects(node, "locks").map(|lock| vec![text(lock, "name"), text(lock, "would")]).collect();
        if !rows.is_empty() {
            call.console.say(format_args!("\n{}", table::titled(&["Present Lock", "What Happens"], rows)));
        }
        call.console.say(format_args!("\n{}\n", text(node, "would")));
    }
    Ok(code)
}

fn objects<'a>(of: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    of.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter().filter_map(Value::as_object)
}

pub fn step_down(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    client.send(&Request::new("PUT", "sys/step-down")).explain("Error stepping down")?;
    call.success(format_args!("Stepped down: {}", client.address()))
}
