//! Nodes that each have a device of their own, when most of them are lost, and when all that is left is an archive.

use std::fs;

use serde_json::json;

use holdfast_tests::until;

use super::newcomer::members;
use super::nodes::{Nodes, WITHIN, write_join_token};
use super::own_tokens::{start, start_with, until_unsealed};
use super::recover::recover;
use super::snapshots::snapshot;

fn write(nodes: &Nodes) {
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
}

/// Two burn, one of them with its disk. The one that is left goes on by its own token; what the lost ones' devices could
/// open is changed as soon as they were removed.
#[test]
fn a_majority_of_nodes_with_own_tokens_is_lost_and_the_one_that_is_left_goes_on() {
    let (mut nodes, tokens) = start(3);
    write(&nodes);
    let leader = nodes.until_led();
    until(WITHIN, "followers that have everything", || {
        let state = nodes.root(leader).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?.json();
        let servers = state["data"]["servers"].as_object()?;
        let first = servers.values().next()?["last_index"].clone();
        servers.values().all(|s| s["last_index"] == first).then_some(())
    });
    // The first node's lock says that it is the cluster's: it is among the lost ones.
    let (left, comes_back, lost) = (1, 2, 0);
    (0..3).for_each(|n| nodes.kill(n));
    nodes.lose_folder(lost);
    recover(&nodes, left, &["-alone", "-yes"]).good();
    nodes.launch(left);
    until_unsealed(&nodes, left);
    until(WITHIN, "the one that is left leads", || nodes.says_it_leads(left).then_some(()));
    assert_eq!(members(&nodes), [(format!("n{left}"), true)]);
    assert_eq!(nodes.read(left, "kv/a").at("/data/v"), 1);

    // Their locks are there still, and only their devices could make new ones.
    let refused = nodes.ask(left, "sys/rotate/root", json!({}), 400).text();
    assert!(refused.contains("made anew"), "{refused}");

    // The other one's token is known, and its store is set aside: it joins by a new join token. Its former lock goes.
    recover(&nodes, comes_back, &["-rejoin", "-yes"]).good();
    nodes.launch(comes_back);
    let used = "this join token is not known, was used, or has ended";
    nodes.server(comes_back).until_logged(used);
    nodes.kill(comes_back);
    write_join_token(&nodes.root(left), &tokens.join_token(comes_back));
    nodes.launch(comes_back);
    until_unsealed(&nodes, comes_back);
    until(WITHIN, "two that vote", || members(&nodes).iter().all(|(_, votes)| *votes).then_some(()));
    assert_eq!(members(&nodes).len(), 2);

    // It is no member, and its lock goes by the same command; the root key that it knew with it.
    let leader = nodes.until_led();
    let removed = nodes.root(leader).post("sys/storage/raft/remove-peer", json!({"server_id": format!("n{lost}")}));
    assert!([200, 204].contains(&removed.status), "{}", removed.text());
    assert!(!removed.text().contains("still in use"), "{}", removed.text());
    nodes.ask(leader, "sys/rotate/root", json!({}), 204);
    for n in [left, comes_back] {
        nodes.kill(n);
    }
    for n in [left, comes_back] {
        nodes.launch(n);
    }
    for n in [left, comes_back] {
        until_unsealed(&nodes, n);
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 1, "node {n}");
    }
}

/// All disks are gone, the tokens are not: new nodes under the old names each open what was restored with their own.
#[test]
fn an_archive_of_nodes_with_own_tokens_is_restored_into_new_nodes_that_have_them() {
    let (given, tokens) = start(3);
    write(&given);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.snap");
    until(WITHIN, "a leader", || given.led_now());
    snapshot(&given, &["save"], &file).good();
    let id = given.client(0).get("sys/health").text_at("/cluster_id");
    let root_token = given.root(0).token().to_owned();
    drop(given);

    let mut nodes = start_with(3, &tokens);
    nodes.until_all_vote();
    restore_by_force(&nodes, &file);
    let of_archive = |nodes: &Nodes, n: usize| {
        let root = nodes.client(n).with_token(&root_token);
        until(WITHIN, "a key of the archive", || root.try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200))
    };
    for n in 0..3 {
        // One that stands by hears of the restore a moment later, is sealed then, and opens what came.
        until(WITHIN, "a node of the archive's cluster", || {
            let health = nodes.client(n).try_call("GET", "sys/health", None).ok()?.json();
            (health["sealed"] == false && health["cluster_id"] == id.as_str()).then_some(())
        });
        assert_eq!(of_archive(&nodes, n).at("/data/v"), 1, "node {n}");
    }
    // They are whole: each starts alone, and a new root key is locked by all.
    for n in 0..3 {
        nodes.kill(n);
        nodes.launch(n);
        until_unsealed(&nodes, n);
        nodes.until_led();
    }
    nodes.until_led();
    let root = nodes.client(0).with_token(&root_token);
    until(WITHIN, "a new root key", || {
        root.try_call("POST", "sys/rotate/root", Some(&json!({}))).ok().filter(|r| r.status == 204)
    });
    (0..3).for_each(|n| assert_eq!(of_archive(&nodes, n).at("/data/v"), 1, "node {n}"));
}

/// One of the archive's tokens is left: its node opens what was restored, and lets the others in anew.
#[test]
fn of_nodes_with_other_tokens_than_the_archive_knows_each_says_so_and_joins_anew() {
    let (given, tokens) = start(1);
    given.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    given.put(0, "kv/a", json!({"v": 1}));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.snap");
    snapshot(&given, &["save"], &file).good();
    let id = given.client(0).get("sys/health").text_at("/cluster_id");
    let root_token = given.root(0).token().to_owned();
    drop(given);

    let tokens = tokens.and_for_nodes(1);
    let mut nodes = start_with(2, &tokens);
    nodes.until_all_vote();
    restore_by_force(&nodes, &file);
    until_unsealed(&nodes, 0);
    let said = until(WITHIN, "a node that says what it waits for", || {
        let status = nodes.client(1).try_call("GET", "sys/seal-status", None).ok()?.json();
        status["seal_trouble"].as_str().map(str::to_owned)
    });
    assert!(said.contains(&format!("({id})")), "{said}");
    let root = nodes.client(0).with_token(&root_token);
    let found =
        until(WITHIN, "a key of the archive", || root.try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200));
    assert_eq!(found.at("/data/v"), 1);

    until(WITHIN, "the other one to be removed", || {
        let removed = root.try_call("POST", "sys/storage/raft/remove-peer", Some(&json!({"server_id": "n1"}))).ok()?;
        [200, 204].contains(&removed.status).then_some(())
    });
    nodes.kill(1);
    recover(&nodes, 1, &["-rejoin", "-yes"]).good();
    write_join_token(&root, &tokens.join_token(1));
    nodes.launch(1);
    until_unsealed(&nodes, 1);
    let root = nodes.client(1).with_token(&root_token);
    let found =
        until(WITHIN, "the same through it", || root.try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200));
    assert_eq!(found.at("/data/v"), 1);
    assert!(fs::read_to_string(nodes.node_file(1, "id")).unwrap().contains("n1"));
}

/// Through whoever leads: an archive is not passed on.
fn restore_by_force(nodes: &Nodes, file: &std::path::Path) {
    until(WITHIN, "the first node to lead", || {
        let leader = nodes.led_now()?;
        if leader != 0 {
            let _may_be_refused = nodes.root(leader).try_call("POST", "sys/step-down", Some(&json!({})));
        }
        (leader == 0).then_some(())
    });
    snapshot(nodes, &["restore", "-force"], file).good();
}
