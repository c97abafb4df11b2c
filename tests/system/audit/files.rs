//! What becomes of a file device while the server runs: rotated, removed, on a full disk, declared otherwise.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_tests::program::{command, run};
use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::{Running, Setup, until};
use rustix::process::Signal;
use serde_json::json;

use super::{LONG, bare, lines, series};

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
    // It is there a moment before it is written to: its name is synced first.
    until(LONG, "lines in the file", || {
        running.root.get("secret/data/none").refused(404);
        lines(&log).iter().any(|l| l["request"]["path"] == "secret/data/none").then_some(())
    });
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
    holdfast_tests::audited::is_raw(&second);
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

/// Somebody has a pipe open for reading, and reads nothing by that.
fn reader(pipe: &Path) -> File {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(pipe).expect("a pipe")
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up_beside_a_file() {
    let running = bare("unsafe_allow_api_audit_creation = true");
    let folder = tempfile::tempdir().expect("a folder");
    let (pipe, good) = (folder.path().join("pipe"), folder.path().join("good.log"));
    run(command("mkfifo").arg(&pipe)).good();
    let device = |path: &Path| json!({ "type": "file", "options": { "file_path": path } });
    // Whoever makes it is not held up either.
    let refused = running.root.post("sys/audit/pipe", device(&pipe)).refused(400);
    assert!(refused.contains("nobody reads from it"), "{refused}");
    let idle = reader(&pipe);
    for (name, path) in [("good", &good), ("pipe", &pipe)] {
        running.root.post(&format!("sys/audit/{name}"), device(path)).expect(204);
    }
    let ask = |count: usize| {
        for n in 0..count {
            running.root.post(&format!("secret/data/{n}"), json!({ "data": { "a": "b" } })).expect(200);
        }
    };
    // The kernel keeps 64 KiB; each request has two lines of more than half a KiB.
    let start = Instant::now();
    ask(200);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let figure = |name: &str| series(&running.root, name, "pipe");
    let failing = || {
        let health = running.root.get("sys/health").json();
        (figure("holdfast_audit_device_failing"), health["audit_devices_failing"].as_u64())
    };
    until(LONG, "a device that fails", || (failing() == (1.0, Some(1))).then_some(()));
    assert!(figure("holdfast_audit_device_failures") >= 1.0 && figure("holdfast_audit_device_queue") <= 4096.0);
    assert!(lines(&good).iter().filter(|l| l["request"]["path"] == "secret/data/199").count() == 2);

    // Nor does it hold up a server that opens its files anew, with nobody at the other end.
    drop(idle);
    running.server.signal(Signal::HUP);
    ask(5);
    // Somebody reads again, and gets whole lines.
    let mut reads = reader(&pipe);
    let mut text = Vec::new();
    until(LONG, "a new line in the pipe", || {
        running.root.get("secret/data/again").refused(404);
        let _nothing_there_yet = reads.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut new = whole.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("a whole line"));
        new.any(|l| l["type"] == "response" && l["request"]["path"] == "secret/data/again").then_some(())
    });
    assert_eq!(failing(), (0.0, None));

    // Without another device nothing is answered, in good time.
    running.root.delete("sys/audit/good").expect(204);
    drop(reads);
    let start = Instant::now();
    running.root.get("secret/data/0").refused(500);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
