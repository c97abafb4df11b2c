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

/// What `sys/policies/explain` answers.
async fn explained(server: &Server, token: &str, body: Value) -> Value {
    server.ask(token, Operation::Update, "sys/policies/explain", body).await.expect(200)["data"].clone()
}

#[tokio::test]
async fn explain_says_what_decided_and_what_is_missing() {
    let server = Server::start().await;
    let rules = r#"
path "kv/*" { capabilities = ["read", "list"] }
path "kv/team/*" {
  capabilities = ["create", "update"]
  allowed_parameters = { "a" = ["1"] }
  required_parameters = ["a"]
}
path "kv/team/secret" { capabilities = ["deny"] }
path "sys/audit" { capabilities = ["read"] }
path "v2/data/app" { capabilities = ["read"] }
path "own/{{identity.entity.name}}" { capabilities = ["read"] }"#;
    server.write("sys/policies/acl/app", json!({"policy": rules})).await.expect(204);
    let options = json!({"policies": ["app", "absent"], "no_default_policy": true});
    let token = server.token(&server.root, "auth/token/create", options).await;
    let ask = async |path: &str, operation: &str, parameters: Value| {
        let body = json!({"path": path, "operation": operation, "parameters": parameters});
        explained(&server, &token, body).await
    };
    for (path, operation, parameters, allowed, reason) in [
        ("kv/a", "read", json!({}), true, "granted"),
        ("kv/a", "update", json!({}), false, "capability"),
        ("kv/team/a", "update", json!({"a": "1"}), true, "granted"),
        ("kv/team/a", "update", json!({}), false, "required_parameter"),
        ("kv/team/a", "update", json!({"a": "2"}), false, "parameter_not_allowed"),
        ("kv/team/a", "write", json!({"a": "1"}), true, "granted"),
        ("kv/team/secret", "read", json!({}), false, "deny"),
        ("other", "read", json!({}), false, "no_rule"),
        ("sys/audit", "read", json!({}), false, "sudo"),
        ("sys/health", "read", json!({}), true, "no_token_needed"),
    ] {
        let answer = ask(path, operation, parameters).await;
        assert_eq!((&answer["allowed"], &answer["reason"]), (&allowed.into(), &reason.into()), "{path}: {answer}");
    }
    let answer = ask("kv/team/a", "read", json!({})).await;
    assert_eq!(answer["rule"]["path"], "kv/team/*");
    assert_eq!(answer["rule"]["policies"], json!([{"name": "app", "namespace": "", "path": "kv/team/*", "line": 3}]));
    assert_eq!(answer["needed_policy"], "path \"kv/team/a\" {\n  capabilities = [\"read\"]\n}\n");
    assert_eq!(answer["also_matching"], json!(["kv/*"]));
    assert_eq!(answer["not_applied"][0]["path"], "own/{{identity.entity.name}}");
    assert_eq!((&answer["policies"], &answer["missing_policies"]), (&json!(["app"]), &json!(["absent"])));
    let hint = ask("v2/app", "read", json!({})).await["explanation"].as_str().unwrap().to_owned();
    assert!(hint.contains("\"v2/data/app\" would be allowed"), "{hint}");
    // What is told is what a request gets.
    for (path, operation, status) in [("sys/audit", Operation::Read, 403), ("sys/mounts", Operation::Read, 403)] {
        assert_eq!(server.ask(&token, operation, path, Value::Null).await.status, status);
    }
    let root = explained(&server, &server.root, json!({"path": "any/thing", "operation": "delete"})).await;
    assert_eq!((&root["allowed"], &root["reason"]), (&true.into(), &"root".into()));
}

