//! `operator members`: the nodes of a cluster.

use serde_json::{Map, Value, json};

use super::{picked, text, unwrapped};
use crate::call::Call;
use crate::client::Request;
use crate::failure::{Explain, Outcome};
use crate::output::{self, Format, table};

pub fn run(call: &Call) -> Outcome {
    let client = call.client()?.in_root_namespace();
    let answer = client.send(&Request::new("GET", "sys/ha-status")).bare()?;
    let body = unwrapped(answer.object().bare()?);
    let nodes: Vec<&Map<String, Value>> =
        body.get("nodes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect();
    if call.format != Format::Table {
        let fields = [
            ("hostname", Value::from("")),
            ("api_address", "".into()),
            ("cluster_address", "".into()),
            ("active_node", false.into()),
            ("last_echo", Value::Null),
            ("version", "".into()),
            ("upgrade_version", "".into()),
        ];
        let nodes: Vec<Value> = nodes.iter().map(|n| picked(n, &fields)).collect();
        return output::value(call, &json!({ "Nodes": nodes }));
    }
    const TITLES: [&str; 7] =
        ["Host Name", "API Address", "Cluster Address", "Active Node", "Version", "Upgrade Version", "Last Echo"];
    const FIELDS: [&str; 7] =
        ["hostname", "api_address", "cluster_address", "active_node", "version", "upgrade_version", "last_echo"];
    let rows = nodes.iter().map(|n| FIELDS.iter().map(|f| text(n, f)).collect()).collect();
    call.console.say(table::titled(&TITLES, rows));
    Ok(0)
}
