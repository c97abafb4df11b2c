//! A member that is gone for long enough is removed, where that is asked for.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use holdfast_tests::until;

use crate::audit::all_lines;

use super::newcomer::members;
use super::nodes::{Nodes, WITHIN};

/// The active node has looked at the members several times within this.
const LOOKS_S: u64 = 8;

/// What a node says of the members: whether all are well, and how many may fail.
fn state(nodes: &Nodes, n: usize) -> Option<(Value, bool, u64)> {
    let state = nodes.root(n).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?;
    let state = Some(state).filter(|r| r.status == 200)?.json();
    let (healthy, tolerance) = (state["data"]["healthy"].as_bool()?, state["data"]["failure_tolerance"].as_u64()?);
    Some((state, healthy, tolerance))
}

fn until_state(nodes: &Nodes, asked: &[usize], healthy: bool, tolerance: u64) -> Value {
    let mut last = Value::Null;
    for n in asked {
        last = until(WITHIN, &format!("healthy {healthy}, tolerance {tolerance} at node {n}"), || {
            state(nodes, *n).filter(|(_, h, t)| (*h, *t) == (healthy, tolerance)).map(|(state, ..)| state)
        });
    }
    last
}

#[test]
fn a_dead_member_of_five_is_removed_and_every_node_says_how_the_members_are() {
    let mut nodes = Nodes::start(5);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let all: Vec<usize> = (0..5).collect();
    let well = until_state(&nodes, &all, true, 2);
    assert_eq!(well["data"]["voters"].as_array().map(Vec::len), Some(5), "{well}");
    let settings = "sys/storage/raft/autopilot/configuration";
    nodes.ask(0, settings, json!({"dead_server_last_contact_threshold": "59s"}), 400);
    nodes.ask(0, settings, json!({"cleanup_dead_servers": true, "min_quorum": 2}), 400);
    let asked = json!({
        "cleanup_dead_servers": true, "dead_server_last_contact_threshold": "60s", "min_quorum": 5,
        "last_contact_threshold": "5s",
    });
    nodes.ask(0, settings, asked, 204);

    let dead = (nodes.until_led() + 1) % 5;
    let name = format!("n{dead}");
    nodes.kill(dead);
    let left: Vec<usize> = all.into_iter().filter(|n| *n != dead).collect();
    let ill = until_state(&nodes, &left, false, 1);
    let gone = &ill["data"]["servers"][&name];
    assert_eq!((&gone["healthy"], &gone["node_status"]), (&json!(false), &json!("failed")), "{ill}");
    assert_eq!(members(&nodes).len(), 5, "it may only have been restarted");
    // As few as shall be left at least are never made fewer, however long one of them is gone.
    until(WITHIN, "a member that is gone for longer than one may be", || {
        let (state, ..) = state(&nodes, nodes.led_now()?)?;
        let silent = state["data"]["servers"][&name]["last_contact"].as_str()?;
        let (minutes, seconds) = silent.strip_suffix('s')?.split_once('m')?;
        (minutes.parse::<u64>().ok()? * 60 + seconds.parse::<f64>().ok()? as u64 >= 60 + LOOKS_S).then_some(())
    });
    assert_eq!(members(&nodes).len(), 5, "min_quorum is 5");
    nodes.ask(left[0], settings, json!({"min_quorum": 3}), 204);
    until(WITHIN, "the dead member to be removed", || (members(&nodes).len() == 4).then_some(()));
    assert!(!members(&nodes).iter().any(|(id, _)| *id == name));
    let well = until_state(&nodes, &left, true, 1);
    assert!(well["data"]["servers"].get(&name).is_none(), "{well}");
    for n in &left {
        nodes.put(*n, &format!("kv/{n}"), json!({"n": n}));
    }
    // Who led says it in its audit log, each change once, also that members got their votes at the beginning.
    let changes = || {
        let lines = (0..5).flat_map(|n| all_lines(&nodes.audit_log(n)));
        let own = lines.filter(|l| l["actor"] == "system" && l["type"] == "response");
        let changes = own.filter_map(|l| {
            let what = l["request"]["path"].as_str()?.strip_prefix("sys/storage/raft/")?.to_owned();
            assert!(l["response"]["data"]["state"].is_null() && l["error"].is_null(), "{l}");
            Some((what, l["request"]["data"]["server_id"].as_str()?.to_owned()))
        });
        changes.collect::<Vec<_>>()
    };
    let removed = until(WITHIN, "the line of the removal", || {
        let removed: Vec<_> = changes().into_iter().filter(|(what, _)| what == "remove-peer").collect();
        (!removed.is_empty()).then_some(removed)
    });
    assert_eq!(removed, [("remove-peer".to_owned(), name)]);
    let promoted: BTreeSet<String> = changes().into_iter().filter(|c| c.0 == "promote").map(|c| c.1).collect();
    assert_eq!(promoted.len(), 4, "{:?}", changes());
}
