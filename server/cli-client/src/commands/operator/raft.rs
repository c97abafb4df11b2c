//! `operator raft …`: members, snapshots and automatic care of the integrated storage.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::{Map, Value, json};

use super::{is, text, unwrapped};
use crate::call::Call;
use crate::client::{Answer, Error, Request};
use crate::commands::{Command, Prints};
use crate::completion::Values;
use crate::data::opening;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::{Flag, Kind};
use crate::output::{self, Format, plain, table};

static JOIN: [Flag; 8] = [
    Flag::text("join-token", "A join token (or @ and a file), for a node with a device of its own."),
    Flag::text("auto-join-scheme", "The scheme of leaders that are found by themselves."),
    Flag::new("auto-join-port", Kind::Uint, "The port of leaders that are found by themselves."),
    Flag::text("leader-ca-cert", "The certificate (PEM, or @ and a file) that the leader's must lead to."),
    Flag::text("leader-client-cert", "The certificate (PEM, or @ and a file) to show to the leader."),
    Flag::text("leader-client-key", "The private key (PEM, or @ and a file) of that certificate."),
    Flag::bool("retry", "Try again until it goes well."),
    Flag::bool("non-voter", "Join without a vote."),
];
static JOIN_TOKEN: [Flag; 1] = [Flag::duration("ttl", "For how long it is good.").default("1h")];
static SET_CONFIG: [Flag; 6] = [
    Flag::bool("cleanup-dead-servers", "Members that are gone are removed."),
    Flag::duration("last-contact-threshold", "After how long without contact a member is unhealthy."),
    Flag::duration("dead-server-last-contact-threshold", "After how long without contact a member counts as gone."),
    Flag::new("max-trailing-logs", Kind::Uint, "How many entries a healthy member may lag behind."),
    Flag::new("min-quorum", Kind::Uint, "Members are never removed below this number."),
    Flag::duration("server-stabilization-time", "How long a new member must be healthy before it votes."),
];
static RESTORE: [Flag; 1] = [Flag::bool("force", "Also a snapshot of another cluster, whose keys are others.")];

pub static COMMANDS: &[Command] = &[
    Command::new("operator raft join", "Join a cluster", join)
        .takes("[options] LEADER-API-ADDRESS")
        .prints(Prints::Answer)
        .flags(&JOIN),
    Command::new("operator raft join-token", "Let a node with a device of its own join", join_token)
        .about("Prints a token that one node can join with, once: the cluster gives it the root key, which the node locks with its own device. Give it as join_token_file of retry_join, or to operator raft join -join-token.")
        .prints(Prints::Answer)
        .flags(&JOIN_TOKEN),
    Command::new("operator raft list-peers", "Members of the cluster", list_peers).prints(Prints::Answer),
    Command::new("operator raft remove-peer", "Remove a member", remove_peer)
        .takes("[options] NODE-ID")
        .prints(Prints::Answer),
    Command::new("operator raft promote", "Give a member a vote", |call| change(call, "promote", "promoting"))
        .takes("[options] NODE-ID")
        .prints(Prints::Answer),
    Command::new("operator raft demote", "Take a member's vote", |call| change(call, "demote", "demoting"))
        .takes("[options] NODE-ID")
        .prints(Prints::Answer),
    Command::new("operator raft snapshot save", "Save the storage to a file", save)
        .takes("[options] FILE")
        .completes(&[Values::File])
        .prints(Prints::Answer),
    Command::new("operator raft snapshot restore", "Bring a saved storage back", restore)
        .takes("[options] FILE")
        .completes(&[Values::File])
        .prints(Prints::Answer)
        .flags(&RESTORE),
    Command::new("operator raft snapshot verify", "See whether a saved storage is whole and opens", verify)
        .takes("[options] FILE")
        .about("Sends a snapshot to the server, which says what it is of, whether it is whole, and whether its present keys open every entry of it. Nothing is restored. The exit code is 2 where it is not whole or does not open.")
        .completes(&[Values::File])
        .prints(Prints::Answer),
    Command::new("operator raft autopilot state", "How the members do", state).prints(Prints::Answer),
    Command::new("operator raft autopilot get-config", "How members are looked after", read_config)
        .prints(Prints::Answer),
    Command::new("operator raft autopilot set-config", "Change how members are looked after", set_config)
        .prints(Prints::Answer)
        .flags(&SET_CONFIG),
];

