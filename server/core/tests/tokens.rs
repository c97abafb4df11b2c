//! Tokens of every kind: what they may be, and when they end.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use holdfast_sdk::Operation;
use serde_json::{Value, json};
use support::Server;

#[tokio::test]
async fn a_batch_token_lives_without_being_stored() {
    let server = Server::start().await;
    let parent = server.token(&server.root, "auth/token/create", json!({"policies": ["default"]})).await;
    let create = json!({"type": "batch", "policies": ["default"], "ttl": "1h"});
    let orphan = server.token(&server.root, "auth/token/create-orphan", create).await;
    assert!(orphan.starts_with("hvb."), "{orphan}");
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    server.write("sys/policies/acl/maker", json!({"policy": policy})).await.expect(204);
    let maker = server.token(&server.root, "auth/token/create", json!({"policies": ["maker"]})).await;
    let child = server.token(&maker, "auth/token/create", json!({"type": "batch"})).await;
    assert!(server.is_good(&orphan).await && server.is_good(&child).await && server.is_good(&parent).await);
    assert_eq!(server.list("auth/token/accessors").await.expect(200)["data"]["keys"].as_array().unwrap().len(), 3);

    // It outlives a restart and a new data key, and ends with its parent.
    server.seal_and_unseal().await;
    server.write("sys/rotate", json!({})).await.expect(204);
    assert!(server.is_good(&orphan).await && server.is_good(&child).await);
    server.write("auth/token/revoke", json!({"token": maker})).await.expect(204);
    assert!(server.is_good(&orphan).await && !server.is_good(&child).await);
}

#[tokio::test]
async fn a_batch_token_that_was_changed_or_made_elsewhere_is_none() {
    let (server, other) = (Server::start().await, Server::start().await);
    let create = json!({"type": "batch", "policies": ["default"]});
    let token = server.token(&server.root, "auth/token/create-orphan", create.clone()).await;
    assert!(server.is_good(&token).await);
    assert!(!other.is_good(&token).await);
    for at in (4..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(!server.is_good(std::str::from_utf8(&changed).unwrap()).await, "byte {at}");
    }
    for text in ["hvb.", "hvb.AAAA", "hvb.!", &token[..token.len() - 1], &format!("{token}A"), &token[4..]] {
        assert!(!server.is_good(text).await, "{text}");
    }
    assert!(!server.is_good(&format!("hvb.{}", "A".repeat(1_000_000))).await);
}

