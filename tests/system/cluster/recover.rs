//! `operator raft recover`: nodes that cannot come back by themselves.

use serde_json::json;

use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

const KEYS: u32 = 40;

pub(super) fn recover(nodes: &Nodes, n: usize, args: &[&str]) -> Output {
    let mut recover = command(holdfast());
    recover.args(["operator", "raft", "recover"]).arg(format!("-path={}", nodes.stored(n).display())).args(args);
    run(&mut recover)
}

fn write(nodes: &Nodes) {
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    for n in 0..KEYS {
        nodes.put(n as usize % 3, &format!("kv/{n}"), json!({"n": n}));
    }
    // An answer means that a majority has it; here all shall.
    until(WITHIN, "followers that have everything", || {
        let state = nodes.root(nodes.until_led()).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?;
        let state = state.json();
        let servers = state["data"]["servers"].as_object()?;
        let first = servers.values().next()?["last_index"].clone();
        servers.values().all(|s| s["last_index"] == first).then_some(())
    });
}

fn all_is_there(nodes: &Nodes, through: &[usize]) {
    for n in 0..KEYS {
        for node in through {
            let reply = nodes.read(*node, &format!("kv/{n}"));
            assert_eq!(reply.at("/data/n"), n, "key {n} through node {node}");
        }
    }
}

#[test]
fn a_cluster_that_lost_two_of_three_for_good_comes_back_with_the_one_that_is_left() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    write(&nodes);
    let leader = nodes.until_led();
    // The leader is lost with its disk, another one without; the third is left.
    let (other, left) = ((leader + 1) % 3, (leader + 2) % 3);
    for n in 0..3 {
        nodes.kill(n);
    }
    nodes.lose_folder(leader);
    let said = recover(&nodes, left, &["-alone"]).bad(3);
    for part in ["What may be lost", "Never start", "-rejoin", "Nothing was done yet"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    // Nothing was done: it still waits for the others.
    nodes.launch(left);
    nodes.give_share(left);
    assert!(nodes.led_now().is_none());
    let in_use = recover(&nodes, left, &["-alone", "-yes"]).bad(2);
    assert!(in_use.contains("in use"), "{in_use}");
    nodes.kill(left);

    recover(&nodes, left, &["-alone", "-yes"]).good();
    nodes.start_again(left);
    assert_eq!(nodes.until_led(), left);
    all_is_there(&nodes, &[left]);
    nodes.put(left, "kv/new", json!({"n": 1}));

    recover(&nodes, other, &["-rejoin"]).bad(3);
    recover(&nodes, other, &["-rejoin", "-yes"]).good();
    nodes.start_again(other);
    nodes.start_again(leader);
    nodes.until_all_vote();
    all_is_there(&nodes, &[0, 1, 2]);
    nodes.read(leader, "kv/new");
    // As a whole cluster again it does without the one that was left.
    nodes.kill(left);
    assert_ne!(nodes.until_led(), left);
    nodes.put(other, "kv/newer", json!({"n": 1}));
}

/// Others count on what a voter has said that it has stored: an empty store must not pass for it.
#[test]
fn a_member_that_has_set_its_store_aside_is_let_in_when_it_was_removed() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    write(&nodes);
    let leader = nodes.until_led();
    let empty = (leader + 1) % 3;
    nodes.kill(empty);
    let said = recover(&nodes, empty, &["-rejoin"]).bad(3);
    assert!(said.contains("remove-peer"), "{said}");
    recover(&nodes, empty, &["-rejoin", "-yes"]).good();
    nodes.launch(empty);
    let share = json!({"key": nodes.share()});
    until(WITHIN, "a refusal that says what to do", || {
        let refused = nodes.client(empty).try_call("PUT", "sys/unseal", Some(&share)).ok()?;
        refused.text().contains("known by another key: remove it first").then_some(())
    });
    nodes.ask(leader, "sys/storage/raft/remove-peer", json!({"server_id": format!("n{empty}")}), 204);
    nodes.kill(empty);
    nodes.start_again(empty);
    nodes.until_all_vote();
    all_is_there(&nodes, &[0, 1, 2]);
    // What it says that it has stored counts again.
    nodes.kill(leader);
    assert_ne!(nodes.until_led(), leader);
    all_is_there(&nodes, &[empty]);
}

