//! Input that no good client sends, and surroundings that no operator wants.

mod body;
mod connections;
mod disk;
mod hang_up;
mod path;
mod store;

use holdfast_tests::{Running, Setup};

/// A server to be maltreated: without TLS, so that each byte is the test's own.
fn plain() -> Running {
    Running::start(Setup::shamir().without_tls())
}

/// The server is as good as before.
#[track_caller]
fn still_works(running: &Running) {
    let body = serde_json::json!({ "data": { "still": "works" } });
    running.root.post("secret/data/still-works", body).expect(200);
    let read = running.root.get("secret/data/still-works").expect(200);
    assert_eq!(read.at("/data/data/still"), "works");
}
