//! The seal: what opens the store, what is said when it does not, and what never happens.

mod device;
mod entropy;
mod garbage;
mod helper;
mod locks;
mod modules;
mod pin;
mod recovery;

use std::time::Duration;

use holdfast_tests::{Server, until};

/// Wait until seal-status tells a trouble that holds all these words; the trouble.
#[track_caller]
fn trouble(server: &Server, words: &[&str]) -> String {
    let client = server.client();
    until(Duration::from_secs(40), &format!("a trouble with {words:?}"), || {
        let status = client.get("sys/seal-status").expect(200).json();
        assert_eq!(status["sealed"], true, "it is unsealed: {status}");
        let text = status["seal_trouble"].as_str()?.to_owned();
        assert!(!text.contains('\n'), "more than one line: {text}");
        words.iter().all(|w| text.contains(w)).then_some(text)
    })
}
