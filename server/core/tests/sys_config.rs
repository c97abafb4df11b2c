//! Settings of the server that take effect at once: audited request headers, the levels of the log.

mod support;

use std::sync::Arc;

use holdfast_core::audit::DeviceConfig;
use holdfast_core::clock::SystemClocks;
use holdfast_core::{EngineTable, random};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Headers, Map, Operation, Request, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::{Server, core};

fn request(server: &Server, path: &str, headers: Headers) -> Request {
    Request {
        id: random::uuid_text(&random::uuid().unwrap()),
        operation: Operation::Read,
        path: path.into(),
        data: Map::new(),
        token: Some(Secret::new(server.root.clone())),
        namespace: String::new(),
        wrap_ttl: None,
        remote: None,
        headers,
        merge_patch: false,
        policy_override: false,
        forwarded_from: None,
        client_certificate_serial: None,
        presented: Default::default(),
    }
}

#[tokio::test]
async fn audit_lines_show_the_headers_that_are_configured_as_they_are_configured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let device = DeviceConfig::file("file/", &file);
    let engines = EngineTable { secrets: &[], auth: &[], databases: &[] };
    let core = core(Store::open_on(None, 1 << 20).unwrap(), engines, Arc::new(SystemClocks), vec![device]);
    let server = Server::initialise(core).await;
    let base = "sys/config/auditing/request-headers";

    let shown = async |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(server.core.handle(request(&server, "sys/mounts", headers)).await.status, 200);
        let log = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<Value> = log.lines().rev().take(2).map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0]["request"]["headers"], lines[1]["request"]["headers"]);
        lines[0]["request"]["headers"].clone()
    };
    let sent = [("x-team", "red"), ("x-team", "blue"), ("x-secret", "s3cret"), ("user-agent", "test")];

    assert_eq!(shown(&sent).await, json!({"user-agent": ["test"]}));
    server.write(&format!("{base}/X-Team"), json!({})).await.expect(204);
    server.write(&format!("{base}/x-secret"), json!({"hmac": "true"})).await.expect(204);
    let with_both = shown(&sent).await;
    assert_eq!(with_both["x-team"], json!(["red", "blue"]));
    assert!(with_both["x-secret"][0].as_str().unwrap().starts_with("hmac-sha256:"));
    assert_eq!(shown(&[]).await, Value::Null);
    server.write(&format!("{base}/user-agent"), json!({"hmac": true})).await.expect(204);
    assert!(shown(&sent).await["user-agent"][0].as_str().unwrap().starts_with("hmac-sha256:"));
    server.delete(&format!("{base}/X-TEAM")).await.expect(204);
    assert_eq!(shown(&sent).await["x-team"], Value::Null);
    assert_eq!(
        server.read(base).await.expect(200)["headers"],
        json!({"user-agent": {"hmac": true}, "x-secret": {"hmac": true}})
    );
    assert!(!std::fs::read_to_string(&file).unwrap().contains("s3cret"));
}

#[tokio::test]
async fn there_is_an_end_to_the_headers_that_may_be_audited() {
    let server = Server::start().await;
    for n in 0..100 {
        server.write(&format!("sys/config/auditing/request-headers/x-{n}"), json!({})).await.expect(204);
    }
    server.write("sys/config/auditing/request-headers/x-5", json!({"hmac": true})).await.expect(204);
    server.write("sys/config/auditing/request-headers/x-100", json!({})).await.expect(400);
}

#[tokio::test]
async fn a_seal_ends_what_follows_the_log() {
    let server = Server::start().await;
    let mut stream = server.core.handle(request(&server, "sys/monitor", Vec::new())).await.stream.expect("it goes on");
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(stream.poll_next(&mut cx).is_pending());
    server.core.seal_now().await;
    assert!(matches!(stream.poll_next(&mut cx), std::task::Poll::Ready(None)));
}

#[tokio::test]
async fn a_setting_that_no_header_could_carry_is_refused() {
    let server = Server::start().await;
    let good = json!({"allowed_origins": "http://a.example", "allowed_headers": "X-One,X-Two"});
    server.write("sys/config/cors", good).await.expect(204);
    let before = server.read("sys/config/cors").await.expect(200)["data"].clone();
    for wrong in [
        json!({"allowed_origins": "*", "allowed_headers": ["X-One\nX-Two"]}),
        json!({"allowed_origins": "*", "allowed_headers": ["X One"]}),
        json!({"allowed_origins": ["http://a.example\r\nX: y"]}),
        json!({"allowed_origins": vec!["http://a.example"; 101]}),
    ] {
        server.write("sys/config/cors", wrong.clone()).await.expect(400);
    }
    assert_eq!(server.read("sys/config/cors").await.expect(200)["data"], before);
    server.write("sys/config/auditing/request-headers/a b", json!({})).await.expect(400);
    server.write("sys/config/ui/headers/a b", json!({"values": ["x"]})).await.expect(400);
}

#[tokio::test]
async fn headers_of_the_ui_are_listed_by_name_and_there_is_an_end_to_them() {
    let server = Server::start().await;
    for n in 0..100 {
        server.write(&format!("sys/config/ui/headers/x-{n:03}"), json!({"values": ["v"]})).await.expect(200);
    }
    server.write("sys/config/ui/headers/x-100", json!({"values": ["v"]})).await.expect(400);
    server.write("sys/config/ui/headers/x-099", json!({"values": ["w"]})).await.expect(200);
    let keys = server.list("sys/config/ui/headers").await.expect(200)["data"]["keys"].clone();
    assert_eq!((keys.as_array().unwrap().len(), &keys[99]), (100, &json!("X-099")));
    server.delete("sys/config/ui/headers/X-000").await.expect(204);
    server.read("sys/config/ui/headers/x-000").await.expect(404);
}
