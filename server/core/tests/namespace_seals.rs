//! Namespaces with a seal of their own: nobody but the holders of their shares opens them, and what ends while they
//! are sealed ends when they are not.

mod support;

use std::sync::Arc;

use holdfast_core::EngineTable;
use holdfast_core::clock::SystemClocks;
use holdfast_sdk::{Operation, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::by_hand::ByHand;
use support::outside::World;
use support::{Server, core};

const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv), ("outside", support::outside::outside)], auth: &[], databases: &[] };

async fn server() -> Server {
    let store = Store::open_on(None, 1 << 20).unwrap();
    Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), Vec::new())).await
}

/// Make a namespace of two shares, which both are needed.
async fn sealable(server: &Server, at: &str) -> [String; 2] {
    let seal = "seal \"shamir\" { shares = 2\n threshold = 2 }";
    let made = server.write(at, json!({ "seal": seal })).await.expect(200);
    let share = |n: usize| made["data"]["key_shares"][n].as_str().unwrap().to_owned();
    [share(0), share(1)]
}

async fn unseal(server: &Server, at: &str, shares: &[String]) -> Value {
    let mut status = Value::Null;
    for share in shares {
        status = server.write(&format!("{at}/unseal"), json!({ "key": share })).await.expect(200);
    }
    status["data"].clone()
}

/// `s`, unsealed, with kv and what is made outside.
async fn house(server: &Server, world: &str) -> [String; 2] {
    let shares = sealable(server, "sys/namespaces/s").await;
    assert_eq!(unseal(server, "sys/namespaces/s", &shares).await["sealed"], false);
    server.write("s/sys/mounts/kv", json!({"type": "kv"})).await.expect(204);
    server.write("s/kv/x", json!({"k": "v"})).await.expect(204);
    let mount = json!({"type": "outside", "options": {"world": world}});
    server.write("s/sys/mounts/out", mount).await.expect(204);
    shares
}

#[tokio::test]
async fn it_starts_sealed_and_opens_with_its_shares_alone() {
    let server = server().await;
    let shares = sealable(&server, "sys/namespaces/s").await;
    let others = sealable(&server, "sys/namespaces/t").await;
    for path in ["s/sys/mounts", "s/nothing/x", "s/sys/namespaces"] {
        let refused = server.read(path).await.expect(503);
        assert_eq!(refused["errors"], json!(["namespace is sealed"]), "{path}");
    }
    assert_eq!(server.read("s/sys/config/cors").await.status, 400, "the root's alone");
    server.read("sys/namespaces/s").await.expect(200);
    let first = server.write("sys/namespaces/s/unseal", json!({"key": shares[1]})).await.expect(200);
    assert_eq!((&first["data"]["progress"], &first["data"]["sealed"]), (&json!(1), &json!(true)));
    let nonce = first["data"]["nonce"].clone();
    assert_ne!(nonce, "");
    let again = server.write("sys/namespaces/s/unseal", json!({"key": shares[1]})).await.expect(200);
    assert_eq!((&again["data"]["progress"], &again["data"]["nonce"]), (&json!(1), &nonce));
    // One of another's does not open it, and then all are asked for again.
    server.write("sys/namespaces/s/unseal", json!({"key": others[0]})).await.expect(400);
    let status = server.read("sys/namespaces/s/seal-status").await.expect(200);
    assert_eq!(
        status["data"],
        json!({"initialized": true, "n": 2, "nonce": "", "progress": 0, "sealed": true, "t": 2, "type": "shamir"})
    );
    assert_eq!(unseal(&server, "sys/namespaces/s", &shares).await["sealed"], false);
    server.read("s/sys/mounts").await.expect(200);
    server.read("t/sys/mounts").await.expect(503);
    // A reset forgets what was given.
    server.write("sys/namespaces/t/unseal", json!({"key": others[0]})).await.expect(200);
    let reset = server.write("sys/namespaces/t/unseal", json!({"reset": true})).await.expect(200);
    assert_eq!(reset["data"]["progress"], 0);
}

