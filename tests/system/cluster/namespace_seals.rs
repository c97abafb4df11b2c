//! Namespaces with a seal of their own on three nodes: whoever takes the lead has their keys, unless they were sealed.

use serde_json::{Value, json};

use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

const SEAL: &str = "seal \"shamir\" { shares = 2\n threshold = 2 }";

fn is_sealed(nodes: &Nodes, n: usize) -> bool {
    nodes.read(n, "sys/namespaces/team/seal-status").at("/data/sealed") == true
}

fn unseal(nodes: &Nodes, shares: &[Value]) {
    until(WITHIN, "an unsealed namespace", || {
        let root = nodes.root(nodes.led_now()?);
        for share in shares {
            let body = json!({ "key": share });
            root.try_call("PUT", "sys/namespaces/team/unseal", Some(&body)).ok().filter(|r| r.status == 200)?;
        }
        let status = root.try_call("GET", "sys/namespaces/team/seal-status", None).ok()?;
        (status.status == 200 && status.at("/data/sealed") == false).then_some(())
    });
}

/// Replace the shares of the namespace, whoever is active: the new ones.
fn new_shares(nodes: &Nodes, present: &[Value]) -> Vec<Value> {
    let asked = json!({"secret_shares": 2, "secret_threshold": 2});
    until(WITHIN, "new shares", || {
        let root = nodes.root(nodes.led_now()?);
        let call = |path: &str, body: &Value| root.try_call("PUT", path, Some(body)).ok();
        root.try_call("DELETE", "team/sys/rotate/root/init", None).ok()?;
        let begun = call("team/sys/rotate/root/init", &asked).filter(|r| r.status == 200)?;
        let mut keys = None;
        for share in present {
            let body = json!({"key": share, "nonce": begun.at("/data/nonce")});
            keys = call("team/sys/rotate/root/update", &body)?.json()["data"]["keys_base64"].as_array().cloned();
        }
        keys
    })
}

/// What a node that asks for it gets, whoever is active.
fn until_status(nodes: &Nodes, n: usize, path: &str, wanted: u16) {
    let root = nodes.root(n);
    until(WITHIN, path, || root.try_call("GET", path, None).ok().filter(|r| r.status == wanted));
}

#[test]
fn who_takes_the_lead_goes_on_with_an_unsealed_namespace_and_not_with_a_sealed_one() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    let made = nodes.ask(0, "sys/namespaces/team", json!({ "seal": SEAL }), 200).json();
    let shares = made["data"]["key_shares"].as_array().unwrap().clone();
    assert!(is_sealed(&nodes, 1));
    unseal(&nodes, &shares);
    nodes.put(0, "team/sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "team/kv/a", json!({"v": 1}));
    // New shares come before the lead changes: whoever takes it has the key that they make.
    let shares = new_shares(&nodes, &shares);

    // Handed over, it stays open, once the others have heard the keys: on a busy machine that may take a while.
    until(WITHIN, "somebody takes the lead and has the keys", || {
        nodes.change_lead();
        let read = nodes.root(nodes.led_now()?).try_call("GET", "team/kv/a", None).ok()?;
        if read.text().contains("namespace is sealed") {
            unseal(&nodes, &shares);
        }
        (read.status == 200 && read.at("/data/v") == 1).then_some(())
    });
    let leader = nodes.until_led();
    nodes.kill(leader);
    let other = (leader + 1) % 3;
    until(WITHIN, "what was written before the kill", || {
        let read = nodes.root(other).try_call("GET", "team/kv/a", None).ok()?;
        if read.text().contains("namespace is sealed") {
            unseal(&nodes, &shares);
        }
        (read.status == 200 && read.at("/data/v") == 1).then_some(())
    });
    nodes.put(other, "team/kv/b", json!({"v": 2}));
    nodes.start_again(leader);
    nodes.until_all_vote();

    // Sealed, it is so on every node, whoever leads.
    nodes.put(0, "sys/namespaces/team/seal", json!({}));
    for _ in 0..2 {
        assert!(is_sealed(&nodes, 0));
        until_status(&nodes, 0, "team/kv/a", 503);
        nodes.change_lead();
    }
    unseal(&nodes, &shares);
    assert_eq!(nodes.read(0, "team/kv/b").at("/data/v"), 2);

    // Nobody kept the keys where all were down.
    for n in 0..3 {
        nodes.kill(n);
    }
    nodes.start_all_again();
    nodes.until_led();
    assert!(is_sealed(&nodes, 0));
    until_status(&nodes, 1, "team/kv/a", 503);
    unseal(&nodes, &shares);
    assert_eq!(nodes.read(2, "team/kv/a").at("/data/v"), 1);
}
