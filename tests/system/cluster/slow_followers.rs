//! Members whose disks are slow while many write: one holds up nobody and catches up; two of three hold up writes, in
//! words, and nothing else.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use holdfast_tests::process::{forget_peak, memory_bytes};
use holdfast_tests::{Reply, until};

use super::disturbed;
use super::nodes::{Nodes, WITHIN};

const WRITERS: usize = 64;
const MEBIBYTE: u64 = 1 << 20;
/// How long they write.
const LENGTH: Duration = Duration::from_secs(15);
/// What the leader keeps for one that is slow, and all that writes take besides, at most.
const KEPT: u64 = 96 * MEBIBYTE;

fn is_by_standby(reply: &Reply) -> bool {
    reply.status == 200 && reply.header("x-vault-index").is_some()
}

/// Whether a member has all that the leader has.
fn is_level(nodes: &Nodes, leader: usize, n: usize) -> bool {
    let Ok(state) = nodes.root(leader).try_call("GET", "sys/storage/raft/autopilot/state", None) else { return false };
    let last = |n: usize| state.json().pointer(&format!("/data/servers/n{n}/last_index")).and_then(|i| i.as_u64());
    last(n) > Some(0) && last(n) >= last(leader)
}

#[test]
fn one_slow_follower_holds_up_nobody_and_the_leaders_memory_is_bounded_and_it_catches_up() {
    let (nodes, _network, faults) = disturbed::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let leader = nodes.until_led();
    let slow = (leader + 1) % 3;
    let value = "v".repeat(20_000);
    let write_for = |length: Duration| {
        let (began, written) = (Instant::now(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for client in 0..WRITERS {
                let (root, value, written) = (nodes.root(leader), &value, &written);
                scope.spawn(move || {
                    for n in 0.. {
                        if began.elapsed() > length {
                            break;
                        }
                        root.post(&format!("kv/{client}-{n}"), json!({ "v": value, "n": n })).expect(204);
                        written.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        written.into_inner()
    };
    // What a server takes for all these clients alone does not count.
    write_for(Duration::from_secs(2));
    let pid = nodes.server(leader).pid();
    forget_peak(pid);
    let before = memory_bytes(pid, "VmHWM");
    faults[slow].slow_disk(Duration::from_secs(2));
    let written = write_for(LENGTH);
    let grown = memory_bytes(pid, "VmHWM").saturating_sub(before);
    println!("{written} writes of 20 kB, of which all were taken; the leader grew by {} MiB", grown / MEBIBYTE);
    assert!(grown < KEPT, "the leader grew by {} MiB", grown / MEBIBYTE);
    assert_eq!(nodes.until_led(), leader, "nobody else has to lead");
    faults[slow].heal();
    until(WITHIN, "a follower that has caught up", || is_level(&nodes, leader, slow).then_some(()));
    for client in 0..WRITERS {
        nodes.read(slow, &format!("kv/{client}-0"));
    }
}

#[test]
fn two_slow_followers_of_three_hold_up_writes_in_words_and_neither_health_nor_stale_reads() {
    let (nodes, _network, faults) = disturbed::start_with(3, None, "stale_reads = \"2m\"");
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/before", json!({"v": 1}));
    let leader = nodes.until_led();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for n in followers {
        let root = nodes.root(n);
        until(WITHIN, "a read here", || root.try_call("GET", "kv/before", None).ok().filter(is_by_standby));
        faults[n].slow_disk(Duration::from_secs(30));
    }
    let (acknowledged, refused) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for client in 0..WRITERS {
            let root = nodes.root(leader).patient_for(Duration::from_secs(60));
            let (acknowledged, refused) = (&acknowledged, &refused);
            scope.spawn(move || {
                let path = format!("kv/slow-{client}");
                let answer = root.try_call("POST", &path, Some(&json!({ "n": client }))).expect("an answer");
                match answer.status {
                    204 => acknowledged.lock().unwrap().push(path),
                    503 => refused.lock().unwrap().push(answer.text()),
                    other => panic!("{other}: {}", answer.text()),
                }
            });
        }
        // What needs no agreement goes on.
        for _ in 0..10 {
            for n in 0..3 {
                let began = Instant::now();
                let health = nodes.client(n).get("sys/health");
                assert!([200, 429, 473].contains(&health.status), "{}", health.text());
                assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
            }
            for n in followers {
                let read = nodes.root(n).try_call("GET", "kv/before", None).expect("an answer");
                assert!(is_by_standby(&read) && read.at("/data/v") == 1, "{}: {}", read.status, read.text());
            }
            thread::sleep(Duration::from_millis(300));
        }
    });
    let (acknowledged, refused) = (acknowledged.into_inner().unwrap(), refused.into_inner().unwrap());
    println!("{} acknowledged, {} refused: {:?}", acknowledged.len(), refused.len(), refused.first());
    assert!(!refused.is_empty(), "with two of three so slow nothing can be known to be written in time");
    faults.iter().for_each(disturbed::Faults::heal);
    nodes.until_all_vote();
    for (n, path) in acknowledged.iter().enumerate() {
        nodes.read(n % 3, path);
    }
    nodes.put(followers[0], "kv/after", json!({"v": 2}));
}
