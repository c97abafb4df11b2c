//! `operator compact` without a configuration: a server that runs is asked, and watched.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{text, unwrapped};
use crate::call::Call;
use crate::client::{Client, Request};
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;

const PATH: &str = "sys/storage/compact";
const LOOK: Duration = Duration::from_millis(200);
/// Progress is said when so much more of a hundred is done.
const STEP: u64 = 10;

/// The program itself answers where it is given.
pub static FLAGS: [Flag; 2] = [
    Flag::list("config", "A configuration file or folder of a stopped server whose store is meant.")
        .values(Values::File),
    Flag::text("node", "The node of a cluster whose store is meant, by its name; else the active one."),
];

pub fn run(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    let node = call.flags.text("node");
    let (mut begin, mut look) = (Request::new("POST", PATH), Request::new("GET", PATH));
    if let Some(node) = node {
        (begin, look) = (begin.json(&json!({ "node": node })), look.query("node", node));
    }
    client.send(&begin).explain("Error starting the compaction")?;
    let mut said = 0;
    loop {
        std::thread::sleep(LOOK);
        let now = progress(&client, &look)?;
        match text(&now, "phase").as_str() {
            "copying" | "finishing" => {
                let percent = number(&now, "entries_copied") * 100 / number(&now, "entries").max(1);
                if percent >= said + STEP {
                    said = percent;
                    call.console.say(format_args!("{}% copied", percent.min(100)));
                }
            }
            "done" => {
                let [before, after] = ["bytes_before", "bytes_after"].map(|name| number(&now, name) >> 10);
                return call.success(format_args!("The store's file had {before} KiB and has {after} KiB now."));
            }
            _ => return Err(Failure::refused(format!("the compaction failed: {}", text(&now, "error")))),
        }
    }
}

fn progress(client: &Client, asked: &Request) -> Result<Map<String, Value>, Failure> {
    let answer = client.send(asked).explain("Error reading the compaction's progress")?;
    Ok(unwrapped(answer.object().bare()?))
}

fn number(object: &Map<String, Value>, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or(0)
}
