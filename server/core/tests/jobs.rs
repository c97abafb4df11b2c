//! Jobs that fail: they are shown, tried again, and keep no other from its turn.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::EngineTable;
use holdfast_sdk::Value;
use holdfast_storage::Store;
use serde_json::json;
use support::by_hand::ByHand;
use support::outside::World;
use support::{Server, core};

const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv), ("outside", support::outside::outside)], auth: &[], databases: &[] };

async fn start() -> (Server, Arc<ByHand>) {
    let clocks = Arc::new(ByHand::default());
    let store = Store::open_on(None, 1 << 20).unwrap();
    (Server::initialise(core(store, ENGINES, clocks.clone(), Vec::new())).await, clocks)
}

async fn jobs(server: &Server) -> Vec<Value> {
    server.read("sys/jobs").await.expect(200)["data"]["jobs"].as_array().unwrap().clone()
}

/// Wait until so many jobs are left; returns them.
async fn until(server: &Server, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    for _ in 0..500 {
        let left = jobs(server).await;
        if holds(&left) {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", jobs(server).await);
}

async fn a_mount_with(server: &Server, path: &str, entries: usize) {
    server.write(&format!("sys/mounts/{path}"), json!({"type": "kv"})).await.expect(204);
    for i in 0..entries {
        server.write(&format!("{path}/{i}"), json!({"v": i})).await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_says_why_and_other_jobs_go_on() {
    let (server, clocks) = start().await;
    let world = World::of("jobs-fail");
    server.write("sys/mounts/bad", json!({"type": "outside", "options": {"world": "jobs-fail"}})).await.expect(204);
    a_mount_with(&server, "good", 700).await;
    world.clean_fails(true);
    server.delete("sys/mounts/bad").await.expect(204);
    until(&server, |left| left.iter().any(|job| !job["last_error"].is_null())).await;
    server.delete("sys/mounts/good").await.expect(204);
    let left = until(&server, |left| left.len() == 1).await;
    assert_eq!((&left[0]["kind"], &left[0]["path"]), (&json!("clean-mount"), &json!("bad/")));
    assert_eq!(left[0]["last_error"], "the clean-up fails on purpose");
    // It is tried again after a pause, and after the longest one at the latest.
    world.clean_fails(false);
    clocks.pass(61);
    server.until_no_jobs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_panics_is_one_that_fails() {
    let (server, clocks) = start().await;
    let world = World::of("jobs-panic");
    server.write("sys/mounts/bad", json!({"type": "outside", "options": {"world": "jobs-panic"}})).await.expect(204);
    a_mount_with(&server, "good", 10).await;
    world.clean_panics(true);
    server.delete("sys/mounts/bad").await.expect(204);
    let left = until(&server, |left| left.iter().any(|job| !job["last_error"].is_null())).await;
    assert!(left[0]["last_error"].as_str().unwrap().contains("a defect of the server"), "{left:?}");
    server.delete("sys/mounts/good").await.expect(204);
    until(&server, |left| left.len() == 1).await;
    world.clean_panics(false);
    clocks.pass(61);
    server.until_no_jobs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_after_an_unseal() {
    let (server, _clocks) = start().await;
    let world = World::of("jobs-unseal");
    server.write("sys/mounts/bad", json!({"type": "outside", "options": {"world": "jobs-unseal"}})).await.expect(204);
    world.clean_fails(true);
    server.delete("sys/mounts/bad").await.expect(204);
    until(&server, |left| left.iter().any(|job| !job["last_error"].is_null())).await;
    world.clean_fails(false);
    server.seal_and_unseal().await;
    server.until_no_jobs().await;
}
