//! A module that is no good, while another device and everything that needs none goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::module::{self, Shim};
use holdfast_tests::{Client, Running, Setup, Site};
use serde_json::json;

use super::managed_keys::signing_key;
use super::{patient, status, token_device, until_healthy};

/// A device `good`, and one `bad` whose module can be told to misbehave.
fn with_two() -> (Running, Shim) {
    let site = Site::make(Setup::hardware());
    let shim = module::shim(site.folder());
    let library = holdfast_tests::token::library().display().to_string();
    let of_shim = format!("{}\"\n helper_write_paths = [\"{}\"]\n", shim.module.display(), shim.folder().display());
    let bad = token_device("bad").replace(&format!("{library}\"\n"), &of_shim);
    site.write_config(&format!("{}\n{}{bad}", site.config(), token_device("good")));
    (Running::of(site), shim)
}

fn sign(key: &str) -> String {
    format!("sys/managed-keys/pkcs11/{key}/test/sign")
}

/// How long the slowest of what needs no bad device took, while somebody else goes on.
fn others_go_on(root: &Client, until: &AtomicBool) -> Duration {
    let (mut slowest, mut rounds) = (Duration::ZERO, 0);
    while !until.load(Ordering::SeqCst) || rounds == 0 {
        let begun = Instant::now();
        root.post("secret/data/a", json!({ "data": { "round": rounds } })).expect(200);
        assert_eq!(root.get("secret/data/a").expect(200).at("/data/data/round"), rounds);
        root.get("sys/health").expect(200);
        root.post(&sign("g"), json!({})).expect(200);
        slowest = slowest.max(begun.elapsed());
        rounds += 1;
    }
    println!("{rounds} rounds, the slowest {slowest:?}");
    slowest
}

#[test]
fn a_module_that_aborts_hangs_or_lies_costs_its_own_users_alone() {
    let (mut running, shim) = with_two();
    let root = running.root.with_token(running.root.token());
    signing_key(&root, "pkcs11", "good", "g");
    signing_key(&root, "pkcs11", "bad", "b");
    root.post(&sign("b"), json!({})).expect(200);
    for (how, code, words) in [
        ("aborts", 503, ["managed key \"b\"", "module"]),
        ("hangs", 503, ["managed key \"b\"", "no answer within"]),
        ("lies", 500, ["device 'bad'", "is not one of"]),
    ] {
        shim.misbehave(how);
        let done = AtomicBool::new(false);
        let slowest = thread::scope(|scope| {
            let others = scope.spawn(|| others_go_on(&root, &done));
            let asked: Vec<_> = (0..4)
                .map(|_| {
                    let client = patient(&root);
                    scope.spawn(move || client.post(&sign("b"), json!({})))
                })
                .collect();
            let said: Vec<String> = asked.into_iter().map(|one| one.join().unwrap().refused(code)).collect();
            done.store(true, Ordering::SeqCst);
            assert!(said.iter().any(|said| words.iter().all(|word| said.contains(word))), "{how}: {said:?}");
            others.join().unwrap()
        });
        assert!(slowest < Duration::from_secs(5), "{how}: others waited {slowest:?}");
        assert!(running.server.is_alive(), "{how}");
        if how != "lies" {
            until_healthy(&root, "bad", false);
            assert!(status(&root, "bad")["last_error"].is_string());
        }
        assert_eq!(status(&root, "good")["healthy"], true, "{how}");
        shim.behave(how);
        until_healthy(&root, "bad", true);
        patient(&root).post(&sign("b"), json!({})).expect(200);
    }
    // Lists without an end, and functions that fail, are errors of a request.
    for how in ["garbage-list", "garbage-mechanisms"] {
        shim.disturb(how);
        for helper in holdfast_tests::process::helpers(running.server.pid()) {
            holdfast_tests::process::signal(helper, rustix::process::Signal::KILL);
        }
        // The helper that signs next opens the token and looks for the key.
        let asked = patient(&root).post(&sign("b"), json!({}));
        assert!([200, 503, 500].contains(&asked.status), "{how}: {asked:?}");
        assert!(!shim.is_to_disturb(how), "{how} came");
        assert!(running.server.is_alive(), "{how}");
        patient(&root).post(&sign("b"), json!({})).expect(200);
        root.post(&sign("g"), json!({})).expect(200);
    }
}
