//! A token of the seal that gives back other bytes than it was given.

use std::time::Duration;

use holdfast_tests::module::shim;
use holdfast_tests::{Reply, Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::json;

const SPOILS: &str = "spoils";
const SOON: Duration = Duration::from_secs(40);

#[test]
fn a_token_that_gives_back_garbage_opens_nothing_and_changes_nothing_and_is_told() {
    let site = Site::make(Setup::hardware());
    let shim = shim(site.folder());
    let running = Running::of(site.with_seal(&shim.keys()));
    let root = &running.root;
    root.post("secret/data/a", json!({ "data": { "b": "c" } })).expect(200);
    let seals = || root.get("sys/seal-backend-status").expect(200);
    until(SOON, "a first check", || seals().at("/data/backends/0/last_opened").as_str().map(drop));
    let is_well = |reply: &Reply| reply.at("/data/healthy") == true;

    // At a check of its health.
    shim.misbehave(SPOILS);
    running.server.signal(Signal::HUP);
    let failing = until(SOON, "the fault is told", || Some(seals()).filter(|reply| !is_well(reply)));
    assert!(failing.text_at("/data/backends/0/last_error").contains("another root key"), "{}", failing.text());
    assert_eq!(root.get("sys/health").expect(200).at("/seals_failing"), 1);
    root.get("secret/data/a").expect(200);

    // At a new root key: the lock of before stays.
    let lock = || seals().text_at("/data/backends/0/id");
    let before = lock();
    for _ in 0..3 {
        let said = root.post("sys/rotate/root", json!({})).refused(500);
        assert!(said.contains("does not open what it closed"), "{said}");
    }
    assert_eq!(lock(), before);
    root.get("secret/data/a").expect(200);
    shim.behave(SPOILS);
    running.server.signal(Signal::HUP);
    until(SOON, "it is well again", || is_well(&seals()).then_some(()));
    root.post("sys/rotate/root", json!({})).expect(204);
    assert_ne!(lock(), before);

    // At a start: it stays sealed and says so, and asks again by itself.
    let Running { server, site, keys, .. } = running;
    server.stop();
    shim.misbehave(SPOILS);
    let server = site.start();
    super::trouble(&server, &["the lock list cannot be opened"]);
    server.client().get("sys/health").expect(503);
    shim.behave(SPOILS);
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    assert_eq!(root.get("secret/data/a").expect(200).at("/data/data/b"), "c");
}
