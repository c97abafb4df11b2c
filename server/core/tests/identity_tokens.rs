//! Identity tokens and the OpenID provider: keys change when it is time, in every namespace, and what counts can be
//! verified; what serves once serves once.

mod support;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_core::EngineTable;
use holdfast_sdk::{Operation, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::by_hand::ByHand;
use support::{Server, core};

const ENGINES: EngineTable = EngineTable { secrets: &[], auth: &[], databases: &[] };

struct Site {
    server: Server,
    clocks: Arc<ByHand>,
}

impl Site {
    async fn new() -> Site {
        let clocks = Arc::new(ByHand::default());
        let store = Store::open_on(None, 1 << 20).unwrap();
        Site { server: Server::initialise(core(store, ENGINES, clocks.clone(), Vec::new())).await, clocks }
    }

    /// A token of an entity of a namespace, which may do everything there.
    async fn somebody(&self, namespace: &str, name: &str) -> (String, String) {
        let all = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }"#;
        self.server.write(&format!("{namespace}sys/policies/acl/all"), json!({"policy": all})).await.expect(204);
        let made = self.server.write(&format!("{namespace}identity/entity"), json!({"name": name})).await.expect(200);
        let entity = made["data"]["id"].as_str().unwrap().to_owned();
        let auth = self.server.read(&format!("{namespace}sys/auth")).await.expect(200);
        let accessor = auth["data"]["token/"]["accessor"].clone();
        let alias = json!({"name": name, "mount_accessor": accessor, "canonical_id": entity});
        self.server.write(&format!("{namespace}identity/entity-alias"), alias).await.expect(200);
        let role = json!({"allowed_entity_aliases": name, "allowed_policies": "all"});
        self.server.write(&format!("{namespace}auth/token/roles/people"), role).await.expect(204);
        let asked = json!({"entity_alias": name, "policies": ["all"]});
        let token = self.server.write(&format!("{namespace}auth/token/create/people"), asked).await.expect(200);
        (token["auth"]["client_token"].as_str().unwrap().to_owned(), entity)
    }

    async fn keys(&self, namespace: &str) -> Vec<String> {
        let path = format!("{namespace}identity/oidc/.well-known/keys");
        let set = self.server.ask("", Operation::Read, &path, Value::Null).await.expect(200);
        set["keys"].as_array().unwrap().iter().map(|k| k["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// Wait until the published keys are others.
    async fn keys_after(&self, namespace: &str, before: &[String]) -> Vec<String> {
        for _ in 0..1200 {
            let keys = self.keys(namespace).await;
            if keys != before {
                return keys;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the key of {namespace:?} is not rotated");
    }

    async fn active(&self, namespace: &str, token: &str) -> bool {
        let path = format!("{namespace}identity/oidc/introspect");
        self.server.write(&path, json!({"token": token})).await.expect(200)["active"].as_bool().unwrap()
    }
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

fn part(token: &str, n: usize) -> Value {
    let text = token.split('.').nth(n).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

#[tokio::test]
async fn keys_change_when_it_is_time_in_every_namespace_and_verify_what_counts() {
    let site = Site::new().await;
    site.server.write("sys/namespaces/n", json!({})).await.expect(200);
    let mut tokens = Vec::new();
    for namespace in ["", "n/"] {
        let key = json!({"algorithm": "ES256", "rotation_period": "1h", "verification_ttl": "90m",
            "allowed_client_ids": "*"});
        site.server.write(&format!("{namespace}identity/oidc/key/k"), key).await.expect(204);
        let role = json!({"key": "k", "ttl": "90m"});
        site.server.write(&format!("{namespace}identity/oidc/role/r"), role).await.expect(204);
        let (caller, _) = site.somebody(namespace, "ann").await;
        let path = format!("{namespace}identity/oidc/token/r");
        let given = site.server.ask(&caller, Operation::Read, &path, Value::Null).await.expect(200);
        tokens.push((namespace, given["data"]["token"].as_str().unwrap().to_owned()));
    }
    let before = [site.keys("").await, site.keys("n/").await];
    assert_eq!((before[0].len(), before[1].len()), (2, 2), "in use and next");
    site.clocks.pass(3601);
    for ((namespace, token), before) in tokens.iter().zip(&before) {
        let after = site.keys_after(namespace, before).await;
        assert_eq!(after[0], before[1], "the next one is in use");
        assert!(after.contains(&kid(token)), "who holds a token can have it verified");
        assert!(site.active(namespace, token).await);
        let other = if namespace.is_empty() { "n/" } else { "" };
        assert!(!site.active(other, token).await, "a token is its namespace's");
    }
    // What is to be rotated is stored: a server that was off rotates when it is back.
    let (root, nested) = (site.keys("").await, site.keys("n/").await);
    site.server.core.seal_now().await;
    site.clocks.pass(2 * 3600);
    site.server.unseal().await;
    for (namespace, before) in [("", root), ("n/", nested)] {
        let after = site.keys_after(namespace, &before).await;
        let (_, token) = tokens.iter().find(|(n, _)| *n == namespace).unwrap();
        assert!(!after.contains(&kid(token)), "what no token needs is published no more");
        assert!(!site.active(namespace, token).await);
    }
}

#[tokio::test]
async fn a_role_gives_no_token_that_outlives_its_key() {
    let site = Site::new().await;
    let oidc = "identity/oidc";
    let key =
        json!({"algorithm": "EdDSA", "rotation_period": "1m", "verification_ttl": "1m", "allowed_client_ids": "*"});
    site.server.write(&format!("{oidc}/key/k"), key).await.expect(204);
    site.server.write(&format!("{oidc}/role/r"), json!({"key": "k", "ttl": "10m"})).await.expect(400);
    site.server.write(&format!("{oidc}/key/k"), json!({"verification_ttl": "10m"})).await.expect(204);
    site.server.write(&format!("{oidc}/role/r"), json!({"key": "k", "ttl": "10m"})).await.expect(204);
    let refused = site.server.write(&format!("{oidc}/key/k"), json!({"verification_ttl": "1m"})).await.expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("roles"), "{refused}");
    site.server.ask(&site.server.root, Operation::Delete, &format!("{oidc}/key/k"), Value::Null).await.expect(400);
}

#[tokio::test]
async fn a_change_of_the_algorithm_leaves_what_was_signed_before_good() {
    let site = Site::new().await;
    let (caller, entity) = site.somebody("", "ann").await;
    let key = json!({"algorithm": "ES384", "allowed_client_ids": "*"});
    site.server.write("identity/oidc/key/k", key).await.expect(204);
    let template = r#"{"who": {{identity.entity.name}}}"#;
    site.server.write("identity/oidc/role/r", json!({"key": "k", "template": template})).await.expect(204);
    let token = |given: Value| given["data"]["token"].as_str().unwrap().to_owned();
    let path = "identity/oidc/token/r";
    let first = token(site.server.ask(&caller, Operation::Read, path, Value::Null).await.expect(200));
    site.server.write("identity/oidc/key/k", json!({"algorithm": "RS256"})).await.expect(204);
    let second = token(site.server.ask(&caller, Operation::Read, path, Value::Null).await.expect(200));
    assert_eq!((part(&first, 0)["alg"].clone(), part(&second, 0)["alg"].clone()), (json!("ES384"), json!("RS256")));
    assert_eq!((part(&second, 1)["who"].clone(), part(&second, 1)["sub"].clone()), (json!("ann"), json!(entity)));
    assert!(site.active("", &first).await && site.active("", &second).await);
    let forged = format!("{}.{}", first.rsplit_once('.').unwrap().0, second.rsplit_once('.').unwrap().1);
    assert!(!site.active("", &forged).await);
}

#[tokio::test]
async fn a_code_is_its_clients_its_providers_and_its_namespaces() {
    let site = Site::new().await;
    site.server.write("sys/namespaces/n", json!({})).await.expect(200);
    let (caller, entity) = site.somebody("", "ann").await;
    let uri = "https://app.example/cb";
    for namespace in ["", "n/"] {
        for name in ["a", "b"] {
            let client = json!({"redirect_uris": uri, "assignments": "allow_all"});
            site.server.write(&format!("{namespace}identity/oidc/client/{name}"), client).await.expect(204);
        }
        let provider = json!({"allowed_client_ids": "*"});
        site.server.write(&format!("{namespace}identity/oidc/provider/p"), provider).await.expect(204);
    }
    let client = async |namespace: &str, name: &str| {
        let path = format!("{namespace}identity/oidc/client/{name}");
        site.server.read(&path).await.expect(200)["data"].clone()
    };
    let (a, b, other) = (client("", "a").await, client("", "b").await, client("n/", "a").await);
    let code = async || {
        let asked =
            json!({"scope": "openid", "response_type": "code", "client_id": a["client_id"], "redirect_uri": uri});
        let path = "identity/oidc/provider/p/authorize";
        site.server.ask(&caller, Operation::Update, path, asked).await.expect(200)["code"].clone()
    };
    let exchange = async |provider: &str, client: &Value, code: &Value| {
        let asked = json!({"grant_type": "authorization_code", "code": code, "redirect_uri": uri,
            "client_id": client["client_id"], "client_secret": client["client_secret"]});
        site.server.ask("", Operation::Update, &format!("{provider}/token"), asked).await
    };
    let root = "identity/oidc/provider/p";
    for (provider, client) in
        [(root, &b), ("identity/oidc/provider/default", &a), ("n/identity/oidc/provider/p", &other)]
    {
        let code = code().await;
        assert_eq!(exchange(provider, client, &code).await.expect(400)["error"], "invalid_grant", "{provider}");
    }
    let first = code().await;
    let given = exchange(root, &a, &first).await.expect(200);
    assert_eq!(part(given["id_token"].as_str().unwrap(), 1)["sub"], entity.as_str());
    exchange(root, &a, &first).await.expect(400);
    let late = code().await;
    site.clocks.pass(301);
    exchange(root, &a, &late).await.expect(400);

    // An access token is good for one route, as long as its entity is.
    let access = given["access_token"].as_str().unwrap();
    let userinfo = async |path: &str| site.server.bearer(access, Operation::Read, path, Value::Null).await;
    let told = userinfo(&format!("{root}/userinfo")).await.expect(200);
    assert_eq!(told, json!({"sub": entity}));
    userinfo("identity/oidc/provider/default/userinfo").await.expect(401);
    userinfo("n/identity/oidc/provider/p/userinfo").await.expect(401);
    userinfo("auth/token/lookup-self").await.expect(403);
    site.server.ask(access, Operation::Read, &format!("{root}/userinfo"), Value::Null).await.expect(401);
    site.server.write(&format!("identity/entity/id/{entity}"), json!({"disabled": true})).await.expect(204);
    userinfo(&format!("{root}/userinfo")).await.expect(401);
}
