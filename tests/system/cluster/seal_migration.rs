//! Another seal for a cluster: node by node, and changed by the one that becomes active.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::token::Token;
use holdfast_tests::until;

use super::nodes::{Between, Nodes, WITHIN};

/// One token that all nodes reach, and the nodes whose configuration names it.
#[derive(Clone)]
struct OneToken {
    /// Gone with the last of them.
    _folder: Rc<TempDir>,
    token: Rc<Token>,
    moved: Rc<RefCell<Vec<usize>>>,
}

impl Between for OneToken {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.token.conf());
        server
    }

    fn top(&self, n: usize) -> String {
        if !self.moved.borrow().contains(&n) {
            return String::new();
        }
        self.token.seal()
    }
}

#[test]
fn a_cluster_goes_from_shares_to_a_token_node_by_node_and_serves_meanwhile() {
    moves(None);
}

/// The one that becomes active changes the seal, and is killed at several moments.
#[test]
fn a_node_that_is_killed_while_it_changes_the_seal_leaves_a_cluster_that_opens() {
    for ms in [0, 20, 80, 300] {
        moves(Some(ms));
    }
}

fn moves(kill_after: Option<u64>) {
    let folder = tempfile::Builder::new().prefix("holdfast-tokens-").tempdir().expect("a temporary folder");
    let token = Rc::new(Token::make(folder.path()));
    let between = OneToken { _folder: Rc::new(folder), token, moved: Rc::default() };
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(between.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/secret", json!({"type": "kv"}));
    nodes.put(0, "secret/kept", json!({"k": "v"}));
    let first = nodes.until_led();
    let standbys: Vec<usize> = (0..3).filter(|n| *n != first).collect();
    for n in standbys {
        nodes.kill(n);
        between.moved.borrow_mut().push(n);
        nodes.launch(n);
        let client = nodes.client(n);
        until(WITHIN, "a migration that waits", || {
            let status = client.try_call("GET", "sys/seal-status", None).ok()?.json();
            (status["migration"] == true && status["migration_from"] == "shamir").then_some(())
        });
        let agreed = json!({"key": nodes.share(), "migrate": true});
        until(WITHIN, "a node that has agreed", || {
            let status = client.try_call("PUT", "sys/unseal", Some(&agreed)).ok()?.json();
            (status["sealed"] == false).then_some(())
        });
        // The cluster is sealed by shares as before, and serves.
        nodes.read(first, "secret/kept");
    }
    match kill_after {
        None => nodes.change_lead(),
        Some(ms) => {
            // Whichever of the two becomes active changes the seal at once: both are killed.
            let standbys = [(first + 1) % 3, (first + 2) % 3];
            nodes.root(first).post("sys/step-down", json!({})).expect(204);
            thread::sleep(Duration::from_millis(ms));
            let had_changed = standbys.iter().any(|n| nodes.server(*n).log().contains("the seal was migrated"));
            println!("killed {ms} ms behind the step-down; it was told that the seal was changed: {had_changed}");
            standbys.into_iter().for_each(|n| nodes.kill(n));
            standbys.into_iter().for_each(|n| nodes.launch(n));
            standbys.into_iter().for_each(|n| opens_either_way(&nodes, n));
            until(WITHIN, "the lead of one that has agreed", || {
                if nodes.led_now()? == first {
                    nodes.change_lead();
                }
                (nodes.led_now()? != first).then_some(())
            });
        }
    }
    until(WITHIN, "the change of the seal", || {
        let is_by_token = |n: usize| {
            let status = nodes.client(n).try_call("GET", "sys/seal-status", None).ok().map(|r| r.json());
            status.is_some_and(|status| status["type"] == "pkcs11" && status["migration"] == false)
        };
        let is_told = (0..3).any(|n| nodes.server(n).log().contains("the seal was migrated"));
        (is_told || (kill_after.is_some() && (0..3).filter(|n| *n != first).all(is_by_token))).then_some(())
    });
    nodes.put(first, "secret/more", json!({"k": "w"}));
    // The one that was active follows by its configuration.
    nodes.kill(first);
    between.moved.borrow_mut().push(first);
    nodes.launch(first);
    let unsealed = |nodes: &Nodes, n: usize| {
        until(WITHIN, "a node that its token opens", || (nodes.is_sealed(n) == Some(false)).then_some(()));
    };
    unsealed(&nodes, first);
    // And all of them, from nothing.
    (0..3).for_each(|n| nodes.kill(n));
    (0..3).for_each(|n| nodes.launch(n));
    (0..3).for_each(|n| unsealed(&nodes, n));
    assert_eq!(nodes.read(first, "secret/more").at("/data/k"), "w");
    assert_eq!(nodes.read(first, "secret/kept").at("/data/k"), "v");
    let status = nodes.client(first).get("sys/seal-status").expect(200);
    assert_eq!((status.at("/type"), status.at("/migration")), ("pkcs11".into(), false.into()));
}

/// By the holders, who agree once more, or by the token where the change was committed.
fn opens_either_way(nodes: &Nodes, n: usize) {
    let (agreed, client) = (json!({"key": nodes.share(), "migrate": true}), nodes.client(n));
    until(WITHIN, "a node that was killed", || {
        let status = client.try_call("GET", "sys/seal-status", None).ok()?.json();
        if status["migration"] == true {
            let _it_may_be_over_by_now = client.try_call("PUT", "sys/unseal", Some(&agreed));
        }
        (status["sealed"] == false).then_some(())
    });
}
