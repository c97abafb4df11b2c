//! A cluster that two of three shares open.

use serde_json::{Value, json};

use holdfast_tests::until;

use super::newcomer::{Newcomer, joins};
use super::nodes::WITHIN;

fn given(node: &Newcomer, share: &str) -> Value {
    node.give(share).expect(200).json()
}

/// Give two shares one by one; before them, one that is no share of this cluster.
fn open(node: &Newcomer, wrong: &str, shares: [&str; 2]) {
    node.until_asked_for_shares();
    let status = node.client().get("sys/seal-status").expect(200).json();
    assert_eq!((&status["t"], &status["n"], &status["progress"]), (&json!(2), &json!(3), &json!(0)), "{status}");
    let first = given(node, shares[0]);
    assert_eq!((&first["sealed"], &first["progress"]), (&json!(true), &json!(1)), "{first}");
    assert!(first["nonce"].as_str().is_some_and(|nonce| !nonce.is_empty()), "{first}");
    // The same one again counts once.
    assert_eq!(given(node, shares[0])["progress"], 1);
    let refused = node.give(wrong).refused(400);
    assert!(refused.contains("invalid key"), "{refused}");
    let status = node.client().get("sys/seal-status").expect(200).json();
    assert_eq!((&status["sealed"], &status["progress"]), (&json!(true), &json!(0)), "it begins anew: {status}");
    assert_eq!(given(node, shares[0])["progress"], 1);
    until(WITHIN, "an open node", || {
        let answer = node.client().try_call("PUT", "sys/unseal", Some(&json!({"key": shares[1]}))).ok()?;
        match answer.json()["sealed"].as_bool() {
            Some(false) => Some(()),
            Some(true) if answer.json()["progress"] == 1 => None,
            // Nobody led at that moment, and both are asked for again.
            _ => {
                given(node, shares[0]);
                None
            }
        }
    });
}

#[test]
fn nodes_join_and_come_back_by_two_of_three_shares_that_are_given_one_by_one() {
    let first = Newcomer::named("n0").started();
    let made = first.client().call("PUT", "sys/init", Some(&json!({"secret_shares": 3, "secret_threshold": 2})));
    let made = made.expect(200);
    let shares: Vec<String> = (0..3).map(|n| made.text_at(&format!("/keys/{n}"))).collect();
    let wrong = {
        let other = Newcomer::named("other").started();
        let made = other.client().call("PUT", "sys/init", Some(&json!({"secret_shares": 3, "secret_threshold": 2})));
        made.expect(200).text_at("/keys/0")
    };
    open(&first, &wrong, [&shares[0], &shares[1]]);
    let root_token = made.text_at("/root_token");
    let root = |node: &Newcomer| node.client().with_token(&root_token);
    until(WITHIN, "an active node", || {
        root(&first).try_call("POST", "sys/mounts/kv", Some(&json!({"type": "kv"}))).ok().filter(|r| r.status == 204)
    });
    root(&first).post("kv/a", json!({"v": 1})).expect(204);

    let mut nodes = vec![first];
    for (name, pair) in [("n1", [0, 2]), ("n2", [2, 1])] {
        let node = Newcomer::named(name).storage(joins(nodes[0].port())).started();
        open(&node, &wrong, pair.map(|n| shares[n].as_str()));
        nodes.push(node);
    }
    let votes = || {
        let listed = root(&nodes[0]).try_call("GET", "sys/storage/raft/configuration", None).ok()?.json();
        let servers = listed["data"]["config"]["servers"].as_array()?.clone();
        (servers.len() == 3 && servers.iter().all(|s| s["voter"] == true)).then_some(())
    };
    until(WITHIN, "votes for all", votes);

    // The power fails: each is given two once, and they are a cluster again.
    let down: Vec<Newcomer> = nodes.drain(..).map(Newcomer::kill).collect();
    nodes.extend(down.into_iter().map(Newcomer::started));
    for (node, pair) in nodes.iter().zip([[1, 2], [0, 1], [2, 0]]) {
        open(node, &wrong, pair.map(|n| shares[n].as_str()));
    }
    for node in &nodes {
        let found = until(WITHIN, "what was written", || {
            root(node).try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200)
        });
        assert_eq!(found.at("/data/v"), 1);
    }
}