/// These commands say it in one way for too few and too many.
fn exactly(call: &Call, count: usize) -> Result<(), Failure> {
    match call.args.len() {
        got if got == count => Ok(()),
        got => Err(Failure::usage(format!("Incorrect arguments (expected {count}, got {got})"))),
    }
}

fn join(call: &Call) -> Outcome {
    if call.args.len() > 1 {
        return Err(Failure::usage(format!("Too many arguments (expected 0-1, got {})", call.args.len())));
    }
    let mut body = Map::new();
    let leader = call.arg(0).trim();
    let discovers = leader.starts_with("provider=");
    body.insert(if discovers { "auto_join" } else { "leader_api_addr" }.into(), leader.into());
    for (flag, field) in [
        ("leader-ca-cert", "leader_ca_cert"),
        ("leader-client-cert", "leader_client_cert"),
        ("leader-client-key", "leader_client_key"),
        ("join-token", "join_token"),
    ] {
        if let Some(value) = call.flags.text(flag) {
            body.insert(field.into(), pem(value)?.into());
        }
    }
    if let Some(scheme) = call.flags.text("auto-join-scheme") {
        body.insert("auto_join_scheme".into(), scheme.into());
    }
    if let Some(port) = call.flags.int("auto-join-port") {
        body.insert("auto_join_port".into(), port.into());
    }
    body.insert("retry".into(), call.flags.bool("retry").into());
    body.insert("non_voter".into(), call.flags.bool("non-voter").into());
    let client = call.client()?;
    let request = Request::new("POST", "sys/storage/raft/join").json(&Value::Object(body));
    let answer = client.send(&request).explain("Error joining the node to the Raft cluster")?;
    let answer = unwrapped(answer.object().bare()?);
    match call.format {
        Format::Table => call.console.say(table::key_value(vec![("Joined".into(), is(&answer, "joined").to_string())])),
        _ => return output::value(call, &json!({ "joined": is(&answer, "joined") })),
    }
    Ok(0)
}

fn pem(value: &str) -> Result<String, Failure> {
    match value.strip_prefix('@') {
        None => Ok(value.to_string()),
        Some(path) => fs::read_to_string(path).map_err(|e| Failure::usage(opening(path, &e))),
    }
}

fn join_token(call: &Call) -> Outcome {
    exactly(call, 0)?;
    let mut body = Map::new();
    if let Some(ttl) = call.flags.duration("ttl") {
        body.insert("ttl".into(), ttl.long().into());
    }
    let made = call.client()?.write("sys/storage/raft/join-token", &Value::Object(body));
    let Some(secret) = made.explain("Error making a join token")? else { return Ok(0) };
    if call.format != Format::Table {
        return output::secret(call, &secret);
    }
    let field = |name: &str| secret.get(name).map(plain).unwrap_or_default();
    let rows = vec![("Join Token".into(), field("join_token")), ("Expires".into(), field("expires"))];
    call.console.say(table::key_value(rows));
    Ok(0)
}

fn list_peers(call: &Call) -> Outcome {
    let client = call.client()?;
    let failed = "Error reading the raft cluster configuration";
    let secret = client.read("sys/storage/raft/configuration", &[]).explain(failed)?;
    let Some(secret) = secret else {
        return Err(Failure::refused("No raft cluster configuration found"));
    };
    if call.format != Format::Table {
        return output::secret(call, &secret);
    }
    let servers = secret.get("config").and_then(|c| c.get("servers")).and_then(Value::as_array);
    let rows = servers
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|s| {
            let state = if is(s, "leader") { "leader" } else { "follower" };
            vec![text(s, "node_id"), text(s, "address"), state.to_string(), is(s, "voter").to_string()]
        })
        .collect();
    call.console.say(table::titled(&["Node", "Address", "State", "Voter"], rows));
    Ok(0)
}

fn remove_peer(call: &Call) -> Outcome {
    exactly(call, 1)?;
    let client = call.client()?;
    let body = json!({ "server_id": call.arg(0).trim() });
    client.write("sys/storage/raft/remove-peer", &body).explain("Error removing the peer from raft cluster")?;
    call.console.say("Peer removed successfully!");
    Ok(0)
}

