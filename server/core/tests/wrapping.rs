//! Response wrapping, cubbyholes and counted uses, asked as a client asks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::audit::{DeviceConfig, Rules};
use holdfast_core::log::{Format, Level, Log};
use holdfast_core::{Core, Endpoints, EngineTable, InitRequest, Options, SYSTEM_TTL_SECS, TtlLimits, random};
use holdfast_hsm::memory::{Secret, allow_unlocked};
use holdfast_sdk::{Map, Operation, Request, Value};
use holdfast_storage::Store;
use serde_json::json;

struct Server {
    core: Arc<Core>,
    root: String,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    body: Value,
}

impl Reply {
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
    fn wrapped(self) -> String {
        self.expect(200)["wrap_info"]["token"].as_str().unwrap().to_owned()
    }
}

async fn server(audit: Vec<DeviceConfig>) -> Server {
    allow_unlocked();
    let core = Core::new(Options {
        store: Store::open_on(None, 1 << 20).unwrap(),
        engines: EngineTable { secrets: &[], auth: &[], databases: &[] },
        seals: holdfast_core::Seals::default(),
        seal_source: None,
        devices: Vec::new(),
        storage_type: "inmem".into(),
        cluster: None,
        audit,
        audit_rules: Rules::default(),
        limits: TtlLimits { default_secs: SYSTEM_TTL_SECS, max_secs: SYSTEM_TTL_SECS },
        user_lockout: Vec::new(),
        cluster_name: None,
        max_entry_bytes: 1 << 20,
        endpoints: Endpoints { introspection: true, raw_storage: true },
        log: Log::new(Level::Info, Format::Standard),
        shown_config: Map::new(),
        recovery_mode: None,
    });
    let request = InitRequest { secret_shares: 1, secret_threshold: 1, ..InitRequest::default() };
    let mut made = core.initialise(&request).await.unwrap();
    core.unseal_share(made.keys.pop().unwrap()).await.unwrap();
    Server { core, root: made.root_token.expose().clone() }
}

impl Server {
    async fn ask(&self, token: &str, operation: Operation, path: &str, data: Value, wrap: Option<u64>) -> Reply {
        let request = Request {
            id: random::uuid_text(&random::uuid().unwrap()),
            operation,
            path: path.into(),
            data: data.as_object().cloned().unwrap_or_else(Map::new),
            token: (!token.is_empty()).then(|| Secret::new(token.to_owned())),
            namespace: String::new(),
            wrap_ttl: wrap.map(Duration::from_secs),
            remote: None,
            headers: Vec::new(),
            merge_patch: false,
            policy_override: false,
            forwarded_from: None,
            client_certificate_serial: None,
            presented: Default::default(),
        };
        let answer = self.core.handle(request).await;
        Reply { status: answer.status, body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null) }
    }

    async fn write(&self, token: &str, path: &str, data: Value) -> Reply {
        self.ask(token, Operation::Update, path, data, None).await
    }

    async fn read(&self, token: &str, path: &str) -> Reply {
        self.ask(token, Operation::Read, path, Value::Null, None).await
    }

    async fn wrap(&self, data: Value) -> String {
        self.ask(&self.root, Operation::Update, "sys/wrapping/wrap", data, Some(60)).await.wrapped()
    }

    async fn token(&self, parameters: Value) -> String {
        let made = self.write(&self.root, "auth/token/create", parameters).await.expect(200);
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }
}

const INVALID: &str = "wrapping token is not valid or does not exist";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_unwraps_at_once_one_gets_the_answer() {
    let server = Arc::new(server(Vec::new()).await);
    for round in 0..20 {
        let wrapped = server.wrap(json!({"k": "v"})).await;
        let asked: Vec<_> = (0..8)
            .map(|n| {
                let (server, wrapped) = (server.clone(), wrapped.clone());
                tokio::spawn(async move {
                    // By the wrapping token itself and under another one, mixed.
                    match (n + round) % 2 {
                        0 => server.write(&wrapped, "sys/wrapping/unwrap", json!({})).await,
                        _ => server.write(&server.root, "sys/wrapping/unwrap", json!({"token": wrapped})).await,
                    }
                })
            })
            .collect();
        let mut got = 0;
        for task in asked {
            let reply = task.await.unwrap();
            match reply.status {
                200 => got += 1,
                _ => assert_eq!(reply.expect(400)["errors"], json!([INVALID])),
            }
        }
        assert_eq!(got, 1);
    }
}

