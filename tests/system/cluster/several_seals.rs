//! Nodes with two tokens each: any one of its own opens a node, and locks are brought in line on all nodes at once.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::token::{Beside, LABEL, Token};
use holdfast_tests::{Client, until};

use super::nodes::{Between, Nodes, WITHIN, write_join_token};

#[derive(Clone)]
struct TwoTokens {
    folder: Rc<TempDir>,
    /// Of each node: SoftHSM, and the two tokens in it.
    tokens: Rc<Vec<(Token, Beside, Beside)>>,
    /// Whether the configuration names the second.
    both: Rc<Cell<bool>>,
}

impl TwoTokens {
    fn for_nodes(count: usize) -> TwoTokens {
        let folder = tempfile::Builder::new().prefix("holdfast-tokens-").tempdir().expect("a temporary folder");
        let tokens = (0..count).map(|n| {
            let token = Token::make(&folder.path().join(format!("t{n}")));
            let (first, second) = (token.itself(), token.another("second"));
            (token, first, second)
        });
        let tokens = tokens.collect();
        TwoTokens { folder: Rc::new(folder), tokens: Rc::new(tokens), both: Rc::new(Cell::new(true)) }
    }

    fn join_token(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("join-{n}"))
    }
}

impl Between for TwoTokens {
    fn command(&self, n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.tokens[n].0.conf());
        server
    }

    fn seal(&self, n: usize) -> String {
        let (token, _, second) = &self.tokens[n];
        let stanza = |name: &str, label: &str, priority: u8| {
            format!("seal \"pkcs11\" {name:?} {{\n priority = {priority}\n{}}}\n", token.keys(label))
        };
        let first = stanza("first", LABEL, 2);
        if self.both.get() { first + &stanza("second", &second.label, 1) } else { first }
    }

    fn joins_with(&self, n: usize) -> String {
        format!("join_token_file = \"{}\"", self.join_token(n).display())
    }

    fn approve(&self, n: usize, root: &Client) {
        write_join_token(root, &self.join_token(n));
    }
}

fn until_unsealed(nodes: &Nodes, n: usize) {
    until(WITHIN, "a node that unseals itself", || {
        let status = nodes.client(n).try_call("GET", "sys/seal-status", None).ok()?;
        (status.json()["sealed"] == false).then_some(())
    });
}

/// `name@node outcome` of each, once all nodes were asked: one that has just been started may not be reached yet.
fn rewrap(nodes: &Nodes, n: usize) -> Vec<String> {
    until(WITHIN, "a rewrap that reaches all nodes", || {
        let did = rewrap_once(nodes, n);
        did.iter().all(|of| !of.starts_with("all@")).then_some(did)
    })
}

fn rewrap_once(nodes: &Nodes, n: usize) -> Vec<String> {
    nodes.ask(n, "sys/seal/rewrap", json!({}), 200);
    let done = until(WITHIN, "wrapped anew", || {
        let now = nodes.root(n).try_call("GET", "sys/seal/rewrap", None).ok()?.json();
        (now["data"]["is_running"] == false).then_some(now)
    });
    let one = |of: &Value| {
        let text = |name: &str| of[name].as_str().unwrap_or_default().to_owned();
        format!("{}@{} {}", text("name"), text("node"), text("outcome"))
    };
    let mut all: Vec<String> = done["data"]["seals"].as_array().expect("seals").iter().map(one).collect();
    all.sort();
    all
}

