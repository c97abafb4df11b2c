//! Namespaces: what is of one is of no other, a parent's token reaches down and no token up, and deleting one ends
//! all that is in it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::EngineTable;
use holdfast_core::clock::SystemClocks;
use holdfast_sdk::{Operation, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::outside::World;
use support::{Server, core};

const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv), ("outside", support::outside::outside)], auth: &[], databases: &[] };

/// A server with the namespaces `a`, `a/b` and `c`, each with a kv mount that says where it is, and a policy for all.
async fn house() -> Server {
    let server =
        Server::initialise(core(Store::open_on(None, 1 << 20).unwrap(), ENGINES, Arc::new(SystemClocks), Vec::new()))
            .await;
    for (above, name) in [("", "a"), ("a/", "b"), ("", "c")] {
        server.write(&format!("{above}sys/namespaces/{name}"), json!({})).await.expect(200);
        let inside = format!("{above}{name}/");
        server.write(&format!("{inside}sys/mounts/kv"), json!({"type": "kv"})).await.expect(204);
        server.write(&format!("{inside}kv/where"), json!({"where": inside})).await.expect(204);
        let all = r#"path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }"#;
        server.write(&format!("{inside}sys/policies/acl/all"), json!({"policy": all})).await.expect(204);
    }
    server
}

async fn token_in(server: &Server, namespace: &str) -> String {
    server.token(&server.root, &format!("{namespace}auth/token/create"), json!({"policies": ["all"]})).await
}

async fn status(server: &Server, token: &str, path: &str) -> u16 {
    server.ask(token, Operation::Read, path, Value::Null).await.status
}

#[tokio::test]
async fn a_token_reaches_its_namespace_and_those_below_and_no_other() {
    let server = house().await;
    let (a, b, c) = (token_in(&server, "a/").await, token_in(&server, "a/b/").await, token_in(&server, "c/").await);
    let reaches =
        [(&server.root, ["a/", "a/b/", "c/"].as_slice()), (&a, &["a/", "a/b/"]), (&b, &["a/b/"]), (&c, &["c/"])];
    for (token, reached) in reaches {
        for namespace in ["a/", "a/b/", "c/"] {
            let expected = if reached.contains(&namespace) { 200 } else { 403 };
            assert_eq!(status(&server, token, &format!("{namespace}kv/where")).await, expected, "{namespace}");
        }
    }
    for token in [&a, &b, &c] {
        for path in ["sys/mounts", "sys/namespaces/a", "identity/entity/id", "sys/policies/acl/default"] {
            assert_eq!(status(&server, token, path).await, 403, "{path} of the root");
        }
    }
    let read = server.read("a/b/kv/where").await.expect(200);
    assert_eq!(read["data"]["where"], "a/b/");
    assert_eq!(status(&server, &server.root, "kv/where").await, 404);
    assert_eq!(status(&server, &server.root, "a/none/kv/where").await, 404);
}

#[tokio::test]
async fn ids_of_another_namespace_do_not_exist() {
    let server = house().await;
    let (a, c) = (token_in(&server, "a/").await, token_in(&server, "c/").await);
    let of_c = server.ask(&c, Operation::Read, "auth/token/lookup-self", Value::Null).await.expect(200);
    assert_eq!(of_c["data"]["namespace_path"], "c/");
    let accessor = of_c["data"]["accessor"].as_str().unwrap();
    let leases = server.list("c/sys/leases/lookup/auth/token/create/").await.expect(200);
    let lease = format!("auth/token/create/{}", leases["data"]["keys"][0].as_str().unwrap());
    for (path, data) in [
        ("a/auth/token/lookup-accessor", json!({"accessor": accessor})),
        ("a/auth/token/renew-accessor", json!({"accessor": accessor})),
        ("a/sys/capabilities-accessor", json!({"accessor": accessor, "paths": ["kv/where"]})),
        ("a/sys/capabilities", json!({"token": c, "paths": ["kv/where"]})),
        ("a/sys/leases/lookup", json!({"lease_id": lease})),
        ("a/sys/leases/renew", json!({"lease_id": lease})),
        ("a/sys/wrapping/unwrap", json!({"token": c})),
    ] {
        let reply = server.ask(&a, Operation::Update, path, data).await;
        assert!(matches!(reply.status, 400 | 403), "{path}: {reply:?}");
    }
    // Nor is anything ended from there.
    server.ask(&a, Operation::Update, "a/auth/token/revoke", json!({"token": c})).await;
    server.ask(&a, Operation::Update, "a/auth/token/revoke-accessor", json!({"accessor": accessor})).await;
    server.ask(&a, Operation::Update, "a/sys/leases/revoke", json!({"lease_id": lease})).await;
    server.ask(&a, Operation::Update, "a/sys/leases/revoke-prefix/auth", json!({})).await.expect(204);
    assert!(server.is_good(&c).await);
    // From above it is found, and ended.
    let found = server.write("sys/leases/lookup", json!({"lease_id": lease})).await.expect(200);
    assert_eq!(found["data"]["namespace_path"], "c/");
    server.write("auth/token/revoke", json!({"token": c})).await.expect(204);
    assert!(!server.is_good(&c).await);
}