#[tokio::test]
async fn what_a_seal_may_be() {
    let server = server().await;
    server.write("sys/namespaces/plain", json!({})).await.expect(200);
    for (seal, why) in [
        ("", "seal config must contain exactly one seal stanza"),
        ("other \"x\" {}", "seal config must contain exactly one seal stanza"),
        ("seal \"other\" { shares = 1\n threshold = 1 }", "namespaces currently only support shamir seals"),
        ("seal \"shamir\" { }", "invalid seal config: shares must be at least one"),
        (
            "seal \"shamir\" { shares = 2\n threshold = 3 }",
            "invalid seal config: threshold cannot be larger than shares",
        ),
        ("seal \"shamir\" { shares = \"x\"\n threshold = 1 }", "value of shares parameter must be integer"),
    ] {
        let refused = server.write("sys/namespaces/s", json!({ "seal": seal })).await.expect(400);
        assert_eq!(refused["errors"], json!([why]), "{seal}");
    }
    let json_form = r#"{"seal":{"shamir":{"shares":"1","threshold":1}}}"#;
    let made = server.write("sys/namespaces/s", json!({ "seal": json_form })).await.expect(200);
    assert_eq!(made["data"]["key_shares"][0].as_str().unwrap().len(), 64);
    for name in ["s", "plain"] {
        let seal = "seal \"shamir\" { shares = 1\n threshold = 1 }";
        let refused = server.write(&format!("sys/namespaces/{name}"), json!({ "seal": seal })).await.expect(400);
        assert_eq!(refused["errors"], json!(["cannot modify existing namespace seal config"]));
    }
    // One that has none is neither sealed nor unsealed.
    server.write("sys/namespaces/plain/seal", json!({})).await.expect(204);
    server.read("plain/sys/mounts").await.expect(200);
    server.read("sys/namespaces/plain/seal-status").await.expect(400);
    server.write("sys/namespaces/plain/unseal", json!({"key": "00"})).await.expect(400);
    server.delete("sys/namespaces/plain/delete-sealed").await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_takes_its_tokens_and_its_children_along() {
    let server = server().await;
    let shares = house(&server, "seal-children").await;
    server.write("s/sys/namespaces/plain", json!({})).await.expect(200);
    let own = sealable(&server, "s/sys/namespaces/own").await;
    unseal(&server, "s/sys/namespaces/own", &own).await;
    for inside in ["s/plain/", "s/own/"] {
        server.write(&format!("{inside}sys/mounts/kv"), json!({"type": "kv"})).await.expect(204);
        server.write(&format!("{inside}kv/a"), json!({"in": inside})).await.expect(204);
    }
    let token = server.token(&server.root, "s/auth/token/create", json!({"policies": ["default"]})).await;
    let batch =
        server.token(&server.root, "s/auth/token/create", json!({"type": "batch", "policies": ["default"]})).await;
    let lookup = |token: String| {
        let server = &server;
        async move { server.ask(&token, Operation::Read, "s/auth/token/lookup-self", Value::Null).await.status }
    };
    assert_eq!((lookup(token.clone()).await, lookup(batch.clone()).await), (200, 200));
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    // Twice is once.
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    assert_eq!((lookup(token.clone()).await, lookup(batch.clone()).await), (503, 503));
    // Elsewhere it is no good either.
    assert_eq!(server.ask(&token, Operation::Read, "sys/mounts", Value::Null).await.status, 503);
    for path in ["s/kv/x", "s/plain/kv/a", "s/own/kv/a"] {
        server.read(path).await.expect(503);
    }
    server.read("sys/mounts").await.expect(200);
    unseal(&server, "sys/namespaces/s", &shares).await;
    assert_eq!((lookup(token).await, lookup(batch).await), (200, 200));
    assert_eq!(server.read("s/kv/x").await.expect(200)["data"]["k"], "v");
    assert_eq!(server.read("s/plain/kv/a").await.expect(200)["data"]["in"], "s/plain/");
    // One with a seal of its own is opened with its own.
    server.read("s/own/kv/a").await.expect(503);
    unseal(&server, "s/sys/namespaces/own", &own).await;
    assert_eq!(server.read("s/own/kv/a").await.expect(200)["data"]["in"], "s/own/");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_seals_it() {
    let server = server().await;
    let shares = house(&server, "seal-restart").await;
    server.seal_and_unseal().await;
    server.read("s/kv/x").await.expect(503);
    assert_eq!(server.read("sys/namespaces/s/seal-status").await.expect(200)["data"]["sealed"], true);
    unseal(&server, "sys/namespaces/s", &shares).await;
    assert_eq!(server.read("s/kv/x").await.expect(200)["data"]["k"], "v");
    // The root's keyring has a new term, and the namespace stays open.
    server.write("sys/rotate/keyring", json!({})).await.expect(204);
    server.write("s/kv/y", json!({"k": "w"})).await.expect(204);
    assert_eq!(server.read("s/kv/y").await.expect(200)["data"]["k"], "w");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_while_it_is_sealed_ends_when_it_is_unsealed() {
    let clocks = Arc::new(ByHand::default());
    let store = Store::open_on(None, 1 << 20).unwrap();
    let server = Server::initialise(core(store, ENGINES, clocks.clone(), Vec::new())).await;
    let shares = house(&server, "seal-due").await;
    let world = World::of("seal-due");
    let short = server.token(&server.root, "s/auth/token/create", json!({"ttl": "60s", "policies": ["default"]})).await;
    let parent = server.token(&server.root, "auth/token/create", json!({"policies": ["root"]})).await;
    let child = server.token(&parent, "s/auth/token/create", json!({"ttl": "10h", "policies": ["default"]})).await;
    let leased = |token: String, name: &'static str| {
        let server = &server;
        async move { server.ask(&token, Operation::Read, &format!("s/out/leased/{name}"), Value::Null).await.expect(200) }
    };
    // One ends with a token of the root, which is revoked while it is sealed; one with its time.
    leased(parent.clone(), "of-parent").await;
    leased(server.root.clone(), "of-root").await;
    assert_eq!(world.users().len(), 2);
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    server.write("auth/token/revoke", json!({"token": parent})).await.expect(204);
    clocks.pass(9 * 3600);
    // What else is due ends meanwhile: nothing in the sealed namespace holds it up.
    let other = server.token(&server.root, "auth/token/create", json!({"ttl": "60s"})).await;
    clocks.pass(120);
    let mut good = true;
    for _ in 0..600 {
        good = server.is_good(&other).await;
        if !good {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!good);
    assert_eq!(world.users().len(), 2, "nothing reaches what a sealed namespace has made");
    unseal(&server, "sys/namespaces/s", &shares).await;
    let lookup = |token: String| {
        let server = &server;
        async move { server.ask(&token, Operation::Read, "s/auth/token/lookup-self", Value::Null).await.status }
    };
    assert_eq!((lookup(short).await, lookup(child).await), (403, 403));
    for _ in 0..600 {
        if !world.users().contains(&"of-parent".to_owned()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!world.users().contains(&"of-parent".to_owned()), "{:?}", world.users());
    assert_eq!(server.read("s/kv/x").await.expect(200)["data"]["k"], "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_one_unread_says_what_stays_outside() {
    let server = server().await;
    let shares = house(&server, "seal-wipe").await;
    let world = World::of("seal-wipe");
    server.write("s/sys/namespaces/inner", json!({})).await.expect(200);
    for name in ["a", "b"] {
        server.read(&format!("s/out/leased/{name}")).await.expect(200);
    }
    server.delete("sys/namespaces/s/delete-sealed").await.expect(400);
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    server.delete("sys/namespaces/s").await.expect(503);
    // Not without sudo, and not with others in it unless it is said.
    let rule = r#"path "sys/namespaces/*" { capabilities = ["delete"] }"#;
    server.write("sys/policies/acl/del", json!({"policy": rule})).await.expect(204);
    let weak = server.token(&server.root, "auth/token/create", json!({"policies": ["del"]})).await;
    let path = "sys/namespaces/s/delete-sealed";
    server.ask(&weak, Operation::Delete, path, json!({"force": true})).await.expect(403);
    server.delete(path).await.expect(400);
    let wiped = server.ask(&server.root, Operation::Delete, path, json!({"force": true})).await.expect(200);
    assert_eq!(wiped["data"]["status"], "in-progress");
    let left = wiped["data"]["leases_left_outside"].as_object().unwrap();
    assert_eq!(left.values().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>(), [2]);
    assert_eq!(wiped["warnings"].as_array().unwrap().len(), 1);
    server.read("sys/namespaces/s").await.expect(404);
    server.until_no_jobs().await;
    assert_eq!(world.users().len(), 2);
    // Its name is free; the old shares open nothing of what comes there.
    let fresh = sealable(&server, "sys/namespaces/s").await;
    server.write("sys/namespaces/s/unseal", json!({"key": shares[0]})).await.expect(200);
    server.write("sys/namespaces/s/unseal", json!({"key": shares[1]})).await.expect(400);
    unseal(&server, "sys/namespaces/s", &fresh).await;
    server.read("s/kv/x").await.expect(404);
    server.delete("sys/namespaces/none/delete-sealed").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_deleted_while_it_is_open_leaves_nothing() {
    let server = server().await;
    let shares = house(&server, "seal-delete").await;
    let world = World::of("seal-delete");
    server.read("s/out/leased/a").await.expect(200);
    world.undo_fails(2);
    server.delete("sys/namespaces/s").await.expect(200);
    // Sealed on its way out, it is found by its name still, by who has its shares.
    server.seal_and_unseal().await;
    assert_eq!(world.users().len(), 1);
    assert_eq!(unseal(&server, "sys/namespaces/s", &shares).await["sealed"], false);
    server.until_no_jobs().await;
    assert!(world.users().is_empty());
    server.write("sys/namespaces/s/unseal", json!({"key": shares[0]})).await.expect(400);
}
