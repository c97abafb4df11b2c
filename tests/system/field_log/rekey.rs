//! Reports about new shares and who holds them.

use holdfast_tests::program::repository;
use holdfast_tests::{Client, Running, Server, Setup};
use serde_json::{Value, json};

fn running() -> Running {
    Running::start(Setup::shamir().without_tls().with_listener("disable_unauthed_rekey_endpoints = false"))
}

fn begin(client: &Client) -> Value {
    client.post("sys/rekey/init", json!({ "secret_shares": 3, "secret_threshold": 2 })).expect(200).json()
}

fn is_started(client: &Client) -> bool {
    client.get("sys/rekey/init").expect(200).at("/started") == true
}

/// F091. Without a body, with an empty object, and with the nonce.
#[test]
fn a_rekey_is_given_up_with_a_nonce_and_without() {
    let Running { server, site: _site, .. } = running();
    let client = server.client();
    let begun = begin(&client);
    client.call("DELETE", "sys/rekey/init", None).expect(204);
    assert!(!is_started(&client));
    for body in [json!({}), json!({ "nonce": begun["nonce"] }), json!({ "nonce": "another" })] {
        begin(&client);
        client.call("DELETE", "sys/rekey/init", Some(&body)).expect(204);
        assert!(!is_started(&client), "{body}");
    }
    // Nothing is under way: that is no error.
    client.call("DELETE", "sys/rekey/init", None).expect(204);
}

/// F094. The nonce is told at the beginning, and one of an earlier attempt takes no share.
#[test]
fn a_share_for_an_attempt_that_is_over_is_refused_and_does_not_count() {
    let Running { server, keys, site: _site, .. } = running();
    let client = server.client();
    let first = begin(&client);
    let nonce = first["nonce"].as_str().expect("a nonce");
    assert_eq!(nonce.len(), 36, "{first}");
    client.call("DELETE", "sys/rekey/init", None).expect(204);
    let second = begin(&client);
    assert_ne!(first["nonce"], second["nonce"]);
    let refused = client.post("sys/rekey/update", json!({ "key": keys.shares[0], "nonce": nonce })).refused(400);
    assert!(refused.contains("incorrect nonce"), "{refused}");
    let state = client.get("sys/rekey/init").expect(200);
    assert_eq!((state.at("/progress"), state.at("/nonce")), (0.into(), second["nonce"].clone()));
    // It is not used up: it counts with the right nonce.
    let taken = client.post("sys/rekey/update", json!({ "key": keys.shares[0], "nonce": second["nonce"] })).expect(200);
    assert_eq!(taken.at("/progress"), 1);
}

/// F095. The answer with the new shares is lost.
#[test]
fn new_shares_whose_answer_was_lost_are_not_in_force_until_verified_or_are_kept_encrypted() {
    let Running { server, keys, site, root } = running();
    let key = repository().join("server/pgp/tests/keys");
    let key = std::fs::read_dir(&key).expect("recorded keys").map(|e| e.expect("an entry").path());
    let key = key.filter(|p| p.extension().is_some_and(|e| e == "b64")).min().expect("a public key in base64");
    let key = std::fs::read_to_string(&key).expect("a text");
    let give = |nonce: &Value| {
        for share in &keys.shares[..2] {
            // Nobody reads the last answer.
            root.post("sys/rotate/root/update", json!({ "key": share, "nonce": nonce })).expect(200);
        }
    };
    let asked = json!({ "secret_shares": 1, "secret_threshold": 1, "pgp_keys": [key.trim()], "backup": true });
    let verified = {
        let mut asked = asked.clone();
        asked["require_verification"] = true.into();
        asked
    };
    give(&root.post("sys/rotate/root/init", verified).expect(200).at("/data/nonce"));
    root.call("DELETE", "sys/rotate/root/init", None);
    let unseal = |server: &Server| {
        for share in &keys.shares[..2] {
            server.client().post("sys/unseal", json!({ "key": share })).expect(200);
        }
        server.until_unsealed();
    };
    let server = site.start_after(server);
    unseal(&server);
    let root = server.client().with_token(&keys.root_token);
    assert_ne!(root.get("sys/rotate/root/backup").status, 200, "they count only when they were given back");

    let nonce = root.post("sys/rotate/root/init", asked).expect(200).at("/data/nonce");
    for share in &keys.shares[..2] {
        root.post("sys/rotate/root/update", json!({ "key": share, "nonce": nonce })).expect(200);
    }
    let kept = root.get("sys/rotate/root/backup").expect(200).json();
    let by_key = kept["data"]["keys"].as_object().expect("shares by their keys");
    assert_eq!(by_key.len(), 1, "{kept}");
    server.stop();
}
