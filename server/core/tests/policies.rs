//! Policies as they are written.

mod support;

use holdfast_sdk::{Operation, Value};
use serde_json::json;
use support::Server;

#[tokio::test]
async fn a_rule_that_asks_for_an_approval_refuses_and_its_writer_is_warned() {
    let server = Server::start().await;
    let rules = r#"
path "sys/host-info" { capabilities = ["read"] }
path "sys/mounts" {
  capabilities = ["read"]
  mfa_methods = ["totp"]
}"#;
    let reply = server.write("sys/policies/acl/p", json!({"policy": rules})).await.expect(200);
    let warnings = reply["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{reply}");
    assert!(warnings[0].as_str().unwrap().starts_with("path \"sys/mounts\" (3:"), "{reply}");
    // Another policy's grant does not get around it.
    let plain = r#"path "sys/mounts" { capabilities = ["read"] }"#;
    server.write("sys/policies/acl/plain", json!({"policy": plain})).await.expect(204);
    let token = server.token(&server.root, "auth/token/create", json!({"policies": ["p", "plain"]})).await;
    let status = async |path: &str| server.ask(&token, Operation::Read, path, Value::Null).await.status;
    assert_eq!((status("sys/host-info").await, status("sys/mounts").await), (200, 403));
    let asked = server.write("sys/capabilities", json!({"token": token, "paths": ["sys/mounts"]})).await.expect(200);
    assert_eq!(asked["data"]["sys/mounts"], json!(["deny"]));
    // A patch that leaves the text as it is says so again.
    let patched =
        server.ask(&server.root, Operation::Patch, "sys/policies/acl/p", json!({"ttl": "1h"})).await.expect(200);
    assert_eq!(patched["warnings"], reply["warnings"]);
}
