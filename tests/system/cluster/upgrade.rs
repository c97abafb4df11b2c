//! Programs of two feature levels in one cluster, which are changed node by node while clients write and read.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_storage::level;
use serde_json::{Value, json};

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::{Client, until};

use super::nodes::{Between, Nodes, WITHIN};

/// The highest level that each node's program knows; `None`: as it is built.
#[derive(Clone)]
struct Programs(Rc<RefCell<Vec<Option<u64>>>>);

impl Between for Programs {
    fn command(&self, n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        if let Some(level) = self.0.borrow()[n] {
            server.env("HOLDFAST_MAX_FEATURE_LEVEL", level.to_string());
        }
        server
    }
}

pub(super) fn level(nodes: &Nodes) -> u64 {
    let shown = until(WITHIN, "metrics of the active node", || {
        let leader = nodes.led_now()?;
        nodes.root(leader).try_call("GET", "sys/metrics?format=prometheus", None).ok().filter(|r| r.status == 200)
    });
    let text = shown.text();
    let line = text.lines().find_map(|l| l.strip_prefix("holdfast_feature_level ")).expect("a level");
    line.parse().expect("a number")
}

/// Start a node with another program, in order, as an operator does.
fn change(nodes: &mut Nodes, programs: &Programs, n: usize, level: Option<u64>) {
    programs.0.borrow_mut()[n] = level;
    nodes.stop(n);
    nodes.start_again(n);
    nodes.until_all_vote();
}

/// What `autopilot state` says of the program of each.
fn until_shown(nodes: &Nodes) {
    let version = nodes.client(0).get("sys/health").json()["version"].clone();
    until(WITHIN, "each server's own program", || {
        let leader = nodes.led_now()?;
        let state = nodes.root(leader).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?.json();
        let servers = &state["data"]["servers"];
        let is_shown = |n: usize| {
            let server = &servers[format!("n{n}")];
            server["version"] == version && server["last_term"].as_u64() > Some(0)
        };
        (0..3).all(is_shown).then_some(())
    });
}

/// Clients of all nodes, each of whom asks the next node when one does not answer.
struct Load {
    acknowledged: Arc<Mutex<Vec<usize>>>,
    stop: Arc<AtomicBool>,
    writer: thread::JoinHandle<Seen>,
    reader: thread::JoinHandle<Seen>,
}

/// What a client saw: how long it waited at most from one good answer to the next, and what was wrong.
#[derive(Debug, Default)]
struct Seen {
    longest: Duration,
    wrong: Vec<String>,
}

/// No longer is there nobody who takes a write, or answers a read.
const GAP: Duration = Duration::from_secs(5);
/// Then the next node is asked.
const PATIENCE: Duration = Duration::from_secs(1);

impl Load {
    fn start(nodes: &Nodes) -> Load {
        let (acknowledged, stop) = (Arc::<Mutex<Vec<usize>>>::default(), Arc::new(AtomicBool::new(false)));
        let patient = |c: Client| c.patient_for(PATIENCE);
        let clients = || -> Vec<Client> { nodes.roots().into_iter().map(patient).collect() };
        let (to_write, to_read) = (clients(), clients());
        let (done, over) = (acknowledged.clone(), stop.clone());
        let writer = thread::spawn(move || {
            until_over(&over, |n| {
                let written = to_write[n % 3].try_call("POST", &format!("kv/{n}"), Some(&json!({ "n": n })));
                let is_good = written.is_ok_and(|r| r.status == 204);
                if is_good {
                    done.lock().unwrap().push(n);
                }
                Ok(is_good)
            })
        });
        let (done, over) = (acknowledged.clone(), stop.clone());
        let reader = thread::spawn(move || {
            until_over(&over, |n| {
                let Some(last) = done.lock().unwrap().last().copied() else { return Ok(true) };
                let Ok(read) = to_read[n % 3].try_call("GET", &format!("kv/{last}"), None) else { return Ok(false) };
                match read.status {
                    200 if read.at("/data/n") == last => Ok(true),
                    500 | 503 => Ok(false),
                    other => Err(format!("node {} answers {other} for {last}: {}", n % 3, read.text())),
                }
            })
        });
        Load { acknowledged, stop, writer, reader }
    }

