//! Leadership is handed over while clients are at work.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use holdfast_tests::until;
use holdfast_tests::{Client, Reply};

use super::nodes::{Nodes, WITHIN};

const STEP_DOWNS: usize = 6;
/// As Vault's own clients wait before they ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Ask, and once more if there was no answer or one that says that it may be tried again.
fn ask(client: &Client, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<Reply, String> {
    let once = || match client.try_call(method, path, body) {
        Ok(reply) if reply.status < 500 => Ok(reply),
        Ok(reply) => Err(format!("{}: {}", reply.status, reply.text())),
        Err(e) => Err(e.to_string()),
    };
    once().or_else(|_| {
        thread::sleep(RETRY_AFTER);
        once()
    })
}

#[test]
fn a_client_that_tries_once_more_sees_no_error_while_leaders_step_down() {
    let nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let (stop, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..6)
        .map(|c| {
            let (client, stop, errors, done) = (nodes.root(c % 3), stop.clone(), errors.clone(), done.clone());
            thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let path = format!("kv/{c}-{n}");
                    let wrong = match ask(&client, "POST", &path, Some(&json!({"n": n}))) {
                        Ok(reply) if reply.status == 204 => match ask(&client, "GET", &path, None) {
                            Ok(reply) if reply.status == 200 && reply.at("/data/n") == n => None,
                            Ok(reply) => Some(format!("GET {path}: {}: {}", reply.status, reply.text())),
                            Err(e) => Some(format!("GET {path}: {e}")),
                        },
                        Ok(reply) => Some(format!("POST {path}: {}: {}", reply.status, reply.text())),
                        Err(e) => Some(format!("POST {path}: {e}")),
                    };
                    errors.lock().unwrap().extend(wrong);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let root = |n: usize| nodes.root(n);
    for _ in 0..STEP_DOWNS {
        let before = done.load(Ordering::SeqCst);
        let leader = nodes.until_led();
        root(leader).post("sys/step-down", json!({})).expect(204);
        until(WITHIN, "another leader", || nodes.led_now().filter(|now| *now != leader));
        until(WITHIN, "work behind the change", || (done.load(Ordering::SeqCst) > before + 12).then_some(()));
        // Who tries again after this change is not to meet the next one.
        thread::sleep(RETRY_AFTER + Duration::from_millis(500));
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("a client that does not panic");
    }
    let errors = errors.lock().unwrap();
    assert!(errors.is_empty(), "{} of {}: {errors:#?}", errors.len(), done.load(Ordering::SeqCst));
}

#[test]
fn members_take_turns_and_a_sealed_one_has_none() {
    fn next(nodes: &Nodes, leader: usize) -> usize {
        nodes.root(leader).post("sys/step-down", json!({})).expect(204);
        until(WITHIN, "another leader", || nodes.led_now().filter(|now| *now != leader))
    }
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    let first = nodes.until_led();
    let second = next(&nodes, first);
    let third = next(&nodes, second);
    assert_ne!(third, first, "it has just handed the lead over");
    // Each has led by now; the one whose turn is longest ago has it.
    assert_eq!(next(&nodes, third), first);

    nodes.kill(second);
    nodes.launch(second);
    until(WITHIN, "a sealed node that keeps up", || {
        nodes.is_sealed(second)?.then_some(())?;
        let state = nodes.root(first).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?.json();
        (state["data"]["servers"][format!("n{second}")]["healthy"] == true).then_some(())
    });
    assert_eq!(next(&nodes, first), third);
    assert_eq!(next(&nodes, third), first, "the other one is sealed");
}
