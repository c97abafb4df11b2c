//! `sys/tokens/report` and `sys/last-use`.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_approle::Approle;
use holdfast_core::{EngineTable, MountEntry};
use holdfast_sdk::{Backend, Operation, Timestamp, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::by_hand::ByHand;
use support::{Server, core};

const DAY: u64 = 24 * 3600;
const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv)], auth: &[("approle", approle)], databases: &[] };

fn approle(mount: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Approle::new(mount.max_ttl_secs)))
}

async fn site() -> (Server, Arc<ByHand>) {
    let clocks = Arc::new(ByHand::default());
    let store = Store::open_on(None, 1 << 20).unwrap();
    (Server::initialise(core(store, ENGINES, clocks.clone(), Vec::new())).await, clocks)
}

struct Made {
    token: String,
    accessor: String,
}

impl Made {
    async fn new(server: &Server, path: &str, data: Value) -> Made {
        let auth = server.write(path, data).await.expect(200)["auth"].clone();
        let text = |name: &str| auth[name].as_str().unwrap().to_owned();
        Made { token: text("client_token"), accessor: text("accessor") }
    }
}

/// All pages of a report, each with so many tokens at most.
async fn report(server: &Server, by: &str, path: &str, mut asked: Value) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let page = server.ask(by, Operation::Read, path, asked.clone()).await.expect(200)["data"].clone();
        all.extend(page["tokens"].as_array().unwrap().clone());
        match page["next_after"].as_str() {
            Some(next) => asked["after"] = next.into(),
            None => return all,
        }
    }
}

fn of<'a>(report: &'a [Value], made: &Made) -> &'a Value {
    report.iter().find(|t| t["accessor"] == made.accessor.as_str()).unwrap_or_else(|| panic!("{report:?}"))
}

