//! Which namespace's token reaches which namespace, by every route of the OpenAPI document. What is expected is the
//! table of rules below; a route that no rule names is one that a token reaches in its namespace and below.
//!
//! The table's first form was held against OpenBao 2.7.2 (230 routes, 10,024 requests, 2026-11-29). It differed at
//! `rotate`, `generate-root-token`, `decode-token`, `internal/ui/mounts/PATH` and `internal/ui/namespaces`, where the
//! table was put right afterwards.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_core::clock::SystemClocks;
use holdfast_core::{EngineTable, MountEntry};
use holdfast_sdk::{Backend, Operation, Value};
use holdfast_storage::Store;
use holdfast_userpass::Userpass;
use serde_json::json;
use support::{Server, core};

/// What is true of a route, whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Only the root has it: in a namespace 400, before the token is looked at.
    OfRootAlone,
    /// No token is needed, and none makes a difference.
    Open,
    /// It is about the caller: judged where its token is, or telling only what it reaches.
    AboutTheCaller,
    /// Nothing is there, which nobody is told.
    Hidden,
    /// It would end the test: only those who may not are asked.
    Deadly,
    /// A token reaches its namespace and those below it.
    Reached,
}

/// The first that begins a route counts; `=`: it is the route.
#[rustfmt::skip]
const RULES: &[(&str, Rule)] = &[
    ("sys/config", Rule::OfRootAlone), ("sys/quotas", Rule::OfRootAlone), ("sys/loggers", Rule::OfRootAlone),
    ("sys/metrics", Rule::OfRootAlone), ("sys/host-info", Rule::OfRootAlone), ("sys/pprof", Rule::OfRootAlone), ("sys/raw", Rule::OfRootAlone),
    ("sys/audit", Rule::OfRootAlone), ("sys/generate-root/", Rule::OfRootAlone), ("sys/in-flight-req", Rule::OfRootAlone), ("sys/rekey", Rule::OfRootAlone),
    ("sys/storage", Rule::OfRootAlone), ("sys/jobs", Rule::OfRootAlone), ("sys/intents", Rule::OfRootAlone),
    ("=sys/health", Rule::OfRootAlone), ("=sys/init", Rule::OfRootAlone), ("sys/unseal", Rule::OfRootAlone),
    ("=sys/seal", Rule::OfRootAlone), ("=sys/seal-backend-status", Rule::OfRootAlone), ("=sys/step-down", Rule::OfRootAlone),
    ("sys/devices", Rule::OfRootAlone), ("sys/seal/", Rule::OfRootAlone), ("sys/sealwrap/", Rule::OfRootAlone),
    ("auth/up/login/", Rule::Open), ("sys/mfa/validate", Rule::Open), ("=sys/decode-token", Rule::Open),
    ("identity/oidc/.well-known/", Rule::Open), ("=sys/internal/ui/mounts", Rule::Open),
    ("sys/internal/ui/mounts/", Rule::Hidden),
    ("=identity/oidc/provider/{name}/token", Rule::Open), ("=identity/oidc/provider/{name}/userinfo", Rule::Open),
    ("identity/oidc/provider/{name}/.well-known/", Rule::Open), ("sys/internal/specs/openapi", Rule::Open),
    ("auth/token/lookup-self", Rule::AboutTheCaller), ("auth/token/renew-self", Rule::AboutTheCaller),
    ("auth/token/revoke-self", Rule::Deadly), ("sys/wrapping/lookup", Rule::AboutTheCaller),
    ("sys/wrapping/rewrap", Rule::AboutTheCaller), ("sys/wrapping/unwrap", Rule::AboutTheCaller),
    ("=auth/token/lookup", Rule::AboutTheCaller), ("sys/internal/ui/namespaces", Rule::AboutTheCaller),
    ("=sys/policies/explain", Rule::AboutTheCaller),
    ("sys/namespaces/api-lock/lock", Rule::Deadly),
    ("", Rule::Reached),
];

const NAMESPACES: [&str; 4] = ["", "a/", "a/b/", "c/"];
const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv)], auth: &[("userpass", userpass)], databases: &[] };

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}

fn rule_of(route: &str) -> Rule {
    let fits = |pattern: &str| match pattern.strip_prefix('=') {
        Some(whole) => whole == route,
        None => route.starts_with(pattern),
    };
    RULES.iter().find(|(pattern, _)| fits(pattern)).unwrap().1
}

