//! The helper process that the vendor's module runs in: it may crash, hang or be killed.

use std::time::{Duration, Instant};

use holdfast_tests::module::{self, ABORTS, HANGS, shim};
use holdfast_tests::process::{descendants, helpers, lives, signal};
use holdfast_tests::{Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::json;

use super::trouble;

#[test]
fn after_the_helper_was_killed_the_next_unseal_works() {
    let running = Running::start(Setup::hardware());
    let before = helpers(running.server.pid());
    assert_eq!(before.len(), 1, "one helper for one module");
    signal(before[0], Signal::KILL);
    until(Duration::from_secs(5), "the helper's end", || (!lives(before[0])).then_some(()));
    running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);

    running.root.post("sys/seal", json!({})).expect(204);
    running.server.signal(Signal::HUP);
    running.server.until_unsealed();
    running.root.get("secret/data/a").expect(200);
    let after = helpers(running.server.pid());
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
}

#[test]
fn no_helper_outlives_its_server() {
    for end in [|s: holdfast_tests::Server| drop(s.stop()), |s: holdfast_tests::Server| s.kill()] {
        let running = Running::start(Setup::hardware());
        let below = descendants(running.server.pid());
        assert!(!below.is_empty(), "a spawner and a helper");
        end(running.server);
        until(Duration::from_secs(5), "the helpers' end", || below.iter().all(|p| !lives(*p)).then_some(()));
    }
}

#[test]
fn a_module_that_aborts_once_costs_nothing_but_a_try() {
    let site = Site::make(Setup::hardware());
    let shim = shim(site.folder());
    let site = site.with_seal(&shim.keys());
    let server = site.start();
    site.initialise(&server.client());
    server.until_unsealed();
    server.stop();
    shim.disturb("abort");
    let server = site.start();
    server.until_unsealed();
    assert!(!shim.is_to_disturb("abort"), "it did not abort");
}

#[test]
fn a_module_that_hangs_once_is_ended_and_asked_again() {
    let site = Site::make(Setup::hardware());
    let shim = shim(site.folder());
    let site = site.with_seal(&shim.keys());
    let server = site.start();
    site.initialise(&server.client());
    server.until_unsealed();
    server.stop();
    shim.disturb("hang");
    let server = site.start();
    until(Duration::from_secs(5), "the hanging", || (!shim.is_to_disturb("hang")).then_some(()));
    let start = Instant::now();
    server.client().get("sys/health").expect(503);
    assert!(start.elapsed() < Duration::from_secs(1), "health waits for the module");
    server.until_unsealed();
}

#[test]
fn a_module_that_always_aborts_leaves_the_server_up_and_is_blamed() {
    let site = Site::make(Setup::hardware());
    let module = module::build(site.folder(), "aborts", ABORTS);
    let site = with_module(site, &module);
    let mut server = site.start();
    let text = server.client().post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 })).refused(500);
    assert!(text.contains("helper") && text.contains("module"), "{text}");
    server.client().get("sys/health").expect(501);
    assert!(server.is_alive());
}

#[test]
fn a_module_that_always_aborts_does_not_make_the_server_spin() {
    let Running { server, site, .. } = Running::start(Setup::hardware());
    server.stop();
    let module = module::build(site.folder(), "aborts", ABORTS);
    let site = with_module(site, &module);
    let mut server = site.start();
    trouble(&server, &["module"]);
    std::thread::sleep(Duration::from_secs(5));
    let deaths = server.log().matches("device helper ended").count();
    assert!(deaths < 12, "{deaths} helpers in 5 s");
    assert!(server.is_alive());
}

#[test]
fn a_module_that_always_hangs_leaves_the_server_answering() {
    let Running { server, site, .. } = Running::start(Setup::hardware());
    server.stop();
    let module = module::build(site.folder(), "hangs", HANGS);
    let site = with_module(site, &module);
    let server = site.start();
    for _ in 0..20 {
        let start = Instant::now();
        server.client().get("sys/health").expect(503);
        assert!(start.elapsed() < Duration::from_secs(1), "health waits for the module");
        std::thread::sleep(Duration::from_millis(50));
    }
    trouble(&server, &["no answer within"]);
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(15), "the module holds up the end: {:?}", start.elapsed());
}

fn with_module(site: Site, module: &std::path::Path) -> Site {
    site.with_seal(&format!("lib = \"{}\"", module.display()))
}
