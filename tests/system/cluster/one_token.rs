//! Nodes that all reach one HSM: the challenge is opened with it, and nobody is asked for anything.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::token::Token;

use super::nodes::{Between, Nodes};
use super::own_tokens::until_unsealed;

struct OneToken {
    token: Rc<Token>,
    _folder: TempDir,
}

impl Between for OneToken {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.token.conf());
        server
    }

    fn seal(&self, _n: usize) -> String {
        self.token.seal()
    }
}

#[test]
fn nodes_that_share_an_hsm_join_by_it_without_a_token_and_each_unseals_itself_alone() {
    let folder = tempfile::Builder::new().prefix("holdfast-token-").tempdir().expect("a temporary folder");
    let token = Rc::new(Token::make(&folder.path().join("token")));
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(OneToken { token: token.clone(), _folder: folder }));
    nodes.until_all_vote();
    nodes.put(2, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
    // What opens the store is one lock of the cluster's, and no node has another.
    let status = nodes.client(1).get("sys/seal-status").expect(200);
    assert_eq!((status.text_at("/type"), status.at("/recovery_seal")), ("pkcs11".to_owned(), json!(true)));
    for n in 0..3 {
        nodes.kill(n);
        nodes.launch(n);
        until_unsealed(&nodes, n);
        nodes.until_led();
    }
    for n in 0..3 {
        nodes.kill(n);
    }
    nodes.launch(1);
    until_unsealed(&nodes, 1);
    nodes.launch(0);
    nodes.launch(2);
    for n in 0..3 {
        until_unsealed(&nodes, n);
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 1, "node {n}");
    }
    assert!(!token.has_seen_a_wrong_pin());
}