#[test]
fn nodes_that_all_have_new_addresses_find_each_other_when_each_was_told() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    write(&nodes);
    for n in 0..3 {
        nodes.kill(n);
    }
    nodes.move_all();
    // What will be done is said first, and not done.
    let said = recover(&nodes, 0, &[&format!("-address=n1=127.0.0.1:{}", nodes.member_port(1))]).bad(3);
    assert!(said.contains("n1") && said.contains("Nothing was done yet"), "{said}");
    assert!(!nodes.stored(0).join("node/addresses.json").exists());
    for n in 0..3 {
        let others = (0..3).filter(|other| *other != n);
        let addresses: Vec<String> =
            others.map(|other| format!("-address=n{other}=127.0.0.1:{}", nodes.member_port(other))).collect();
        let args: Vec<&str> = addresses.iter().map(String::as_str).chain(["-yes"]).collect();
        recover(&nodes, n, &args).good();
    }
    nodes.start_all_again();
    nodes.until_led();
    all_is_there(&nodes, &[0, 1, 2]);
    // The members' list says so too, and what was told counts no longer.
    until(WITHIN, "the new addresses in the members' list", || {
        let members = nodes.root(0).try_call("GET", "sys/storage/raft/configuration", None).ok()?.json();
        let servers = members["data"]["config"]["servers"].as_array()?.clone();
        let moved = |n: usize| servers.iter().any(|s| s["address"] == format!("127.0.0.1:{}", nodes.member_port(n)));
        (0..3).all(moved).then_some(())
    });
    until(WITHIN, "files that are gone", || {
        (0..3).all(|n| !nodes.stored(n).join("node/addresses.json").exists()).then_some(())
    });
}

/// F064, word for word: two of three addresses change while all are stopped. The third is where it was, so that the
/// others find it, and tell it where they are: nobody has to do anything.
#[test]
fn nodes_of_which_two_have_new_addresses_find_each_other_by_themselves() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    write(&nodes);
    for stays in [0, 1] {
        for n in 0..3 {
            nodes.kill(n);
        }
        (0..3).filter(|n| *n != stays).for_each(|n| nodes.move_to_new_ports(n));
        nodes.start_all_again();
        nodes.until_led();
        all_is_there(&nodes, &[0, 1, 2]);
        until(WITHIN, "the new addresses in the members' list", || {
            let members = nodes.root(stays).try_call("GET", "sys/storage/raft/configuration", None).ok()?.json();
            let servers = members["data"]["config"]["servers"].as_array()?.clone();
            let is_at =
                |n: usize| servers.iter().any(|s| s["address"] == format!("127.0.0.1:{}", nodes.member_port(n)));
            (0..3).all(is_at).then_some(())
        });
    }
    // The two that moved are a majority without the one that stayed.
    nodes.kill(1);
    let led = until(WITHIN, "a leader", || nodes.led_now());
    nodes.put(led, "kv/new", json!({"n": 1}));
}

#[test]
fn what_is_no_members_folder_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("-path={}", folder.path().display());
    for args in [&["-alone", "-yes"][..], &["-rejoin", "-yes"], &["-address=n1=127.0.0.1:1", "-yes"]] {
        run(command(holdfast()).args(["operator", "raft", "recover"]).arg(&path).args(args)).bad(2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?}");
    }
    for args in [&["-alone", "-rejoin"][..], &[], &["-address=n1"], &["-alone", "-what"]] {
        run(command(holdfast()).args(["operator", "raft", "recover"]).arg(&path).args(args)).bad(2);
    }
}
