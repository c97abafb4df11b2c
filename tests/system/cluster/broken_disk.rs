//! Disks that fail under members of a cluster: what was not written must not pass for written.

use std::time::Duration;

use serde_json::json;

use holdfast_tests::until;

use super::disturbed::{self, Faults};
use super::nodes::WITHIN;

/// What was asked while openraft ended, at most.
const IN_VAIN: usize = 5;
/// Lines that a broken member logs while others go on for half a minute, at most.
const SAID: usize = 40;

/// How a disk fails (EIO), and until when.
type Fails = fn(&Faults, bool);

/// A member whose disk fails takes no part any more, says so, and is right again when it was started anew; the cluster
/// goes on without it.
fn goes_on_without(fails: Fails) {
    let (mut nodes, _network, faults) = disturbed::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let mut written = 0_u32;
    for leads in [true, false] {
        let leader = nodes.until_led();
        let broken = if leads { leader } else { (leader + 1) % 3 };
        let (good, other) = ((broken + 1) % 3, (broken + 2) % 3);
        fails(&faults[broken], true);
        for through in [good, other, good] {
            nodes.put(through, &format!("kv/{written}"), json!({"v": written}));
            written += 1;
        }
        // Through itself: what those answer whose disks are well, or nothing.
        let through = nodes.root(broken).patient_for(Duration::from_secs(4));
        if let Ok(read) = through.try_call("GET", &format!("kv/{}", written - 1), None) {
            assert!(read.status == 503 || read.status == 200 && read.at("/data/v") == written - 1, "{}", read.text());
        }
        let now = nodes.until_led();
        assert_ne!(now, broken);
        nodes.server(broken).until_logged("takes part in the cluster no longer: look at its disk");
        let trouble = until(WITHIN, "a node that says so", || {
            let health = nodes.client(broken).try_call("GET", "sys/health?standbyok=true", None).ok()?.json();
            health["cluster_trouble"].as_str().map(str::to_owned)
        });
        assert!(trouble.contains("look at its disk, then restart it"), "{trouble}");
        let health = nodes.client(broken).get("sys/health");
        assert_ne!(health.status, 200, "it is not active: {}", health.text());
        let said_before = nodes.server(broken).log().lines().count();

        // Its word does not make a majority, now that another one is gone: nothing is acknowledged.
        fails(&faults[broken], false);
        let gone = if now == good { other } else { good };
        nodes.kill(gone);
        let root = nodes.root(now).patient_for(Duration::from_secs(4));
        let answer = root.try_call("POST", "kv/nobody", Some(&json!({"v": 1})));
        assert!(answer.as_ref().map_or(true, |a| [500, 503].contains(&a.status)), "{answer:?}");
        nodes.start_again(gone);
        nodes.put(gone, &format!("kv/{written}"), json!({"v": written}));
        written += 1;
        assert_ne!(nodes.until_led(), broken, "it is out until it is started anew");

        // Others ask it many times a second, and it looks itself who leads.
        let log = nodes.server(broken).log();
        let in_vain = log.matches("failed to send RaftMsg").count();
        assert!(in_vain <= IN_VAIN, "{in_vain} questions to a part that has ended");
        let said: Vec<&str> = log.lines().skip(said_before).collect();
        assert!(said.len() <= SAID, "{} lines: {said:#?}", said.len());

        nodes.kill(broken);
        nodes.start_again(broken);
        nodes.until_all_vote();
        // Now its word counts.
        nodes.kill(gone);
        nodes.put(broken, &format!("kv/{written}"), json!({"v": written}));
        written += 1;
        nodes.start_again(gone);
        nodes.until_all_vote();
    }
    for n in 0..3 {
        for key in 0..written {
            assert_eq!(nodes.read(n, &format!("kv/{key}")).at("/data/v"), key, "at node {n}");
        }
    }
}

#[test]
fn a_member_whose_syncs_fail_takes_no_part_until_it_is_started_anew() {
    goes_on_without(Faults::broken_disk);
}

#[test]
fn a_member_whose_writes_fail_takes_no_part_until_it_is_started_anew() {
    goes_on_without(Faults::failing_writes);
}
