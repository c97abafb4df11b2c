//! Limits of leases: exact, whoever asks at the same time, and in their namespace alone.

mod support;

use std::sync::Arc;

use holdfast_core::clock::SystemClocks;
use holdfast_core::{EngineTable, MountEntry};
use holdfast_sdk::{Backend, Operation, Value};
use holdfast_storage::Store;
use holdfast_userpass::Userpass;
use serde_json::json;
use support::outside::World;
use support::{Server, core};

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}

const ENGINES: EngineTable =
    EngineTable { secrets: &[("outside", support::outside::outside)], auth: &[("userpass", userpass)], databases: &[] };

async fn house() -> Server {
    let store = Store::open_on(None, 1 << 20).unwrap();
    let server = Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), Vec::new())).await;
    for name in ["a", "b"] {
        server.write(&format!("sys/namespaces/{name}"), json!({})).await.expect(200);
    }
    for namespace in ["", "a/", "b/"] {
        server.write(&format!("{namespace}sys/auth/up"), json!({"type": "userpass"})).await.expect(204);
        server.write(&format!("{namespace}auth/up/users/ann"), json!({"password": "pw"})).await.expect(204);
    }
    server
}

async fn login(server: &Server, namespace: &str) -> support::Reply {
    server.ask("", Operation::Update, &format!("{namespace}auth/up/login/ann"), json!({"password": "pw"})).await
}

async fn quota(server: &Server, name: &str, data: Value) {
    server.write(&format!("sys/quotas/lease-count/{name}"), data).await.expect(204);
}

async fn counter(server: &Server, name: &str) -> i64 {
    server.read(&format!("sys/quotas/lease-count/{name}")).await.expect(200)["data"]["counter"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_leases_holds_exactly_under_many_clients() {
    let server = Arc::new(house().await);
    quota(&server, "up", json!({"path": "auth/up", "max_leases": 5})).await;
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { login(&server, "").await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for client in clients {
        statuses.push(client.await.unwrap());
    }
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 5, "{statuses:?}");
    assert!(statuses.iter().all(|s| [200, 429].contains(s)), "{statuses:?}");
    assert_eq!(counter(&server, "up").await, 5);
    let refused = login(&server, "").await.expect(429);
    assert!(refused["errors"][0].as_str().unwrap().contains("lease count quota exceeded"), "{refused}");
    // One that ends makes room, and after a restart the count is the same.
    let accessors = server.list("auth/token/accessors").await.expect(200);
    let mut ended = false;
    for accessor in accessors["data"]["keys"].as_array().unwrap() {
        let found = server.write("auth/token/lookup-accessor", json!({"accessor": accessor})).await.expect(200);
        if !ended && found["data"]["path"] == "auth/up/login/ann" {
            server.write("auth/token/revoke-accessor", json!({"accessor": accessor})).await.expect(204);
            ended = true;
        }
    }
    server.seal_and_unseal().await;
    assert_eq!(counter(&server, "up").await, 4);
    login(&server, "").await.expect(200);
    login(&server, "").await.expect(429);
    login(&server, "a/").await.expect(200);
}

#[tokio::test]
async fn the_closest_limit_counts_and_a_namespaces_goes_with_it() {
    let server = house().await;
    quota(&server, "all", json!({"max_leases": 4})).await;
    quota(&server, "a", json!({"path": "a/", "max_leases": 1})).await;
    login(&server, "a/").await.expect(200);
    login(&server, "a/").await.expect(429);
    for _ in 0..3 {
        login(&server, "b/").await.expect(200);
    }
    assert_eq!((counter(&server, "all").await, counter(&server, "a").await), (4, 1));
    login(&server, "").await.expect(429);
    server.write("auth/token/create", json!({"ttl": "1h"})).await.expect(429);
    server.write("auth/token/create", json!({"ttl": "1h", "type": "batch", "policies": ["default"]})).await.expect(200);
    server.delete("sys/namespaces/a").await;
    server.until_no_jobs().await;
    server.read("sys/quotas/lease-count/a").await.expect(404);
    login(&server, "").await.expect(200);
    for wrong in
        [json!({}), json!({"max_leases": 0}), json!({"max_leases": -1}), json!({"max_leases": 1, "path": "none"})]
    {
        server.write("sys/quotas/lease-count/x", wrong).await.expect(400);
    }
    server.ask(&server.root, Operation::Read, "b/sys/quotas/lease-count/all", Value::Null).await.expect(400);
}

#[tokio::test]
async fn what_an_engine_gives_is_counted_and_ends_with_a_move_of_its_mount() {
    let server = house().await;
    let world = World::of("lease-quotas");
    let mount = json!({"type": "outside", "options": {"world": "lease-quotas"}});
    server.write("sys/mounts/out", mount).await.expect(204);
    quota(&server, "out", json!({"path": "out", "max_leases": 2})).await;
    for _ in 0..2 {
        server.read("out/leased/t").await.expect(200);
    }
    server.read("out/leased/t").await.expect(429);
    for _ in 0..600 {
        if world.users().len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.users().len(), 2, "what was made beyond the limit is undone");
    server.write("sys/remount", json!({"from": "out", "to": "moved"})).await.expect(200);
    for _ in 0..600 {
        if world.users().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(world.users().is_empty(), "what was given at the old path is taken back");
    server.read("moved/leased/t").await.expect(200);
}
