//! A log whose entries are large stays small all the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::until;

use super::nodes::{Between, Nodes, WITHIN};

const MEBIBYTE: u64 = 1 << 20;

/// Nodes whose logs are shortened early.
struct SmallLogs;

impl Between for SmallLogs {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn finds(&self, _n: usize, others: &[u16]) -> String {
        let one = |port: &u16| format!("retry_join {{\n leader_api_addr = \"http://127.0.0.1:{port}\"\n}}\n");
        let joins: String = others.iter().map(one).collect();
        format!("trailing_log_bytes = \"32MiB\"\n{joins}")
    }
}

fn log_bytes(nodes: &Nodes, n: usize) -> u64 {
    let files = fs::read_dir(nodes.stored(n)).expect("a folder").map(|entry| entry.expect("a file"));
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log-"));
    // One that was removed meanwhile has none.
    logs.map(|file| file.metadata().map_or(0, |m| m.len())).sum()
}

#[test]
fn a_log_of_large_entries_is_cut_by_its_bytes_and_who_was_away_for_longer_gets_a_snapshot() {
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(SmallLogs));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let leader = nodes.until_led();
    let away = (leader + 1) % 3;
    nodes.kill(away);
    let value = "v".repeat(600 << 10);
    // Some 70 MiB, in fewer entries than `trailing_logs`.
    for i in 0..120 {
        nodes.put(leader, &format!("kv/{}", i % 40), json!({ "v": value, "i": i }));
    }
    until(WITHIN, "a log that was cut", || (log_bytes(&nodes, leader) <= 48 * MEBIBYTE).then_some(()));
    nodes.start_again(away);
    let caught_up = || {
        let state = nodes.root(leader).get("sys/storage/raft/autopilot/state");
        let state = (state.status == 200).then_some(state)?;
        let last = |n: usize| state.at(&format!("/data/servers/n{n}/last_index")).as_u64();
        (last(away)? > 0 && last(away)? >= last(leader)?).then_some(())
    };
    until(WITHIN, "a node that has caught up", caught_up);
    // Everything is there, also where it leads.
    nodes.kill(leader);
    until(WITHIN, "another leader", || nodes.led_now());
    for i in 80..120 {
        assert_eq!(nodes.read(away, &format!("kv/{}", i % 40)).at("/data/i"), i);
    }
}