#[tokio::test]
async fn what_a_parents_token_made_below_ends_with_it() {
    let server = house().await;
    let parent = server.token(&server.root, "auth/token/create", json!({"policies": ["root"]})).await;
    let child = server.token(&parent, "a/auth/token/create", json!({"policies": ["all"]})).await;
    let grandchild = server.token(&child, "a/b/auth/token/create", json!({"policies": ["all"]})).await;
    let orphan = server.token(&parent, "a/auth/token/create-orphan", json!({"policies": ["all"]})).await;
    server.ask(&parent, Operation::Update, "a/cubbyhole/x", json!({"k": "v"})).await.expect(204);
    assert_eq!(status(&server, &parent, "a/cubbyhole/x").await, 200);
    assert_eq!(status(&server, &parent, "cubbyhole/x").await, 404);
    server.seal_and_unseal().await;
    server.write("auth/token/revoke", json!({"token": parent})).await.expect(204);
    server.until_no_jobs().await;
    assert!(!server.is_good(&child).await && !server.is_good(&grandchild).await);
    assert!(server.is_good(&orphan).await);
}

#[tokio::test]
async fn a_token_of_a_namespace_is_no_root_and_chooses_no_id() {
    let server = house().await;
    for data in [json!({"policies": ["root"]}), json!({"policies": ["all"], "id": "mine"})] {
        server.write("a/auth/token/create", data).await.expect(400);
    }
    let batch = server.token(&server.root, "a/auth/token/create", json!({"policies": ["all"], "type": "batch"})).await;
    assert_eq!(status(&server, &batch, "a/kv/where").await, 200);
    assert_eq!(status(&server, &batch, "c/kv/where").await, 403);
    let (text, _) = batch.rsplit_once('.').unwrap();
    let (_, of_c) = token_in(&server, "c/").await.rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    // Another namespace's id does not make it a token of that.
    assert_eq!(status(&server, &format!("{text}.{of_c}"), "c/kv/where").await, 403);
    assert_eq!(status(&server, text, "kv/where").await, 403);
}