#[test]
fn three_nodes_with_two_seals_each_open_by_either_and_change_them_together() {
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let tokens = TwoTokens::for_nodes(3);
    let mut nodes = Nodes::start_with(ports, Box::new(tokens.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
    let all = |outcome: &str| {
        let mut all = Vec::new();
        for name in ["first", "second"] {
            (0..3).for_each(|n| all.push(format!("{name}@n{n} {outcome}")));
        }
        all
    };
    assert_eq!(rewrap(&nodes, 1), all("good"));
    let planned = nodes.ask(2, "sys/seal/plan", json!({}), 200).json();
    assert_eq!(planned["data"]["possible"], true, "{planned}");
    assert_eq!(planned["data"]["nodes"].as_array().map(Vec::len), Some(3), "{planned}");

    // The one that is asked first is away on a node that stands by: the other opens it, and a new root key goes on.
    let led = nodes.until_led();
    let away = (led + 1) % 3;
    nodes.kill(away);
    tokens.tokens[away].2.pull_out();
    nodes.launch(away);
    until_unsealed(&nodes, away);
    nodes.until_led();
    let rotated = until(WITHIN, "a new root key", || {
        nodes.root(0).try_call("POST", "sys/rotate/root", Some(&json!({}))).ok().filter(|r| r.status == 200)
    });
    let warning = rotated.text_at("/warnings/0");
    assert!(warning.contains("\"second\"") && warning.contains(&format!("n{away}")), "{warning}");
    nodes.put(0, "kv/a", json!({"v": 2}));
    assert_eq!(nodes.read(away, "kv/a").at("/data/v"), 2);
    tokens.tokens[away].2.put_back();
    nodes.kill(away);
    nodes.launch(away);
    until_unsealed(&nodes, away);
    let did = rewrap(&nodes, away);
    assert!(did.contains(&format!("second@n{away} wrapped")), "{did:?}");
    assert_eq!(did.iter().filter(|of| of.ends_with(" good")).count(), 5, "{did:?}");

    // The second goes everywhere: with a node that still names it, its lock there stays.
    tokens.both.set(false);
    for n in 0..3 {
        nodes.kill(n);
        nodes.launch(n);
        until_unsealed(&nodes, n);
        nodes.until_led();
    }
    nodes.until_all_vote();
    let did = rewrap(&nodes, 0);
    assert_eq!(did.iter().filter(|of| of.starts_with("first@") && of.ends_with(" good")).count(), 3, "{did:?}");
    assert_eq!(did.iter().filter(|of| of.ends_with(" removed")).count(), 3, "{did:?}");
    let status = nodes.read(0, "sys/seal-backend-status").json();
    assert_eq!(status["data"]["backends"].as_array().map(Vec::len), Some(3), "{status}");
    // Each opens by the one that is left.
    for n in 0..3 {
        nodes.kill(n);
        tokens.tokens[n].2.pull_out();
    }
    (0..3).for_each(|n| nodes.launch(n));
    (0..3).for_each(|n| until_unsealed(&nodes, n));
    nodes.until_led();
    assert_eq!(nodes.read(1, "kv/a").at("/data/v"), 2);
}

/// The seals that each node has, as the one that leads shows them.
fn locks(nodes: &Nodes) -> usize {
    let status = nodes.read(0, "sys/seal-backend-status").json();
    status["data"]["backends"].as_array().map_or(0, |all| all.iter().filter(|lock| lock["id"].is_string()).count())
}

/// The leader is killed so many milliseconds behind the begin of `sys/seal/rewrap`, which adds seals and takes them away in turn.
#[test]
fn a_leader_that_is_killed_while_it_wraps_anew_leaves_each_node_a_way_in() {
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let tokens = TwoTokens::for_nodes(3);
    let mut nodes = Nodes::start_with(ports, Box::new(tokens.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 0}));
    assert_eq!(rewrap(&nodes, 0).len(), 6);
    for (round, ms) in [3, 0, 12, 25, 60, 120].into_iter().enumerate() {
        let (adds, wanted) = if round % 2 == 0 { (false, 3) } else { (true, 6) };
        tokens.both.set(adds);
        for n in 0..3 {
            nodes.configure(n);
            nodes.server(n).signal(Signal::HUP);
        }
        let leader = nodes.until_led();
        let root = nodes.root(leader);
        // All have read it.
        until(WITHIN, "the configuration of all", || {
            let status = root.try_call("GET", "sys/seal-backend-status", None).ok()?.json();
            let all = status["data"]["backends"].as_array()?;
            let seconds = all.iter().filter(|lock| lock["name"] == "second" && lock["configured"] == true).count();
            ((seconds > 0) == adds && status["data"]["silent_nodes"] == json!({})).then_some(())
        });
        let begun = root.try_call("POST", "sys/seal/rewrap", Some(&json!({})));
        thread::sleep(Duration::from_millis(ms));
        nodes.kill(leader);
        println!("round {round}: killed {ms} ms behind {:?}", begun.map(|reply| reply.status));
        nodes.launch(leader);
        until_unsealed(&nodes, leader);
        nodes.until_all_vote();
        let other = (leader + 1) % 3;
        println!("  {} locks", locks(&nodes));
        nodes.put(other, "kv/a", json!({"v": round}));
        // Done again it ends well, whoever leads by now.
        until(WITHIN, "locks as they should be", || {
            let did = rewrap(&nodes, other);
            println!("  {did:?}");
            (did.iter().all(|of| !of.ends_with(" failed") && !of.ends_with(" kept")) && locks(&nodes) == wanted)
                .then_some(())
        });
        if adds {
            // By each of the two: one node by the first alone, another by the second.
            for (n, has_first) in [(leader, false), (other, true)] {
                nodes.kill(n);
                let (_, first, second) = &tokens.tokens[n];
                let away = if has_first { second } else { first };
                away.pull_out();
                nodes.launch(n);
                until_unsealed(&nodes, n);
                away.put_back();
            }
            nodes.until_all_vote();
        }
        assert_eq!(nodes.read(leader, "kv/a").at("/data/v"), round);
    }
}
