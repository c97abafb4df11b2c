//! `sys/storage/compact`: who may, what is said, and that the server serves meanwhile.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::EngineTable;
use holdfast_core::clock::SystemClocks;
use holdfast_sdk::{Operation, Value};
use holdfast_storage::Store;
use holdfast_storage::sim::SimDisk;
use serde_json::json;
use support::{Server, core};

const ENGINES: EngineTable = EngineTable { secrets: &[("kv", support::kv)], auth: &[], databases: &[] };
const SECRETS: usize = 400;

async fn filled(disk: &SimDisk) -> Server {
    let store = Store::open_on(Some(Arc::new(disk.clone())), 1 << 20).unwrap();
    let server = Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), Vec::new())).await;
    server.write("sys/mounts/kv", json!({"type": "kv"})).await.expect(204);
    for i in 0..SECRETS {
        server.write(&format!("kv/{i}"), json!({"v": format!("{i}").repeat(5000)})).await.expect(204);
    }
    for i in (0..SECRETS).filter(|i| i % 10 != 0) {
        server.delete(&format!("kv/{i}")).await.expect(204);
    }
    server
}

async fn until_over(server: &Server) -> Value {
    for _ in 0..1000 {
        let now = server.read("sys/storage/compact").await.expect(200)["data"].clone();
        if !matches!(now["phase"].as_str().unwrap(), "copying" | "finishing") {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it goes on for ten seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_compacted_while_its_server_serves() {
    let disk = SimDisk::default();
    let server = filled(&disk).await;
    assert_eq!(server.read("sys/storage/compact").await.expect(200)["data"]["phase"], "none");
    server.write("sys/storage/compact", Value::Null).await.expect(200);
    server.write("kv/meanwhile", json!({"v": 1})).await.expect(204);
    let over = until_over(&server).await;
    assert_eq!((&over["phase"], &over["error"]), (&json!("done"), &Value::Null));
    assert!(over["bytes_after"].as_u64() < over["bytes_before"].as_u64().map(|b| b / 2), "{over}");
    for i in (0..SECRETS).step_by(10) {
        assert_eq!(server.read(&format!("kv/{i}")).await.expect(200)["data"]["v"], format!("{i}").repeat(5000));
    }
    server.read("kv/meanwhile").await.expect(200);
    server.seal_and_unseal().await;
    server.read("kv/10").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_use_sudo_compacts_and_a_store_in_memory_is_not() {
    let server = Server::start().await;
    let answer = server.write("sys/storage/compact", Value::Null).await.expect(400);
    assert_eq!(answer["errors"][0], "a store in memory has no file to compact");
    let policy = json!({"policy": "path \"sys/storage/compact\" { capabilities = [\"read\", \"update\"] }"});
    server.write("sys/policies/acl/weak", policy).await.expect(204);
    let made = server.write("auth/token/create", json!({"policies": ["weak"]})).await.expect(200);
    let token = made["auth"]["client_token"].as_str().unwrap().to_owned();
    for operation in [Operation::Read, Operation::Update] {
        server.ask(&token, operation, "sys/storage/compact", Value::Null).await.expect(403);
    }
}
