//! `entropy "seal"`: the token's random bytes are in the keys that the server makes, or no key is made.

use std::time::Duration;

use holdfast_tests::process::{helpers, signal};
use holdfast_tests::{Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::json;

const MIXED: &str = "entropy \"seal\" {\n mode = \"augmentation\"\n}\n";

#[test]
fn keys_are_mixed_with_the_tokens_bytes_and_none_is_made_while_it_is_away() {
    let running = Running::start(Setup::hardware().with_top(MIXED));
    let (site, root, server) = (&running.site, &running.root, &running.server);
    let token = site.token.as_ref().expect("a token");
    // The root key, a term of the keyring, and recovery shares' key.
    root.post("sys/rotate/root", json!({})).expect(204);
    root.post("sys/rotate", json!({})).expect(204);
    let begun = root.post("sys/rotate/recovery/init", json!({ "secret_shares": 2, "secret_threshold": 2 })).expect(200);
    let nonce = begun.at("/data/nonce");
    let give = |share: &String| root.post("sys/rotate/recovery/update", json!({ "key": share, "nonce": nonce }));
    give(&running.keys.shares[0]).expect(200);
    assert_eq!(give(&running.keys.shares[1]).expect(200).at("/data/complete"), true);

    token.pull_out();
    helpers(server.pid()).into_iter().for_each(|pid| signal(pid, Signal::KILL));
    let term = || root.get("sys/key-status").expect(200).at("/data/term");
    let before = term();
    for act in ["sys/rotate", "sys/rotate/root"] {
        let said = root.post(act, json!({})).refused(503);
        assert!(said.contains("entropy \"seal\"") && said.contains("SIGHUP"), "{said}");
    }
    assert_eq!(term(), before);
    // What makes no key goes on.
    root.post("secret/data/a", json!({ "data": { "b": "c" } })).expect(200);

    // Without the stanza the operating system's bytes are enough for the keyring.
    let config = std::fs::read_to_string(site.config_file()).expect("the configuration");
    site.write_config(&config.replace(MIXED, ""));
    server.signal(Signal::HUP);
    until(Duration::from_secs(20), "a new term", || {
        root.try_call("POST", "sys/rotate", Some(&json!({}))).ok().filter(|reply| reply.status == 204).map(drop)
    });
    token.put_back();
    site.write_config(&config);
    server.signal(Signal::HUP);
    until(Duration::from_secs(60), "the token's bytes", || {
        root.try_call("POST", "sys/rotate/root", Some(&json!({}))).ok().filter(|reply| reply.status == 204).map(drop)
    });
    // What was written under each key is there.
    let running = running.restart(|server| drop(server.stop()));
    assert_eq!(running.root.get("secret/data/a").expect(200).at("/data/data/b"), "c");
}

#[test]
fn a_store_is_not_initialised_without_the_bytes_that_were_asked_for() {
    // Shares have no device.
    let site = Site::make(Setup::shamir().without_tls().with_top(MIXED));
    let server = site.start();
    let said = server.client().post("sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).refused(503);
    assert!(said.contains("no seal has a device"), "{said}");
    server.client().get("sys/health").expect(501);
    server.stop();
    for (stanza, says) in [
        ("entropy \"seal\" {\n mode = \"replacement\"\n}", "augmentation"),
        ("entropy \"seal\" {\n}", "mode"),
        ("entropy \"noise\" {\n mode = \"augmentation\"\n}", "noise"),
    ] {
        site.write_config(&format!("{}{stanza}\n", site.config().replace(MIXED, "")));
        let said = site.start_in_vain();
        assert!(said.contains(says), "{said}");
    }
}