/// When something was last used, once that is written down.
async fn until_used(server: &Server, path: &str, is: &str) {
    let mut last = Value::Null;
    for _ in 0..400 {
        last = server.read(path).await.expect(200)["data"]["last_used_time"].clone();
        if last == is {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{path} was last used {last}, not {is}");
}

#[tokio::test]
async fn powerful_tokens_are_told_with_what_makes_them_so_and_no_other() {
    let (server, _) = site().await;
    let policies = json!({"policy": "path \"sys/raw/*\" { capabilities = [\"read\", \"sudo\"] }\npath \"kv/*\" { capabilities = [\"read\"] }"});
    server.write("sys/policies/acl/ops", policies).await.expect(204);
    server
        .write("sys/policies/acl/app", json!({"policy": "path \"kv/*\" { capabilities = [\"read\"] }"}))
        .await
        .expect(204);
    server.write("sys/namespaces/team", json!({})).await.expect(200);
    let create = "auth/token/create";
    let sudo = Made::new(&server, create, json!({"policies": ["ops"], "ttl": "1h", "display_name": "nightly"})).await;
    let app = Made::new(&server, create, json!({"policies": ["app"], "ttl": "1h"})).await;
    let periodic = Made::new(&server, create, json!({"policies": ["app"], "period": "1h"})).await;
    let bounded =
        Made::new(&server, create, json!({"policies": ["app"], "period": "1h", "explicit_max_ttl": "2h"})).await;
    let child = Made::new(&server, "team/auth/token/create", json!({"policies": ["app"], "period": "1h"})).await;

    let all = report(&server, &server.root, "sys/tokens/report", json!({"limit": 2})).await;
    let told: BTreeSet<&str> = all.iter().map(|t| t["accessor"].as_str().unwrap()).collect();
    assert_eq!(told.len(), all.len(), "each once");
    assert_eq!(of(&all, &sudo)["reasons"], json!(["sudo"]));
    assert_eq!(of(&all, &sudo)["sudo_paths"], json!([{"path": "sys/raw/*", "policies": ["ops"]}]));
    assert_eq!(of(&all, &sudo)["display_name"], "token-nightly");
    assert_eq!(of(&all, &sudo)["policies"], json!(["default", "ops"]));
    assert_eq!(of(&all, &periodic)["reasons"], json!(["periodic"]));
    assert_eq!(of(&all, &child)["namespace"], "team/");
    assert!(!told.contains(app.accessor.as_str()) && !told.contains(bounded.accessor.as_str()), "{all:?}");
    let root: Vec<&Value> = all.iter().filter(|t| t["reasons"][0] == "root").collect();
    assert_eq!(root.len(), 1, "{root:?}");
    let text = Value::from(all.clone()).to_string();
    for secret in [&server.root, &sudo.token, &periodic.token, &child.token] {
        assert!(!text.contains(secret.as_str()), "a token is in its report");
    }

    let own = report(&server, &server.root, "sys/tokens/report", json!({"include_child_namespaces": false})).await;
    assert!(own.iter().all(|t| t["namespace"] == ""));
    let below = report(&server, &server.root, "team/sys/tokens/report", json!({})).await;
    assert_eq!(below.len(), 1);
    let only = report(&server, &server.root, "sys/tokens/report", json!({"reasons": ["sudo"]})).await;
    assert_eq!(only.len(), 1);
    let wrong = server.ask(&server.root, Operation::Read, "sys/tokens/report", json!({"reasons": ["x"]})).await;
    assert!(wrong.expect(400).to_string().contains("periodic"), "it says what is possible");
    let foreign = json!({"after": sudo.accessor});
    server.ask(&server.root, Operation::Read, "team/sys/tokens/report", foreign).await.expect(400);
}

#[tokio::test]
async fn a_report_needs_sudo_and_tells_of_those_namespaces_below_that_the_caller_may_ask_for() {
    let (server, _) = site().await;
    for namespace in ["a", "b"] {
        server.write(&format!("sys/namespaces/{namespace}"), json!({})).await.expect(200);
        Made::new(&server, &format!("{namespace}/auth/token/create"), json!({"period": "1h", "policies": ["default"]}))
            .await;
    }
    let rule = |path: &str, capabilities: &str| format!("path \"{path}\" {{ capabilities = [{capabilities}] }}\n");
    let auditor = rule("sys/tokens/report", "\"read\", \"sudo\"")
        + &rule("a/sys/tokens/report", "\"read\", \"sudo\"")
        + &rule("b/sys/tokens/report", "\"read\"");
    server.write("sys/policies/acl/auditor", json!({"policy": auditor})).await.expect(204);
    server.write("sys/policies/acl/weak", json!({"policy": rule("sys/tokens/report", "\"read\"")})).await.expect(204);
    let auditor = Made::new(&server, "auth/token/create", json!({"policies": ["auditor"], "ttl": "1h"})).await;
    let weak = Made::new(&server, "auth/token/create", json!({"policies": ["weak"], "ttl": "1h"})).await;
    server.ask(&weak.token, Operation::Read, "sys/tokens/report", json!({})).await.expect(403);
    let all = report(&server, &auditor.token, "sys/tokens/report", json!({})).await;
    let namespaces: BTreeSet<&str> = all.iter().map(|t| t["namespace"].as_str().unwrap()).collect();
    assert_eq!(namespaces, BTreeSet::from(["", "a/"]));
}

#[tokio::test]
async fn an_unused_token_is_told_and_a_used_one_is_not_also_after_a_restart() {
    let (server, clocks) = site().await;
    let create = json!({"policies": ["default"], "ttl": "700h", "explicit_max_ttl": "700h"});
    let (idle, busy) = (
        Made::new(&server, "auth/token/create", create.clone()).await,
        Made::new(&server, "auth/token/create", create).await,
    );
    clocks.pass(20 * DAY);
    assert!(server.is_good(&busy.token).await);
    let hour = Timestamp::from_secs((1_800_000_000 + 20 * DAY) / 3600 * 3600).rfc3339_secs();
    for _ in 0..400 {
        let seen = server.write("auth/token/lookup-accessor", json!({"accessor": busy.accessor})).await.expect(200);
        if seen["data"]["last_used_time"] == hour.as_str() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    server.seal_and_unseal().await;
    let asked = json!({"unused_for": "240h", "reasons": "unused"});
    let all = report(&server, &server.root, "sys/tokens/report", asked).await;
    assert_eq!(of(&all, &idle)["reasons"], json!(["unused"]));
    assert_eq!(of(&all, &idle)["last_used_time"], Value::Null);
    assert!(all.iter().all(|t| t["accessor"] != busy.accessor.as_str()), "{all:?}");
    let later =
        report(&server, &server.root, "sys/tokens/report", json!({"unused_for": "600h", "reasons": "unused"})).await;
    assert!(later.is_empty(), "{later:?}");
}

#[tokio::test]
async fn roles_and_secret_ids_tell_their_last_use_and_forget_it_with_their_end() {
    let (server, _) = site().await;
    let hour = Timestamp::from_secs(1_800_000_000 / 3600 * 3600).rfc3339_secs();
    server.write("sys/auth/approle", json!({"type": "approle"})).await.expect(204);
    server.write("auth/approle/role/app", json!({"token_ttl": "1h"})).await.expect(204);
    server.write("auth/token/roles/batch", json!({})).await.expect(204);
    assert_eq!(
        server.read("sys/last-use/auth/approle/role/app").await.expect(200)["data"]["last_used_time"],
        Value::Null
    );
    let role_id = server.read("auth/approle/role/app/role-id").await.expect(200)["data"]["role_id"].clone();
    let made = server.write("auth/approle/role/app/secret-id", json!({})).await.expect(200)["data"].clone();
    let login = json!({"role_id": role_id, "secret_id": made["secret_id"]});
    server.ask("", Operation::Update, "auth/approle/login", login).await.expect(200);
    server.write("auth/token/create/batch", json!({"ttl": "1h"})).await.expect(200);
    until_used(&server, "sys/last-use/auth/approle/role/app", &hour).await;
    until_used(&server, "sys/last-use/auth/token/roles/batch", &hour).await;
    let accessor = made["secret_id_accessor"].as_str().unwrap();
    let shown =
        server.write("auth/approle/role/app/secret-id-accessor/lookup", json!({"secret_id_accessor": accessor})).await;
    assert_eq!(shown.expect(200)["data"]["last_used_time"], hour.as_str());
    let all = server.read("sys/last-use/auth/approle").await.expect(200)["data"]["last_used_times"].clone();
    let names: BTreeSet<&String> = all.as_object().unwrap().keys().collect();
    let of_secret_id = format!("auth/approle/secret-id-accessor/{accessor}");
    assert_eq!(names, BTreeSet::from([&"auth/approle/role/app".to_owned(), &of_secret_id]));

    server.delete("auth/approle/role/app").await.expect(204);
    server.delete("auth/token/roles/batch").await.expect(204);
    let left = server.read("sys/last-use/auth/approle").await.expect(200)["data"]["last_used_times"].clone();
    assert_eq!(left, json!({}));
    let of_role = server.read("sys/last-use/auth/token/roles/batch").await.expect(200)["data"].clone();
    assert_eq!(of_role["last_used_time"], Value::Null);
}

#[tokio::test]
async fn a_key_of_identity_tokens_tells_when_it_signed_and_forgets_it_with_its_end() {
    let (server, _) = site().await;
    let hour = Timestamp::from_secs(1_800_000_000 / 3600 * 3600).rfc3339_secs();
    server.write("sys/auth/approle", json!({"type": "approle"})).await.expect(204);
    server.write("auth/approle/role/app", json!({"token_ttl": "1h", "token_policies": "all"})).await.expect(204);
    let all = json!({"policy": "path \"*\" { capabilities = [\"read\"] }"});
    server.write("sys/policies/acl/all", all).await.expect(204);
    let role_id = server.read("auth/approle/role/app/role-id").await.expect(200)["data"]["role_id"].clone();
    let secret = server.write("auth/approle/role/app/secret-id", json!({})).await.expect(200)["data"].clone();
    let login = json!({"role_id": role_id, "secret_id": secret["secret_id"]});
    let login = server.ask("", Operation::Update, "auth/approle/login", login).await.expect(200);
    let token = login["auth"]["client_token"].as_str().unwrap();
    for name in ["k", "idle"] {
        let key = json!({"algorithm": "ES256", "allowed_client_ids": "*"});
        server.write(&format!("identity/oidc/key/{name}"), key).await.expect(204);
    }
    server.write("identity/oidc/role/r", json!({"key": "k", "ttl": "1h"})).await.expect(204);
    server.ask(token, Operation::Read, "identity/oidc/token/r", Value::Null).await.expect(200);
    until_used(&server, "sys/last-use/identity/oidc/key/k", &hour).await;
    let all = server.read("sys/last-use/identity").await.expect(200)["data"]["last_used_times"].clone();
    assert_eq!(all, json!({"identity/oidc/key/k": hour}), "and of no other key");

    server.delete("identity/oidc/role/r").await.expect(204);
    server.delete("identity/oidc/key/k").await.expect(204);
    let left = server.read("sys/last-use/identity").await.expect(200)["data"]["last_used_times"].clone();
    assert_eq!(left, json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_use_of_a_role_goes_with_its_mount_to_another_namespace() {
    let (server, _) = site().await;
    server.write("sys/namespaces/team", json!({})).await.expect(200);
    server.write("sys/auth/approle", json!({"type": "approle"})).await.expect(204);
    server
        .write("auth/approle/role/app", json!({"bind_secret_id": false, "token_bound_cidrs": "127.0.0.0/8"}))
        .await
        .expect(204);
    let role_id = server.read("auth/approle/role/app/role-id").await.expect(200)["data"]["role_id"].clone();
    let local = Some("127.0.0.1:4711".parse().unwrap());
    let login = json!({"role_id": role_id});
    server.ask_from(local, "", Operation::Update, "auth/approle/login", login).await.expect(200);
    let hour = Timestamp::from_secs(1_800_000_000 / 3600 * 3600).rfc3339_secs();
    until_used(&server, "sys/last-use/auth/approle/role/app", &hour).await;
    server.write("sys/remount", json!({"from": "auth/approle", "to": "team/auth/apps"})).await.expect(200);
    server.until_no_jobs().await;
    until_used(&server, "team/sys/last-use/auth/apps/role/app", &hour).await;
    let all = server.read("team/sys/last-use/auth/apps").await.expect(200)["data"]["last_used_times"].clone();
    assert_eq!(all, json!({"auth/apps/role/app": hour}));
}
