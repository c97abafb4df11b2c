//! Moves of mounts between namespaces: what they store is all there and nothing of it where it was, what they gave ends
//! first, nobody is served from either place meanwhile, and nobody reaches out of a namespace.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock::SystemClocks;
use holdfast_core::{EngineTable, MountEntry};
use holdfast_sdk::{Backend, Operation, Value};
use holdfast_storage::Store;
use holdfast_userpass::Userpass;
use serde_json::json;
use support::outside::World;
use support::{Reply, Server, core};

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}

const ENGINES: EngineTable = EngineTable {
    secrets: &[("kv", support::kv), ("outside", support::outside::outside)],
    auth: &[("userpass", userpass)],
    databases: &[],
};

/// With the namespaces `a`, `a/b` and `c`.
async fn house() -> Server {
    let store = Store::open_on(None, 1 << 20).unwrap();
    let server = Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), Vec::new())).await;
    for (above, name) in [("", "a"), ("a/", "b"), ("", "c")] {
        server.write(&format!("{above}sys/namespaces/{name}"), json!({})).await.expect(200);
    }
    server
}

async fn move_mount(server: &Server, within: &str, from: &str, to: &str) -> Reply {
    server.write(&format!("{within}sys/remount"), json!({"from": from, "to": to})).await
}

async fn state(server: &Server, within: &str, moved: &Value) -> Value {
    let id = moved["data"]["migration_id"].as_str().unwrap();
    let found = server.read(&format!("{within}sys/remount/status/{id}")).await.expect(200);
    found["data"]["migration_info"].clone()
}

