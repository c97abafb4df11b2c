//! Jobs of an active node that is killed in the middle of them: another one brings them to their end.

use std::time::Duration;

use serde_json::{Value, json};

use holdfast_tests::until;

use super::disturbed::{self, Faults};
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

/// So slow that a job is seen at work.
const DISK: Duration = Duration::from_millis(150);

fn jobs(nodes: &Nodes, n: usize) -> Option<Vec<Value>> {
    let jobs = nodes.root(n).try_call("GET", "sys/jobs", None).ok().filter(|r| r.status == 200)?.json();
    jobs["data"]["jobs"].as_array().cloned()
}

/// Kill the node that leads when its job has done so much, see that the next one finds it undone, and start the first
/// one again. Disks are slow until then.
fn kill_the_leader_amid_its_job(nodes: &mut Nodes, faults: &[Faults], batches: u64) {
    let leader = nodes.until_led();
    until(WITHIN, "a job that is under way", || {
        let jobs = jobs(nodes, leader)?;
        assert!(!jobs.is_empty(), "the job has ended before anybody was killed");
        jobs.iter().any(|job| job["batches"].as_u64() >= Some(batches)).then_some(())
    });
    nodes.kill(leader);
    let left = until(WITHIN, "the jobs of the next leader", || jobs(nodes, nodes.led_now()?));
    assert!(!left.is_empty(), "the job was done when its leader was killed");
    faults.iter().for_each(Faults::heal);
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
    let (mut nodes, _network, faults) = disturbed::start(3);
    nodes.until_all_vote();
    for namespace in ["one", "two"] {
        nodes.put(0, &format!("sys/namespaces/{namespace}"), json!({}));
    }
    nodes.put(0, "one/sys/mounts/kv", json!({ "type": "kv", "options": { "version": "2" } }));
    fill(&nodes, |n| format!("one/kv/data/f{}/n{n}", n % 9));
    let (mut from, mut to) = ("one/kv", "two/deep/kv");
    for batches in [0, 1, 2] {
        faults.iter().for_each(|f| f.slow_disk(DISK));
        let begun = nodes.ask(nodes.until_led(), "sys/remount", json!({ "from": from, "to": to }), 200);
        let status = format!("sys/remount/status/{}", begun.text_at("/data/migration_id"));
        kill_the_leader_amid_its_job(&mut nodes, &faults, batches);
        until(WITHIN, "the end of a move", || {
            let info = nodes.root(nodes.led_now()?).try_call("GET", &status, None).ok()?.json();
            (info["data"]["migration_info"]["status"] == "success").then_some(())
        });
        for n in 0..SECRETS {
            let read = nodes.read(n % 3, &format!("{to}/data/f{}/n{n}", n % 9));
            assert_eq!(read.at("/data/data/of"), n, "moved to {to}, killed after {batches} batches");
        }
        until_no_jobs_are_left(&nodes);
        (from, to) = (to, from);
    }
}

#[test]
fn an_upgrade_of_a_mount_to_versions_goes_on_at_another_node() {
    let (mut nodes, _network, faults) = disturbed::start(3);
    nodes.until_all_vote();
    for batches in [0, 1, 2] {
        let mount = format!("kv{batches}");
        nodes.put(0, &format!("sys/mounts/{mount}"), json!({ "type": "kv" }));
        fill(&nodes, |n| format!("{mount}/f{}/n{n}", n % 9));
        let versions = json!({ "options": { "version": "2" } });
        faults.iter().for_each(|f| f.slow_disk(DISK));
        let active = nodes.root(nodes.until_led());
        until(WITHIN, "an upgrade that has begun", || {
            let tuned = active.try_call("POST", &format!("sys/mounts/{mount}/tune"), Some(&versions)).ok()?;
            [200, 204].contains(&tuned.status).then_some(())
        });
        kill_the_leader_amid_its_job(&mut nodes, &faults, batches);
        for n in 0..SECRETS {
            let read = nodes.read(n % 3, &format!("{mount}/data/f{}/n{n}", n % 9));
            assert_eq!((read.at("/data/data/of"), read.at("/data/metadata/version")), (json!(n), json!(1)));
        }
        until_no_jobs_are_left(&nodes);
    }
}