#[tokio::test]
async fn any_other_request_by_a_wrapping_token_is_refused_and_spends_it() {
    let server = server(Vec::new()).await;
    for path in ["auth/token/lookup-self", "sys/mounts", "cubbyhole/other"] {
        let wrapped = server.wrap(json!({"k": "v"})).await;
        server.read(&wrapped, path).await.expect(403);
        server.write(&server.root, "sys/wrapping/unwrap", json!({"token": wrapped})).await.expect(400);
    }
    let wrapped = server.wrap(json!({"k": "v"})).await;
    server.write(&wrapped, "sys/wrapping/rewrap", json!({})).await.expect(403);
    server.read(&wrapped, "sys/wrapping/lookup").await.expect(400);
}

#[tokio::test]
async fn looking_a_wrapping_token_up_spends_nothing() {
    let server = server(Vec::new()).await;
    let wrapped = server.wrap(json!({"k": "v"})).await;
    for _ in 0..3 {
        let found = server.write("", "sys/wrapping/lookup", json!({"token": wrapped})).await.expect(200);
        assert_eq!(found["data"]["creation_path"], "sys/wrapping/wrap");
        assert_eq!(found["data"]["creation_ttl"], 60);
    }
    server.write(&wrapped, "sys/wrapping/unwrap", json!({})).await.expect(200);
}

#[tokio::test]
async fn a_rewrapped_answer_moves_and_keeps_its_path() {
    let server = server(Vec::new()).await;
    let first = server.ask(&server.root, Operation::Read, "sys/mounts", Value::Null, Some(90)).await.wrapped();
    let moved = server.write(&server.root, "sys/wrapping/rewrap", json!({"token": first})).await.expect(200);
    assert_eq!(moved["wrap_info"]["ttl"], 90);
    assert_eq!(moved["wrap_info"]["creation_path"], "sys/mounts");
    assert_eq!(moved["request_id"], "");
    server.write(&first, "sys/wrapping/unwrap", json!({})).await.expect(400);
    let second = moved["wrap_info"]["token"].as_str().unwrap();
    let answer = server.write(second, "sys/wrapping/unwrap", json!({})).await.expect(200);
    assert_eq!(answer["data"]["cubbyhole/"]["type"], "cubbyhole");
}

#[tokio::test]
async fn an_answer_without_an_envelope_is_not_wrapped() {
    let server = server(Vec::new()).await;
    let ask = |operation, path: &'static str, data| server.ask(&server.root, operation, path, data, Some(60));
    ask(Operation::Update, "cubbyhole/a", json!({"k": "v"})).await.expect(204);
    assert_eq!(ask(Operation::Read, "cubbyhole/none", Value::Null).await.expect(404)["errors"], json!([]));
    assert!(ask(Operation::Read, "sys/internal/specs/openapi", Value::Null).await.expect(200)["wrap_info"].is_null());
    ask(Operation::Read, "cubbyhole/a", Value::Null).await.wrapped();
}

#[tokio::test]
async fn an_answer_may_be_as_deep_as_a_body() {
    let server = server(Vec::new()).await;
    let deep = (0..990).fold(json!(1), |inner, _| json!([inner]));
    server.write(&server.root, "cubbyhole/deep", json!({"k": deep})).await.expect(204);
    let wrapped = server.ask(&server.root, Operation::Read, "cubbyhole/deep", Value::Null, Some(60)).await.wrapped();
    server.write(&wrapped, "sys/wrapping/unwrap", json!({})).await.expect(200);
    server.read(&wrapped, "sys/wrapping/lookup").await.expect(400);
}