fn change(call: &Call, route: &str, doing: &str) -> Outcome {
    exactly(call, 1)?;
    let client = call.client()?;
    let body = json!({ "server_id": call.arg(0).trim() });
    client.write(&format!("sys/storage/raft/{route}"), &body).explain(format!("Error {doing} server"))?;
    call.success(format_args!("Finished {doing} {}", call.arg(0).trim()))
}

fn save(call: &Call) -> Outcome {
    exactly(call, 1)?;
    let path = call.arg(0).trim();
    let failed = "Error taking the snapshot";
    let client = call.client()?.without_timeout();
    let request = Request::new("GET", "sys/storage/raft/snapshot");
    if client.is_rehearsing() {
        client.send(&request).explain(failed)?;
        return Ok(0);
    }
    // Written beside and put in place whole, so that an older snapshot is not lost to a failure.
    let unfinished = format!("{path}.part");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let mut file = file.map_err(|e| Failure::refused(format!("{failed}: {}", opening(path, &e))))?;
    let mut wrong = None;
    let came = client.stream(&request, |part| match file.write_all(part) {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            wrong = Some(e);
            ControlFlow::Break(())
        }
    });
    came.inspect_err(|_| drop(fs::remove_file(&unfinished))).explain(failed)?;
    let kept = wrong.map_or(Ok(()), Err).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path));
    kept.inspect_err(|_| drop(fs::remove_file(&unfinished))).map_err(|e| Failure::refused(format!("{failed}: {e}")))?;
    Ok(0)
}

fn restore(call: &Call) -> Outcome {
    exactly(call, 1)?;
    let route = if call.flags.bool("force") { "snapshot-force" } else { "snapshot" };
    sent(call, route, "Error installing the snapshot")?;
    Ok(0)
}

/// Send the archive that the call names.
fn sent(call: &Call, route: &str, failed: &str) -> Result<Answer, Failure> {
    let path = call.arg(0).trim();
    let cannot = |e| Failure::refused(format!("Error opening snapshot file: {}", opening(path, &e)));
    drop(fs::File::open(path).map_err(cannot)?);
    let client = call.client()?.without_timeout();
    let mut request = Request::new("POST", format!("sys/storage/raft/{route}"));
    request.file = Some(path.into());
    client.send(&request).explain(failed)
}

fn verify(call: &Call) -> Outcome {
    exactly(call, 1)?;
    let answer = sent(call, "snapshot-verify", "Error verifying the snapshot")?;
    let found = unwrapped(answer.object().bare()?);
    let opens = is(&found, "opens");
    match call.format {
        Format::Table => {
            let rows = VERIFIED.iter().map(|(title, name)| (title.to_string(), text(&found, name))).collect();
            call.console.say(table::key_value(rows));
            if !opens {
                return Err(Failure::refused(format!("the snapshot does not open here: {}", text(&found, "reason"))));
            }
        }
        _ => drop(output::value(call, &Value::Object(found))?),
    }
    // As an error.
    Ok(if opens { 0 } else { 2 })
}

const VERIFIED: &[(&str, &str)] = &[
    ("Cluster Name", "cluster_name"),
    ("Cluster ID", "cluster_id"),
    ("Seal", "seal"),
    ("Version", "version"),
    ("Created", "created"),
    ("Index", "index"),
    ("Entries", "entries"),
    ("Bytes", "bytes"),
    ("Complete", "complete"),
    ("Opens", "opens"),
];

fn state(call: &Call) -> Outcome {
    exactly(call, 0)?;
    let client = call.client()?;
    let secret = client.read("sys/storage/raft/autopilot/state", &[]).explain("Error checking autopilot state")?;
    let Some(data) = secret.and_then(|s| s.data) else {
        return Ok(0);
    };
    if matches!(call.format, Format::Json | Format::Yaml) {
        return output::value(call, &capitalised(&data));
    }
    call.console.say(state_text(&data));
    Ok(0)
}

