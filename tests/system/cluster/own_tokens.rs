//! Nodes that each have a token of their own: joined with one-use join tokens, opened by nobody.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::process::{helpers, signal};
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::token::Token;
use holdfast_tests::{Client, until};

use super::nodes::{Between, Nodes, WITHIN, write_join_token};

/// A SoftHSM token for each node, and a file for its join token.
#[derive(Clone)]
pub(super) struct OwnTokens {
    folder: Rc<TempDir>,
    /// Where those are that were made later.
    _more: Option<Rc<TempDir>>,
    pub tokens: Rc<Vec<Token>>,
}

impl OwnTokens {
    pub fn for_nodes(count: usize) -> OwnTokens {
        let folder = tempfile::Builder::new().prefix("holdfast-tokens-").tempdir().expect("a temporary folder");
        let tokens = (0..count).map(|n| Token::make(&folder.path().join(format!("t{n}")))).collect();
        OwnTokens { folder: Rc::new(folder), _more: None, tokens: Rc::new(tokens) }
    }

    /// The same, and new ones behind them.
    pub fn and_for_nodes(self, more: usize) -> OwnTokens {
        let made = OwnTokens::for_nodes(more);
        let mut tokens = Rc::try_unwrap(self.tokens).unwrap_or_else(|_| panic!("they are in use"));
        tokens.extend(Rc::try_unwrap(made.tokens).unwrap_or_else(|_| panic!("they are in use")));
        OwnTokens { folder: self.folder, _more: Some(made.folder), tokens: Rc::new(tokens) }
    }

    pub fn join_token(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("join-{n}"))
    }
}

impl Between for OwnTokens {
    fn command(&self, n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.tokens[n].conf());
        server
    }

    fn seal(&self, n: usize) -> String {
        self.tokens[n].seal()
    }

    fn joins_with(&self, n: usize) -> String {
        format!("join_token_file = \"{}\"", self.join_token(n).display())
    }

    fn approve(&self, n: usize, root: &Client) {
        write_join_token(root, &self.join_token(n));
    }
}

pub(super) fn start(count: usize) -> (Nodes, OwnTokens) {
    let tokens = OwnTokens::for_nodes(count);
    (start_with(count, &tokens), tokens)
}

/// A new cluster of nodes that have these tokens.
pub(super) fn start_with(count: usize, tokens: &OwnTokens) -> Nodes {
    Nodes::start_with((0..count).map(|_| (free_port(), free_port())).collect(), Box::new(tokens.clone()))
}

pub fn until_unsealed(nodes: &Nodes, n: usize) {
    until(WITHIN, "a node that unseals itself", || {
        let status = nodes.client(n).try_call("GET", "sys/seal-status", None).ok()?;
        (status.json()["sealed"] == false).then_some(())
    });
}

#[test]
fn three_nodes_with_a_token_each_form_a_cluster_and_each_unseals_itself_alone() {
    let (mut nodes, _tokens) = start(3);
    nodes.until_all_vote();
    nodes.put(2, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
    for n in 0..3 {
        nodes.kill(n);
        nodes.launch(n);
        until_unsealed(&nodes, n);
        nodes.until_led();
    }
    for n in 0..3 {
        nodes.kill(n);
    }
    // One alone opens what it has, though it cannot lead.
    nodes.launch(2);
    until_unsealed(&nodes, 2);
    nodes.launch(0);
    nodes.launch(1);
    for n in 0..3 {
        until_unsealed(&nodes, n);
    }
    nodes.until_led();
    for n in 0..3 {
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 1, "node {n}");
    }
}

#[test]
fn a_new_root_key_is_locked_by_each_nodes_own_token_and_not_while_one_is_away() {
    let (mut nodes, _tokens) = start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let away = (nodes.until_led() + 1) % 3;
    nodes.kill(away);
    let refused = nodes.ask((away + 1) % 3, "sys/rotate/root", json!({}), 400);
    assert!(refused.text().contains(&format!("n{away}")), "{}", refused.text());
    nodes.launch(away);
    until_unsealed(&nodes, away);
    nodes.ask(0, "sys/rotate/root", json!({}), 204);
    nodes.put(1, "kv/a", json!({"v": 2}));
    // Nobody was sealed by it, and each can lead.
    for n in 0..3 {
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 2, "node {n}");
    }
    nodes.change_lead();
    assert_eq!(nodes.read(0, "kv/a").at("/data/v"), 2);
    // Each opens the store with what its own token has locked.
    for n in 0..3 {
        nodes.kill(n);
    }
    for n in 0..3 {
        nodes.launch(n);
    }
    for n in 0..3 {
        until_unsealed(&nodes, n);
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 2, "node {n}");
    }
}