/// Move a mount, and wait until it is there.
async fn moved(server: &Server, within: &str, from: &str, to: &str) {
    let begun = move_mount(server, within, from, to).await.expect(200);
    for _ in 0..1000 {
        let info = state(server, within, &begun).await;
        if info["status"] == "success" {
            assert_eq!((&info["source_mount"], &info["target_mount"]), (&json!(from), &json!(to)));
            return server.until_no_jobs().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{from} is not at {to}: {}", server.read("sys/jobs").await.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_kv_stores_is_there_and_nothing_where_it_was() {
    let server = house().await;
    server.write("a/sys/mounts/one", json!({"type": "kv"})).await.expect(204);
    server.write("a/sys/mounts/two", json!({"type": "kv", "options": {"version": "2"}})).await.expect(204);
    // More than a batch, in folders, with names of all kinds.
    let names: Vec<String> = (0..400).map(|n| format!("f{}/ü {n}/x", n % 7)).collect();
    for name in &names {
        server.write(&format!("a/one/{name}"), json!({"of": name})).await.expect(204);
    }
    for version in 1..=3 {
        for name in &names[..60] {
            server.write(&format!("a/two/data/{name}"), json!({"data": {"of": name, "v": version}})).await.expect(200);
        }
    }
    server.write("a/two/metadata/f1/m", json!({"custom_metadata": {"k": "v"}, "max_versions": 5})).await.expect(204);
    server.write("a/two/config", json!({"max_versions": 7})).await.expect(204);
    let accessor = server.read("a/sys/mounts/two").await.expect(200)["data"]["accessor"].clone();

    moved(&server, "", "a/one/", "c/deep/one/").await;
    moved(&server, "", "a/two/", "two/").await;
    for name in &names {
        assert_eq!(server.read(&format!("c/deep/one/{name}")).await.expect(200)["data"]["of"], *name);
    }
    for name in &names[..60] {
        for version in 1..=3 {
            let data = json!({"version": version});
            let read = server.ask(&server.root, Operation::Read, &format!("two/data/{name}"), data).await.expect(200);
            assert_eq!(read["data"]["data"], json!({"of": name, "v": version}));
        }
    }
    assert_eq!(server.read("two/metadata/f1/m").await.expect(200)["data"]["custom_metadata"], json!({"k": "v"}));
    assert_eq!(server.read("two/config").await.expect(200)["data"]["max_versions"], 7);
    assert_eq!(server.list("c/deep/one/").await.expect(200)["data"]["keys"].as_array().unwrap().len(), 7);
    assert_eq!(server.read("sys/mounts/two").await.expect(200)["data"]["accessor"], accessor);
    for gone in ["a/one/f1/ü 1/x", "a/two/data/f1/ü 1/x"] {
        assert_eq!(server.read(gone).await.status, 404);
    }
    // A new mount at the old path has nothing of it.
    server.write("a/sys/mounts/one", json!({"type": "kv"})).await.expect(204);
    assert_eq!(server.list("a/one/").await.status, 404);
    // It outlives a restart, and can be written and moved on, down and back to where it was.
    server.seal_and_unseal().await;
    server.write("c/deep/one/new", json!({"k": "v"})).await.expect(204);
    moved(&server, "", "c/deep/one/", "a/b/one/").await;
    moved(&server, "a/", "b/one/", "again/").await;
    assert_eq!(server.read("a/again/new").await.expect(200)["data"]["k"], "v");
    assert_eq!(server.read("a/b/one/new").await.status, 404);
    // Within one namespace below it is one commit, as it always was.
    let begun = move_mount(&server, "", "a/again", "a/last").await.expect(200);
    assert_eq!(state(&server, "", &begun).await["status"], "success");
    assert_eq!(server.read("a/last/new").await.expect(200)["data"]["k"], "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_log_in_at_the_new_place_and_their_old_tokens_end() {
    let server = house().await;
    server.write("a/sys/auth/up", json!({"type": "userpass"})).await.expect(204);
    server.write("a/auth/up/users/ann", json!({"password": "pw", "token_policies": "default"})).await.expect(204);
    let token = server.token("", "a/auth/up/login/ann", json!({"password": "pw"})).await;
    let is_good = async || server.ask(&token, Operation::Read, "a/auth/token/lookup-self", Value::Null).await.status;
    assert_eq!(is_good().await, 200);
    moved(&server, "", "a/auth/up/", "c/auth/in/").await;
    assert_eq!(is_good().await, 403);
    let new = server.token("", "c/auth/in/login/ann", json!({"password": "pw"})).await;
    assert_eq!(server.ask(&new, Operation::Read, "c/auth/token/lookup-self", Value::Null).await.status, 200);
    assert_eq!(server.ask("", Operation::Update, "a/auth/up/login/ann", json!({"password": "pw"})).await.status, 403);
    moved(&server, "", "c/auth/in/", "a/auth/up/").await;
    assert_eq!(
        (is_good().await, server.ask(&new, Operation::Read, "c/auth/token/lookup-self", Value::Null).await.status),
        (403, 403)
    );
    server.token("", "a/auth/up/login/ann", json!({"password": "pw"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_first_and_nobody_is_served_from_either_place_meanwhile() {
    let server = house().await;
    let world = World::of("moves");
    server.write("a/sys/mounts/db", json!({"type": "outside", "options": {"world": "moves"}})).await.expect(204);
    for _ in 0..3 {
        server.read("a/db/leased/x").await.expect(200);
    }
    assert_eq!(world.users().len(), 3);
    world.undo_hangs(true);
    let begun = move_mount(&server, "", "a/db", "c/db").await.expect(200);
    for path in ["a/db/leased/x", "c/db/leased/x"] {
        let refused = server.read(path).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(refused.body["errors"][0].as_str().unwrap().contains("is being moved"), "{}", refused.body);
    }
    assert_eq!(state(&server, "", &begun).await["status"], "in-progress");
    // Neither place can be changed, nor either namespace deleted.
    assert_eq!(move_mount(&server, "", "a/db", "a/other").await.status, 400);
    assert_eq!(move_mount(&server, "", "c/db", "other").await.status, 400);
    for (method, path) in [(Operation::Delete, "a/sys/mounts/db"), (Operation::Delete, "c/sys/mounts/db")] {
        assert_eq!(server.ask(&server.root, method, path, Value::Null).await.status, 400, "{path}");
    }
    assert_eq!(server.write("a/sys/mounts/db/tune", json!({"description": "x"})).await.status, 400);
    assert_eq!(server.write("c/sys/mounts/db", json!({"type": "kv"})).await.status, 400);
    assert_eq!(server.delete("sys/namespaces/c").await.status, 400);
    assert_eq!(server.delete("a/sys/namespaces/b").await.expect(200)["data"]["status"], "in-progress");
    world.undo_hangs(false);
    world.go_on();
    for _ in 0..3000 {
        if state(&server, "", &begun).await["status"] == "success" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(world.users().is_empty(), "what it gave has ended");
    assert_eq!(server.list("a/sys/leases/lookup/db").await.status, 404);
    server.read("c/db/leased/x").await.expect(200);
    assert_eq!(world.users().len(), 1);
    assert_eq!(server.read("a/db/leased/x").await.status, 404);
    server.until_no_jobs().await;
    server.delete("c/sys/mounts/db").await.expect(204);
    server.until_no_jobs().await;
    assert!(world.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_nobody_reaches_out_of_a_namespace() {
    let server = house().await;
    server.write("a/sys/mounts/kv", json!({"type": "kv"})).await.expect(204);
    server.write("a/kv/x", json!({"k": "v"})).await.expect(204);
    server.write("c/sys/mounts/kv", json!({"type": "kv"})).await.expect(204);
    server.write("c/kv/x", json!({"k": "of c"})).await.expect(204);
    server.write("a/sys/auth/up", json!({"type": "userpass"})).await.expect(204);
    server.write("sys/namespaces/sealed", json!({"seal": {"secret_shares": 1, "secret_threshold": 1}})).await;
    let own = server.read("sys/namespaces/sealed").await.status == 200;
    for (from, to) in [
        ("a/none", "c/x"),
        ("a/sys", "c/x"),
        ("a/cubbyhole", "c/x"),
        ("a/auth/token", "c/auth/x"),
        ("a/kv", "c"),
        ("a/kv", "c/"),
        ("a/kv", "c/sys/x"),
        ("a/kv", "c/auth/x"),
        ("a/kv", "c/kv"),
        ("a/kv", "c/kv/below"),
        ("a/kv", "c/../x"),
        ("a/auth/up", "c/up"),
        ("a/auth/up", "c/auth/token"),
        ("auth/a/up", "auth/c/up"),
    ] {
        let refused = move_mount(&server, "", from, to).await;
        assert_eq!(refused.status, 400, "{from} to {to}: {}", refused.body);
    }
    if own {
        for (from, to) in [("a/kv", "sealed/kv"), ("sealed/identity", "a/x")] {
            let refused = move_mount(&server, "", from, to).await;
            assert!([400, 503].contains(&refused.status), "{from} to {to}: {}", refused.body);
        }
    }
    // A token of `a` with every right reaches neither up nor aside.
    let all = r#"path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }"#;
    server.write("a/sys/policies/acl/all", json!({"policy": all})).await.expect(204);
    let token = server.token(&server.root, "a/auth/token/create", json!({"policies": ["all"]})).await;
    let by_a = async |path: &str, from: &str, to: &str| {
        server.ask(&token, Operation::Update, path, json!({"from": from, "to": to})).await.status
    };
    assert_eq!(by_a("sys/remount", "a/kv", "c/x").await, 403);
    assert_eq!(by_a("c/sys/remount", "kv", "x").await, 403);
    assert_eq!(by_a("a/sys/remount", "../c/kv", "x").await, 400);
    assert_eq!(by_a("a/sys/remount", "c/kv", "x").await, 400, "there is no c below a");
    // What looks like another namespace is a path of its own.
    assert_eq!(by_a("a/sys/remount", "kv", "c/x").await, 200);
    assert_eq!(server.read("a/c/x/x").await.expect(200)["data"]["k"], "v");
    assert_eq!(server.read("c/x/x").await.status, 404);
    // Without sudo nothing is moved.
    let some = r#"path "sys/remount" { capabilities = ["update"] }"#;
    server.write("a/sys/policies/acl/some", json!({"policy": some})).await.expect(204);
    let weak = server.token(&server.root, "a/auth/token/create", json!({"policies": ["some"]})).await;
    let data = json!({"from": "c/x", "to": "b/x"});
    assert_eq!(server.ask(&weak, Operation::Update, "a/sys/remount", data.clone()).await.status, 403);
    assert_eq!(server.ask(&token, Operation::Update, "a/sys/remount", data).await.status, 200);
    server.until_no_jobs().await;
    assert_eq!(server.read("a/b/x/x").await.expect(200)["data"]["k"], "v");
    assert_eq!(server.read("c/kv/x").await.expect(200)["data"]["k"], "of c");
}
