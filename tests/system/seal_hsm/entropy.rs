//! `entropy "seal"`: the token's random bytes are in the keys that the server makes, or no key is made.

use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::process::{helpers, signal};
use holdfast_tests::{Client, Reply, Running, Setup, Site, until};
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

const DRAW: &str = "sys/tools/random/seal/1000";

/// Each has a connection of its own. Meanwhile something else is done.
fn drawn_by_many(root: &Client, meanwhile: impl FnOnce()) -> Vec<Reply> {
    thread::scope(|scope| {
        let users: Vec<_> = (0..64)
            .map(|_| {
                let client = root.with_token(root.token()).patient_for(Duration::from_secs(60));
                scope.spawn(move || client.post(DRAW, json!({})))
            })
            .collect();
        meanwhile();
        users.into_iter().map(|user| user.join().expect("an answer")).collect()
    })
}

#[test]
fn many_draw_from_a_token_at_once_also_when_it_is_away_for_a_moment_and_one_that_stays_away_keeps_nobody() {
    let running = Running::start(Setup::hardware());
    let (root, server) = (&running.root, &running.server);
    let token = running.site.token.as_ref().expect("a token");
    for reply in drawn_by_many(root, || ()) {
        assert_eq!(reply.expect(200).text_at("/data/random_bytes").len(), 1336);
    }
    let pull_out = || {
        token.pull_out();
        helpers(server.pid()).into_iter().for_each(|pid| signal(pid, Signal::KILL));
    };
    pull_out();
    let drawn = drawn_by_many(root, || {
        root.post("secret/data/a", json!({ "data": { "b": "c" } })).expect(200);
        thread::sleep(Duration::from_secs(2));
        token.put_back();
    });
    drawn.into_iter().for_each(|reply| drop(reply.expect(200)));

    pull_out();
    let patient = root.with_token(root.token()).patient_for(Duration::from_secs(60));
    let said = until(Duration::from_secs(60), "a refusal after the grace", || {
        let said = patient.post(DRAW, json!({})).refused(503);
        said.contains("is away for").then_some(said)
    });
    assert!(said.contains("is not there") && said.contains("sys/seal-backend-status"), "{said}");
    let begun = Instant::now();
    for _ in 0..20 {
        patient.post(DRAW, json!({})).refused(503);
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "twenty refusals took {:?}", begun.elapsed());
    let figures = |name: &str| -> f64 {
        let page = root.get("sys/metrics?format=prometheus").expect(200).text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or_else(|| panic!("{name}: {page}"))
    };
    assert!(figures("holdfast_seal_device_calls_count") >= 128.0);
    assert!(figures("holdfast_seal_device_failures") >= 1.0);
    assert!(figures("holdfast_seal_device_refused") >= 15.0);
    assert!(figures("holdfast_seal_device_calls{quantile=\"0.99\"}") > 0.0);
    token.put_back();
    until(Duration::from_secs(20), "the token's bytes", || (patient.post(DRAW, json!({})).status == 200).then_some(()));
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
