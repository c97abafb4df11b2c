//! Second factors: a login that needs one gives nothing until it is brought, each code counts once, guesses are
//! limited, and what is of one namespace is of no other.

mod support;

use std::sync::Arc;

use aws_lc_rs::hmac;
use holdfast_core::audit::DeviceConfig;
use holdfast_core::clock::Clocks;
use holdfast_core::{EngineTable, MountEntry};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Backend, Operation, Presented, Value};
use holdfast_storage::Store;
use holdfast_userpass::Userpass;
use serde_json::json;
use support::by_hand::ByHand;
use support::{Reply, Server, ask_presenting, core};

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}

const ENGINES: EngineTable = EngineTable { secrets: &[], auth: &[("userpass", userpass)], databases: &[] };

struct Site {
    server: Server,
    clocks: Arc<ByHand>,
}

impl Site {
    /// `ann` and `bob` log in at `auth/up/`, here and in the namespace `n`.
    async fn new(audit: Vec<DeviceConfig>) -> Site {
        let clocks = Arc::new(ByHand::default());
        let store = Store::open_on(None, 1 << 20).unwrap();
        let site = Site { server: Server::initialise(core(store, ENGINES, clocks.clone(), audit)).await, clocks };
        site.server.write("sys/namespaces/n", json!({})).await.expect(200);
        for namespace in ["", "n/"] {
            site.server.write(&format!("{namespace}sys/auth/up"), json!({"type": "userpass"})).await.expect(204);
            for user in ["ann", "bob"] {
                let path = format!("{namespace}auth/up/users/{user}");
                site.server.write(&path, json!({"password": "pw"})).await.expect(204);
            }
        }
        site
    }

    async fn accessor(&self, namespace: &str) -> Value {
        self.server.read(&format!("{namespace}sys/auth")).await.expect(200)["data"]["up/"]["accessor"].clone()
    }

    async fn method(&self, namespace: &str, more: Value) -> String {
        let mut data = json!({"issuer": "here", "qr_size": 0});
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.server.write(&format!("{namespace}identity/mfa/method/totp"), data).await.expect(200);
        made["data"]["method_id"].as_str().unwrap().to_owned()
    }

    async fn enforce(&self, namespace: &str, name: &str, data: Value) {
        self.server.write(&format!("{namespace}identity/mfa/login-enforcement/{name}"), data).await.expect(204);
    }

    async fn login(&self, namespace: &str, user: &str, factors: &[&str]) -> Reply {
        let mfa = factors.iter().map(|f| Secret::new((*f).to_owned())).collect();
        let presented = Presented { mfa, ..Presented::default() };
        let (path, data) = (format!("{namespace}auth/up/login/{user}"), json!({"password": "pw"}));
        ask_presenting(presented, None, &self.server.core, "", Operation::Update, &path, data).await
    }

    /// The entity of a user, with a secret for a method.
    async fn enrolled(&self, namespace: &str, user: &str, method: &str) -> Totp {
        let login = self.login(namespace, user, &[]).await.expect(200);
        let entity = login["auth"]["entity_id"].clone();
        let path = format!("{namespace}identity/mfa/method/totp/admin-generate");
        let made = self.server.write(&path, json!({"method_id": method, "entity_id": entity})).await.expect(200);
        Totp::of(made["data"]["url"].as_str().unwrap(), &self.clocks)
    }

    /// A first factor; the id to bring the second one with.
    async fn pending(&self, namespace: &str, user: &str) -> String {
        let answer = self.login(namespace, user, &[]).await.expect(200);
        assert_eq!(answer["auth"]["client_token"], "", "{answer}");
        answer["auth"]["mfa_requirement"]["mfa_request_id"].as_str().unwrap().to_owned()
    }

    async fn validate(&self, namespace: &str, id: &str, method: &str, code: &str) -> Reply {
        let data = json!({"mfa_request_id": id, "mfa_payload": {method: [code]}});
        self.server.ask("", Operation::Update, &format!("{namespace}sys/mfa/validate"), data).await
    }

    async fn count(&self, path: &str) -> usize {
        let found = self.server.list(path).await;
        found.body["data"]["keys"].as_array().map_or(0, Vec::len)
    }
}

/// An app that makes codes.
struct Totp {
    key: Vec<u8>,
    clocks: Arc<ByHand>,
}

