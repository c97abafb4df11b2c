//! Jobs of an active node that is killed in the middle of them: another one brings them to their end.

use std::time::Duration;

use serde_json::json;

use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

const SECRETS: usize = 400;

fn fill(nodes: &Nodes, path: impl Fn(usize) -> String) {
    let filler = "x".repeat(2000);
    let active = nodes.until_led();
    for n in 0..SECRETS {
        let body = json!({ "of": n, "filler": filler, "data": { "of": n, "filler": filler } });
        nodes.put(active, &path(n), body);
    }
}

/// Kill the node that leads, sooner or later, let another one lead, and start the first one again.
fn kill_the_leader_after(nodes: &mut Nodes, pause_ms: u64) {
    let leader = nodes.until_led();
    std::thread::sleep(Duration::from_millis(pause_ms));
    nodes.kill(leader);
    nodes.until_led();
    nodes.start_again(leader);
    nodes.until_all_vote();
}

fn until_no_jobs_are_left(nodes: &Nodes) {
    until(WITHIN, "the end of all jobs", || {
        let jobs = nodes.root(nodes.led_now()?).try_call("GET", "sys/jobs", None).ok()?.json();
        jobs["data"]["jobs"].as_array()?.is_empty().then_some(())
    });
}

#[test]
fn a_move_to_another_namespace_goes_on_at_another_node() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    for namespace in ["one", "two"] {
        nodes.put(0, &format!("sys/namespaces/{namespace}"), json!({}));
    }
    nodes.put(0, "one/sys/mounts/kv", json!({ "type": "kv", "options": { "version": "2" } }));
    fill(&nodes, |n| format!("one/kv/data/f{}/n{n}", n % 9));
    let (mut from, mut to) = ("one/kv", "two/deep/kv");
    for pause_ms in [0, 60, 200] {
        let begun = nodes.ask(nodes.until_led(), "sys/remount", json!({ "from": from, "to": to }), 200);
        let status = format!("sys/remount/status/{}", begun.text_at("/data/migration_id"));
        kill_the_leader_after(&mut nodes, pause_ms);
        until(WITHIN, "the end of a move", || {
            let info = nodes.root(nodes.led_now()?).try_call("GET", &status, None).ok()?.json();
            (info["data"]["migration_info"]["status"] == "success").then_some(())
        });
        for n in 0..SECRETS {
            let read = nodes.read(n % 3, &format!("{to}/data/f{}/n{n}", n % 9));
            assert_eq!(read.at("/data/data/of"), n, "moved to {to}, killed after {pause_ms} ms");
        }
        until_no_jobs_are_left(&nodes);
        (from, to) = (to, from);
    }
}

#[test]
fn an_upgrade_of_a_mount_to_versions_goes_on_at_another_node() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    for pause_ms in [0, 30, 120] {
        let mount = format!("kv{pause_ms}");
        nodes.put(0, &format!("sys/mounts/{mount}"), json!({ "type": "kv" }));
        fill(&nodes, |n| format!("{mount}/f{}/n{n}", n % 9));
        let versions = json!({ "options": { "version": "2" } });
        let active = nodes.root(nodes.until_led());
        until(WITHIN, "an upgrade that has begun", || {
            let tuned = active.try_call("POST", &format!("sys/mounts/{mount}/tune"), Some(&versions)).ok()?;
            [200, 204].contains(&tuned.status).then_some(())
        });
        kill_the_leader_after(&mut nodes, pause_ms);
        for n in 0..SECRETS {
            let read = nodes.read(n % 3, &format!("{mount}/data/f{}/n{n}", n % 9));
            assert_eq!((read.at("/data/data/of"), read.at("/data/metadata/version")), (json!(n), json!(1)));
        }
        until_no_jobs_are_left(&nodes);
    }
}
