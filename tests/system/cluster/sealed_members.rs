//! Sealed members carry the log, and never lead.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

/// Elections take a second here.
const NOBODY_LEADS_FOR: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

#[test]
fn sealed_nodes_replicate_and_nobody_leads_until_one_is_unsealed() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let active = nodes.until_led();
    let sealed = [(active + 1) % 3, (active + 2) % 3];
    for n in sealed {
        nodes.kill(n);
        nodes.launch(n);
        until(WITHIN, "a sealed node", || nodes.is_sealed(n)?.then_some(()));
        // Without this one the other would be missed.
        until(WITHIN, "a node that keeps up", || {
            let root = nodes.root(active).patient_for(Duration::from_secs(20));
            let state = root.try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?.json();
            (state["data"]["servers"][format!("n{n}")]["healthy"] == true).then_some(())
        });
    }
    // One unsealed node of three has a majority with what the sealed ones write down.
    for n in 0..20 {
        nodes.put(active, &format!("kv/{n}"), json!({"n": n}));
    }
    assert_eq!(nodes.until_led(), active);
    until(WITHIN, "both sealed nodes to have it all", || {
        let state = nodes.root(active).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?.json();
        let last = |n: usize| state["data"]["servers"][format!("n{n}")]["last_index"].as_u64();
        sealed.iter().all(|n| last(*n).is_some() && last(*n) == last(active)).then_some(())
    });
    nodes.kill(active);
    let until_when = Instant::now() + NOBODY_LEADS_FOR;
    while Instant::now() < until_when {
        for n in sealed {
            assert_eq!(nodes.is_sealed(n), Some(true));
            let root = nodes.root(n).patient_for(Duration::from_secs(5));
            assert_eq!(root.get("sys/leader").status, 503);
            assert_eq!(root.get("kv/0").status, 503);
        }
        thread::sleep(LOOK);
    }
    let [first, other] = sealed;
    nodes.give_share(first);
    until(WITHIN, "the node that was unsealed to lead", || nodes.says_it_leads(first).then_some(()));
    assert_eq!(nodes.is_sealed(other), Some(true));
    for n in 0..20 {
        assert_eq!(nodes.read(first, &format!("kv/{n}")).at("/data/n"), n);
    }
    nodes.put(first, "kv/after", json!({"v": 1}));
}
