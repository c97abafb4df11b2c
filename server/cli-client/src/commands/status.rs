//! `status`: whether the server is sealed, and its place in a cluster.

use serde_json::{Map, Value};

use super::{Command, Prints};
use crate::call::Call;
use crate::client::{Client, Request};
use crate::failure::{Explain, Failure, Outcome};
use crate::output::{self, Format, plain, table};

pub static COMMANDS: [Command; 1] = [Command::new("status", "Seal and cluster state of the server", run)
    .about("Prints the state of the server, sealed or not.\n\nThe exit code is 0 where it is unsealed, 2 where it is sealed or not initialised, 1 where it could not be asked.")
    .prints(Prints::Object)];

const UNSEALED: i32 = 0;
const SEALED: i32 = 2;

fn run(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client().map_err(|f| f.with_code(1))?.in_root_namespace();
    let checked = |e: Failure| e.with_code(1);
    let answer =
        client.send(&Request::new("GET", "sys/seal-status")).explain("Error checking seal status").map_err(checked)?;
    let mut status = answer.object().bare().map_err(checked)?;
    if !sealed(&status) {
        add_leader(&client, &mut status).map_err(checked)?;
    } else if !status.contains_key("ha_enabled") && is_clustered(&status) {
        status.insert("ha_enabled".into(), true.into());
    }
    status.entry("build_date").or_insert_with(|| "".into());
    status.entry("ha_enabled").or_insert(Value::Bool(false));
    let code = if sealed(&status) { SEALED } else { UNSEALED };
    if let Some(field) = call.field() {
        match status.get(field) {
            Some(value) => {
                print_field(call, value)?;
            }
            None => call.console.warn(format_args!("Field {field:?} not present in seal status")),
        }
        return Ok(code);
    }
    if let Err(Failure::Stop { message, .. }) = print(call, &status) {
        call.console.warn(message);
    }
    Ok(code)
}

fn print_field(call: &Call, value: &Value) -> Outcome {
    match call.format {
        Format::Table => call.console.say_value(plain(value)),
        _ => return output::value(call, value),
    }
    Ok(0)
}

/// Prints a seal status with what is known of its cluster.
pub fn print(call: &Call, status: &Map<String, Value>) -> Outcome {
    match call.format {
        Format::Table => call.console.say(rows(status)),
        _ => {
            const ORDER: [&str; 15] = [
                "type",
                "initialized",
                "sealed",
                "t",
                "n",
                "progress",
                "nonce",
                "version",
                "commit_date",
                "migration",
                "cluster_name",
                "cluster_id",
                "recovery_seal",
                "storage_type",
                "build_date",
            ];
            let mut status = status.clone();
            output::put_first(&mut status, &ORDER);
            return output::value(call, &Value::Object(status));
        }
    }
    Ok(0)
}

fn sealed(status: &Map<String, Value>) -> bool {
    status.get("sealed").and_then(Value::as_bool).unwrap_or(true)
}

fn is_clustered(status: &Map<String, Value>) -> bool {
    status.get("storage_type").and_then(Value::as_str) == Some("raft")
}

/// Asks who leads the cluster, and takes over what it answers.
fn add_leader(client: &Client, status: &mut Map<String, Value>) -> Result<(), Failure> {
    let answer = client.send(&Request::new("GET", "sys/leader")).explain("Error checking leader status")?;
    let leader = answer.object().bare()?;
    let enabled = leader.get("ha_enabled").and_then(Value::as_bool).unwrap_or(false);
    status.insert("ha_enabled".into(), enabled.into());
    if !enabled {
        return Ok(());
    }
    for (name, value) in leader {
        let is_empty = matches!(&value, Value::Null | Value::Bool(false)) || value == 0 || value == "";
        if name != "ha_enabled" && !is_empty && name != "performance_standby_last_remote_wal" {
            status.insert(name, value);
        }
    }
    Ok(())
}

/// The rows about the seal alone.
pub fn seal_rows(status: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |name: &str| status.get(name).map(plain).unwrap_or_default();
    let is = |name: &str| status.get(name).and_then(Value::as_bool).unwrap_or(false);
    let recovery = if is("recovery_seal") { "Recovery " } else { "" };
    let mut rows = vec![
        ("Seal Type".into(), text("type")),
        ("Initialized".into(), text("initialized")),
        ("Sealed".into(), text("sealed")),
        (format!("Total {recovery}Shares"), text("n")),
        ("Threshold".into(), text("t")),
    ];
    if is("recovery_seal") && !text("recovery_seal_type").is_empty() {
        rows.insert(1, ("Recovery Seal Type".into(), text("recovery_seal_type")));
    }
    if is("sealed") {
        rows.push(("Unseal Progress".into(), format!("{}/{}", text("progress"), text("t"))));
        rows.push(("Unseal Nonce".into(), text("nonce")));
    }
    if is("migration") {
        rows.push(("Seal Migration in Progress".into(), "true".into()));
    }
    rows
}

fn rows(status: &Map<String, Value>) -> String {
    let text = |name: &str| status.get(name).map(plain).unwrap_or_default();
    let is = |name: &str| status.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut rows = seal_rows(status);
    rows.push(("Version".into(), text("version")));
    if status.contains_key("commit_date") {
        rows.push(("Commit Date".into(), text("commit_date")));
    } else if status.contains_key("build_date") {
        rows.push(("Build Date".into(), text("build_date")));
    }
    rows.push(("Storage Type".into(), text("storage_type")));
    if !text("cluster_name").is_empty() {
        rows.push(("Cluster Name".into(), text("cluster_name")));
        rows.push(("Cluster ID".into(), text("cluster_id")));
    }
    rows.push(("HA Enabled".into(), is("ha_enabled").to_string()));
    cluster_rows(status, &mut rows);
    table::key_value(rows)
}

fn cluster_rows(status: &Map<String, Value>, rows: &mut Vec<(String, String)>) {
    let text = |name: &str| status.get(name).map(plain).unwrap_or_default();
    let is = |name: &str| status.get(name).and_then(Value::as_bool).unwrap_or(false);
    if is("ha_enabled") && !is("sealed") && (status.contains_key("is_self") || status.contains_key("leader_address")) {
        rows.push(("HA Cluster".into(), text("leader_cluster_address")));
        rows.push(("HA Mode".into(), if is("is_self") { "active" } else { "standby" }.into()));
        if is("is_self") && !text("active_time").is_empty() {
            rows.push(("Active Since".into(), text("active_time")));
        }
        if !is("is_self") {
            rows.push(("Active Node Address".into(), text("leader_address")));
        }
    }
    for (title, name) in
        [("Raft Committed Index", "raft_committed_index"), ("Raft Applied Index", "raft_applied_index")]
    {
        if status.contains_key(name) {
            rows.push((title.into(), text(name)));
        }
    }
}
