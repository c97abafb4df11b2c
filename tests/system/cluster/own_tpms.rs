//! Nodes that each have a TPM.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::tpm::Tpm;
use holdfast_tests::{Client, until};

use super::nodes::{Between, Nodes, WITHIN};
use super::own_tokens::until_unsealed;

#[derive(Clone)]
struct OwnTpms {
    folder: Rc<TempDir>,
    tpms: Rc<RefCell<Vec<Tpm>>>,
    /// Whether each tells old copies by a counter.
    counts: bool,
}

impl OwnTpms {
    fn start(counts: bool) -> OwnTpms {
        let folder = tempfile::Builder::new().prefix("holdfast-tpms-").tempdir().expect("a temporary folder");
        let tpms = (0..2).map(|n| {
            let own = folder.path().join(format!("t{n}"));
            fs::create_dir(&own).expect("a folder for a TPM");
            Tpm::start(&own)
        });
        OwnTpms { tpms: Rc::new(RefCell::new(tpms.collect())), folder: Rc::new(folder), counts }
    }

    fn join_token(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("join-{n}"))
    }
}

impl Between for OwnTpms {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn seal(&self, n: usize) -> String {
        let counter = if self.counts { "rollback_counter = \"0x01800100\"" } else { "" };
        format!("seal \"tpm\" {{\n tcti = \"{}\"\n {counter}\n}}\n", self.tpms.borrow()[n].tcti())
    }

    fn joins_with(&self, n: usize) -> String {
        format!("join_token_file = \"{}\"", self.join_token(n).display())
    }

    fn approve(&self, n: usize, root: &Client) {
        let made = until(WITHIN, "a join token", || {
            let made = root.try_call("POST", "sys/storage/raft/join-token", Some(&json!({})));
            made.ok().filter(|r| r.status == 200)
        });
        fs::write(self.join_token(n), made.text_at("/data/join_token")).expect("a file for the join token");
    }
}

#[test]
fn two_nodes_with_a_tpm_each_form_a_cluster_and_each_unseals_itself() {
    let tpms = OwnTpms::start(false);
    let ports = (0..2).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(tpms.clone()));
    nodes.until_all_vote();
    nodes.put(1, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    // Power off: machines, and TPMs with them. Each opens with its own what it has.
    for n in 0..2 {
        nodes.kill(n);
        tpms.tpms.borrow_mut()[n].restart();
    }
    nodes.launch(1);
    until_unsealed(&nodes, 1);
    nodes.launch(0);
    until_unsealed(&nodes, 0);
    for n in 0..2 {
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 1, "node {n}");
    }
    // Another machine's TPM opens nothing of it.
    nodes.kill(1);
    tpms.tpms.borrow_mut()[1].exchange();
    nodes.launch(1);
    until(WITHIN, "a trouble with the TPM", || {
        let status = nodes.client(1).try_call("GET", "sys/seal-status", None).ok()?.json();
        (status["sealed"] == true && !status["seal_trouble"].as_str()?.is_empty()).then_some(())
    });
}

#[test]
fn each_node_tells_old_copies_of_its_own_folder_and_a_restored_snapshot_is_none() {
    let tpms = OwnTpms::start(true);
    let ports = (0..2).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(tpms.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let snapshot = nodes.root(0).get("sys/storage/raft/snapshot").expect(200).body;
    nodes.put(0, "kv/a", json!({"v": 2}));

    // Both lose power; nobody leads until one is unsealed, which does not wait for the other.
    for n in 0..2 {
        nodes.kill(n);
    }
    for n in 0..2 {
        nodes.launch(n);
    }
    for n in 0..2 {
        until_unsealed(&nodes, n);
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 2, "node {n}");
    }

    // An old folder of the second one.
    nodes.kill(1);
    let (data, old) = (nodes.stored(1), nodes.stored(1).with_file_name("old"));
    let copy = |from: &Path, to: &Path| run(command("cp").arg("-a").arg(from).arg(to)).good();
    copy(&data, &old);
    nodes.launch(1);
    until_unsealed(&nodes, 1);
    nodes.kill(1);
    let newest = nodes.stored(1).with_file_name("newest");
    fs::rename(&data, &newest).expect("another name");
    copy(&old, &data);
    nodes.launch(1);
    until(WITHIN, "an old copy that is told", || {
        let status = nodes.client(1).try_call("GET", "sys/seal-status", None).ok()?.json();
        (status["sealed"] == true && status["seal_trouble"].as_str()?.contains("old copy of the store")).then_some(())
    });
    nodes.kill(1);
    fs::remove_dir_all(&data).expect("the old copy");
    fs::rename(&newest, &data).expect("another name");
    nodes.launch(1);
    until_unsealed(&nodes, 1);
    assert_eq!(nodes.read(1, "kv/a").at("/data/v"), 2);

    // Who may restore a snapshot was asked for that.
    let lead = nodes.until_led();
    let restored = nodes.root(lead).raw("POST", "/v1/sys/storage/raft/snapshot", &[], &snapshot);
    assert!([200, 204].contains(&restored.status), "{restored:?}");
    for n in 0..2 {
        until(WITHIN, "the restored value", || (nodes.read(n, "kv/a").at("/data/v") == 1).then_some(()));
        nodes.kill(n);
        nodes.launch(n);
        until_unsealed(&nodes, n);
    }
    assert_eq!(nodes.read(0, "kv/a").at("/data/v"), 1);
}