#[tokio::test]
async fn a_locked_namespace_and_those_below_answer_nothing() {
    let server = house().await;
    let key = server.write("sys/namespaces/api-lock/lock/a", json!({})).await.expect(200)["data"]["unlock_key"].clone();
    for path in ["a/kv/where", "a/b/kv/where", "a/sys/mounts"] {
        assert_eq!(status(&server, &server.root, path).await, 503, "{path}");
    }
    assert_eq!(status(&server, &server.root, "c/kv/where").await, 200);
    server.seal_and_unseal().await;
    assert_eq!(status(&server, &server.root, "a/b/kv/where").await, 503);
    server.write("a/sys/namespaces/api-lock/unlock", json!({"unlock_key": "wrong"})).await.expect(400);
    server.write("a/sys/namespaces/api-lock/unlock", json!({"unlock_key": key})).await.expect(204);
    assert_eq!(status(&server, &server.root, "a/b/kv/where").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_one_ends_all_that_is_in_it_outside_too() {
    let server = house().await;
    let world = World::of("namespace-ends");
    let mount = json!({"type": "outside", "options": {"world": "namespace-ends"}});
    server.write("c/sys/mounts/out", mount).await.expect(204);
    let token = token_in(&server, "c/").await;
    for name in ["x", "y"] {
        server.ask(&token, Operation::Read, &format!("c/out/leased/{name}"), Value::Null).await.expect(200);
    }
    // Of a token that lives on.
    server.read("c/out/leased/z").await.expect(200);
    assert_eq!(world.users().len(), 3);
    server.delete("sys/namespaces/c").await.expect(200);
    assert_eq!(status(&server, &server.root, "c/kv/where").await, 404);
    assert!(!server.is_good(&token).await);
    // Its name is free at once, and what comes there is new.
    server.write("sys/namespaces/c", json!({})).await.expect(200);
    assert_eq!(status(&server, &server.root, "c/kv/where").await, 404);
    assert!(!server.is_good(&token).await);
    server.until_no_jobs().await;
    assert!(world.users().is_empty(), "{:?}", world.users());
    server.seal_and_unseal().await;
    let left = server.list("sys/namespaces").await.expect(200);
    assert_eq!(left["data"]["keys"], json!(["a/", "c/"]));
}

#[tokio::test]
async fn one_with_others_in_it_stays() {
    let server = house().await;
    server.delete("sys/namespaces/a").await.expect(400);
    server.delete("a/sys/namespaces/b").await.expect(200);
    server.delete("sys/namespaces/a").await.expect(200);
    server.delete("sys/namespaces/a").await.expect(200);
    assert_eq!(server.list("sys/namespaces").await.expect(200)["data"]["keys"], json!(["c/"]));
}

/// openbao 2.4.0: with more than 100 siblings it never started again.
#[tokio::test]
async fn many_siblings_are_all_there_after_an_unseal() {
    let server = house().await;
    for n in 0..250 {
        server.write(&format!("a/sys/namespaces/n{n}"), json!({})).await.expect(200);
    }
    server.seal_and_unseal().await;
    let listed = server.list("a/sys/namespaces").await.expect(200);
    assert_eq!(listed["data"]["keys"].as_array().unwrap().len(), 251);
    let scanned = server.ask(&server.root, Operation::Scan, "sys/namespaces", Value::Null).await.expect(200);
    assert_eq!(scanned["data"]["keys"].as_array().unwrap().len(), 253);
    assert_eq!(status(&server, &server.root, "a/n249/sys/mounts").await, 200);
}

/// openbao 2.6.0: a patch of what is not there was 500, and metadata could not be emptied.
#[tokio::test]
async fn metadata_is_patched_and_emptied() {
    let server = house().await;
    let patch = |path: &'static str, data: Value| server.ask(&server.root, Operation::Patch, path, data);
    patch("sys/namespaces/none", json!({"custom_metadata": {"k": "v"}})).await.expect(400);
    patch("sys/namespaces/a", json!({"custom_metadata": {"k": "v", "n": "1"}})).await.expect(200);
    patch("sys/namespaces/a", json!({"custom_metadata": {"k": null}})).await.expect(200);
    let read = server.read("sys/namespaces/a").await.expect(200);
    assert_eq!(read["data"]["custom_metadata"], json!({"n": "1"}));
    patch("sys/namespaces/a", json!({"custom_metadata": null})).await.expect(200);
    assert_eq!(server.read("sys/namespaces/a").await.expect(200)["data"]["custom_metadata"], json!({}));
}

#[tokio::test]
async fn a_mount_and_a_namespace_share_no_path() {
    let server = house().await;
    server.write("sys/mounts/team/kv", json!({"type": "kv"})).await.expect(204);
    server.write("sys/namespaces/team", json!({})).await.expect(400);
    for path in ["sys/mounts/a", "sys/mounts/a/x", "a/sys/mounts/b"] {
        server.write(path, json!({"type": "kv"})).await.expect(400);
    }
    // A path below a namespace's is in that (core/tests/moves.rs); its own is taken.
    for to in ["a", "a/b"] {
        server.write("sys/remount", json!({"from": "team/kv", "to": to})).await.expect(400);
    }
    server.write("sys/namespaces/te", json!({})).await.expect(200);
}

/// openbao 2.4.3: the helper for user interfaces listed namespaces that the token might not see.
#[tokio::test]
async fn the_list_for_user_interfaces_shows_what_the_token_reaches() {
    let server = house().await;
    let a = token_in(&server, "a/").await;
    let keys = |body: Value| body["data"]["keys"].clone();
    let shown = server.ask(&a, Operation::Read, "sys/internal/ui/namespaces", Value::Null).await.expect(200);
    assert_eq!(keys(shown), json!(["a/"]));
    let shown = server.ask(&a, Operation::Read, "a/sys/internal/ui/namespaces", Value::Null).await.expect(200);
    assert_eq!(keys(shown), json!(["b/"]));
    assert_eq!(keys(server.read("sys/internal/ui/namespaces").await.expect(200)), json!(["a/", "c/"]));
}

#[tokio::test]
async fn entities_and_groups_are_of_their_namespace() {
    let server = house().await;
    let made = server.write("a/identity/entity", json!({"name": "bob", "policies": ["all"]})).await.expect(200);
    let id = made["data"]["id"].as_str().unwrap().to_owned();
    for namespace in ["", "c/", "a/b/"] {
        for path in [format!("identity/entity/id/{id}"), "identity/entity/name/bob".into()] {
            assert_eq!(status(&server, &server.root, &format!("{namespace}{path}")).await, 404, "{namespace}{path}");
        }
    }
    let read = server.read("a/identity/entity/name/bob").await.expect(200);
    assert_eq!(read["data"]["namespace_id"], server.read("sys/namespaces/a").await.expect(200)["data"]["id"]);
}

#[tokio::test]
async fn a_root_route_is_none_of_a_namespace() {
    let server = house().await;
    for path in ["a/sys/health", "a/sys/raw/x", "a/sys/config/cors", "a/sys/audit", "a/sys/jobs"] {
        assert_eq!(status(&server, &server.root, path).await, 400, "{path}");
    }
    // What only waits is not waited for.
    tokio::time::timeout(Duration::from_secs(30), server.until_no_jobs()).await.unwrap();
}
