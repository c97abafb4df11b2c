//! Every declared route, asked wrongly in every way: the answer has the API's form and is never a failure of
//! the server. The routes come from the server's own OpenAPI document, so that a new one is tried at once.

mod support;

use holdfast_sdk::{Operation, Value};
use serde_json::json;
use support::{Reply, Server};

const OPERATIONS: [Operation; 6] =
    [Operation::Read, Operation::Update, Operation::Patch, Operation::Delete, Operation::List, Operation::Scan];

/// Routes that would end the test, or answer before a token is looked at.
fn is_left_out(path: &str) -> bool {
    // A CPU profile takes its time.
    matches!(
        path,
        "sys/pprof/profile"
            | "sys/seal"
            | "sys/health"
            | "sys/init"
            | "sys/leader"
            | "sys/seal-status"
            | "sys/unseal"
            | "sys/unseal/custodians"
            | "sys/unseal/custodians/sign"
    )
}

struct Tried {
    path: String,
    unauthenticated: bool,
    fields: Vec<String>,
}

async fn routes(server: &Server) -> Vec<Tried> {
    let document = server.read("sys/internal/specs/openapi").await.expect(200);
    let mut routes = Vec::new();
    for (pattern, item) in document["paths"].as_object().unwrap() {
        let path = pattern.trim_start_matches('/').replace(['{', '}'], "");
        if is_left_out(&path) {
            continue;
        }
        let properties = &item["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"];
        let fields = properties.as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default();
        let unauthenticated = item["x-vault-unauthenticated"] == true;
        routes.push(Tried { path, unauthenticated, fields });
    }
    routes
}

#[track_caller]
fn check_form(what: &str, reply: &Reply) {
    assert!(reply.status < 500 || reply.status == 503, "{what}: {} {}", reply.status, reply.body);
    if reply.status == 404 && reply.body["warnings"].is_array() {
        return;
    }
    // Services that log people in know the form of OAuth alone (RFC 6749, 5.2).
    if what.contains("identity/oidc/provider/") && reply.body["error"].is_string() {
        return;
    }
    if reply.status >= 400 && !reply.body.is_null() {
        assert!(reply.body["errors"].is_array(), "{what}: {} {}", reply.status, reply.body);
    }
}

#[tokio::test]
async fn a_route_that_is_asked_wrongly_refuses_in_the_form_of_the_api() {
    let server = Server::start().await;
    server.write("sys/mounts/one", json!({"type": "kv"})).await.expect(204);
    server.write("sys/mounts/two", json!({"type": "kv-v2"})).await.expect(204);
    let made = server.write("auth/token/create", json!({"policies": ["nothing"], "no_default_policy": true})).await;
    let weak = made.expect(200)["auth"]["client_token"].as_str().unwrap().to_owned();

    let routes = routes(&server).await;
    assert!(routes.len() > 60, "only {} routes are declared", routes.len());
    for route in &routes {
        for operation in OPERATIONS {
            for (whose, token) in [("no token", ""), ("a bad token", "hvs.bad"), ("a token without the policy", &weak)]
            {
                let what = format!("{} {} by {whose}", operation.word(), route.path);
                let reply = server.ask(token, operation, &route.path, Value::Null).await;
                check_form(&what, &reply);
                if !route.unauthenticated
                    && !server_lists_otherwise(operation)
                    && !route.path.starts_with("sys/wrapping/")
                {
                    assert_eq!(reply.status, 403, "{what}: {}", reply.body);
                }
            }
        }
    }
}

/// A list's path may belong to another route than the same path without its slash.
fn server_lists_otherwise(operation: Operation) -> bool {
    matches!(operation, Operation::List | Operation::Scan)
}

#[tokio::test]
async fn values_of_wrong_types_are_never_a_failure_of_the_server() {
    let server = Server::start().await;
    server.write("sys/mounts/one", json!({"type": "kv"})).await.expect(204);
    server.write("sys/mounts/two", json!({"type": "kv-v2"})).await.expect(204);
    let wrong =
        [json!({"a": [1]}), json!([[1], {}]), json!(-1), json!(1e300), json!("\u{0}x"), json!(true), json!(null)];
    for route in routes(&server).await {
        for value in &wrong {
            for operation in OPERATIONS {
                let body: Value =
                    route.fields.iter().map(|f| (f.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into();
                let what = format!("{} {} with {value} everywhere", operation.word(), route.path);
                check_form(&what, &server.ask(&server.root, operation, &route.path, body).await);
            }
        }
    }
}

#[tokio::test]
async fn no_two_operations_of_the_open_api_document_share_an_id() {
    let server = Server::start().await;
    let document = server.read("sys/internal/specs/openapi").await.expect(200);
    let mut ids = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let declared: Vec<&str> = path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')).collect();
        let shown = item["parameters"].as_array().cloned().unwrap_or_default();
        let shown: Vec<&str> = shown.iter().filter_map(|p| p["name"].as_str()).collect();
        assert_eq!(declared, shown, "{path}");
        for verb in ["get", "post", "patch", "delete"] {
            if let Some(id) = item[verb]["operationId"].as_str() {
                assert!(ids.insert(id.to_owned()), "{path}: {id} is there twice");
            }
        }
    }
}
