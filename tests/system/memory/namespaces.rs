//! After a namespace with a seal of its own is sealed, neither its keys nor what it kept is in memory.

use holdfast_tests::{Running, Setup};
use serde_json::json;

use super::scan::Memory;
use super::sealed::keys_in_use;
use crate::needles::{Search, forms};

fn random() -> String {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).expect("randomness");
    hex::encode(bytes)
}

#[test]
fn after_a_namespace_is_sealed_nothing_of_it_is_left_in_memory() {
    let running = Running::start(Setup::shamir().without_tls());
    let root = running.root.with_token(running.root.token());
    let pid = running.server.pid();
    let before = keys_in_use(pid);
    let seal = "seal \"shamir\" { shares = 2\n threshold = 2 }";
    let made = root.post("sys/namespaces/team", json!({ "seal": seal })).expect(200).json();
    let shares: Vec<String> =
        made["data"]["key_shares"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect();
    for share in &shares {
        root.post("sys/namespaces/team/unseal", json!({ "key": share })).expect(200);
    }
    root.post("team/sys/mounts/kv", json!({"type": "kv"})).expect(204);
    let mut needles = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let root = running.root.with_token(running.root.token());
                scope.spawn(move || {
                    let mut known = Vec::new();
                    for i in 0..20 {
                        let (name, value) = (format!("name-{}", random()), format!("value-{}", random()));
                        root.post(&format!("team/kv/{name}"), json!({ "v": value })).expect(204);
                        root.get(&format!("team/kv/{name}")).expect(200);
                        root.list("team/kv").expect(200);
                        let made = root.post("team/auth/token/create", json!({"policies": ["default"]})).expect(200);
                        let token = made.text_at("/auth/client_token").to_owned();
                        root.with_token(&token).get("team/auth/token/lookup-self").expect(200);
                        known.extend([
                            (format!("name {worker}/{i}"), name),
                            (format!("value {worker}/{i}"), value),
                            (format!("token {worker}/{i}"), token),
                        ]);
                    }
                    known
                })
            })
            .collect();
        for worker in workers {
            for (name, secret) in worker.join().expect("no panic") {
                needles.extend(forms(&name, secret.as_bytes()));
            }
        }
    });
    for (i, share) in shares.iter().enumerate() {
        needles.extend(forms(&format!("share {i}"), &hex::decode(share).expect("hex")));
    }
    let keys: Vec<Vec<u8>> = keys_in_use(pid).into_iter().filter(|key| !before.contains(key)).collect();
    assert!(keys.len() >= 2, "the namespace's keys are nowhere: {}", keys.len());
    for (i, key) in keys.iter().enumerate() {
        needles.extend(forms(&format!("key {i} of the namespace"), key));
    }
    let search = Search::new(needles);
    assert!(!Memory::of(pid).search(&search).0.is_empty(), "the search finds nothing in a server at work");
    root.post("sys/namespaces/team/seal", json!({})).expect(204);
    drop(root);
    // Connections that are idle end a moment later.
    let mut found = Vec::new();
    for _ in 0..60 {
        (found, _) = Memory::of(pid).search(&search);
        if found.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let shown = found.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(found.is_empty(), "{} places, the first of them:\n{shown}", found.len());
    // It is the same server, and opens again.
    let root = running.root.with_token(running.root.token());
    for share in &shares {
        root.post("sys/namespaces/team/unseal", json!({ "key": share })).expect(200);
    }
    root.list("team/kv").expect(200);
}