    fn written(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Let them end: nobody was without an answer for long, nobody was told wrong, and all is there.
    fn end(self, nodes: &Nodes) {
        self.stop.store(true, Ordering::SeqCst);
        for (who, client) in [("writes", self.writer), ("reads", self.reader)] {
            let seen = client.join().expect("a client does not panic");
            assert!(seen.wrong.is_empty(), "{who}: {:#?}", seen.wrong);
            println!("{who}: the longest gap was {:?}", seen.longest);
            assert!(seen.longest < GAP, "{who} stopped for {:?}", seen.longest);
        }
        for n in self.acknowledged.lock().unwrap().iter() {
            assert_eq!(nodes.read(n % 3, &format!("kv/{n}")).at("/data/n"), *n, "written and acknowledged: {n}");
        }
    }
}

fn until_over(stop: &AtomicBool, mut ask: impl FnMut(usize) -> Result<bool, String>) -> Seen {
    let (mut seen, mut last) = (Seen::default(), Instant::now());
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        match ask(n) {
            Ok(true) => {
                seen.longest = seen.longest.max(last.elapsed());
                last = Instant::now();
            }
            Ok(false) => {}
            Err(wrong) => seen.wrong.push(wrong),
        }
        thread::sleep(Duration::from_millis(10));
    }
    seen.longest = seen.longest.max(last.elapsed());
    seen
}

/// What programs from a level on know: before all know it, it is refused.
fn known_from(level: u64) -> Vec<(&'static str, Value, u16)> {
    let key = |curve: &str| json!({"mechanism": "CKM_ECDSA", "curve": curve, "allow_generate_key": true});
    let all = [
        (
            level::OWN_SEALS,
            "sys/namespaces/own",
            json!({"seal": "seal \"shamir\" { shares = 1\n threshold = 1 }"}),
            200,
        ),
        (level::MANAGED_KEYS, "sys/managed-keys/software/app", key("P256"), 200),
        (level::MANAGED_KEYS, "sys/mounts/kv/tune", json!({"allowed_managed_keys": ["app"]}), 204),
        (level::P521, "sys/managed-keys/software/large", key("P521"), 200),
    ];
    all.into_iter().filter(|(from, ..)| *from > level).map(|(_, path, body, good)| (path, body, good)).collect()
}

/// A cluster of programs that know no more than `old`: all but one are changed to ours, all back, and all to ours.
fn is_rolled_from(old: u64) {
    let new = level::known();
    let programs = Programs(Rc::new(RefCell::new(vec![Some(old); 3])));
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(programs.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let load = Load::start(&nodes);
    until_shown(&nodes);
    // Up to the last: the level of all is the former one, whoever leads.
    change(&mut nodes, &programs, 0, None);
    change(&mut nodes, &programs, 1, None);
    until_shown(&nodes);
    assert_eq!(level(&nodes), old);
    nodes.change_lead();
    assert_eq!(level(&nodes), old);
    // What the earlier program would misread is refused until then.
    let known = known_from(old);
    for (path, body, _) in &known {
        let refused = nodes.ask(0, path, body.clone(), 503);
        let said = refused.text();
        assert!(said.contains("when all nodes of the cluster run a version that knows"), "{path}: {said}");
    }
    // All back, and forward again.
    for n in 0..2 {
        change(&mut nodes, &programs, n, Some(old));
    }
    until_shown(&nodes);
    assert_eq!(level(&nodes), old);
    for n in 0..3 {
        assert_eq!(level(&nodes), old);
        change(&mut nodes, &programs, n, None);
    }
    until(WITHIN, "the level that all know", || (level(&nodes) == new).then_some(()));
    until_shown(&nodes);
    for (path, body, good) in known {
        nodes.ask(0, path, body, good);
    }
    let before = load.written();
    until(WITHIN, "writes behind the rise", || (load.written() > before + 20).then_some(()));
    // Too late to go back: the program says so, and the others go on.
    nodes.stop(2);
    programs.0.borrow_mut()[2] = Some(old);
    nodes.launch(2);
    nodes.server(2).until_logged(&format!("knows up to {old}"));
    nodes.kill(2);
    programs.0.borrow_mut()[2] = None;
    nodes.start_again(2);
    nodes.until_all_vote();
    load.end(&nodes);
}

#[test]
fn a_cluster_is_rolled_to_a_later_program_and_back_under_load_until_all_know_the_level() {
    is_rolled_from(level::FIRST);
}

#[test]
fn a_cluster_is_rolled_from_the_level_before_and_back_under_load_until_all_know_the_level() {
    is_rolled_from(level::known() - 1);
}
