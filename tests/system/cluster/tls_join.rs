//! Joining over TLS: whom a newcomer believes, and what it shows.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use holdfast_tests::certificates::{Authority, client_config};
use holdfast_tests::until;

use super::newcomer::Newcomer;
use super::nodes::WITHIN;

fn pem(path: &Path) -> Value {
    fs::read_to_string(path).expect("a PEM file").into()
}

#[test]
fn a_node_joins_over_tls_with_a_client_certificate_and_trusts_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) =
        (Authority::make(&folder.path().join("ca")), Authority::make(&folder.path().join("other")));
    let (served, shown, strange) = (authority.server("n0"), authority.client("n1"), other.client("n1"));
    let lines = format!(
        "tls_cert_file = \"{}\"\n tls_key_file = \"{}\"\n tls_client_ca_file = \"{}\"\n \
         tls_require_and_verify_client_cert = true",
        served.cert.display(),
        served.key.display(),
        authority.ca().display()
    );
    let first = Newcomer::named("n0").tls(lines, client_config(&authority.ca(), Some(&shown))).started();
    let (share, token) = first.initialised();
    let root = first.client().with_token(&token);
    root.post("sys/mounts/kv", json!({"type": "kv"})).expect(204);

    let second = Newcomer::named("n1").started();
    let leader = format!("https://127.0.0.1:{}", first.port());
    let right = json!({
        "leader_api_addr": leader, "leader_tls_servername": "localhost", "leader_ca_cert": pem(&authority.ca()),
        "leader_client_cert": pem(&shown.cert), "leader_client_key": pem(&shown.key),
    });
    let refused = |changes: &[(&str, Value)], words: &[&str]| {
        let mut body = right.clone();
        for (name, value) in changes {
            body[*name] = value.clone();
        }
        let said = second.client().post("sys/storage/raft/join", body).refused(500);
        assert!(said.contains(&leader), "{said}");
        assert!(words.iter().all(|word| said.to_lowercase().contains(word)), "{changes:?}: {said}");
    };
    refused(&[("leader_ca_cert", pem(&other.ca()))], &["invalid peer certificate", "leader_ca_cert"]);
    refused(&[("leader_ca_cert", json!(""))], &["invalid peer certificate", "leader_ca_cert"]);
    refused(
        &[("leader_tls_servername", json!("elsewhere.example"))],
        &["invalid peer certificate", "elsewhere.example", "leader_tls_servername"],
    );
    let none = json!("");
    refused(&[("leader_client_cert", none.clone()), ("leader_client_key", none.clone())], &["leader_client_cert"]);
    refused(
        &[("leader_client_cert", pem(&strange.cert)), ("leader_client_key", pem(&strange.key))],
        &["leader_client_cert"],
    );
    let incomplete = |changes: &[(&str, Value)], words: &str| {
        let mut body = right.clone();
        for (name, value) in changes {
            body[*name] = value.clone();
        }
        let said = second.client().post("sys/storage/raft/join", body).refused(500);
        assert!(said.contains(words), "{changes:?}: {said}");
    };
    incomplete(&[("leader_client_key", none)], "leader_client_cert and leader_client_key belong together");
    incomplete(&[("leader_client_key", json!("no key"))], "leader_client_key");
    incomplete(&[("leader_ca_cert", json!("no certificate"))], "leader_ca_cert");
    let listed = || root.get("sys/storage/raft/configuration").expect(200).text();
    assert!(!listed().contains("n1"), "{}", listed());

    // By its configuration: another CA first, then the right one.
    let joins = |ca: &Path| {
        format!(
            "retry_join {{\n leader_api_addr = \"{leader}\"\n leader_ca_cert_file = \"{}\"\n \
             leader_tls_servername = \"localhost\"\n leader_client_cert_file = \"{}\"\n \
             leader_client_key_file = \"{}\"\n}}\n",
            ca.display(),
            shown.cert.display(),
            shown.key.display()
        )
    };
    let second = second.kill().storage(joins(&other.ca())).started();
    second.server().until_logged("this node has not joined yet");
    assert!(second.server().log().contains("leader_ca_cert"), "{}", second.server().log());
    let second = second.kill().storage(joins(&authority.ca())).started();
    second.until_asked_for_shares();
    second.give(&share).expect(200);
    second.until_unsealed();
    let there = second.client().with_token(&token);
    until(WITHIN, "a write through the second node", || {
        there.try_call("POST", "kv/a", Some(&json!({"v": 1}))).ok().filter(|r| r.status == 204)
    });
    assert_eq!(root.get("kv/a").expect(200).at("/data/v"), 1);
    assert!(listed().contains("n1"), "{}", listed());
    assert!(!second.server().log().contains("BEGIN"), "a key is in the log");
}