impl Totp {
    fn of(url: &str, clocks: &Arc<ByHand>) -> Totp {
        let text = url.split("secret=").nth(1).unwrap();
        let bits: Vec<u8> = text
            .bytes()
            .map(|b| if b.is_ascii_uppercase() { b - b'A' } else { b - b'2' + 26 })
            .flat_map(|five| (0..5).rev().map(move |n| five >> n & 1))
            .collect();
        let key = bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |n, bit| n << 1 | bit)).collect();
        Totp { key, clocks: clocks.clone() }
    }

    /// The code of this many periods ahead.
    fn code(&self, ahead: i64) -> String {
        let step = (self.clocks.wall().secs() / 30).saturating_add_signed(ahead);
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.key), &step.to_be_bytes());
        let mac = mac.as_ref();
        let at = usize::from(mac[19] & 15);
        let number = u32::from_be_bytes(mac[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
        format!("{:06}", number % 1_000_000)
    }

    fn wrong(&self) -> String {
        let right: Vec<String> = (-1..=1).map(|n| self.code(n)).collect();
        (0..).map(|n| format!("{n:06}")).find(|code| !right.contains(code)).unwrap()
    }
}

#[tokio::test]
async fn a_login_gives_nothing_until_its_second_factor_is_there_and_serves_once() {
    let site = Site::new(Vec::new()).await;
    let method = site.method("", json!({})).await;
    let app = site.enrolled("", "ann", &method).await;
    site.enforce("", "all", json!({"mfa_method_ids": [method], "auth_method_accessors": [site.accessor("").await]}))
        .await;
    let before = (site.count("auth/token/accessors").await, site.count("identity/entity/id").await);
    let first = site.pending("", "ann").await;
    site.pending("", "bob").await;
    let after = (site.count("auth/token/accessors").await, site.count("identity/entity/id").await);
    assert_eq!(after, before, "no token, and nobody is made who is not known yet");
    site.validate("", &first, &method, &app.wrong()).await.expect(403);
    site.validate("n/", &first, &method, &app.code(0)).await.expect(400);
    let code = app.code(0);
    let (one, two) = tokio::join!(site.validate("", &first, &method, &code), site.validate("", &first, &method, &code));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert!(statuses[0] == 200 && statuses[1] >= 400, "one token: {statuses:?}");
    let token = [one, two].into_iter().find(|r| r.status == 200).unwrap().body["auth"]["client_token"].clone();
    assert!(site.server.is_good(token.as_str().unwrap()).await);
    site.validate("", &first, &method, &app.code(1)).await.expect(400);
    // A code counts once, whatever it is brought with.
    let second = site.pending("", "ann").await;
    site.validate("", &second, &method, &code).await.expect(403);
    site.login("", "ann", &[&format!("{method}:{code}")]).await.expect(403);
    site.login("", "ann", &[&format!("{method}:{}", app.code(1))]).await.expect(200);
    site.login("", "ann", &[&method]).await.expect(403);
    // It waits for minutes, and not over a seal.
    let late = site.pending("", "ann").await;
    site.clocks.pass(301);
    site.validate("", &late, &method, &app.code(0)).await.expect(400);
    let sealed = site.pending("", "ann").await;
    site.server.seal_and_unseal().await;
    site.validate("", &sealed, &method, &app.code(0)).await.expect(400);
    site.login("", "ann", &[&format!("{method}:passcode={}", app.code(0))]).await.expect(200);
}

#[tokio::test]
async fn guesses_are_limited_and_counted_for_each_user() {
    let site = Site::new(Vec::new()).await;
    let method = site.method("", json!({"max_validation_attempts": 3})).await;
    let (ann, bob) = (site.enrolled("", "ann", &method).await, site.enrolled("", "bob", &method).await);
    site.enforce("", "all", json!({"mfa_method_ids": [method], "auth_method_types": ["userpass"]})).await;
    for _ in 0..3 {
        let id = site.pending("", "ann").await;
        site.validate("", &id, &method, &ann.wrong()).await.expect(403);
    }
    let id = site.pending("", "ann").await;
    site.validate("", &id, &method, &ann.code(0)).await.expect(403);
    site.login("", "ann", &[&format!("{method}:{}", ann.code(0))]).await.expect(403);
    site.login("", "bob", &[&format!("{method}:{}", bob.code(0))]).await.expect(200);
    site.clocks.pass(31);
    site.validate("", &id, &method, &ann.code(0)).await.expect(200);
}