#[tokio::test]
async fn a_batch_token_does_nothing_that_needs_a_stored_one() {
    let server = Server::start().await;
    let policy = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }"#;
    server.write("sys/policies/acl/all", json!({"policy": policy})).await.expect(204);
    let token = server.token(&server.root, "auth/token/create", json!({"type": "batch", "policies": ["all"]})).await;
    for (operation, path) in [
        (Operation::Update, "auth/token/create"),
        (Operation::Update, "auth/token/create-orphan"),
        (Operation::Update, "auth/token/renew-self"),
        (Operation::Update, "auth/token/revoke-self"),
        (Operation::Read, "cubbyhole/x"),
        (Operation::Update, "cubbyhole/x"),
    ] {
        let reply = server.ask(&token, operation, path, json!({"a": "b"})).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
    }
    for path in ["renew", "revoke", "revoke-orphan"] {
        let reply = server.write(&format!("auth/token/{path}"), json!({"token": token})).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
    }
    assert!(server.is_good(&token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_many_children_leaves_them_behind() {
    const MANY: usize = 300;
    let server = Server::start().await;
    let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    server.write("sys/policies/acl/maker", json!({"policy": policy})).await.expect(204);
    let create = json!({"policies": ["maker", "default"]});
    let grandparent = server.token(&server.root, "auth/token/create", create.clone()).await;
    let parent = server.token(&grandparent, "auth/token/create", create).await;
    let mut children = Vec::new();
    for _ in 0..MANY {
        children.push(server.token(&parent, "auth/token/create", json!({})).await);
    }
    server.write("auth/token/revoke-orphan", json!({"token": parent})).await.expect(204);
    assert!(!server.is_good(&parent).await);
    server.write("auth/token/revoke-orphan", json!({"token": parent})).await.expect(400);
    // At once, and while the job may still run, the children do not depend on anybody.
    server.write("auth/token/revoke", json!({"token": grandparent})).await.expect(204);
    for child in &children {
        assert!(server.is_good(child).await);
    }
    server.until_no_jobs().await;
    server.seal_and_unseal().await;
    for child in &children {
        let shown = server.write("auth/token/lookup", json!({"token": child})).await.expect(200);
        assert_eq!(shown["data"]["orphan"], true);
    }
}

#[tokio::test]
async fn a_token_is_good_only_in_its_networks() {
    let server = Server::start().await;
    let role =
        json!({"token_bound_cidrs": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"], "allowed_policies": "default"});
    server.write("auth/token/roles/r", role).await.expect(204);
    let mut tokens = Vec::new();
    for kind in ["service", "batch"] {
        let token = server.token(&server.root, "auth/token/create/r", json!({"type": kind})).await;
        for (address, good) in [
            ("10.1.2.3:5000", true),
            ("192.0.2.7:1", true),
            ("192.0.2.8:1", false),
            ("[2001:db8::1]:9", true),
            ("[::ffff:10.9.9.9]:9", true),
            ("[::1]:9", false),
        ] {
            let remote = Some(address.parse().unwrap());
            let path = "auth/token/lookup-self";
            let reply = server.ask_from(remote, &token, Operation::Read, path, Value::Null).await;
            assert_eq!(reply.status, if good { 200 } else { 403 }, "{kind} {address}");
            // What needs no token does not take it for one either.
            let path = "sys/internal/ui/mounts";
            let reply = server.ask_from(remote, &token, Operation::Read, path, Value::Null).await;
            assert_eq!(reply.status, if good { 200 } else { 403 }, "{kind} {address}");
        }
        assert!(!server.is_good(&token).await, "without an address there is no network");
        tokens.push(token);
    }
}

#[tokio::test]
async fn a_role_binds_its_tokens_at_each_renewal() {
    let server = Server::start().await;
    let role = json!({"token_period": "1h", "allowed_policies": "default"});
    server.write("auth/token/roles/r", role).await.expect(204);
    let token = server.token(&server.root, "auth/token/create/r", json!({})).await;
    let renewed = || async { server.write("auth/token/renew", json!({"token": token})).await };
    assert_eq!(renewed().await.expect(200)["auth"]["lease_duration"], 3600);
    server.write("auth/token/roles/r", json!({"token_period": "30m"})).await.expect(204);
    assert_eq!(renewed().await.expect(200)["auth"]["lease_duration"], 1800);
    server.write("auth/token/roles/r", json!({"token_explicit_max_ttl": "10m"})).await.expect(204);
    let capped = renewed().await.expect(200)["auth"]["lease_duration"].as_u64().unwrap();
    assert!((590..=600).contains(&capped), "{capped}");
    server.delete("auth/token/roles/r").await.expect(204);
    renewed().await.expect(400);
    assert!(server.is_good(&token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tidy_leaves_what_is_good() {
    let server = Server::start().await;
    let mut good = Vec::new();
    for n in 0..600 {
        let ttl = if n % 3 == 0 { "1s" } else { "1h" };
        let create = json!({"policies": ["default"], "ttl": ttl, "num_uses": if n % 2 == 0 { 50 } else { 0 }});
        let token = server.token(&server.root, "auth/token/create", create).await;
        if n % 3 != 0 {
            good.push(token);
        }
    }
    for _ in 0..2 {
        server.write("auth/token/tidy", json!({})).await.expect(202);
    }
    server.until_no_jobs().await;
    for token in &good {
        assert!(server.is_good(token).await);
    }
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    server.write("auth/token/tidy", json!({})).await.expect(202);
    server.until_no_jobs().await;
    let left = server.list("auth/token/accessors").await.expect(200);
    assert_eq!(left["data"]["keys"].as_array().unwrap().len(), good.len() + 1);
}

/// A small generator: the same steps for the same seed.
struct Steps(u64);

impl Steps {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[derive(Default)]
struct Forest {
    /// Every token with its parent.
    made: Vec<(String, Option<usize>)>,
    /// Revoked with their trees.
    revoked: Vec<usize>,
}

/// Trees of tokens that grow and fall at the same time: in the end exactly those are good that were not
/// revoked and whose ancestors were not either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trees_end_whole_under_concurrent_creation_and_revocation() {
    for seed in 0..4 {
        let server = Arc::new(Server::start().await);
        let policy = r#"path "auth/token/create" { capabilities = ["update"] }"#;
        server.write("sys/policies/acl/maker", json!({"policy": policy})).await.expect(204);
        let forest: Arc<Mutex<Forest>> = Arc::default();
        for _ in 0..3 {
            let create = json!({"policies": ["maker", "default"]});
            let token = server.token(&server.root, "auth/token/create-orphan", create).await;
            forest.lock().unwrap().made.push((token, None));
        }
        let tasks: Vec<_> = (0..6)
            .map(|task| {
                let (server, forest) = (server.clone(), forest.clone());
                tokio::spawn(async move {
                    let mut steps = Steps(seed * 100 + task);
                    for _ in 0..80 {
                        let (at, token) = {
                            let made = &forest.lock().unwrap().made;
                            let at = steps.below(made.len());
                            (at, made[at].0.clone())
                        };
                        if steps.below(12) == 0 {
                            // The roots stay, so that there is always something to grow on.
                            if at >= 3 {
                                server.write("auth/token/revoke", json!({"token": token})).await.expect(204);
                                forest.lock().unwrap().revoked.push(at);
                            }
                            continue;
                        }
                        let reply = server.ask(&token, Operation::Update, "auth/token/create", json!({})).await;
                        match reply.status {
                            200 => {
                                let child = reply.body["auth"]["client_token"].as_str().unwrap().to_owned();
                                forest.lock().unwrap().made.push((child, Some(at)));
                            }
                            400 | 403 => {}
                            other => panic!("{other}: {}", reply.body),
                        }
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        server.until_no_jobs().await;
        let forest = std::mem::take(&mut *forest.lock().unwrap());
        let mut expected: HashMap<usize, bool> = HashMap::new();
        for (at, (token, parent)) in forest.made.iter().enumerate() {
            let good = !forest.revoked.contains(&at) && parent.is_none_or(|p| expected[&p]);
            expected.insert(at, good);
            assert_eq!(server.is_good(token).await, good, "seed {seed}, token {at}");
        }
        // Of the fallen ones nothing is left in the store.
        let left = server.list("auth/token/accessors").await.expect(200);
        let good = expected.values().filter(|g| **g).count();
        assert_eq!(left["data"]["keys"].as_array().unwrap().len(), good + 1, "seed {seed}");
    }
}
