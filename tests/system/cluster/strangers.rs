//! Who is no member is refused, and told why: another cluster's node, a second one of a name, a program that is too old,
//! and whoever has listened to a join.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::until;

use super::newcomer::{Newcomer, joins, members};
use super::nodes::{Between, Nodes, WITHIN};

/// Nodes whose members are looked after often: the feature level has risen soon.
struct Brisk;

impl Between for Brisk {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn finds(&self, _n: usize, others: &[u16]) -> String {
        others.iter().map(|port| joins(*port)).collect::<String>() + "autopilot_reconcile_interval = \"300ms\"\n"
    }
}

#[test]
fn a_replayed_or_changed_answer_a_second_node_of_a_name_and_a_program_that_is_too_old_are_refused() {
    let nodes = Nodes::start_with((0..2).map(|_| (free_port(), free_port())).collect(), Box::new(Brisk));
    nodes.until_all_vote();
    let before = members(&nodes);
    a_second_node_of_a_name(&nodes);
    a_program_that_is_too_old(&nodes);
    assert_eq!(members(&nodes), before);
    a_changed_answer_and_a_replayed_one(&nodes);
}

fn a_second_node_of_a_name(nodes: &Nodes) {
    let twin = Newcomer::named("n1").storage(joins(nodes.port(0))).started();
    twin.until_asked_for_shares();
    let said = twin.give(nodes.share()).refused(500);
    assert!(said.contains("\"n1\" is known by another key") && said.contains("remove it first"), "{said}");
    twin.server().until_logged("is known by another key");
    // The first one is not disturbed.
    nodes.read(1, "sys/mounts");
}

fn a_program_that_is_too_old(nodes: &Nodes) {
    let level = || {
        let root = nodes.root(nodes.led_now()?);
        let metrics = root.try_call("GET", "sys/metrics?format=prometheus", None).ok()?.text();
        let level = metrics.lines().find_map(|l| l.strip_prefix("holdfast_feature_level "))?;
        level.parse::<u64>().ok().filter(|level| *level > 1)
    };
    let level = until(WITHIN, "a higher feature level", level);
    let old = Newcomer::named("old").storage(joins(nodes.port(0))).environment("HOLDFAST_MAX_FEATURE_LEVEL", "1");
    let old = old.started();
    old.until_asked_for_shares();
    let said = old.give(nodes.share()).refused(500);
    assert!(said.contains(&format!("feature level {level}")) && said.contains("knows up to 1"), "{said}");
    old.server().until_logged("knows up to 1");
}

fn a_changed_answer_and_a_replayed_one(nodes: &Nodes) {
    let listener = Listener::before(nodes.port(nodes.until_led()));
    let newcomer = Newcomer::named("new").storage(joins(listener.port)).started();
    newcomer.until_asked_for_shares();
    listener.changes.store(true, Ordering::SeqCst);
    let said = newcomer.give(nodes.share()).refused(500);
    assert!(said.contains("400") && said.contains("invalid answer given"), "{said}");
    assert!(!members(nodes).iter().any(|(id, _)| id == "new"));
    listener.changes.store(false, Ordering::SeqCst);
    newcomer.give(nodes.share()).expect(200);
    newcomer.until_unsealed();
    until(WITHIN, "a third member", || (members(nodes).len() == 3).then_some(()));
    // Whoever has heard it gets in by it neither as it was nor behind a challenge that he has asked for.
    let answer = listener.heard().pop().expect("an answer was heard");
    let asked: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(asked["server_id"], "new");
    let path = "sys/storage/raft/bootstrap/answer";
    let root = nodes.client(nodes.until_led());
    let said = root.post(path, asked.clone()).refused(400);
    assert!(said.contains("no challenge was made for this server id"), "{said}");
    root.post("sys/storage/raft/bootstrap/challenge", json!({"server_id": "new"})).expect(200);
    let said = root.post(path, asked.clone()).refused(400);
    assert!(said.contains("invalid answer given"), "{said}");
    // As another one, and as the same one with another key.
    for (field, value) in [("/server_id", json!("other")), ("/peer/key_hash", json!("ab".repeat(32)))] {
        let mut changed = asked.clone();
        *changed.pointer_mut(field).expect("a field of the answer") = value;
        root.post("sys/storage/raft/bootstrap/challenge", json!({"server_id": changed["server_id"]})).expect(200);
        let said = root.post(path, changed).refused(400);
        assert!(said.contains("invalid answer given"), "{said}");
    }
    assert_eq!(members(nodes).len(), 3);
}

