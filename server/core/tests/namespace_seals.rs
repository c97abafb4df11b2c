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

/// Begin new shares in `s`, and give the present ones: what came out.
async fn new_shares(server: &Server, asked: Value, present: &[String]) -> Value {
    let begun = server.write("s/sys/rotate/root/init", asked).await.expect(200);
    assert_eq!((&begun["data"]["required"], &begun["data"]["progress"]), (&json!(2), &json!(0)));
    let nonce = &begun["data"]["nonce"];
    let mut given = Value::Null;
    for share in present {
        given = server.write("s/sys/rotate/root/update", json!({"key": share, "nonce": nonce})).await.expect(200);
    }
    assert_eq!(given["data"]["complete"], true, "{given}");
    given["data"].clone()
}

fn shares_of(made: &Value) -> Vec<String> {
    made["keys_base64"].as_array().unwrap().iter().map(|k| k.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_holders_make_new_shares_and_the_old_ones_open_it_no_more() {
    let server = server().await;
    let shares = house(&server, "seal-shares").await;
    let others = sealable(&server, "sys/namespaces/t").await;
    let update = "s/sys/rotate/root/update";
    let none = server.read("s/sys/rotate/root/init").await.expect(200);
    assert_eq!(none["data"], json!({"n": 0, "required": 2, "started": false, "t": 0}));
    // The store's own acts go on beside those of a namespace.
    server.write("sys/rotate/root/init", json!({"secret_shares": 1, "secret_threshold": 1})).await.expect(200);
    let asked = json!({"secret_shares": 3, "secret_threshold": 2, "require_verification": true});
    let begun = server.write("s/sys/rotate/root/init", asked.clone()).await.expect(200);
    let again = server.write("s/sys/rotate/root/init", asked.clone()).await.expect(400);
    assert_eq!(again["errors"], json!(["rotation already in progress"]));
    let nonce = &begun["data"]["nonce"];
    server.write(update, json!({"key": shares[0], "nonce": "other"})).await.expect(400);
    server.write(update, json!({"key": shares[0], "nonce": nonce})).await.expect(200);
    server.write(update, json!({"key": shares[0], "nonce": nonce})).await.expect(400);
    // A share of another namespace does not make its key, nor does one of the store.
    server.write(update, json!({"key": others[0], "nonce": nonce})).await.expect(400);
    server.delete("s/sys/rotate/root/init").await.expect(204);

    let made = new_shares(&server, asked, &shares).await;
    let fresh = shares_of(&made);
    assert_eq!(fresh.len(), 3);
    // Until they were given back the old ones count.
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    unseal(&server, "sys/namespaces/s", &shares).await;
    server.read("s/sys/rotate/root/verify").await.expect(400);
    let asked = json!({"secret_shares": 3, "secret_threshold": 2, "require_verification": true});
    let made = new_shares(&server, asked, &shares).await;
    let fresh = shares_of(&made);
    let verify = |share: String| json!({"key": share, "nonce": made["verification_nonce"]});
    server.write("s/sys/rotate/root/verify", verify(fresh[2].clone())).await.expect(200);
    let done = server.write("s/sys/rotate/root/verify", verify(fresh[0].clone())).await.expect(200);
    assert_eq!(done["data"]["complete"], true);
    assert_eq!(server.read("s/kv/x").await.expect(200)["data"]["k"], "v");
    // A new term is sealed under the new root key.
    server.write("s/sys/rotate/keyring", json!({})).await.expect(204);
    server.write("s/kv/y", json!({"k": "w"})).await.expect(204);

    let status = server.read("sys/namespaces/s/seal-status").await.expect(200);
    assert_eq!((&status["data"]["n"], &status["data"]["t"]), (&json!(3), &json!(2)));
    server.seal_and_unseal().await;
    server.write("sys/namespaces/s/unseal", json!({"key": shares[0]})).await.expect(200);
    let refused = server.write("sys/namespaces/s/unseal", json!({"key": shares[1]})).await.expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("do not open the namespace"), "{refused}");
    assert_eq!(unseal(&server, "sys/namespaces/s", &fresh[1..]).await["sealed"], false);
    assert_eq!(server.read("s/kv/x").await.expect(200)["data"]["k"], "v");
    assert_eq!(server.read("s/kv/y").await.expect(200)["data"]["k"], "w");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_key_of_it_leaves_its_shares_and_other_namespaces_have_none() {
    let server = server().await;
    let shares = house(&server, "seal-root-key").await;
    server.write("sys/namespaces/plain", json!({})).await.expect(200);
    server.write("s/sys/namespaces/inner", json!({})).await.expect(200);
    server.write("s/sys/rotate/root", json!({})).await.expect(204);
    server.write("s/sys/rotate/config", json!({"interval": "24h", "max_operations": 2_000_000})).await.expect(204);
    let config = json!({"enabled": true, "interval": "24h0m0s", "max_operations": 2_000_000});
    assert_eq!(server.read("s/sys/rotate/keyring/config").await.expect(200)["data"], config);
    assert_eq!(server.read("sys/rotate/config").await.expect(200)["data"]["interval"], 0);
    server.seal_and_unseal().await;
    unseal(&server, "sys/namespaces/s", &shares).await;
    assert_eq!(server.read("s/kv/x").await.expect(200)["data"]["k"], "v");
    assert_eq!(server.read("s/sys/rotate/config").await.expect(200)["data"], config);
    for inside in ["plain", "s/inner"] {
        for (write, path) in [
            (false, "rotate/root/init"),
            (false, "rotate/config"),
            (true, "rotate/config"),
            (true, "rotate/root"),
            (true, "rotate/keyring"),
            (false, "key-status"),
            (false, "generate-root-token/attempt"),
            (true, "generate-root-token/attempt"),
            (true, "rotate/root/init"),
        ] {
            let path = format!("{inside}/sys/{path}");
            let reply = match write {
                true => server.write(&path, json!({"secret_shares": 1, "secret_threshold": 1})).await,
                false => server.read(&path).await,
            };
            assert_eq!(reply.expect(400)["errors"], json!(["namespace is not sealable"]), "{path}");
        }
    }
    let recovery = server.write("s/sys/rotate/recovery/init", json!({"secret_shares": 1, "secret_threshold": 1})).await;
    assert_eq!(recovery.expect(400)["errors"], json!(["recovery keys not supported"]));
    server.read("s/sys/rekey/backup").await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_holders_make_a_token_that_is_root_in_it_alone() {
    let server = server().await;
    let shares = house(&server, "seal-root-token").await;
    server.write("s/sys/namespaces/inner", json!({})).await.expect(200);
    let attempt = "s/sys/generate-root-token/attempt";
    let begun = server.write(attempt, json!({})).await.expect(200)["data"].clone();
    let otp = begun["otp"].as_str().unwrap().to_owned();
    assert_eq!(begun["otp_length"], otp.len());
    assert_eq!(server.read("sys/generate-root-token/attempt").await.expect(200)["data"]["started"], false);
    let mut given = Value::Null;
    for share in &shares {
        let body = json!({"key": share, "nonce": begun["nonce"]});
        given = server.write("s/sys/generate-root-token/update", body).await.expect(200)["data"].clone();
    }
    assert_eq!(given["complete"], true);
    let decoded = json!({"encoded_token": given["encoded_token"], "otp": otp});
    let token = server.write("sys/decode-token", decoded).await.expect(200)["data"]["token"].clone();
    let token = token.as_str().unwrap();
    let ask = |path: &'static str| server.ask(token, Operation::Read, path, Value::Null);
    let own = ask("s/auth/token/lookup-self").await.expect(200);
    assert_eq!((&own["data"]["policies"], &own["data"]["ttl"]), (&json!(["root"]), &json!(0)));
    assert_eq!(own["data"]["namespace_path"], "s/");
    for path in ["s/kv/x", "s/sys/mounts", "s/inner/sys/mounts", "s/sys/key-status"] {
        ask(path).await.expect(200);
    }
    for path in ["sys/mounts", "sys/namespaces/s", "sys/key-status"] {
        ask(path).await.expect(403);
    }
    // It ends with its namespace's keys.
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    ask("s/kv/x").await.expect(503);
    // What was under way is given up.
    unseal(&server, "sys/namespaces/s", &shares).await;
    server.write(attempt, json!({})).await.expect(200);
    server.write("sys/namespaces/s/seal", json!({})).await.expect(204);
    unseal(&server, "sys/namespaces/s", &shares).await;
    assert_eq!(server.read(attempt).await.expect(200)["data"]["started"], false);
}
