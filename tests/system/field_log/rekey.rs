//! Reports about new shares and who holds them.

use holdfast_tests::gnupg::Gnupg;
use holdfast_tests::{Client, Running, Setup, until};
use serde_json::{Value, json};

use crate::cluster::nodes::WITHIN;

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

/// F095. The connection is dropped before the answer with the new shares was read.
#[test]
fn new_shares_whose_answer_was_lost_are_decrypted_from_what_the_server_keeps() {
    let Running { server, keys, site, root } = running();
    let gpg = Gnupg::new(site.folder());
    let key = gpg.key("holder", "future-default");
    let mut present = keys.shares[..2].to_vec();
    for verify in [true, false] {
        let asked = json!({
            "secret_shares": 1, "secret_threshold": 1, "pgp_keys": [key], "backup": true, "require_verification": verify,
        });
        let nonce = root.post("sys/rotate/root/init", asked).expect(200).at("/data/nonce");
        let given = |share: &str| json!({ "key": share, "nonce": nonce });
        let (last, first) = present.split_last().expect("a share");
        for share in first {
            root.post("sys/rotate/root/update", given(share)).expect(200);
        }
        let mut connection = root.connect().expect("a connection");
        let headers = [("X-Vault-Token", root.token())];
        let body = given(last).to_string();
        connection.request("POST", "/v1/sys/rotate/root/update", &headers, body.as_bytes()).expect("it is sent");
        let kept = until(WITHIN, "encrypted shares that are kept", || {
            let kept = root.get("sys/rotate/root/backup");
            (kept.status == 200 && kept.at("/data/nonce") == nonce).then(|| kept.json())
        });
        connection.hang_up();
        let by_key = kept["data"]["keys"].as_object().expect("shares by their keys");
        let message = by_key.values().next().and_then(|list| list[0].as_str()).expect("a message");
        let share = gpg.open(&hex::decode(message).expect("hex digits"));
        if verify {
            // Not in force yet: the former ones make a root token, the new one is given back.
            let attempt = root.post("sys/generate-root-token/attempt", json!({})).expect(200);
            for share in &present {
                let given = json!({ "key": share, "nonce": attempt.at("/data/nonce") });
                root.post("sys/generate-root-token/update", given).expect(200);
            }
            let nonce = root.get("sys/rotate/root/verify").expect(200).at("/data/nonce");
            let done = root.post("sys/rotate/root/verify", json!({ "key": share, "nonce": nonce })).expect(200);
            assert_eq!(done.at("/data/complete"), true);
        }
        present = vec![share];
    }
    let server = site.start_after(server);
    server.client().post("sys/unseal", json!({ "key": keys.shares[0] })).refused(400);
    server.client().post("sys/unseal", json!({ "key": present[0] })).expect(200);
    server.until_unsealed();
}

/// A rotation that is given up takes what was kept of it along, and what was kept before is there again.
#[test]
fn encrypted_shares_of_a_rotation_that_is_given_up_are_gone_and_those_in_force_are_kept() {
    let Running { server: _server, keys, site, root } = running();
    let gpg = Gnupg::new(site.folder());
    let key = gpg.key("holder", "future-default");
    let rotate = |shares: &[String], verify: bool| {
        let asked = json!({
            "secret_shares": 1, "secret_threshold": 1, "pgp_keys": [key], "backup": true, "require_verification": verify,
        });
        let nonce = root.post("sys/rotate/root/init", asked).expect(200).at("/data/nonce");
        let given = |share: &String| root.post("sys/rotate/root/update", json!({ "key": share, "nonce": nonce }));
        shares.iter().map(given).last().expect("a share").expect(200)
    };
    let kept = || root.get("sys/rotate/root/backup");
    let made = rotate(&keys.shares[..2], false);
    let in_force = made.text_at("/data/keys/0");
    let first = kept().expect(200).json();
    let share = gpg.open(&hex::decode(in_force).expect("hex digits"));
    rotate(std::slice::from_ref(&share), true);
    let waiting = kept().expect(200).json();
    assert_ne!(waiting["data"]["keys"], first["data"]["keys"]);
    root.delete("sys/rotate/root/init");
    assert_eq!(kept().expect(200).json()["data"]["keys"], first["data"]["keys"]);
    // Deleted while new ones wait, none is kept when they count.
    rotate(std::slice::from_ref(&share), true);
    root.delete("sys/rotate/root/backup").expect(204);
    assert!(kept().refused(400).contains("no backed-up keys"));
}