/// The state with the names that clients of the reference read.
fn capitalised(data: &Map<String, Value>) -> Value {
    const NAMES: [(&str, &str, bool); 8] = [
        ("Healthy", "healthy", false),
        ("FailureTolerance", "failure_tolerance", false),
        ("Servers", "servers", true),
        ("Leader", "leader", false),
        ("Voters", "voters", false),
        ("NonVoters", "non_voters", false),
        ("Upgrade", "upgrade_info", false),
        ("OptimisticFailureTolerance", "optimistic_failure_tolerance", false),
    ];
    const SERVER: [(&str, &str); 13] = [
        ("ID", "id"),
        ("Name", "name"),
        ("Address", "address"),
        ("NodeStatus", "node_status"),
        ("LastContact", "last_contact"),
        ("LastTerm", "last_term"),
        ("LastIndex", "last_index"),
        ("Healthy", "healthy"),
        ("StableSince", "stable_since"),
        ("Status", "status"),
        ("Version", "version"),
        ("UpgradeVersion", "upgrade_version"),
        ("NodeType", "node_type"),
    ];
    let server = |value: &Value| -> Value {
        let field = |name: &str| value.get(name).cloned().unwrap_or_else(|| "".into());
        Value::Object(SERVER.iter().map(|(out, name)| (out.to_string(), field(name))).collect())
    };
    let mut out = Map::new();
    for (name, field, is_servers) in NAMES {
        let value = data.get(field).cloned().unwrap_or(match field {
            "optimistic_failure_tolerance" => 0.into(),
            _ => Value::Null,
        });
        let value = match (is_servers, value) {
            (true, Value::Object(servers)) => {
                Value::Object(servers.iter().map(|(k, v)| (k.clone(), server(v))).collect())
            }
            (_, value) => value,
        };
        out.insert(name.into(), value);
    }
    Value::Object(out)
}

fn state_text(data: &Map<String, Value>) -> String {
    let mut lines = vec![
        format!("Healthy:              {}", text(data, "healthy")),
        format!("Failure Tolerance:    {}", text(data, "failure_tolerance")),
        format!("Leader:               {}", text(data, "leader")),
        format!("Voters:               {}", data.get("voters").map(plain).unwrap_or_default()),
        "Servers:".to_string(),
    ];
    for (id, server) in data.get("servers").and_then(Value::as_object).into_iter().flatten() {
        lines.push(format!("  {id}"));
        for (title, name) in [
            ("Name", "name"),
            ("Address", "address"),
            ("Status", "status"),
            ("Node Status", "node_status"),
            ("Healthy", "healthy"),
            ("Last Contact", "last_contact"),
            ("Last Term", "last_term"),
            ("Last Index", "last_index"),
            ("Version", "version"),
            ("Node Type", "node_type"),
        ] {
            let value = server.get(name).map(plain).unwrap_or_default();
            lines.push(format!("    {:18}{value}", format!("{title}:")));
        }
    }
    lines.join("\n")
}

fn read_config(call: &Call) -> Outcome {
    exactly(call, 0)?;
    let client = call.client()?;
    let secret = client.read("sys/storage/raft/autopilot/configuration", &[]).bare()?;
    let Some(config) = secret.and_then(|s| s.data) else {
        return Ok(0);
    };
    if call.format != Format::Table {
        return output::value(call, &output::sorted(&Value::Object(config)));
    }
    let rows = [
        ("Cleanup Dead Servers", "cleanup_dead_servers"),
        ("Last Contact Threshold", "last_contact_threshold"),
        ("Dead Server Last Contact Threshold", "dead_server_last_contact_threshold"),
        ("Server Stabilization Time", "server_stabilization_time"),
        ("Min Quorum", "min_quorum"),
        ("Max Trailing Logs", "max_trailing_logs"),
    ];
    let rows = rows.iter().map(|(title, name)| (title.to_string(), text(&config, name))).collect();
    call.console.say(table::key_value(rows));
    Ok(0)
}

fn set_config(call: &Call) -> Outcome {
    exactly(call, 0)?;
    let flags = &call.flags;
    let mut body = Map::new();
    if flags.is_set("cleanup-dead-servers") {
        body.insert("cleanup_dead_servers".into(), flags.bool("cleanup-dead-servers").into());
    }
    for name in ["max-trailing-logs", "min-quorum"] {
        if let Some(number) = flags.int(name).filter(|n| *n > 0) {
            body.insert(name.replace('-', "_"), number.into());
        }
    }
    for name in ["last-contact-threshold", "dead-server-last-contact-threshold", "server-stabilization-time"] {
        if let Some(duration) = flags.duration(name) {
            body.insert(name.replace('-', "_"), duration.long().into());
        }
    }
    let client = call.client()?;
    let answer: Result<_, Error> = client.write("sys/storage/raft/autopilot/configuration", &Value::Object(body));
    answer.bare()?;
    Ok(0)
}
