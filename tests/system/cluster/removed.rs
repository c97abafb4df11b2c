//! A node that was removed while it runs serves nobody any more, and says so.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::until;

use super::newcomer::{joins, members};
use super::nodes::{Between, Nodes, WITHIN};

const STALE: Duration = Duration::from_secs(2);
/// A node that serves nothing may let a client wait for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nodes that answer from what they know for a while.
struct Stale;

impl Between for Stale {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn finds(&self, _n: usize, others: &[u16]) -> String {
        let stale = format!("stale_reads = \"{}s\"\n", STALE.as_secs());
        others.iter().map(|port| joins(*port)).collect::<String>() + &stale
    }
}

/// From when it was removed it takes nothing, and reads no longer than what it knows may count; then it says why.
fn is_refused_from_now_on(nodes: &Nodes, n: usize) {
    let removed = Instant::now();
    let root = nodes.root(n).patient_for(PATIENCE);
    let health = until(WITHIN, "a node that knows that it was removed", || {
        let asked = removed.elapsed();
        let written = root.try_call("POST", "kv/late", Some(&json!({"v": 1})));
        assert!(written.is_err() || written.is_ok_and(|r| r.status >= 400), "a write was taken by a removed node");
        for path in ["kv/a", "auth/token/lookup-self"] {
            // Asked behind the bound it is not answered; what is asked before it may be.
            let asked = asked.max(removed.elapsed());
            let read = root.try_call("GET", path, None);
            assert!(asked < STALE || read.is_err() || read.is_ok_and(|r| r.status >= 400), "{path}, {asked:?}");
        }
        root.try_call("GET", "sys/health", None).ok().filter(|r| r.json()["removed_from_cluster"] == true)
    });
    assert_eq!(health.status, 530, "{}", health.text());
    assert!(health.text_at("/cluster_trouble").contains("operator raft recover -rejoin"), "{}", health.text());
    assert_eq!(root.get("sys/health?removedcode=599").status, 599);
    nodes.server(n).until_logged("this node was removed from its cluster");
    until(WITHIN, "a node that has no keys any more", || nodes.is_sealed(n)?.then_some(()));
    let status = root.get("sys/seal-status").expect(200);
    assert_eq!(status.at("/removed_from_cluster"), true, "{}", status.text());
    for (method, path, body) in [
        ("GET", "kv/a", None),
        ("POST", "kv/late", Some(json!({"v": 1}))),
        ("GET", "auth/token/lookup-self", None),
        ("POST", "auth/token/create", Some(json!({}))),
        ("LIST", "kv", None),
    ] {
        let said = root.call(method, path, body.as_ref()).refused(503);
        assert!(said.contains("was removed from its cluster"), "{method} {path}: {said}");
    }
    // It does not say that it has joined, nor does anybody make it serve by giving it the keys once more.
    let join = json!({"leader_api_addr": nodes.url((n + 1) % 3)});
    let said = root.call("POST", "sys/storage/raft/join", Some(&join)).refused(400);
    assert!(said.contains("operator raft recover -rejoin"), "{said}");
    let said = root.call("PUT", "sys/unseal", Some(&json!({"key": nodes.share()}))).refused(400);
    assert!(said.contains("was removed from its cluster"), "{said}");
}

#[test]
fn a_follower_and_a_leader_that_were_removed_serve_nothing_and_say_what_to_do() {
    let mut nodes = Nodes::start_with((0..3).map(|_| (free_port(), free_port())).collect(), Box::new(Stale));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let leader = nodes.until_led();
    let (follower, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    // It knows something that it could answer from.
    nodes.read(follower, "kv/a");
    nodes.ask(stays, "sys/storage/raft/remove-peer", json!({"server_id": format!("n{follower}")}), 204);
    is_refused_from_now_on(&nodes, follower);

    // Started again, it is told again.
    nodes.kill(follower);
    nodes.launch(follower);
    until(WITHIN, "a node that takes a share", || {
        let given = nodes.client(follower).try_call("PUT", "sys/unseal", Some(&json!({"key": nodes.share()})));
        given.ok().filter(|r| r.status == 200)
    });
    is_refused_from_now_on(&nodes, follower);

    let leader = nodes.until_led();
    let stays = 3 - leader - follower;
    let _may_lose_its_answer = nodes.root(leader).try_call(
        "POST",
        "sys/storage/raft/remove-peer",
        Some(&json!({"server_id": format!("n{leader}")})),
    );
    until(WITHIN, "another leader", || nodes.says_it_leads(stays).then_some(()));
    assert_eq!(members(&nodes), [(format!("n{stays}"), true)]);
    is_refused_from_now_on(&nodes, leader);
    assert_eq!(nodes.read(stays, "kv/a").at("/data/v"), 1);
    assert_eq!(nodes.root(stays).get("kv/late").status, 404);
}