#[tokio::test]
async fn a_wrapped_token_works_and_its_accessor_is_shown() {
    let server = server(Vec::new()).await;
    let parameters = json!({"policies": ["default"], "ttl": "1h"});
    let made = server.ask(&server.root, Operation::Update, "auth/token/create", parameters, Some(60)).await.expect(200);
    assert_eq!(made["auth"], Value::Null);
    let wrapped = made["wrap_info"]["token"].as_str().unwrap();
    let answer = server.write(wrapped, "sys/wrapping/unwrap", json!({})).await.expect(200);
    assert_eq!(answer["auth"]["accessor"], made["wrap_info"]["wrapped_accessor"]);
    assert_eq!(answer["mount_type"], "token");
    let token = answer["auth"]["client_token"].as_str().unwrap();
    server.read(token, "auth/token/lookup-self").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_of_one_use_is_used_once() {
    let server = Arc::new(server(Vec::new()).await);
    for round in 0..10 {
        let token = server.token(json!({"num_uses": 1, "policies": ["default"]})).await;
        let asked: Vec<_> = (0..6)
            .map(|_| {
                let (server, token) = (server.clone(), token.clone());
                tokio::spawn(async move {
                    match round % 3 {
                        0 => server.write(&token, "sys/tools/hash", json!({"input": ""})).await,
                        1 => server.read(&token, "sys/internal/ui/resultant-acl").await,
                        _ => server.write(&token, "cubbyhole/a", json!({"k": "v"})).await,
                    }
                })
            })
            .collect();
        let mut allowed = 0;
        for task in asked {
            let reply = task.await.unwrap();
            match reply.status {
                200 | 204 => allowed += 1,
                _ => drop(reply.expect(403)),
            }
        }
        assert_eq!(allowed, 1, "round {round}");
        server.read(&token, "auth/token/lookup-self").await.expect(403);
    }
}

#[tokio::test]
async fn a_refused_or_failed_request_is_a_use_too() {
    let server = server(Vec::new()).await;
    let token = server.token(json!({"num_uses": 4, "policies": ["default"]})).await;
    let shown = server.read(&token, "auth/token/lookup-self").await.expect(200);
    assert_eq!(shown["data"]["num_uses"], 3);
    server.read(&token, "sys/mounts").await.expect(403);
    server.read(&token, "cubbyhole/none").await.expect(404);
    server.read(&token, "cubbyhole/none").await.expect(404);
    server.read(&token, "cubbyhole/none").await.expect(403);
}

#[tokio::test]
async fn a_cubbyhole_is_one_tokens_own_and_ends_with_it() {
    let server = server(Vec::new()).await;
    let named = json!({"id": "mine", "policies": ["default"]});
    let token = server.token(named.clone()).await;
    for n in 0..400 {
        server.write(&token, &format!("cubbyhole/a/{n}"), json!({"n": n})).await.expect(204);
    }
    server.read(&server.root, "cubbyhole/a/0").await.expect(404);
    assert_eq!(server.read(&token, "cubbyhole/a/399").await.expect(200)["data"]["n"], 399);
    server.write(&server.root, "auth/token/revoke", json!({"token": token})).await.expect(204);
    // A token of the same id does not find what the one before it kept.
    let again = loop {
        let reply = server.write(&server.root, "auth/token/create", named.clone()).await;
        match reply.status {
            200 => break reply.body["auth"]["client_token"].as_str().unwrap().to_owned(),
            _ => assert!(reply.expect(400)["errors"][0].as_str().unwrap().contains("still being deleted")),
        }
        tokio::task::yield_now().await;
    };
    server.ask(&again, Operation::List, "cubbyhole/", Value::Null, None).await.expect(404);
    server.read(&again, "cubbyhole/a/399").await.expect(404);
}

#[tokio::test]
async fn the_audit_log_never_shows_what_was_wrapped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let server = server(vec![device(&file)]).await;
    let wrapped = server.wrap(json!({"key": "plain-secret-1"})).await;
    let moved = server.write(&server.root, "sys/wrapping/rewrap", json!({"token": wrapped})).await.wrapped();
    server.write("", "sys/wrapping/lookup", json!({"token": moved})).await.expect(200);
    let answer = server.write(&moved, "sys/wrapping/unwrap", json!({})).await.expect(200);
    assert_eq!(answer["data"]["key"], "plain-secret-1");
    let old_way = server.wrap(json!({"key": "plain-secret-2"})).await;
    server.read(&old_way, "cubbyhole/response").await.expect(200);
    let lines = std::fs::read_to_string(&file).unwrap();
    for secret in ["plain-secret", &wrapped, &moved, &old_way, &server.root] {
        assert!(!lines.contains(secret), "{secret}");
    }
    let unwraps: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|l: &Value| l["type"] == "response" && l["request"]["path"] == "sys/wrapping/unwrap")
        .collect();
    assert!(unwraps[0]["response"]["data"]["key"].as_str().unwrap().starts_with("hmac-sha256:"));
    let wraps = lines.lines().find(|l| l.contains("\"wrap_info\"")).unwrap();
    let wraps: Value = serde_json::from_str(wraps).unwrap();
    assert!(wraps["response"]["wrap_info"]["token"].as_str().unwrap().starts_with("hmac-sha256:"));
    assert!(wraps["response"]["data"].is_null());
}

fn device(file: &Path) -> DeviceConfig {
    DeviceConfig::file("file/", file)
}
