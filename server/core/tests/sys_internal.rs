//! `sys/internal/*` that tells about the server's own state.

mod support;

use holdfast_sdk::Operation;
use serde_json::{Value, json};
use support::Server;

#[tokio::test]
async fn service_tokens_are_counted_and_batch_tokens_are_not_stored() {
    let server = Server::start().await;
    let count = async || {
        let counted = server.read("sys/internal/counters/tokens").await.expect(200);
        counted["data"]["counters"]["service_tokens"]["total"].as_u64().unwrap()
    };
    let before = count().await;
    for _ in 0..3 {
        server.write("auth/token/create", json!({})).await.expect(200);
    }
    assert_eq!(count().await, before + 3);
    let made = server.write("auth/token/create", json!({})).await.expect(200);
    server.write("auth/token/revoke", json!({"token": made["auth"]["client_token"]})).await.expect(204);
    assert_eq!(count().await, before + 3);
}

#[tokio::test]
async fn entities_are_counted() {
    let server = Server::start().await;
    let count = async || server.read("sys/internal/counters/entities").await.expect(200)["data"]["counters"].clone();
    assert_eq!(count().await, json!({"entities": {"total": 0}}));
    for name in ["a", "b"] {
        server.write("identity/entity", json!({"name": name})).await.expect(200);
    }
    assert_eq!(count().await, json!({"entities": {"total": 2}}));
}

#[tokio::test]
async fn the_tables_of_the_router_name_every_mount_once() {
    let server = Server::start().await;
    server.write("sys/mounts/one", json!({"type": "kv"})).await.expect(204);
    for (tag, with_storage) in [("root", true), ("storage", true), ("uuid", false), ("accessor", false)] {
        let shown = server.read(&format!("sys/internal/inspect/router/{tag}")).await.expect(200);
        let entries = shown["data"][tag].as_array().unwrap();
        let mut paths: Vec<&str> = entries.iter().map(|e| e["mount_path"].as_str().unwrap()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["cubbyhole/", "identity/", "one/", "sys/", "token/"], "{tag}");
        assert!(entries.iter().all(|e| e["storage_prefix"].is_string() == with_storage), "{tag}");
    }
    server.read("sys/internal/inspect/router/nothing").await.expect(404);
    let weak = server.write("auth/token/create", json!({"policies": ["default"]})).await.expect(200);
    let weak = weak["auth"]["client_token"].as_str().unwrap();
    server.ask(weak, Operation::Read, "sys/internal/inspect/router/root", Value::Null).await.expect(403);
}
