//! Who logs in at whatever node is the same, has the same rights at once on all of them, and stays so when the lead
//! changes and when the leader is killed.

use holdfast_tests::Client;
use holdfast_tests::program::{command, run, stock};
use holdfast_tests::until;
use serde_json::{Value, json};

use super::nodes::{Nodes, WITHIN};

const PASSWORD: &str = "a long password of ann";

/// What is known of the house.
struct House {
    role_id: String,
    secret_id: String,
    /// Of ann.
    entity: String,
    group: String,
}

fn house(nodes: &Nodes) -> House {
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let rules = r#"path "kv/{{identity.groups.names.ops.metadata.area}}/*" { capabilities = ["create", "update", "read"] }
        path "identity/oidc/token/*" { capabilities = ["read"] }"#;
    nodes.put(0, "sys/policies/acl/ops", json!({ "policy": rules }));
    nodes.put(0, "sys/auth/up", json!({"type": "userpass"}));
    nodes.put(0, "auth/up/users/ann", json!({ "password": PASSWORD }));
    nodes.put(0, "sys/auth/approle", json!({"type": "approle"}));
    nodes.put(0, "auth/approle/role/app", json!({"token_policies": "ops"}));
    let role_id = nodes.read(0, "auth/approle/role/app/role-id").text_at("/data/role_id");
    let secret_id = nodes.ask(0, "auth/approle/role/app/secret-id", json!({}), 200).text_at("/data/secret_id");
    let first = log_in(nodes, 0, "auth/up/login/ann", &json!({ "password": PASSWORD }));
    let entity = first.at("/auth/entity_id").as_str().expect("an entity").to_owned();
    let group = json!({"name": "ops", "policies": "ops", "metadata": {"area": "north"}, "member_entity_ids": [entity]});
    let group = nodes.ask(0, "identity/group", group, 200).text_at("/data/id");
    nodes.put(0, "identity/oidc/key/apps", json!({"algorithm": "ES256", "allowed_client_ids": "*"}));
    nodes.put(0, "identity/oidc/role/shop", json!({"key": "apps", "ttl": "1h"}));
    House { role_id, secret_id, entity, group }
}

/// An answer of 200 to a login at a node; the lead may be changing.
fn log_in(nodes: &Nodes, n: usize, path: &str, body: &Value) -> holdfast_tests::Reply {
    let nobody = nodes.client(n);
    until(WITHIN, path, || nobody.try_call("POST", path, Some(body)).ok().filter(|r| r.status == 200))
}

fn token_at(nodes: &Nodes, n: usize, path: &str, body: &Value) -> Client {
    nodes.client(n).with_token(&log_in(nodes, n, path, body).text_at("/auth/client_token"))
}

/// The status that a node answers with, when it answers for the cluster.
fn status(client: &Client, method: &str, path: &str, body: Option<&Value>) -> u16 {
    until(WITHIN, path, || {
        client.try_call(method, path, body).ok().map(|r| r.status).filter(|s| ![500, 503].contains(s))
    })
}

fn may_write(nodes: &Nodes, n: usize, token: &str) -> bool {
    let asked = nodes.client(n).with_token(token);
    match status(&asked, "POST", "kv/north/a", Some(&json!({"by": n}))) {
        204 => true,
        403 => false,
        other => panic!("status {other}"),
    }
}

/// Every login at every node, and what it may do at every other one.
fn all_logins(nodes: &Nodes, house: &House) {
    for n in 0..nodes.count() {
        let ann = token_at(nodes, n, "auth/up/login/ann", &json!({ "password": PASSWORD }));
        let app = json!({"role_id": house.role_id, "secret_id": house.secret_id});
        log_in(nodes, n, "auth/approle/login", &app);
        let other = (n + 1) % nodes.count();
        let known = until(WITHIN, "who it is", || {
            let there = nodes.client(other).with_token(ann.token());
            there.try_call("GET", "auth/token/lookup-self", None).ok().filter(|r| r.status == 200)
        });
        assert_eq!(known.at("/data/entity_id"), house.entity);
        assert!(may_write(nodes, other, ann.token()));
        // Taken from the group, it may nothing any more, wherever it asks; put back, it may at once.
        let group = format!("identity/group/id/{}", house.group);
        nodes.put(n, &group, json!({"member_entity_ids": []}));
        for at in 0..nodes.count() {
            assert!(!may_write(nodes, at, ann.token()), "node {at}");
        }
        nodes.put(other, &group, json!({"member_entity_ids": [house.entity]}));
        for at in 0..nodes.count() {
            assert!(may_write(nodes, at, ann.token()), "node {at}");
        }
    }
}

