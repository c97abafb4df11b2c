//! A member that comes back without its store, under the key by which the others know it.

use std::time::Duration;

use serde_json::json;

use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

/// Others count on what it has confirmed and for whom it has voted, and it knows nothing of that any more.
#[test]
fn a_voter_that_lost_its_store_is_let_in_again_only_when_it_was_removed() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let leader = nodes.until_led();
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    nodes.kill(lost);
    nodes.lose_store(lost);
    nodes.put(leader, "kv/b", json!({"v": 2}));
    nodes.launch(lost);
    let share = json!({"key": nodes.share()});
    let refused = until(WITHIN, "a refusal", || {
        let asked = nodes.client(lost).try_call("PUT", "sys/unseal", Some(&share)).ok()?;
        assert_ne!(asked.json()["sealed"], false, "it was let in: {}", asked.text());
        Some(asked.text()).filter(|text| text.contains("lost its store"))
    });
    assert!(refused.contains(&format!("operator raft remove-peer n{lost}")), "{refused}");

    // It makes no majority with the one that has everything.
    nodes.kill(other);
    let now = nodes.root(leader).patient_for(Duration::from_secs(4));
    let answer = now.try_call("POST", "kv/nobody", Some(&json!({"v": 1})));
    assert!(answer.as_ref().map_or(true, |a| [500, 503].contains(&a.status)), "{answer:?}");
    nodes.start_again(other);
    nodes.put(other, "kv/c", json!({"v": 3}));

    let leader = nodes.until_led();
    nodes.ask(leader, "sys/storage/raft/remove-peer", json!({"server_id": format!("n{lost}")}), 204);
    nodes.kill(lost);
    nodes.start_again(lost);
    nodes.until_all_vote();
    nodes.kill(leader);
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(nodes.read(lost, &format!("kv/{key}")).at("/data/v"), value);
    }
}
