//! Snapshots are streams: however large a store is, who saves or verifies one needs no more memory, and no client does.

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::json;

use holdfast_tests::process::{forget_peak, memory_bytes};
use holdfast_tests::program::{command, holdfast};
use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

const MEBIBYTE: u64 = 1 << 20;
const VALUES: u64 = 80;
/// More than either side may take.
const LARGE: u64 = 64 * MEBIBYTE;
const MOST: u64 = 32 * MEBIBYTE;

/// Run `operator raft snapshot` against the node that leads. Returns the most memory that the client had.
fn snapshot(nodes: &Nodes, what: &[&str], file: &Path) -> u64 {
    let leader = nodes.until_led();
    let mut asks = command(holdfast());
    asks.args(["operator", "raft", "snapshot"]).args(what).arg(file).stdout(Stdio::null());
    asks.env("HOLDFAST_ADDR", nodes.url(leader)).env("HOLDFAST_TOKEN", nodes.root(leader).token());
    let mut client = asks.spawn().expect("a client");
    let mut peak = 0;
    let status = loop {
        if let Some(status) = client.try_wait().expect("a child can be waited for") {
            break status;
        }
        peak = peak.max(peak_of(client.id()));
        thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "{what:?}: {status}");
    peak
}

/// Zero of one that has ended and was not waited for yet.
fn peak_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn a_large_snapshot_is_saved_and_verified_in_little_memory_on_both_sides_and_restored_so_by_the_client() {
    let nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let folder = tempfile::tempdir().expect("a folder");
    let small = folder.path().join("small.snap");
    let of_a_small_one: Vec<u64> =
        [&["save"][..], &["verify"], &["restore"]].iter().map(|what| snapshot(&nodes, what, &small)).collect();
    for n in 0..VALUES {
        // Nothing that gets smaller.
        let mut bytes = [0; 450_000];
        getrandom::fill(&mut bytes).expect("randomness");
        nodes.put(0, &format!("kv/{n}"), json!({ "v": hex::encode(bytes) }));
    }
    let file = folder.path().join("large.snap");
    for (what, small) in [&["save"][..], &["verify"], &["restore"]].iter().zip(of_a_small_one) {
        let leader = nodes.until_led();
        let pids: Vec<u32> = (0..3).map(|n| nodes.server(n).pid()).collect();
        pids.iter().for_each(|pid| forget_peak(*pid));
        let before: Vec<u64> = pids.iter().map(|pid| memory_bytes(*pid, "VmHWM")).collect();
        let client = snapshot(&nodes, what, &file).saturating_sub(small);
        let servers: Vec<u64> =
            pids.iter().zip(before).map(|(pid, before)| memory_bytes(*pid, "VmHWM").saturating_sub(before)).collect();
        let bytes = std::fs::metadata(&file).expect("a file").len();
        println!(
            "{what:?} of {} MiB: the client grew by {} MiB, servers by {:?} MiB",
            bytes / MEBIBYTE,
            client / MEBIBYTE,
            servers.iter().map(|b| b / MEBIBYTE).collect::<Vec<_>>()
        );
        assert!(bytes > LARGE, "{bytes}");
        assert!(client < MOST, "{what:?}: the client grew by {client}");
        // The one that leads while it restores needs about as much as the archive has: a defect, see docs/status.md.
        let counts = |n: usize| *what != ["restore"] || n != leader;
        assert!((0..3).all(|n| !counts(n) || servers[n] < MOST), "{what:?}: servers grew by {servers:?}");
    }
    for n in 0..3 {
        until(WITHIN, "a value", || nodes.root(n).try_call("GET", "kv/7", None).ok().filter(|r| r.status == 200));
    }
}