/// Somebody between a newcomer and the API of the node that it joins through, who notes the answers to challenges.
struct Listener {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Answers are changed on their way.
    changes: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Listener {
    fn before(to: u16) -> Listener {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let (heard, changes, ended) =
            (Arc::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let said: Arc<Mutex<Vec<Vec<u8>>>> = Arc::clone(&heard);
        let (changing, over) = (changes.clone(), ended.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let _a_client_that_hangs_up_is_of_no_interest = pass_on(client, to, &said, &changing);
            }
        });
        Listener { port, heard, changes, ended }
    }

    /// The bodies of the answers as they were meant.
    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _wakes_it = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request of a connection, and what is answered.
fn pass_on(mut client: TcpStream, to: u16, heard: &Mutex<Vec<Vec<u8>>>, changes: &AtomicBool) -> io::Result<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let body = loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..n]);
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            break end + 4;
        }
    };
    if bytes.starts_with(b"POST /v1/sys/storage/raft/bootstrap/answer ") {
        heard.lock().unwrap().push(bytes[body..].to_vec());
        if changes.load(Ordering::SeqCst) {
            // Another address for the newcomer, of the same length.
            let text = String::from_utf8_lossy(&bytes[body..]).replace("127.0.0.1", "127.0.0.9");
            assert_ne!(text.as_bytes(), &bytes[body..]);
            bytes.splice(body.., text.into_bytes());
        }
    }
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    server.write_all(&bytes)?;
    let mut back = client.try_clone()?;
    let mut answers = server.try_clone()?;
    thread::spawn(move || {
        let _until_one_hangs_up = io::copy(&mut answers, &mut back);
    });
    thread::spawn(move || {
        let _until_the_client_hangs_up = io::copy(&mut client, &mut server);
        let _closed_already = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

#[test]
fn a_node_of_another_cluster_is_told_so_and_stays_what_it_is() {
    let nodes = Nodes::start(1);
    let other = Newcomer::named("x").started();
    let (share, token) = other.initialised();
    let id = |status: &Value| status["cluster_id"].as_str().expect("a cluster").to_owned();
    let own = id(&other.client().get("sys/seal-status").json());
    let theirs = id(&nodes.client(0).get("sys/seal-status").json());
    let is_said = |text: &str| text.contains(&own) && text.contains(&theirs) && text.contains("empty folder");
    let leader = format!("http://127.0.0.1:{}", nodes.port(0));
    let said = other.client().post("sys/storage/raft/join", json!({"leader_api_addr": leader})).refused(400);
    assert!(is_said(&said), "{said}");
    assert!(is_said(&other.join(&[&leader]).bad(2)));
    // One of its own cluster is what it has joined already, and so is one that says nothing.
    let of_own = format!("http://127.0.0.1:{}", other.port());
    assert!(other.join(&[&of_own]).good().contains("true"));
    assert!(other.join(&["http://127.0.0.1:1"]).good().contains("true"));
    let status = other.client().get("sys/seal-status").json();
    assert_eq!(status.get("cluster_trouble"), None, "{status}");

    // The same by its configuration.
    let other = other.kill().storage(joins(nodes.port(0))).started();
    other.give(&share).expect(200);
    let trouble = |path: &str| {
        let said = other.client().try_call("GET", path, None).ok()?.json();
        said["cluster_trouble"].as_str().map(str::to_owned)
    };
    let said = until(WITHIN, "a trouble", || trouble("sys/seal-status"));
    assert!(is_said(&said), "{said}");
    assert_eq!(trouble("sys/health"), Some(said));
    other.server().until_logged("this store is of the cluster");
    other.client().with_token(&token).get("sys/mounts").expect(200);
    assert_eq!(members(&nodes), [("n0".to_owned(), true)]);
    assert_eq!(nodes.client(0).get("sys/health").json().get("cluster_trouble"), None);
}