#[tokio::test]
async fn explain_knows_each_reason_that_a_request_meets() {
    let server = Server::start().await;
    server.write("sys/mounts/kv", json!({"type": "kv"})).await.expect(204);
    server.write("kv/list/a", json!({"v": 1})).await.expect(204);
    for namespace in ["n", "m"] {
        server.write(&format!("sys/namespaces/{namespace}"), json!({})).await.expect(200);
    }
    let rules = r#"
path "kv/denied" {
  capabilities = ["create", "update"]
  denied_parameters = { "secret" = [] }
}
path "kv/wrapped" {
  capabilities = ["read"]
  min_wrapping_ttl = "1m"
  max_wrapping_ttl = "1h"
}
path "kv/list/*" {
  capabilities = ["list"]
  pagination_limit = 10
}
path "n/*" { capabilities = ["read", "list"] }
path "m/*" { capabilities = ["read"] }"#;
    server.write("sys/policies/acl/app", json!({"policy": rules})).await.expect(204);
    let token = server.token(&server.root, "auth/token/create", json!({"policies": ["app"]})).await;
    let key = server.write("sys/namespaces/api-lock/lock/m", json!({})).await.expect(200);
    assert!(key["data"]["unlock_key"].is_string(), "{key}");
    for (body, reason, words, status) in [
        (
            json!({"path": "kv/denied", "operation": "update", "parameters": {"secret": "x"}}),
            "denied_parameter",
            "secret",
            403,
        ),
        (json!({"path": "kv/wrapped", "operation": "read"}), "wrap_ttl", "", 403),
        (json!({"path": "kv/wrapped", "operation": "read", "wrap_ttl": "2h"}), "wrap_ttl", "", 403),
        (json!({"path": "kv/list/", "operation": "list", "parameters": {"limit": 11}}), "pagination_limit", "10", 403),
        (
            json!({"path": "n/sys/host-info", "operation": "read"}),
            "root_namespace_only",
            "only the root namespace",
            400,
        ),
        (json!({"path": "m/kv/a", "operation": "read"}), "namespace_locked", "locked", 503),
    ] {
        let answer = explained(&server, &token, body.clone()).await;
        assert_eq!((&answer["allowed"], &answer["reason"]), (&false.into(), &reason.into()), "{body}: {answer}");
        assert!(answer["explanation"].as_str().unwrap().contains(words), "{body}: {answer}");
        // A request meets the same.
        if body.get("wrap_ttl").is_none() {
            let operation = match body["operation"].as_str().unwrap() {
                "update" => Operation::Update,
                "list" => Operation::List,
                _ => Operation::Read,
            };
            let (path, data) = (body["path"].as_str().unwrap(), body["parameters"].clone());
            let refused = server.ask(&token, operation, path, data).await;
            assert_eq!(refused.status, status, "{body}: {}", refused.body);
        }
    }
    for (body, allowed) in [
        (json!({"path": "kv/denied", "operation": "update", "parameters": {"other": "x"}}), true),
        (json!({"path": "kv/wrapped", "operation": "read", "wrap_ttl": "10m"}), true),
        (json!({"path": "kv/list/", "operation": "list", "parameters": {"limit": 10}}), true),
    ] {
        assert_eq!(explained(&server, &token, body.clone()).await["allowed"], allowed, "{body}");
    }

    // Policies of another namespace do not reach, and that is said.
    let rules = json!({"policy": r#"path "*" { capabilities = ["read"] }"#});
    server.write("n/sys/policies/acl/all", rules).await.expect(204);
    let foreign = server.token(&server.root, "n/auth/token/create", json!({"policies": ["all"]})).await;
    let body = json!({"path": "kv/a", "operation": "read"});
    let answer = explained(&server, &foreign, body.clone()).await;
    assert_eq!((&answer["allowed"], &answer["reason"]), (&false.into(), &"no_rule".into()), "{answer}");
    assert_eq!(answer["policies_namespace"], "n/");
    assert!(answer["explanation"].as_str().unwrap().contains("are of the namespace \"n/\""), "{answer}");
    assert_eq!(server.ask(&foreign, Operation::Read, "kv/a", Value::Null).await.status, 403);
    let answer = server.ask(&foreign, Operation::Update, "n/sys/policies/explain", body).await.expect(200);
    assert_eq!(answer["data"]["reason"], "granted", "{answer}");
}

#[tokio::test]
async fn explain_says_that_the_entity_of_a_token_is_disabled() {
    let server = Server::start().await;
    server
        .write("sys/policies/acl/app", json!({"policy": "path \"a\" { capabilities = [\"read\"] }"}))
        .await
        .expect(204);
    let entity = server.write("identity/entity", json!({"name": "e"})).await.expect(200)["data"]["id"].clone();
    let mounts = server.read("sys/auth").await.expect(200);
    let alias = json!({"name": "e", "canonical_id": entity, "mount_accessor": mounts["data"]["token/"]["accessor"]});
    server.write("identity/entity-alias", alias).await.expect(200);
    server
        .write("auth/token/roles/r", json!({"allowed_entity_aliases": "e", "allowed_policies": "app"}))
        .await
        .expect(204);
    let made = json!({"entity_alias": "e", "policies": ["app"]});
    let made = server.write("auth/token/create/r", made).await.expect(200)["auth"].clone();
    assert_eq!(made["entity_id"], entity, "{made}");
    let body = json!({"path": "a", "accessor": made["accessor"]});
    assert_eq!(explained(&server, &server.root, body.clone()).await["reason"], "granted");
    server
        .write(&format!("identity/entity/id/{}", entity.as_str().unwrap()), json!({"disabled": true}))
        .await
        .expect(204);
    let answer = explained(&server, &server.root, body).await;
    assert_eq!((&answer["allowed"], &answer["reason"]), (&false.into(), &"entity".into()), "{answer}");
    assert!(answer["explanation"].as_str().unwrap().contains("disabled"), "{answer}");
    let token = made["client_token"].as_str().unwrap();
    assert_eq!(server.ask(token, Operation::Read, "a", Value::Null).await.status, 403);
}

#[tokio::test]
async fn explain_answers_for_others_only_who_has_sudo() {
    let server = Server::start().await;
    let made = server.write("auth/token/create", json!({"policies": ["default"]})).await.expect(200);
    let (weak, accessor) = (made["auth"]["client_token"].as_str().unwrap(), &made["auth"]["accessor"]);
    let explain = |capabilities: &str| format!("path \"sys/policies/explain\" {{ capabilities = [{capabilities}] }}");
    for (name, capabilities) in [("grants", "\"update\""), ("sudo", "\"update\", \"sudo\"")] {
        let policy = explain(capabilities);
        server.write(&format!("sys/policies/acl/{name}"), json!({"policy": policy})).await.expect(204);
    }
    let plain = server.token(&server.root, "auth/token/create", json!({"policies": ["grants"]})).await;
    let operator = server.token(&server.root, "auth/token/create", json!({"policies": ["sudo"]})).await;
    for body in [json!({"path": "a", "accessor": accessor}), json!({"path": "a", "policies": ["default"]})] {
        for token in [weak, &plain] {
            let refused = server.ask(token, Operation::Update, "sys/policies/explain", body.clone()).await;
            assert_eq!(refused.status, 403, "{}", refused.body);
        }
        assert_eq!(explained(&server, &operator, body.clone()).await["reason"], "no_rule");
    }
    for (body, status) in [
        (json!({"path": "a", "accessor": "unknown"}), 400),
        (json!({"path": "a", "accessor": accessor, "policies": ["default"]}), 400),
        (json!({"path": ""}), 400),
        (json!({"path": "a", "operation": "think"}), 400),
    ] {
        let refused = server.ask(&operator, Operation::Update, "sys/policies/explain", body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
    }
    for token in ["", "hvs.unknown"] {
        let refused = server.ask(token, Operation::Update, "sys/policies/explain", json!({"path": "a"})).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
    }
    server.write("auth/token/revoke-accessor", json!({"accessor": accessor})).await.expect(204);
    assert_eq!(server.ask(weak, Operation::Update, "sys/policies/explain", json!({"path": "a"})).await.status, 403);
}