fn key_ids(nodes: &Nodes, n: usize) -> Vec<String> {
    let keys = until(WITHIN, "keys", || {
        let reply = nodes.client(n).try_call("GET", "identity/oidc/.well-known/keys", None).ok()?;
        (reply.status == 200).then(|| reply.json()["keys"].as_array().cloned().expect("keys"))
    });
    let mut ids: Vec<String> = keys.iter().map(|k| k["kid"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn logins_and_rights_are_the_same_on_every_node_and_outlive_leaders() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    let house = house(&nodes);
    all_logins(&nodes, &house);
    let before = token_at(&nodes, 1, "auth/up/login/ann", &json!({ "password": PASSWORD }));
    let keys = key_ids(&nodes, 0);
    assert!(!keys.is_empty());

    nodes.change_lead();
    all_logins(&nodes, &house);
    let leader = nodes.until_led();
    nodes.kill(leader);
    let other = (leader + 1) % 3;
    assert!(may_write(&nodes, other, before.token()));
    assert_eq!(key_ids(&nodes, other), keys);
    nodes.start_again(leader);
    nodes.until_all_vote();
    all_logins(&nodes, &house);
    for n in 0..3 {
        assert_eq!(key_ids(&nodes, n), keys);
        let made = nodes.client(n).with_token(before.token());
        let token = until(WITHIN, "an identity token", || {
            made.try_call("GET", "identity/oidc/token/shop", None).ok().filter(|r| r.status == 200)
        });
        let check = json!({"token": token.text_at("/data/token")});
        let known = nodes.ask((n + 1) % 3, "identity/oidc/introspect", check, 200);
        assert_eq!(known.at("/active"), true, "{}", known.text());
    }
    // An end counts everywhere: of the user's entity, of the secret id.
    nodes.put(other, &format!("identity/entity/id/{}", house.entity), json!({"disabled": true}));
    nodes.put(leader, "auth/approle/role/app/secret-id/destroy", json!({"secret_id": house.secret_id}));
    for n in 0..3 {
        assert!(!may_write(&nodes, n, before.token()));
        let app = json!({"role_id": house.role_id, "secret_id": house.secret_id});
        assert_eq!(status(&nodes.client(n), "POST", "auth/approle/login", Some(&app)), 400);
        let ann = json!({ "password": PASSWORD });
        assert_eq!(status(&nodes.client(n), "POST", "auth/up/login/ann", Some(&ann)), 403);
    }
}

/// The two steps of a login at two nodes, and an enforcement that counts at the third at once (F168).
#[test]
fn the_two_steps_of_a_login_may_be_at_two_nodes() {
    let nodes = Nodes::start(3);
    nodes.until_all_vote();
    let house = house(&nodes);
    let method = json!({"issuer": "house", "period": 1, "skew": 1, "max_validation_attempts": 1000});
    let method = nodes.ask(0, "identity/mfa/method/totp", method, 200).text_at("/data/method_id");
    let asked = json!({"method_id": method, "entity_id": house.entity});
    let url = nodes.ask(1, "identity/mfa/method/totp/admin-generate", asked, 200).text_at("/data/url");
    let staff = json!({"mfa_method_ids": [method], "auth_method_types": ["userpass"]});
    nodes.put(0, "identity/mfa/login-enforcement/staff", staff);
    for first in 0..3 {
        let second = (first + 1) % 3;
        let validated = until(WITHIN, "a login in two steps", || {
            let waits = log_in(&nodes, first, "auth/up/login/ann", &json!({ "password": PASSWORD }));
            assert_eq!(waits.at("/auth/client_token"), "", "it is enforced at once, at every node");
            let id = waits.text_at("/auth/mfa_requirement/mfa_request_id");
            let given = json!({"mfa_request_id": id, "mfa_payload": {(method.as_str()): [code(&url)]}});
            let reply = nodes.client(second).try_call("POST", "sys/mfa/validate", Some(&given)).ok()?;
            (reply.status == 200).then_some(reply)
        });
        assert_eq!(validated.at("/auth/entity_id"), house.entity);
        assert!(may_write(&nodes, first, &validated.text_at("/auth/client_token")));
    }
}

/// The present code of an address that an app for second factors reads.
fn code(url: &str) -> String {
    const SCRIPT: &str = r"
import base64, hashlib, hmac, os, struct, time
from urllib.parse import parse_qs, urlparse
secret = parse_qs(urlparse(os.environ['TOTP_URL']).query)['secret'][0]
key = base64.b32decode(secret + '=' * (-len(secret) % 8))
digest = hmac.new(key, struct.pack('>Q', int(time.time())), hashlib.sha1).digest()
at = digest[-1] & 15
print('%06d' % ((struct.unpack('>I', digest[at:at + 4])[0] & 0x7fffffff) % 1000000))
";
    let mut script = command(stock("python"));
    script.args(["-c", SCRIPT]).env("TOTP_URL", url);
    run(&mut script).good().trim().to_owned()
}