#[test]
fn the_root_key_that_a_removed_node_knew_is_changed_also_if_it_was_the_first_one() {
    let (mut nodes, tokens) = start(3);
    nodes.until_all_vote();
    nodes.put(1, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
    if nodes.until_led() == 0 {
        nodes.change_lead();
    }
    let leader = nodes.until_led();
    let other = 3 - leader;
    // Its lock says that it is the cluster's, and the other node's token cannot lock a new root key now.
    nodes.kill(0);
    tokens.tokens[other].pull_out();
    for pid in helpers(nodes.server(other).pid()) {
        signal(pid, Signal::KILL);
    }
    let removed = nodes.ask(leader, "sys/storage/raft/remove-peer", json!({"server_id": "n0"}), 200);
    let warning = removed.text_at("/warnings/0");
    assert!(warning.contains("the root key that n0 knew is still in use") && warning.contains(&format!("n{other}")));
    tokens.tokens[other].put_back();
    // The first node's token is not asked for any more.
    until(WITHIN, "a new root key", || {
        let root = nodes.root(nodes.led_now()?);
        root.try_call("POST", "sys/rotate/root", Some(&json!({}))).ok().filter(|r| r.status == 204)
    });
    for n in [leader, other] {
        nodes.kill(n);
    }
    for n in [leader, other] {
        nodes.launch(n);
    }
    for n in [leader, other] {
        until_unsealed(&nodes, n);
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 1, "node {n}");
    }
}

#[test]
fn a_join_token_counts_once_and_ends_with_its_time() {
    let (nodes, tokens) = start(2);
    nodes.until_all_vote();
    let stranger = OwnTokens::for_nodes(1);
    let used = fs::read_to_string(tokens.join_token(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (own, members) = (free_port(), free_port());
    let config = format!(
        "storage \"raft\" {{\n path = \"{}\"\n node_id = \"x\"\n}}\n{}listener \"tcp\" {{\n address = \"127.0.0.1:{own}\"\n \
         cluster_address = \"127.0.0.1:{members}\"\n tls_disable = true\n}}\napi_addr = \"http://127.0.0.1:{own}\"\n\
         cluster_addr = \"https://127.0.0.1:{members}\"\ndisable_mlock = true\n",
        folder.path().join("data").display(),
        stranger.seal(0)
    );
    let file = folder.path().join("config.hcl");
    fs::write(&file, config).unwrap();
    let mut server = stranger.command(0, folder.path());
    server.arg("server").arg(format!("-config={}", file.display()));
    let server = holdfast_tests::Server::start(&mut server, folder.path(), 1, None);
    let leader = format!("http://127.0.0.1:{}", nodes.port(nodes.until_led()));
    let join = |token: &str| {
        let mut join = command(holdfast());
        join.args(["operator", "raft", "join", &format!("-join-token={token}"), &leader]);
        run(join.env("HOLDFAST_ADDR", server.url()))
    };
    let said = join(&used).bad(2);
    assert!(said.contains("was used"), "{said}");
    let said = join("hfj.AAAA").bad(2);
    assert!(said.contains("no join token"), "{said}");
    let fresh = || nodes.ask(0, "sys/storage/raft/join-token", json!({"ttl": "1h"}), 200);
    nodes.ask(0, "sys/storage/raft/join-token", json!({"ttl": "9d"}), 400);
    let brief = nodes.ask(0, "sys/storage/raft/join-token", json!({"ttl": "1s"}), 200).text_at("/data/join_token");
    let time = || nodes.client(0).try_call("GET", "sys/health", None).ok()?.json()["server_time_utc"].as_u64();
    let made = until(WITHIN, "the time", time);
    until(WITHIN, "the end of a token", || (time()? > made + 2).then_some(()));
    let said = join(&brief).bad(2);
    assert!(said.contains("has ended"), "{said}");
    let never = format!("hfj.{}", "A".repeat(43));
    assert!(join(&never).bad(2).contains("not known"));
    join(&fresh().text_at("/data/join_token")).good();
    until(WITHIN, "the new node unseals itself", || {
        let status = server.client().try_call("GET", "sys/seal-status", None).ok()?;
        (status.json()["sealed"] == false).then_some(())
    });
    // Removed, it has no lock any more.
    nodes.ask(0, "sys/storage/raft/remove-peer", json!({"server_id": "x"}), 204);
    assert!((0..2).any(|n| nodes.server(n).log().contains("the locks of the store were changed: target=Root")));
    let mut list = command(holdfast());
    list.args(["operator", "raft", "list-peers"]).env("HOLDFAST_ADDR", format!("http://127.0.0.1:{}", nodes.port(0)));
    let listed = run(list.env("HOLDFAST_TOKEN", nodes.root(0).token())).good();
    assert!(listed.contains("n1") && !listed.contains(" x "), "{listed}");
}
