//! Devices that configurations of several nodes name: one HSM that all reach, and one of each node's own by the same name.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::token::{LABEL, PIN, Token, library};
use holdfast_tests::{Reply, until};

use super::nodes::{Between, Nodes, WITHIN};

const SIGN: &str = "sys/managed-keys/pkcs11/k/test/sign";

/// The token of each node, by its number; one that is alone is everybody's.
struct Tokens {
    tokens: Rc<Vec<Token>>,
    _folder: TempDir,
}

impl Between for Tokens {
    fn command(&self, n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.tokens[n % self.tokens.len()].conf());
        server
    }

    fn top(&self, _n: usize) -> String {
        let lib = library().display().to_string();
        format!("device \"pkcs11\" \"hsm\" {{\n lib = \"{lib}\"\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"\n}}\n")
    }
}

/// Three nodes, and a key in the device of the one that leads.
fn start(tokens: usize) -> (Nodes, Rc<Vec<Token>>) {
    let folder = tempfile::Builder::new().prefix("holdfast-tokens-").tempdir().expect("a temporary folder");
    let tokens: Rc<Vec<Token>> =
        Rc::new((0..tokens).map(|n| Token::make(&folder.path().join(format!("t{n}")))).collect());
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let nodes = Nodes::start_with(ports, Box::new(Tokens { tokens: tokens.clone(), _folder: folder }));
    nodes.until_all_vote();
    let key = json!({
        "library": "hsm", "key_label": "shared", "mechanism": "CKM_ECDSA", "curve": "P256", "allow_generate_key": true,
    });
    nodes.put(0, "sys/managed-keys/pkcs11/k", key);
    (nodes, tokens)
}

/// Asked until the answer is of a device, and not of a cluster that has no leader for a moment.
fn signed(nodes: &Nodes, n: usize) -> Reply {
    until(WITHIN, "a signature, or why there is none", || {
        let reply = nodes.root(n).try_call("POST", SIGN, Some(&json!({}))).ok()?;
        (reply.status == 200 || reply.text().contains("device")).then_some(reply)
    })
}

#[test]
fn a_key_in_an_hsm_that_all_nodes_reach_signs_whoever_leads() {
    let (mut nodes, _tokens) = start(1);
    let public = nodes.read(1, "sys/managed-keys/pkcs11/k").at("/data/public_key");
    for round in 0..2 {
        // At each node, of which two pass it on.
        (0..3).for_each(|n| drop(signed(&nodes, n).expect(200)));
        let leader = nodes.until_led();
        nodes.kill(leader);
        let other = (leader + 1) % 3;
        signed(&nodes, other).expect(200);
        let now = nodes.until_led();
        assert_ne!(now, leader, "round {round}");
        assert_eq!(nodes.read(other, "sys/managed-keys/pkcs11/k").at("/data/public_key"), public);
        nodes.start_again(leader);
        nodes.until_all_vote();
    }
}

#[test]
fn a_node_whose_own_device_lacks_the_key_is_named_with_the_device() {
    let (nodes, tokens) = start(3);
    let first = nodes.until_led();
    signed(&nodes, (first + 1) % 3).expect(200);
    nodes.change_lead();
    let second = nodes.until_led();
    // Whoever is asked passes it on to the one that leads, whose token never had it.
    let said = signed(&nodes, first).refused(500);
    for words in ["managed key \"k\"", &format!("device 'hsm' of node n{second}"), "not in", "another token is there"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    tokens[second].pull_out();
    for helper in holdfast_tests::process::helpers(nodes.server(second).pid()) {
        holdfast_tests::process::signal(helper, rustix::process::Signal::KILL);
    }
    let said = until(WITHIN, "a device that is away", || {
        let reply = signed(&nodes, first);
        (reply.status == 503).then(|| reply.text())
    });
    println!("{said}");
    assert!(said.contains(&format!("of node n{second}")), "{said}");
    tokens[second].put_back();
    // Where the key is it is used again.
    until(WITHIN, "the lead of the node that has it", || {
        if nodes.led_now()? != first {
            nodes.change_lead();
        }
        (nodes.led_now()? == first).then_some(())
    });
    signed(&nodes, second).expect(200);
}