/// Each with the operations that the document has, by its pattern.
async fn routes(server: &Server) -> Vec<(String, Vec<Operation>)> {
    let document = server.read("sys/internal/specs/openapi").await.expect(200);
    let paths = document["paths"].as_object().unwrap();
    let operations = |item: &Value| {
        let is_list = |p: &Value| p["name"] == "list" && p["required"] == true;
        let lists = item["get"]["parameters"].as_array().is_some_and(|all| all.iter().any(is_list));
        let get = if lists { Operation::List } else { Operation::Read };
        let verbs =
            [("get", get), ("post", Operation::Update), ("delete", Operation::Delete), ("patch", Operation::Patch)];
        verbs.into_iter().filter(|(verb, _)| item.get(verb).is_some()).map(|(_, operation)| operation).collect()
    };
    // A CPU profile takes its time, and is like the others of its kind.
    let paths = paths.iter().filter(|(pattern, _)| *pattern != "/sys/pprof/profile");
    paths.map(|(pattern, item)| (pattern.trim_start_matches('/').to_owned(), operations(item))).collect()
}

async fn house() -> (Server, Vec<(&'static str, String)>) {
    let store = Store::open_on(None, 1 << 20).unwrap();
    let server = Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), Vec::new())).await;
    for (above, name) in [("", "a"), ("a/", "b"), ("", "c")] {
        server.write(&format!("{above}sys/namespaces/{name}"), json!({})).await.expect(200);
    }
    let all = r#"path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }"#;
    let mut tokens = vec![("none", String::new())];
    for namespace in NAMESPACES {
        server.write(&format!("{namespace}sys/mounts/kv"), json!({"type": "kv"})).await.expect(204);
        server.write(&format!("{namespace}sys/auth/up"), json!({"type": "userpass"})).await.expect(204);
        server.write(&format!("{namespace}sys/policies/acl/all"), json!({"policy": all})).await.expect(204);
        let path = format!("{namespace}auth/token/create");
        tokens.push((
            namespace,
            server.token(&server.root, &path, json!({"policies": ["all"], "no_default_policy": true})).await,
        ));
    }
    (server, tokens)
}

#[tokio::test]
async fn every_route_is_reached_by_the_tokens_of_its_namespace_and_of_those_above_and_by_no_other() {
    let (server, tokens) = house().await;
    let routes = routes(&server).await;
    assert!(routes.len() > 150, "only {} routes are declared", routes.len());
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for (route, operations) in &routes {
        let rule = rule_of(route);
        seen.insert(format!("{rule:?}"));
        let path = route.replace(['{', '}'], "");
        for operation in operations {
            for namespace in NAMESPACES {
                for (of, token) in &tokens {
                    let what = format!("{} {namespace}{path} by a token of {of:?} ({rule:?})", operation.word());
                    let reaches = *of != "none" && namespace.starts_with(of);
                    let kills = rule == Rule::Deadly || path == "sys/seal";
                    // A token ends itself wherever that is asked; without a cluster anybody may step down.
                    let by_anybody = path.ends_with("revoke-self") || path == "sys/step-down" && namespace.is_empty();
                    if kills && reaches || by_anybody {
                        continue;
                    }
                    let reply = server.ask(token, *operation, &format!("{namespace}{path}"), Value::Null).await;
                    if !holds(rule, reply.status, reaches, *of == "none", namespace.is_empty()) {
                        wrong.push(format!("{what}: {} {}", reply.status, reply.body));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers break a rule:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(seen.len(), 6, "each rule has its routes: {seen:?}");
    for (of, token) in tokens.iter().filter(|(of, _)| *of != "none") {
        assert!(server.is_good(token).await, "the token of {of:?} is still one");
    }
}

/// Whether an answer is one that the rule allows.
fn holds(rule: Rule, status: u16, reaches: bool, no_token: bool, at_root: bool) -> bool {
    match rule {
        Rule::OfRootAlone if !at_root => status == 400,
        Rule::OfRootAlone | Rule::Reached | Rule::Deadly if reaches => status != 403,
        // What is asked before the token is known may be refused before it is looked at.
        Rule::OfRootAlone => status >= 400,
        Rule::Reached | Rule::Deadly | Rule::Hidden => status == 403,
        Rule::Open => status != 403,
        Rule::AboutTheCaller if no_token => matches!(status, 400 | 403),
        Rule::AboutTheCaller => status != 403,
    }
}
