//! A kv mount of version 1 becomes one of version 2 while requests go on.

mod support;

use std::sync::Arc;

use holdfast_sdk::{Operation, Value};
use serde_json::json;
use support::Server;

const SECRETS: usize = 1500;

/// Names that are easily broken.
const ODD: &[&str] = &["a b", "per%cent", "pl+us", "dot.", "ü/ñ", "data", "metadata/x", "config", "dir", "dir/b"];

fn value(i: usize) -> Value {
    let numbers = r#"{"big":123456789012345678901234567890,"small":1e-300,"exact":1.10,"i":0}"#;
    let mut value: Value = serde_json::from_str(numbers).unwrap();
    value["i"] = i.into();
    value
}

async fn filled() -> Arc<Server> {
    let server = Arc::new(Server::start().await);
    server.write("sys/mounts/up", json!({"type": "kv", "options": {"version": "1"}})).await.expect(204);
    for i in 0..SECRETS {
        server.write(&format!("up/many/{i}"), value(i)).await.expect(204);
    }
    for name in ODD {
        server.write(&format!("up/{name}"), json!({"name": name})).await.expect(204);
    }
    server
}

async fn upgrade(server: &Server) {
    let answer = server.write("sys/mounts/up/tune", json!({"options": {"version": "2"}})).await.expect(200);
    assert!(answer["warnings"][0].as_str().unwrap().starts_with("Upgrading mount from version 1"));
}

/// Every secret has its old value as version 1, letter by letter.
async fn assert_nothing_is_lost(server: &Server) {
    for i in 0..SECRETS {
        let path = format!("up/data/many/{i}");
        let data = server.ask(&server.root, Operation::Read, &path, json!({"version": "1"})).await.expect(200);
        assert_eq!(data["data"]["data"].to_string(), value(i).to_string());
    }
    for name in ODD {
        let data = server.read(&format!("up/data/{name}")).await.expect(200);
        assert_eq!(data["data"]["data"]["name"], *name);
    }
    let keys = server.list("up/metadata/").await.expect(200);
    assert_eq!(
        keys["data"]["keys"],
        json!(["a b", "config", "data", "dir", "dir/", "dot.", "many/", "metadata/", "per%cent", "pl+us", "ü/"])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_served_and_written_during_an_upgrade_and_none_is_lost() {
    let server = filled().await;
    upgrade(&server).await;
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let server = server.clone();
            tokio::spawn(async move {
                for i in (w..SECRETS).step_by(7) {
                    let path = format!("up/data/many/{i}");
                    let body = json!({"data": {"writer": w}, "options": {"cas": 1}});
                    let reply = server.write(&path, body).await;
                    // Somebody else was first: of those who name version 1, one wins.
                    assert!(reply.status == 200 || reply.status == 400, "{} {}", reply.status, reply.body);
                    let read = server.read(&path).await.expect(200);
                    assert_eq!(read["data"]["metadata"]["version"], 2);
                }
            })
        })
        .collect();
    for w in writers {
        w.await.unwrap();
    }
    server.until_no_jobs().await;
    assert_nothing_is_lost(&server).await;
}

#[tokio::test]
async fn an_upgrade_goes_on_after_a_restart() {
    let server = filled().await;
    upgrade(&server).await;
    for _ in 0..5 {
        server.seal_and_unseal().await;
    }
    server.until_no_jobs().await;
    assert_nothing_is_lost(&server).await;
}

#[tokio::test]
async fn what_version_1_left_can_be_changed_in_every_way_before_the_job_comes_to_it() {
    let server = Server::start().await;
    let names = ["patched", "deleted", "destroyed", "removed", "annotated", "written"];
    for round in 0..8 {
        let mount = format!("m{round}");
        server.write(&format!("sys/mounts/{mount}"), json!({"type": "kv"})).await.expect(204);
        for name in names {
            server.write(&format!("{mount}/{name}"), json!({"old": 1})).await.expect(204);
        }
        server.write(&format!("sys/mounts/{mount}/tune"), json!({"options": {"version": "2"}})).await.expect(200);
        let at = |kind: &str, name: &str| format!("{mount}/{kind}/{name}");
        server
            .ask(&server.root, Operation::Patch, &at("data", "patched"), json!({"data": {"new": 2}}))
            .await
            .expect(200);
        server.delete(&at("data", "deleted")).await.expect(204);
        server.write(&at("destroy", "destroyed"), json!({"versions": [1]})).await.expect(204);
        server.delete(&at("metadata", "removed")).await.expect(204);
        server.write(&at("metadata", "annotated"), json!({"custom_metadata": {"a": "b"}})).await.expect(204);
        server.write(&at("metadata", "written"), json!({"max_versions": 1})).await.expect(204);
        server.write(&at("data", "written"), json!({"data": {"n": 2}})).await.expect(200);
        server.until_no_jobs().await;

        let read = server.read(&at("data", "patched")).await.expect(200);
        assert_eq!(read["data"]["data"], json!({"old": 1, "new": 2}));
        server.read(&at("data", "deleted")).await.expect(404);
        server.write(&at("undelete", "deleted"), json!({"versions": [1]})).await.expect(204);
        assert_eq!(server.read(&at("data", "deleted")).await.expect(200)["data"]["data"], json!({"old": 1}));
        let gone = server.read(&at("data", "destroyed")).await.expect(404);
        assert_eq!(gone["data"]["metadata"]["destroyed"], true);
        server.read(&at("metadata", "removed")).await.expect(404);
        let annotated = server.read(&at("data", "annotated")).await.expect(200);
        assert_eq!(annotated["data"]["metadata"]["custom_metadata"], json!({"a": "b"}));
        assert_eq!(annotated["data"]["data"], json!({"old": 1}));
        let versions = server.read(&at("metadata", "written")).await.expect(200);
        assert_eq!(versions["data"]["versions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["2"]);
    }
}

#[tokio::test]
async fn a_disabled_mount_ends_its_upgrade_and_is_cleaned() {
    let server = filled().await;
    upgrade(&server).await;
    server.delete("sys/mounts/up").await.expect(204);
    server.until_no_jobs().await;
    server.write("sys/mounts/up", json!({"type": "kv-v2"})).await.expect(204);
    server.list("up/metadata/").await.expect(404);
}

#[tokio::test]
async fn versions_only_rise() {
    let server = Server::start().await;
    server.write("sys/mounts/a", json!({"type": "kv"})).await.expect(204);
    for wrong in ["0", "3", "x", "-1", ""] {
        server.write("sys/mounts/a/tune", json!({"options": {"version": wrong}})).await.expect(400);
    }
    // Nothing is stored: no job is made.
    server.write("sys/mounts/a/tune", json!({"options": {"version": 2}})).await.expect(200);
    server.write("sys/mounts/a/tune", json!({"options": {"version": 2}})).await.expect(204);
    server.write("sys/mounts/a/tune", json!({"options": {"version": "1"}})).await.expect(400);
    server.write("a/data/x", json!({"data": {}})).await.expect(200);
}
