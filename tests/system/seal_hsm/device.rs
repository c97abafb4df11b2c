//! The token, the key and the module may be missing: the server stays up and says so.

use std::fs;
use std::time::Duration;

use holdfast_tests::process::{helpers, signal};
use holdfast_tests::token::{LABEL, PIN, Token};
use holdfast_tests::{Reply, Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::json;

use super::trouble;

#[test]
fn without_its_token_the_server_stays_up_says_so_and_unseals_when_it_appears() {
    let Running { server, keys, site, root } = Running::start(Setup::hardware());
    root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    server.stop();
    let token = site.token.as_ref().expect("a token");
    token.pull_out();

    let mut server = site.start();
    trouble(&server, &["token", LABEL]);
    let health = server.client().get("sys/health").expect(503);
    assert_eq!((health.at("/sealed"), health.at("/initialized")), (true.into(), true.into()));
    assert_eq!(server.client().with_token(&keys.root_token).get("secret/data/a").refused(503), "Vault is sealed");
    assert!(server.is_alive());

    token.put_back();
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    root.get("secret/data/a").expect(200);
    assert!(root.get("sys/seal-status").json().get("seal_trouble").is_none(), "the trouble is over");
    assert!(!server.log().contains(PIN), "the log tells the PIN");
}

#[test]
fn initialising_without_the_token_fails_with_a_reason_and_works_when_it_is_there() {
    let site = Site::make(Setup::hardware());
    let token = site.token.as_ref().expect("a token");
    token.pull_out();
    let server = site.start();
    let text = server.client().post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 })).refused(500);
    assert!(text.contains(LABEL) && !text.contains(PIN), "{text}");
    server.client().get("sys/health").expect(501);
    token.put_back();
    site.initialise(&server.client());
    server.until_unsealed();
}

#[test]
fn a_token_that_goes_away_while_the_server_runs_is_missed_at_the_next_unseal_only() {
    let running = Running::start(Setup::hardware());
    let token = running.site.token.as_ref().expect("a token");
    token.pull_out();
    running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    running.root.get("sys/health").expect(200);

    running.root.post("sys/seal", json!({})).expect(204);
    running.server.signal(Signal::HUP);
    trouble(&running.server, &[LABEL]);
    token.put_back();
    running.server.until_unsealed();
    running.root.get("secret/data/a").expect(200);
}

#[test]
fn a_token_that_went_away_is_known_before_the_next_start() {
    let running = Running::start(Setup::hardware());
    let token = running.site.token.as_ref().expect("a token");
    let backend = || running.root.get("sys/seal-backend-status").expect(200);
    until(Duration::from_secs(40), "a first check", || backend().at("/data/backends/0/last_opened").as_str().map(drop));
    let known = backend();
    assert_eq!((known.at("/data/healthy"), known.at("/data/backends/0/type")), (true.into(), "pkcs11".into()));

    let random = |source: &str| running.root.post(&format!("sys/tools/random/{source}/1000"), json!({"format": "hex"}));
    for source in ["seal", "all"] {
        let (first, second) = (random(source).expect(200), random(source).expect(200));
        let bytes = |reply: &Reply| reply.text_at("/data/random_bytes");
        assert!(bytes(&first).len() == 2000 && bytes(&first) != bytes(&second), "{source}");
    }

    token.pull_out();
    // A helper that is there has the key's object in memory.
    for helper in helpers(running.server.pid()) {
        signal(helper, Signal::KILL);
    }
    running.server.signal(Signal::HUP);
    let away = until(Duration::from_secs(40), "a check in vain", || {
        Some(backend()).filter(|reply| reply.at("/data/healthy") == false)
    });
    assert!(away.text_at("/data/backends/0/last_error").contains(LABEL), "{}", away.text());
    let metrics = running.root.get("sys/metrics?format=prometheus").expect(200).text();
    assert!(metrics.contains("holdfast_seal_device_healthy 0"), "{metrics}");
    // Nothing else needs it meanwhile, and nothing steps in for it.
    let patient = running.root.with_token(running.root.token()).patient_for(Duration::from_secs(30));
    assert!(patient.post("sys/tools/random/seal/1000", json!({})).refused(503).contains(LABEL));
    random("platform").expect(200);
    running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);

    token.put_back();
    running.server.signal(Signal::HUP);
    until(Duration::from_secs(40), "a check that went well", || (backend().at("/data/healthy") == true).then_some(()));
    assert!(!running.server.log().contains(PIN), "the log tells the PIN");
}

#[test]
fn a_missing_module_is_named() {
    let site = Site::make(Setup::hardware().with_seal("lib = \"/nonexistent/libvendor.so\""));
    let server = site.start();
    let text = server.client().post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 })).refused(500);
    assert!(text.contains("/nonexistent/libvendor.so"), "{text}");
    server.client().get("sys/health").expect(501);
}

#[test]
fn another_token_of_the_same_name_does_not_hold_the_key_and_that_is_said() {
    let Running { server, site, .. } = Running::start(Setup::hardware());
    server.stop();
    let token = site.token.as_ref().expect("a token");
    token.pull_out();
    fs::remove_dir(site.folder().join("softhsm/tokens")).expect("the empty folder");
    Token::make(&site.folder().join("softhsm"));
    let server = site.start();
    trouble(&server, &["holdfast-root"]);
    assert!(!server.log().contains("making the wrapping key"), "a new key cannot open an old store");
    drop(server);
    fs::remove_dir_all(site.folder().join("softhsm/tokens")).expect("the other token");
    fs::create_dir(site.folder().join("softhsm/tokens")).expect("a folder");
    token.put_back();
    site.start().until_unsealed();
}

#[test]
fn without_generate_key_a_missing_key_is_an_error_that_names_it() {
    let site = Site::make(Setup::hardware().with_seal("generate_key = false\n  key_label = \"made-by-us\""));
    let server = site.start();
    let text = server.client().post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 })).refused(500);
    assert!(text.contains("made-by-us"), "{text}");
}

#[test]
fn the_software_seal_warns_at_every_start_and_unseals_itself() {
    let site = Site::make(Setup { seal: holdfast_tests::Seal::Shamir, ..Setup::hardware() });
    let stanza = format!("seal \"software\" {{\n  key_file = \"{}\"\n}}\n", site.folder().join("key").display());
    site.write_config(&(site.config() + &stanza));
    let server = site.start();
    server.client().post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 })).expect(200);
    server.until_unsealed();
    let warning = "it protects nothing";
    assert!(server.log().contains(warning), "{}", server.log());
    server.stop();
    let server = site.start();
    server.until_unsealed();
    assert!(server.log().contains(warning), "{}", server.log());
    assert_eq!(server.client().get("sys/seal-status").text_at("/type"), "software");
}