#[tokio::test]
async fn an_enforcement_counts_below_its_namespace_and_not_beside_it() {
    let site = Site::new(Vec::new()).await;
    site.server.write("sys/namespaces/m", json!({})).await.expect(200);
    let (above, below) = (site.method("", json!({})).await, site.method("n/", json!({"method_name": "phone"})).await);
    for (namespace, id, status) in [("", &below, 404), ("n/", &below, 200), ("n/", &above, 200), ("m/", &below, 404)] {
        site.server.read(&format!("{namespace}identity/mfa/method/{id}")).await.expect(status);
    }
    let data = json!({"mfa_method_ids": [below], "auth_method_types": ["userpass"]});
    site.server.write("identity/mfa/login-enforcement/x", data).await.expect(400);
    let app = site.enrolled("n/", "ann", &below).await;
    let own = site.enrolled("n/", "ann", &above).await;
    site.enforce("n/", "own", json!({"mfa_method_ids": [below], "auth_method_types": ["userpass"]})).await;
    site.enforce("", "all", json!({"mfa_method_ids": [above], "auth_method_types": ["userpass"]})).await;
    let id = site.pending("n/", "ann").await;
    site.validate("n/", &id, "phone", &app.code(0)).await.expect(403);
    let both = json!({"mfa_request_id": id, "mfa_payload": {"phone": [app.code(1)], above.as_str(): [own.code(0)]}});
    site.server.ask("", Operation::Update, "n/sys/mfa/validate", both).await.expect(200);
    // Of the two of the root only its own counts.
    let login = site.login("", "ann", &[]).await.expect(200);
    let asked = login["auth"]["mfa_requirement"]["mfa_constraints"].as_object().unwrap().clone();
    assert_eq!(asked.keys().collect::<Vec<_>>(), ["all"]);
    site.server.delete(&format!("identity/mfa/method/totp/{above}")).await.expect(500);
}

#[tokio::test]
async fn groups_and_entities_can_need_a_second_factor_and_take_it_along() {
    let site = Site::new(Vec::new()).await;
    let method = site.method("", json!({})).await;
    let app = site.enrolled("", "ann", &method).await;
    let id = async |user: &str| site.login("", user, &[]).await.expect(200)["auth"]["entity_id"].clone();
    let (ann, bob) = (id("ann").await, id("bob").await);
    let group =
        site.server.write("identity/group", json!({"name": "ops", "member_entity_ids": [ann]})).await.expect(200);
    let above = json!({"name": "all", "member_group_ids": [group["data"]["id"]]});
    let above = site.server.write("identity/group", above).await.expect(200)["data"]["id"].clone();
    site.enforce("", "g", json!({"mfa_method_ids": [method], "identity_group_ids": [above]})).await;
    assert_eq!(site.login("", "bob", &[]).await.expect(200)["auth"]["mfa_requirement"], Value::Null);
    site.pending("", "ann").await;
    // Who ann becomes has her codes, and what is deleted has none.
    let merge = json!({"from_entity_ids": [ann], "to_entity_id": bob, "conflicting_alias_ids_to_keep": []});
    let aliases = site.server.read(&format!("identity/entity/id/{}", bob.as_str().unwrap())).await.expect(200);
    let alias = aliases["data"]["aliases"][0]["id"].as_str().unwrap().to_owned();
    site.server.delete(&format!("identity/entity-alias/id/{alias}")).await.expect(204);
    site.server.write("identity/entity/merge", merge).await.expect(204);
    let waits = site.pending("", "ann").await;
    site.validate("", &waits, &method, &app.code(0)).await.expect(200);
}

#[tokio::test]
async fn no_code_and_no_request_that_waits_is_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let device = DeviceConfig::file("file/", &file);
    let site = Site::new(vec![device]).await;
    let method = site.method("", json!({})).await;
    let app = site.enrolled("", "ann", &method).await;
    site.enforce("", "all", json!({"mfa_method_ids": [method], "auth_method_types": ["userpass"]})).await;
    let id = site.pending("", "ann").await;
    let (first, second) = (app.code(0), app.code(1));
    site.validate("", &id, &method, &first).await.expect(200);
    site.login("", "ann", &[&format!("{method}:{second}")]).await.expect(200);
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.contains("sys/mfa/validate") && log.contains("auth/up/login/ann"));
    assert!(!log.contains(&id), "the id of a waiting login");
    for code in [first, second] {
        assert!(!log.contains(&format!("\"{code}")) && !log.contains(&format!(":{code}\"")), "a code");
    }
}
