//! Programs of two feature levels in one cluster, which are changed node by node while clients write.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::until;

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

const OLD: u64 = 1;

pub(super) fn level(nodes: &Nodes) -> u64 {
    let shown = until(WITHIN, "metrics of the active node", || {
        let leader = nodes.led_now()?;
        nodes.root(leader).try_call("GET", "sys/metrics?format=prometheus", None).ok().filter(|r| r.status == 200)
    });
    let text = shown.text();
    let line = text.lines().find_map(|l| l.strip_prefix("holdfast_feature_level ")).expect("a level");
    line.parse().expect("a number")
}

/// Start a node with another program.
fn change(nodes: &mut Nodes, programs: &Programs, n: usize, level: Option<u64>) {
    programs.0.borrow_mut()[n] = level;
    nodes.kill(n);
    nodes.start_again(n);
    nodes.until_all_vote();
}

#[test]
fn a_cluster_is_rolled_to_a_later_program_and_back_under_load_until_all_know_the_level() {
    let programs = Programs(Rc::new(RefCell::new(vec![Some(OLD); 3])));
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(programs.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (clients, acknowledged, stop) = (nodes.roots(), acknowledged.clone(), stop.clone());
        thread::spawn(move || {
            for n in 0_usize.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let written = clients[n % 3].try_call("POST", &format!("kv/{n}"), Some(&json!({"n": n})));
                if written.is_ok_and(|r| r.status == 204) {
                    acknowledged.lock().unwrap().push(n);
                }
                thread::sleep(Duration::from_millis(10));
            }
        })
    };
    // Two of three, and one of them back: the level of all is the former one, whoever leads.
    change(&mut nodes, &programs, 0, None);
    change(&mut nodes, &programs, 1, None);
    assert_eq!(level(&nodes), OLD);
    nodes.change_lead();
    assert_eq!(level(&nodes), OLD);
    change(&mut nodes, &programs, 0, Some(OLD));
    assert_eq!(level(&nodes), OLD);
    change(&mut nodes, &programs, 0, None);
    assert_eq!(level(&nodes), OLD);
    // What the earlier program would misread is refused until then.
    let own_seal = json!({"seal": "seal \"shamir\" { shares = 1\n threshold = 1 }"});
    let refused = nodes.ask(0, "sys/namespaces/own", own_seal.clone(), 503);
    assert!(
        refused.text().contains("when all nodes of the cluster run a version that knows them"),
        "{}",
        refused.text()
    );
    let key = json!({"mechanism": "CKM_ECDSA", "curve": "P256", "allow_generate_key": true});
    nodes.ask(0, "sys/managed-keys/software/app", key.clone(), 503);
    nodes.ask(0, "sys/mounts/kv/tune", json!({"allowed_managed_keys": ["app"]}), 503);
    change(&mut nodes, &programs, 2, None);
    until(WITHIN, "the level that all know", || (level(&nodes) > OLD).then_some(()));
    nodes.ask(0, "sys/namespaces/own", own_seal, 200);
    nodes.ask(0, "sys/managed-keys/software/app", key, 200);
    nodes.ask(0, "sys/mounts/kv/tune", json!({"allowed_managed_keys": ["app"]}), 204);
    let before = acknowledged.lock().unwrap().len();
    until(WITHIN, "writes behind the rise", || (acknowledged.lock().unwrap().len() > before + 20).then_some(()));
    // Too late to go back: the program says so, and the others go on.
    nodes.kill(2);
    programs.0.borrow_mut()[2] = Some(OLD);
    nodes.launch(2);
    nodes.server(2).until_logged("knows up to 1");
    nodes.kill(2);
    change(&mut nodes, &programs, 2, None);
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    for n in acknowledged.lock().unwrap().iter() {
        assert_eq!(nodes.read(n % 3, &format!("kv/{n}")).at("/data/n"), *n, "written and acknowledged: {n}");
    }
}
