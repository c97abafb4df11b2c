//! Shares: of another cluster, the same twice, by many at once; and a configuration of another seal.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::gnupg::Gnupg;
use holdfast_tests::{Keys, Running, Seal, Server, Setup, Site, program};
use serde_json::json;

use super::trouble;

fn sealed() -> (Site, Keys, Server) {
    let site = Site::make(Setup::shamir());
    let server = site.start();
    let keys = site.initialise(&server.client());
    (site, keys, server)
}

#[test]
fn shares_of_another_cluster_are_refused_and_the_right_ones_still_work() {
    let (_site, foreign, _server) = sealed();
    let (_own_site, keys, server) = sealed();
    let client = server.client();
    client.post("sys/unseal", json!({ "key": foreign.shares[0] })).expect(200);
    let text = client.post("sys/unseal", json!({ "key": foreign.shares[1] })).refused(400);
    assert!(text.contains("another cluster"), "{text}");
    let status = client.get("sys/seal-status");
    assert_eq!((status.at("/progress"), status.at("/sealed")), (0.into(), true.into()));

    // One of each is no better.
    client.post("sys/unseal", json!({ "key": keys.shares[0] })).expect(200);
    client.post("sys/unseal", json!({ "key": foreign.shares[1] })).refused(400);
    for share in &keys.shares[..2] {
        client.post("sys/unseal", json!({ "key": share })).expect(200);
    }
    assert_eq!(client.get("sys/seal-status").at("/sealed"), false);
}

#[test]
fn the_same_share_twice_counts_once() {
    let (_own_site, keys, server) = sealed();
    let client = server.client();
    let first = client.post("sys/unseal", json!({ "key": keys.shares[1] })).expect(200);
    for _ in 0..3 {
        let again = client.post("sys/unseal", json!({ "key": keys.shares[1].to_uppercase() })).expect(200);
        assert_eq!(again.at("/progress"), 1);
        assert_eq!(again.at("/nonce"), first.at("/nonce"));
    }
    let reset = client.post("sys/unseal", json!({ "reset": true })).expect(200);
    assert_eq!(reset.at("/progress"), 0);
    for share in &keys.shares[1..] {
        client.post("sys/unseal", json!({ "key": share })).expect(200);
    }
    assert_eq!(client.get("sys/seal-status").at("/sealed"), false);
}

#[test]
fn many_who_unseal_at_once_unseal_it() {
    let (_own_site, keys, server) = sealed();
    std::thread::scope(|scope| {
        for i in 0..16 {
            let (client, share) = (server.client(), &keys.shares[i % 3]);
            scope.spawn(move || {
                let status = client.post("sys/unseal", json!({ "key": share })).status;
                assert_eq!(status, 200);
            });
        }
    });
    server.client().get("sys/health").expect(200);
}

#[test]
fn wrong_shares_among_many_harm_nobody() {
    let (_site, foreign, _server) = sealed();
    let (_own_site, keys, server) = sealed();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for i in 0..24 {
            let (client, refused) = (server.client(), &refused);
            let share = if i % 2 == 0 { &keys.shares[i % 3] } else { &foreign.shares[i % 3] };
            scope.spawn(move || match client.post("sys/unseal", json!({ "key": share })).status {
                200 => {}
                400 => drop(refused.fetch_add(1, Ordering::Relaxed)),
                other => panic!("{other}"),
            });
        }
    });
    let client = server.client();
    if client.get("sys/seal-status").at("/sealed") == true {
        assert!(refused.load(Ordering::Relaxed) > 0);
        client.post("sys/unseal", json!({ "reset": true })).expect(200);
        for share in &keys.shares[..2] {
            client.post("sys/unseal", json!({ "key": share })).expect(200);
        }
    }
    client.get("sys/health").expect(200);
}

#[test]
fn of_many_initialisations_at_once_one_succeeds() {
    let site = Site::make(Setup::hardware());
    let server = site.start();
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (client, made) = (server.client(), &made);
            scope.spawn(move || {
                let reply = client.post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 }));
                match reply.status {
                    200 => drop(made.fetch_add(1, Ordering::Relaxed)),
                    _ => assert_eq!(reply.refused(400), "Vault is already initialized"),
                }
            });
        }
    });
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[test]
fn a_share_that_is_none_is_refused_with_what_is_wrong() {
    let (_site, _, server) = sealed();
    let client = server.client();
    let short = client.post("sys/unseal", json!({ "key": "aa".repeat(20) })).refused(400);
    assert!(short.contains("shorter"), "{short}");
    let long = client.post("sys/unseal", json!({ "key": "aa".repeat(40) })).refused(400);
    assert!(long.contains("longer"), "{long}");
    let text = client.post("sys/unseal", json!({ "key": "no hex, no base64!" })).refused(400);
    assert!(text.contains("hex or base64"), "{text}");
    client.post("sys/unseal", json!({})).refused(400);
    client.post("sys/unseal", json!({ "key": 5 })).refused(400);
    assert_eq!(client.get("sys/seal-status").at("/progress"), 0);
}

