//! Nodes that each have a TPM.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::tpm::Tpm;
use holdfast_tests::{Client, Reply, until};

use super::nodes::{Between, Nodes, WITHIN};
use super::own_tokens::until_unsealed;

#[derive(Clone)]
struct OwnTpms {
    folder: Rc<TempDir>,
    tpms: Rc<RefCell<Vec<Tpm>>>,
    /// Whether each tells old copies by a counter.
    counts: bool,
    /// Whether people are asked before each opens.
    has_custodians: bool,
}

impl OwnTpms {
    fn start(counts: bool) -> OwnTpms {
        let folder = tempfile::Builder::new().prefix("holdfast-tpms-").tempdir().expect("a temporary folder");
        let tpms = (0..2).map(|n| {
            let own = folder.path().join(format!("t{n}"));
            fs::create_dir(&own).expect("a folder for a TPM");
            Tpm::start(&own)
        });
        let (tpms, folder) = (Rc::new(RefCell::new(tpms.collect())), Rc::new(folder));
        OwnTpms { tpms, folder, counts, has_custodians: false }
    }

    /// Two people with keys in files, both of whom have to sign.
    fn with_custodians(self) -> OwnTpms {
        for name in CUSTODIANS {
            let (key, pem) = (self.place(&format!("{name}.key")), self.place(&format!("{name}.pem")));
            openssl(&["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
            openssl(&["pkey", "-in", &key, "-pubout", "-out", &pem]);
        }
        OwnTpms { has_custodians: true, ..self }
    }

    fn place(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn join_token(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("join-{n}"))
    }

    /// What a node asks its custodians to sign.
    fn message(&self, nodes: &Nodes, n: usize) -> Vec<u8> {
        let asked = until(WITHIN, "a challenge", || {
            let asked = nodes.client(n).try_call("POST", "sys/unseal/custodians", Some(&json!({}))).ok()?;
            (asked.status == 200 && asked.at("/waiting") == true).then_some(asked)
        });
        STANDARD.decode(asked.text_at("/message")).expect("base64")
    }

    /// A custodian signs it, and gives it to a node.
    fn give(&self, nodes: &Nodes, n: usize, name: &str, message: &[u8]) -> Reply {
        let (file, signature) = (self.place("message"), self.place("signature"));
        fs::write(&file, message).expect("a file");
        openssl(&["dgst", "-sha256", "-sign", &self.place(&format!("{name}.key")), "-out", &signature, &file]);
        let signature = STANDARD.encode(fs::read(&signature).expect("a signature"));
        nodes.client(n).post("sys/unseal/custodians/sign", json!({ "signature": signature }))
    }

    fn let_custodians_open(&self, nodes: &Nodes, n: usize) {
        let message = self.message(nodes, n);
        for name in CUSTODIANS {
            self.give(nodes, n, name, &message).expect(200);
        }
        until_unsealed(nodes, n);
    }
}

const CUSTODIANS: [&str; 2] = ["ann", "ben"];

fn openssl(arguments: &[&str]) {
    run(command("openssl").args(arguments)).good();
}

impl Between for OwnTpms {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn seal(&self, n: usize) -> String {
        let counter = if self.counts { "rollback_counter = \"0x01800100\"" } else { "" };
        let custodians = match self.has_custodians {
            true => format!(
                "custodians = {:?}\n custodian_threshold = 2",
                CUSTODIANS.map(|name| self.place(&format!("{name}.pem")))
            ),
            false => String::new(),
        };
        format!("seal \"tpm\" {{\n tcti = \"{}\"\n {counter}\n {custodians}\n}}\n", self.tpms.borrow()[n].tcti())
    }

    fn joins_with(&self, n: usize) -> String {
        format!("join_token_file = \"{}\"", self.join_token(n).display())
    }

    fn people_sign(&self, nodes: &Nodes, n: usize) {
        let asked = nodes.client(n).try_call("POST", "sys/unseal/custodians", Some(&json!({}))).ok();
        // It may not have its lock yet.
        let Some(asked) =
            asked.filter(|asked| self.has_custodians && asked.status == 200 && asked.at("/waiting") == true)
        else {
            return;
        };
        let message = STANDARD.decode(asked.text_at("/message")).expect("base64");
        CUSTODIANS.iter().for_each(|name| drop(self.give(nodes, n, name, &message).expect(200)));
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
fn custodians_open_each_node_by_its_own_tpm_after_restarts_and_failovers() {
    let tpms = OwnTpms::start(false).with_custodians();
    let ports = (0..2).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(tpms.clone()));
    nodes.until_all_vote();
    nodes.put(1, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    // One that stands by is restarted: it asks by itself, and what is signed for it opens it alone.
    let leader = nodes.until_led();
    let other = 1 - leader;
    nodes.kill(other);
    nodes.launch(other);
    let waits = |nodes: &Nodes, n: usize| {
        until(WITHIN, "custodians are asked for", || {
            let status = nodes.client(n).try_call("GET", "sys/seal-status", None).ok()?.json();
            assert_eq!(status["sealed"], true, "{status}");
            status["seal_trouble"].as_str()?.contains("2 of its 2 custodians (ann, ben)").then_some(())
        });
    };
    waits(&nodes, other);
    tpms.let_custodians_open(&nodes, other);
    assert_eq!(nodes.read(other, "kv/a").at("/data/v"), 1);
    nodes.until_all_vote();

    // The lead goes over without them, and the machine that had it is restarted with its TPM.
    nodes.change_lead();
    nodes.put(leader, "kv/a", json!({"v": 2}));
    nodes.kill(leader);
    tpms.tpms.borrow_mut()[leader].restart();
    nodes.launch(leader);
    waits(&nodes, leader);
    let stranger = tpms.give(&nodes, leader, "ann", b"another message");
    assert!([400, 503].contains(&stranger.status), "{stranger:?}");
    tpms.let_custodians_open(&nodes, leader);
    assert_eq!(nodes.read(leader, "kv/a").at("/data/v"), 2);

    // Both at once: what was signed for one is nothing for the other.
    for n in 0..2 {
        nodes.kill(n);
        nodes.launch(n);
    }
    let message = tpms.message(&nodes, 0);
    assert_ne!(tpms.message(&nodes, 1), message);
    assert!(tpms.give(&nodes, 1, "ann", &message).refused(400).contains("over the present challenge"));
    for n in 0..2 {
        tpms.let_custodians_open(&nodes, n);
    }
    nodes.until_all_vote();
    // A new root key, which each node's TPM seals for its custodians.
    let rotated = until(WITHIN, "a new root key", || {
        let rotated = nodes.root(0).try_call("POST", "sys/rotate/root", Some(&json!({}))).ok()?;
        [200, 204].contains(&rotated.status).then_some(rotated)
    });
    assert_eq!(rotated.status, 204, "{}", rotated.text());
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
