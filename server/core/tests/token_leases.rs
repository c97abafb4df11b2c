//! Leases of tokens: by their path, one and many.

mod support;

use holdfast_sdk::Operation;
use serde_json::json;
use support::Server;

async fn lease(server: &Server, folder: &str) -> String {
    let found = server.list(&format!("sys/leases/lookup/{folder}")).await.expect(200);
    format!("{folder}/{}", found["data"]["keys"][0].as_str().unwrap())
}

#[tokio::test]
async fn a_token_is_found_and_ended_by_its_lease() {
    let server = Server::start().await;
    let token = server.token(&server.root, "auth/token/create", json!({"policies": ["default"], "ttl": "1h"})).await;
    let lease = lease(&server, "auth/token/create").await;
    let shown = server.write("sys/leases/lookup", json!({"lease_id": lease})).await.expect(200);
    assert_eq!((&shown["data"]["path"], &shown["data"]["renewable"]), (&json!("auth/token/create"), &json!(true)));
    let refused = server.write("sys/leases/renew", json!({"lease_id": lease})).await;
    assert_eq!(refused.status, 400);
    server.write("sys/leases/revoke", json!({"lease_id": lease})).await.expect(204);
    assert!(!server.is_good(&token).await);
    server.write("sys/leases/lookup", json!({"lease_id": lease})).await.expect(400);
    server.list("sys/leases/lookup/auth").await.expect(404);
    // What has no end and what only carries an answer has no lease.
    server.token(&server.root, "auth/token/create", json!({})).await;
    server.list("sys/leases/lookup").await.expect(404);
}

#[tokio::test]
async fn the_end_of_a_token_takes_its_lease_along() {
    let server = Server::start().await;
    for (create, end) in [(json!({"num_uses": 1}), "use"), (json!({}), "revoke-self"), (json!({}), "revoke-orphan")] {
        let mut create = create;
        create["policies"] = json!(["default"]);
        let token = server.token(&server.root, "auth/token/create", create).await;
        assert_eq!(server.list("sys/leases/lookup").await.status, 200);
        match end {
            "use" => {
                server.is_good(&token).await;
            }
            "revoke-self" => {
                server.ask(&token, Operation::Update, "auth/token/revoke-self", json!({})).await.expect(204);
            }
            _ => {
                server.write("auth/token/revoke-orphan", json!({"token": token})).await.expect(204);
            }
        }
        assert_eq!(server.list("sys/leases/lookup").await.status, 404, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_leases_below_a_path_end_and_no_others() {
    const MANY: usize = 400;
    let server = Server::start().await;
    for role in ["a", "b"] {
        server.write(&format!("auth/token/roles/{role}"), json!({"allowed_policies": "default"})).await.expect(204);
    }
    let mut tokens = Vec::new();
    for _ in 0..MANY {
        tokens.push(server.token(&server.root, "auth/token/create/a", json!({})).await);
    }
    let other = server.token(&server.root, "auth/token/create/b", json!({})).await;
    server.write("sys/leases/revoke-prefix/auth/token/create/a", json!({"sync": false})).await.expect(202);
    let later = server.token(&server.root, "auth/token/create/a", json!({})).await;
    server.until_no_jobs().await;
    for token in &tokens {
        assert!(!server.is_good(token).await);
    }
    assert!(server.is_good(&other).await);
    assert!(server.is_good(&later).await, "what came after the request is not meant");
}

/// More than a commit takes: the answer is the job's end, not its beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_prefix_is_answered_when_all_have_ended() {
    let server = Server::start().await;
    for body in [json!({}), json!({"sync": true})] {
        for _ in 0..300 {
            server.token(&server.root, "auth/token/create", json!({"policies": ["default"], "ttl": "1h"})).await;
        }
        server.write("sys/leases/revoke-prefix/auth/token/create", body).await.expect(204);
        server.list("sys/leases/lookup/auth/token/create").await.expect(404);
        let jobs = server.read("sys/jobs").await.expect(200);
        assert_eq!(jobs["data"]["jobs"], json!([]), "nothing goes on behind");
    }
}

#[tokio::test]
async fn leases_are_for_those_who_may() {
    let server = Server::start().await;
    let policy = r#"path "sys/leases/*" { capabilities = ["read", "update", "list"] }"#;
    server.write("sys/policies/acl/l", json!({"policy": policy})).await.expect(204);
    let token = server.token(&server.root, "auth/token/create", json!({"policies": ["l"]})).await;
    for (operation, path, status) in [
        (Operation::List, "sys/leases/lookup", 403),
        (Operation::List, "sys/leases/lookup/auth", 403),
        (Operation::Update, "sys/leases/revoke-prefix/auth", 403),
        (Operation::Update, "sys/leases/revoke-force/auth", 403),
        (Operation::Update, "sys/leases/lookup", 400),
        (Operation::Read, "sys/leases/count", 404),
    ] {
        let reply = server.ask(&token, operation, path, json!({"lease_id": "none"})).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
    }
}