#[test]
fn a_store_of_shares_under_a_hardware_configuration_says_what_is_wrong() {
    let (site, _, server) = sealed();
    server.stop();
    let hardware = Site::make(Setup { store: Some(site.store()), ..Setup::hardware() });
    let server = hardware.start();
    trouble(&server, &["shares", "shamir"]);
    server.client().get("sys/health").expect(503);
}

#[test]
fn a_store_of_a_token_under_a_shamir_configuration_says_what_is_wrong() {
    let Running { server, site, keys, .. } = Running::start(Setup::hardware());
    server.stop();
    let shamir = Site::make(Setup { store: Some(site.store()), seal: Seal::Shamir, ..Setup::hardware() });
    let server = shamir.start();
    trouble(&server, &["pkcs11", "seal stanza"]);
    let text = server.client().post("sys/unseal", json!({ "key": keys.shares[0] })).refused(400);
    assert!(text.contains("pkcs11"), "{text}");
    drop(server);
    let server = site.start();
    server.until_unsealed();
}

#[test]
fn pgp_encrypted_shares_open_the_store_after_decryption() {
    let site = Site::make(Setup::shamir());
    let server = site.start();
    let gpg = Gnupg::new(site.folder());
    let public = [gpg.key("alice", "default"), gpg.key("bob", "future-default")];
    let body =
        json!({ "secret_shares": 2, "secret_threshold": 2, "pgp_keys": public, "root_token_pgp_key": public[0] });
    let made = server.client().post("sys/init", body).expect(200).json();
    for i in 0..2 {
        let share = gpg.open(&hex::decode(made["keys"][i].as_str().expect("a share")).expect("hex"));
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    server.client().get("sys/health").expect(200);
    let token = gpg.open(&STANDARD.decode(made["root_token"].as_str().expect("a token")).expect("base64"));
    server.client().with_token(&token).get("auth/token/lookup-self").expect(200);
}

#[test]
fn a_root_token_that_was_made_for_a_pgp_key_is_one_after_decryption() {
    let running = Running::start(Setup::shamir().without_tls());
    let gpg = Gnupg::new(running.site.folder());
    let (alice, bob) = (gpg.key("alice", "default"), gpg.key("bob", "future-default"));
    let shares = &running.keys.shares;

    let begun = running.root.post("sys/generate-root-token/attempt", json!({ "pgp_key": alice })).expect(200);
    assert_eq!((begun.at("/data/otp"), begun.at("/data/pgp_fingerprint").is_string()), (json!(""), true));
    let give = |share: &str| {
        let body = json!({ "key": share, "nonce": begun.at("/data/nonce") });
        running.root.post("sys/generate-root-token/update", body).expect(200)
    };
    give(&shares[0]);
    let for_alice = give(&shares[2]).text_at("/data/encoded_token");

    // The same by the command line, which reads the key from a file.
    let file = running.site.folder().join("bob.b64");
    std::fs::write(&file, &bob).expect("a file");
    let cli = |args: &[&str]| {
        let mut cli = running.site.cli(&program::holdfast(), &running.server, running.root.token());
        program::run(cli.args(["operator", "generate-root", "-format=json"]).args(args)).json()
    };
    let begun = cli(&["-init", &format!("-pgp-key={}", file.display())]);
    let nonce = format!("-nonce={}", begun["nonce"].as_str().expect("a nonce"));
    cli(&[&nonce, &shares[0]]);
    let for_bob = cli(&[&nonce, &shares[1]])["encoded_token"].as_str().expect("a token").to_owned();

    for encoded in [for_alice, for_bob] {
        let message = STANDARD.decode(&encoded).expect("base64");
        assert!(!String::from_utf8_lossy(&message).contains("hvs."), "it is covered");
        let token = gpg.open(&message);
        let own = running.server.client().with_token(&token).get("auth/token/lookup-self").expect(200);
        assert_eq!(own.at("/data/policies"), json!(["root"]));
        let log = std::fs::read_to_string(running.site.audit_file()).expect("the audit log");
        assert!(!log.contains(&token) && !log.contains(&encoded));
    }
}
