//! What becomes of a file device while the server runs: rotated, removed, on a full disk, declared otherwise.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::{Running, Setup, until};
use rustix::process::Signal;
use serde_json::json;

use super::{LONG, bare, lines};

#[test]
fn a_file_that_was_moved_away_is_opened_anew_at_sighup() {
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    let old = log.with_extension("1");
    fs::rename(&log, &old).expect("a rename");
    running.server.signal(Signal::HUP);
    until(LONG, "the new file", || log.exists().then_some(()));
    until(LONG, "lines in the new file", || {
        running.root.get("secret/data/none").refused(404);
        (lines(&log).len() >= 2).then_some(())
    });
}

#[test]
fn a_file_that_was_removed_is_made_anew_with_its_mode_and_that_is_said() {
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    fs::remove_file(&log).expect("a file");
    until(LONG, "the file again", || log.exists().then_some(()));
    assert_eq!(fs::metadata(&log).expect("a file").permissions().mode() & 0o777, 0o600);
    running.server.until_logged("the audit file is not under its name any more");
    running.root.get("secret/data/none").refused(404);
    assert!(lines(&log).iter().any(|l| l["request"]["path"] == "secret/data/none"));
}

#[test]
fn without_a_device_that_takes_lines_nothing_is_answered_nor_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(&folder.path().join("disk"), 2);
    let log = disk.path().join("audit.log");
    let running = Running::start(Setup { audit_file: Some(log.clone()), ..Setup::shamir().without_tls() });
    let ballast = disk.fill(0);
    // The file's last page has room for some more.
    until(LONG, "a refusal", || (running.root.get("secret/data/none").status == 500).then_some(()));
    running.root.post("secret/data/refused", json!({ "data": { "a": "b" } })).refused(500);
    running.root.get("sys/health").expect(200);
    running.server.until_logged("an audit device refuses lines");
    drop(ballast);
    until(LONG, "an answer", || (running.root.get("secret/data/refused").status == 404).then_some(()));
    // Every line is whole but the one that the full disk cut.
    let text = fs::read_to_string(&log).expect("a file");
    let broken = text.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_err()).count();
    assert!(broken <= 1, "{broken} lines are broken");
}

#[test]
fn a_full_disk_of_one_device_is_no_difference_beside_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(&folder.path().join("disk"), 1);
    let running = bare("unsafe_allow_api_audit_creation = true");
    let (full, good) = (disk.path().join("full.log"), folder.path().join("good.log"));
    for (name, path) in [("full", &full), ("good", &good)] {
        let device = json!({ "type": "file", "options": { "file_path": path } });
        running.root.post(&format!("sys/audit/{name}"), device).expect(204);
    }
    let _ballast = disk.fill(0);
    for n in 0..50 {
        running.root.post(&format!("secret/data/{n}"), json!({ "data": { "a": "b" } })).expect(200);
        running.root.get(&format!("secret/data/{n}")).expect(200);
    }
    assert!(lines(&good).len() >= 200);
}

#[test]
fn what_the_configuration_declares_is_followed_at_sighup() {
    let running = Running::start(Setup::shamir().without_tls());
    let folder = running.site.folder();
    let (second, config) = (folder.join("second.log"), running.site.config());
    let stanza = |options: &str| {
        format!(
            "{config}\naudit \"file\" \"second\" {{\n  options {{\n    file_path = \"{}\"\n    {options}\n  }}\n}}\n",
            second.display()
        )
    };
    let paths = || {
        let listed = running.root.get("sys/audit").expect(200);
        listed.at("/data").as_object().expect("a map").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(paths(), ["file/"]);
    let declare = |text: &str, what: &str, reached: &dyn Fn() -> bool| {
        running.site.write_config(text);
        running.server.signal(Signal::HUP);
        until(LONG, what, || reached().then_some(()));
    };
    declare(&stanza(""), "the second device", &|| paths() == ["file/", "second/"]);
    running.root.get("secret/data/none").refused(404);
    assert!(lines(&second).iter().any(|l| l["request"]["path"] == "secret/data/none"));
    running.root.delete("sys/audit/second").refused(400);
    declare(&stanza("log_raw = true"), "the other options", &|| {
        let listed = running.root.get("sys/audit").expect(200).json();
        listed.pointer("/data/second~1/options/log_raw").is_some_and(|raw| raw == "true")
    });
    // A configuration that is wrong changes nothing.
    running.site.write_config(&stanza("log_raw = \"maybe\""));
    running.server.signal(Signal::HUP);
    running.server.until_logged("the audit devices stay as they are");
    assert_eq!(paths(), ["file/", "second/"]);
    declare(&config, "the end of the second device", &|| paths() == ["file/"]);
}
