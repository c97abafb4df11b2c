//! The key that a node is known by, closed by a token of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::token::Token;
use holdfast_tests::until;

use super::nodes::{Between, Nodes, WITHIN};
use crate::devices::token_device;

/// A SoftHSM token for each node, and what its configuration says of `node_key`.
#[derive(Clone)]
struct Closed {
    folder: Rc<TempDir>,
    tokens: Rc<Vec<Token>>,
}

impl Closed {
    fn for_nodes(count: usize) -> Closed {
        let folder = tempfile::Builder::new().prefix("holdfast-tokens-").tempdir().expect("a temporary folder");
        let tokens = (0..count).map(|n| Token::make(&folder.path().join(format!("t{n}")))).collect();
        let closed = Closed { folder: Rc::new(folder), tokens: Rc::new(tokens) };
        (0..count).for_each(|n| closed.say(n, "generate_key = true"));
        closed
    }

    fn said(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("node-key-{n}"))
    }

    /// What a node's configuration says from its next start on; nothing: its key lies in a file.
    fn say(&self, n: usize, more: &str) {
        let stanza = match more {
            "" => String::new(),
            more => format!("node_key {{\n device = \"main\"\n key_label = \"holdfast-node\"\n {more}\n}}\n"),
        };
        fs::write(self.said(n), stanza).expect("a file");
    }
}

impl Between for Closed {
    fn command(&self, n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.tokens[n].conf());
        server
    }

    fn finds(&self, n: usize, others: &[u16]) -> String {
        let one = |port: &u16| format!("retry_join {{\n leader_api_addr = \"http://127.0.0.1:{port}\"\n}}\n");
        others.iter().map(one).collect::<String>() + &fs::read_to_string(self.said(n)).expect("a file")
    }

    fn top(&self, n: usize) -> String {
        let pin = format!("pin = \"{}\"", holdfast_tests::token::PIN);
        let paths =
            format!("{pin}\n helper_write_paths = [\"{}\"]", self.folder.path().join(format!("t{n}")).display());
        token_device("main").replace(&pin, &paths)
    }
}

#[test]
fn keys_of_nodes_are_closed_by_their_tokens_and_a_copy_of_the_disk_is_nobody() {
    let closed = Closed::for_nodes(3);
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(closed.clone()));
    nodes.until_all_vote();
    nodes.put(2, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
    for n in 0..3 {
        let there = ["key.closed", "key.pem"].map(|name| nodes.node_file(n, name).exists());
        assert_eq!(there, [true, false], "node {n}");
    }

    // The token is away at the start: the node waits for it, and is the member that it was.
    let away = (nodes.until_led() + 1) % 3;
    nodes.kill(away);
    closed.tokens[away].pull_out();
    nodes.launch(away);
    nodes.server(away).until_logged("the start waits for it");
    closed.tokens[away].put_back();
    nodes.give_share(away);
    nodes.put(0, "kv/a", json!({"v": 2}));
    assert_eq!(nodes.read(away, "kv/a").at("/data/v"), 2);

    // Another token opens nothing, and no other key is made: the server ends, and says what to do.
    nodes.kill(away);
    closed.tokens[away].pull_out();
    fs::remove_dir(closed.folder.path().join(format!("t{away}/tokens"))).expect("the empty folder");
    fs::rename(closed.folder.path().join(format!("t{away}/pulled-out")), closed.folder.path().join("kept"))
        .expect("moved");
    let before = fs::read(nodes.node_file(away, "key.closed")).expect("a closed key");
    Token::make(&closed.folder.path().join(format!("t{away}")));
    nodes.launch(away);
    let log = until(WITHIN, "the end of a server", || nodes.ended(away));
    assert!(log.contains("does not open the key of this node") && log.contains("recover -rejoin"), "{log}");
    assert_eq!(fs::read(nodes.node_file(away, "key.closed")).expect("a closed key"), before);
    // Neither does the stanza's absence make another one.
    closed.say(away, "");
    nodes.launch(away);
    let log = until(WITHIN, "the end of a server", || nodes.ended(away));
    assert!(log.contains("name it with node_key"), "{log}");

    // With its own token it is back, and goes over to a file and again to the token.
    let tokens = closed.folder.path().join(format!("t{away}/tokens"));
    fs::remove_dir_all(&tokens).expect("the other token");
    fs::rename(closed.folder.path().join("kept"), &tokens).expect("moved back");
    for (said, closed_then) in [("disabled = true", false), ("", false), ("generate_key = true", true)] {
        closed.say(away, said);
        nodes.launch(away);
        nodes.give_share(away);
        nodes.put(0, "kv/a", json!({"v": said}));
        assert_eq!(nodes.read(away, "kv/a").at("/data/v"), said);
        let there = ["key.closed", "key.pem"].map(|name| nodes.node_file(away, name).exists());
        assert_eq!(there, [closed_then, !closed_then], "{said}");
        nodes.kill(away);
    }
}
