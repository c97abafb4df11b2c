//! Keys that are changed while nodes stand by.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

#[test]
fn nodes_that_stand_by_have_the_new_keys_and_take_over_without_a_hand() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    nodes.new_share();
    nodes.put(0, "kv/b", json!({"v": 2}));
    for _ in 0..3 {
        nodes.change_lead();
        for n in 0..3 {
            assert_eq!(nodes.read(n, "kv/b").at("/data/v"), 2, "node {n}");
        }
    }
    for n in 0..3 {
        assert!(!until(WITHIN, "its seal", || nodes.is_sealed(n)), "node {n}");
    }
    // From the start on it is the new share that counts.
    let leader = nodes.until_led();
    nodes.kill(leader);
    nodes.start_again(leader);
    assert_eq!(nodes.read(leader, "kv/a").at("/data/v"), 1);
}

#[test]
fn a_node_that_was_away_when_the_keys_were_changed_asks_for_the_new_shares() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let away = (nodes.until_led() + 1) % 3;
    nodes.server(away).signal(Signal::STOP);
    nodes.new_share();
    nodes.put((away + 1) % 3, "kv/a", json!({"v": 1}));
    nodes.server(away).signal(Signal::CONT);
    // What it was told while it slept may lie before it when it wakes: then it has the keys and goes on. Otherwise its
    // keys are the former ones, and it is sealed.
    let begun = Instant::now();
    while nodes.is_sealed(away) != Some(true) && begun.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(100));
    }
    if nodes.is_sealed(away) == Some(true) {
        nodes.give_share(away);
        until(WITHIN, "the new share opens it", || nodes.is_sealed(away).filter(|s| !s));
    }
    assert_eq!(nodes.read(away, "kv/a").at("/data/v"), 1);
    // Whoever leads reads by its own keys.
    for _ in 0..20 {
        if nodes.until_led() == away {
            break;
        }
        nodes.change_lead();
    }
    assert_eq!(nodes.until_led(), away);
    assert_eq!(nodes.read(away, "kv/a").at("/data/v"), 1);
}
