//! `sys/raw`: stored entries as they are.

mod support;

use holdfast_sdk::Operation;
use serde_json::{Value, json};
use support::{Reply, Server};

fn keys(reply: Reply) -> Vec<String> {
    let body = reply.expect(200);
    body["data"]["keys"].as_array().unwrap().iter().map(|k| k.as_str().unwrap().to_owned()).collect()
}

/// Every entry below a folder that can be named.
async fn walk(server: &Server) -> Vec<String> {
    let (mut folders, mut entries) = (vec![String::new()], Vec::new());
    while let Some(folder) = folders.pop() {
        let reply = server.list(&format!("sys/raw/{folder}")).await;
        if reply.status == 404 {
            continue;
        }
        for key in keys(reply) {
            let path = format!("{folder}{key}");
            if path.ends_with('/') { folders.push(path) } else { entries.push(path) }
        }
    }
    entries.sort();
    entries
}

#[tokio::test]
async fn every_entry_that_is_listed_can_be_read_but_for_the_keys() {
    let server = Server::start().await;
    server.write("sys/mounts/one", json!({"type": "kv-v2"})).await.expect(204);
    server.write("one/data/a/b", json!({"data": {"k": "v"}})).await.expect(200);
    server.write("cubbyhole/mine", json!({"k": "v"})).await.expect(204);
    server.write("sys/policies/acl/p", json!({"policy": "path \"x\" { capabilities = [\"read\"] }"})).await.expect(204);
    server.write("sys/raw/own/entry", json!({"value": "x"})).await.expect(204);
    let entries = walk(&server).await;
    let (protected, others): (Vec<_>, Vec<_>) = entries.iter().partition(|e| e.starts_with("core/"));
    assert_eq!(protected, ["core/keyring", "core/locks"]);
    for path in protected {
        for operation in [Operation::Read, Operation::Update, Operation::Delete] {
            let reply = server.ask(&server.root, operation, &format!("sys/raw/{path}"), json!({"value": "x"})).await;
            assert_eq!(reply.expect(400)["errors"][0], format!("cannot access \"{path}\""));
        }
    }
    for path in &others {
        let (at, plain) = (format!("sys/raw/{path}"), json!({"encoding": "base64", "compressed": false}));
        let read = server.ask(&server.root, Operation::Read, &at, plain).await;
        assert_eq!(read.status, 200, "{path}: {}", read.body);
    }
    for wanted in ["own/entry", "sys/policy/names/p", "sys/token/id/keys/", "sys/mounts/keys/"] {
        assert!(others.iter().any(|e| e.starts_with(wanted)), "{wanted} in {others:?}");
    }
    assert!(others.iter().any(|e| e.starts_with("logical/") && e.ends_with("/names/a/b")), "{others:?}");
}

#[tokio::test]
async fn an_entry_that_is_put_back_is_the_one_that_was_taken() {
    let server = Server::start().await;
    server.write("sys/policies/acl/p", json!({"policy": "path \"x\" { capabilities = [\"read\"] }"})).await.expect(204);
    let at = "sys/raw/sys/policy/names/p";
    let read = server.ask(&server.root, Operation::Read, at, json!({"encoding": "base64", "compressed": false})).await;
    let value = read.expect(200)["data"]["value"].clone();
    let before = server.read("sys/policies/acl/p").await.expect(200)["data"].clone();
    server.delete(at).await.expect(204);
    server.read("sys/policies/acl/p").await.expect(404);
    server.write(at, json!({"value": value, "encoding": "base64"})).await.expect(204);
    assert_eq!(server.read("sys/policies/acl/p").await.expect(200)["data"], before);
}

#[tokio::test]
async fn what_every_request_needs_cannot_be_made_unreadable() {
    let server = Server::start().await;
    let mut needed: Vec<String> = keys(server.list("sys/raw/sys/mounts/keys").await);
    needed.iter_mut().for_each(|key| *key = format!("mounts/keys/{key}"));
    needed.extend(["cors", "audited-headers"].map(|name| format!("settings/keys/{}", hex::encode(name))));
    for place in needed {
        server.write(&format!("sys/raw/sys/{place}"), json!({"value": "broken"})).await.expect(400);
    }
    server.read("sys/mounts").await.expect(200);
}

#[tokio::test]
async fn who_has_no_sudo_reads_nothing() {
    let server = Server::start().await;
    let policy = "path \"sys/raw/*\" { capabilities = [\"create\", \"read\", \"update\", \"delete\", \"list\"] }";
    server.write("sys/policies/acl/weak", json!({ "policy": policy })).await.expect(204);
    let made = server.write("auth/token/create", json!({"policies": ["weak"]})).await.expect(200);
    let weak = made["auth"]["client_token"].as_str().unwrap();
    for operation in [Operation::Read, Operation::Update, Operation::Delete, Operation::List] {
        server.ask(weak, operation, "sys/raw/x", json!({"value": "x"})).await.expect(403);
    }
    assert_eq!(server.read("sys/raw/x").await.expect(404)["errors"], Value::Array(Vec::new()));
}
