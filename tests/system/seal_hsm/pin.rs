//! The PIN: where it comes from, and that a wrong one is tried once.

use std::fs;
use std::time::Duration;

use holdfast_tests::module::{Shim, shim};
use holdfast_tests::process::{helpers, signal};
use holdfast_tests::token::PIN;
use holdfast_tests::{Running, Server, Setup, Site};
use rustix::process::Signal;

use super::trouble;

fn with_shim(keys: impl FnOnce(&Site) -> String) -> (Site, Shim) {
    let site = Site::make(Setup::hardware());
    let shim = shim(site.folder());
    let keys = format!("{}\n{}", shim.keys(), keys(&site));
    (site.with_seal(&keys), shim)
}

#[test]
fn a_wrong_pin_is_tried_once_and_never_in_a_loop() {
    let (site, shim) = with_shim(|_| String::new());
    let server = site.start();
    site.initialise(&server.client());
    server.until_unsealed();
    server.stop();
    let good = shim.logins();
    assert!(good >= 1);

    site.write_config(&site.config().replace(PIN, "0000-wrong"));
    let mut server = site.start();
    trouble(&server, &["PIN"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(shim.logins(), good + 1, "logins with a wrong PIN");
    assert!(site.token.as_ref().expect("a token").has_seen_a_wrong_pin());

    // Nor by a new helper, nor because somebody asks.
    for helper in helpers(server.pid()) {
        signal(helper, Signal::KILL);
    }
    server.signal(Signal::HUP);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(shim.logins(), good + 1, "logins with a wrong PIN");
    assert!(server.is_alive());
    assert!(!server.log().contains("0000-wrong"), "the log tells the PIN");
    server.stop();

    site.write_config(&site.config());
    site.start().until_unsealed();
    assert!(!site.token.as_ref().expect("a token").has_seen_a_wrong_pin());
}

#[test]
fn initialising_with_a_wrong_pin_logs_in_once() {
    let (site, shim) = with_shim(|_| "pin = \"0000-wrong\"".into());
    let server = site.start();
    let body = serde_json::json!({ "recovery_shares": 1, "recovery_threshold": 1 });
    for _ in 0..3 {
        let text = server.client().post("sys/init", body.clone()).refused(500);
        assert!(text.contains("PIN") && !text.contains("0000-wrong"), "{text}");
    }
    assert_eq!(shim.logins(), 1);
}

#[test]
fn the_pin_comes_from_a_file_or_the_environment_too() {
    let (site, _shim) = with_shim(|site| {
        fs::write(site.folder().join("pin"), format!("{PIN}\n")).expect("a PIN file");
        format!("pin_file = \"{}\"", site.folder().join("pin").display())
    });
    let server = site.start();
    site.initialise(&server.client());
    server.until_unsealed();
    server.stop();

    let site = site.with_seal("pin_env = \"TOKEN_PIN\"");
    let mut command = site.server_command();
    let server = Server::start(command.env("TOKEN_PIN", PIN), site.folder(), 1, site.client_config());
    server.until_unsealed();
}

#[test]
fn a_corrected_pin_file_is_read_at_a_hangup_and_each_pin_is_tried_once() {
    let (site, shim) = with_shim(|site| format!("pin_file = \"{}\"", site.folder().join("pin").display()));
    let file = site.folder().join("pin");
    fs::write(&file, PIN).expect("a PIN file");
    let server = site.start();
    site.initialise(&server.client());
    server.until_unsealed();
    server.stop();

    fs::write(&file, "0000-wrong").expect("a wrong PIN");
    let good = shim.logins();
    let mut server = site.start();
    trouble(&server, &["PIN"]);
    for _ in 0..3 {
        server.signal(Signal::HUP);
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(shim.logins(), good + 1, "logins with a wrong PIN");

    // Another wrong one is another try, and one only.
    fs::write(&file, "0001-wrong").expect("another wrong PIN");
    server.signal(Signal::HUP);
    server.until_logged("the PIN was read again");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(shim.logins(), good + 2, "logins with another wrong PIN");
    assert!(server.is_alive());

    fs::write(&file, format!("{PIN}\n")).expect("the right PIN");
    server.signal(Signal::HUP);
    server.until_unsealed();
    assert!(!site.token.as_ref().expect("a token").has_seen_a_wrong_pin());
    assert!(!server.log().contains("-wrong"), "the log tells a PIN");
}

#[test]
fn without_its_pin_file_the_server_stays_up_and_names_it() {
    let running = Running::start(Setup::hardware());
    let Running { server, site, .. } = running;
    server.stop();
    let file = site.folder().join("pin-that-is-not-there");
    let site = site.with_seal(&format!("pin_file = \"{}\"", file.display()));
    let server = site.start();
    trouble(&server, &["pin-that-is-not-there"]);
    server.client().get("sys/health").expect(503);
    fs::write(&file, PIN).expect("the PIN file");
    server.signal(Signal::HUP);
    server.until_unsealed();
}
