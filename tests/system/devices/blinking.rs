//! A device that goes away and comes back is found again without a restart of anything.

use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::Reply;
use holdfast_tests::process::{helpers, signal};
use rustix::process::Signal;
use serde_json::json;

use super::managed_keys::signing_key;
use super::{patient, status, until_healthy, with_token, with_tpm};

const SIGN: &str = "sys/managed-keys/pkcs11/k/test/sign";

#[test]
fn who_asks_while_a_token_is_away_for_a_moment_waits_for_it() {
    let running = with_token();
    let root = &running.root;
    signing_key(root, "pkcs11", "main", "k");
    root.post(SIGN, json!({})).expect(200);
    let token = running.site.token.as_ref().expect("a token");
    token.pull_out();
    // A helper that is ended too looks for the token anew, and finds none.
    end_helpers(&running);
    let answers: Vec<Reply> = thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let client = patient(root);
                scope.spawn(move || client.post(SIGN, json!({})))
            })
            .collect();
        // What is asked of no device does not wait for one.
        let begun = Instant::now();
        root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
        root.get("secret/data/a").expect(200);
        assert!(begun.elapsed() < Duration::from_secs(2), "kv waited for the device");
        thread::sleep(Duration::from_secs(3));
        token.put_back();
        waiting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for answer in answers {
        answer.expect(200);
    }
}

#[test]
fn a_token_that_stays_away_keeps_nobody_waiting_and_is_found_when_it_is_back() {
    let running = with_token();
    let root = &running.root;
    signing_key(root, "pkcs11", "main", "k");
    let token = running.site.token.as_ref().expect("a token");
    token.pull_out();
    end_helpers(&running);
    let said = patient(root).post(SIGN, json!({})).refused(503);
    assert!(said.contains("is not there") && said.contains("main"), "{said}");
    until_healthy(root, "main", false);
    assert!(status(root, "main")["last_error"].as_str().unwrap().contains("is not there"));
    assert!(
        root.get("sys/metrics?format=prometheus")
            .expect(200)
            .text()
            .contains("holdfast_device_healthy{device=\"main\",type=\"pkcs11\"} 0")
    );
    // By now it has been away for long: one in a while tries, all others are told at once.
    let begun = Instant::now();
    for _ in 0..20 {
        root.post(SIGN, json!({})).refused(503);
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "twenty refusals took {:?}", begun.elapsed());
    root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    token.put_back();
    // Nobody has to ask for it.
    until_healthy(root, "main", true);
    root.post(SIGN, json!({})).expect(200);
}

#[test]
fn a_helper_that_crashes_or_hangs_costs_a_request_its_time_and_nothing_else() {
    let running = with_token();
    let root = &running.root;
    signing_key(root, "pkcs11", "main", "k");
    for _ in 0..3 {
        end_helpers(&running);
        root.post(SIGN, json!({})).expect(200);
    }
    for pid in helpers(running.server.pid()) {
        signal(pid, Signal::STOP);
    }
    let waiting = patient(root);
    let begun = Instant::now();
    let reply = waiting.post(SIGN, json!({}));
    // Where a look at the device hung a moment before, its helper was ended in time for this request to be tried again.
    if reply.status != 200 {
        let said = reply.refused(503);
        assert!(said.contains("no answer within") || said.contains("is away for"), "{said}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    // The one that hung was ended.
    until_healthy(root, "main", true);
    waiting.post(SIGN, json!({})).expect(200);
}

pub fn end_helpers(running: &holdfast_tests::Running) {
    for pid in helpers(running.server.pid()) {
        signal(pid, Signal::KILL);
    }
}

#[test]
fn a_tpm_that_restarts_is_used_again() {
    let (mut tpm, running) = with_tpm();
    let root = patient(&running.root);
    signing_key(&root, "tpm", "chip", "k");
    let sign = "sys/managed-keys/tpm/k/test/sign";
    root.post(sign, json!({})).expect(200);
    tpm.restart();
    root.post(sign, json!({})).expect(200);
    tpm.kill();
    let answer = thread::scope(|scope| {
        let waiting = scope.spawn(|| root.post(sign, json!({})));
        thread::sleep(Duration::from_secs(2));
        tpm.start_again();
        waiting.join().unwrap()
    });
    answer.expect(200);
}
