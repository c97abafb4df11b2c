//! Audit files whose disk does not do what it is asked to, while the store's disk is well.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_tests::hanging::Hanging;
use holdfast_tests::until;
use rustix::process::Signal;
use serde_json::json;

use super::{LONG, all_lines, bare, chain, series};
use crate::cluster::disturbed::start_audited;

/// A declared file.
fn file(name: &str, path: &Path, more: &str) -> String {
    format!("audit \"file\" \"{name}\" {{\n options {{\n file_path = \"{}\"\n {more}\n }}\n}}\n", path.display())
}

#[test]
fn a_file_that_cannot_be_synced_refuses_says_so_and_is_opened_anew_until_its_disk_is_well() {
    let mut log = None;
    let (nodes, faults) = start_audited(|folder| file("main", log.insert(folder.join("audit.log")), ""));
    let (log, root) = (log.expect("a path"), nodes.root(0));
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    root.post("kv/good", json!({"v": 1})).expect(204);
    let health = || root.get("sys/health").json();
    let failing = || series(&root, "holdfast_audit_device_failing", "main");
    assert!(failing() == 0.0 && health()["audit_devices_failing"].is_null());

    faults.broken_audit_disk(true);
    let failures = series(&root, "holdfast_audit_device_failures", "main");
    for n in 0..3 {
        root.post(&format!("kv/refused{n}"), json!({"v": 1})).refused(500);
    }
    assert!(series(&root, "holdfast_audit_device_failures", "main") >= failures + 3.0);
    // Reads wait for no disk; that they are answered is no word about it.
    root.get("kv/good").expect(200);
    assert_eq!((failing(), &health()["audit_devices_failing"]), (1.0, &json!(1)));
    nodes.server(0).until_logged("an audit file cannot be synced");
    // Whatever is under its name by now is opened.
    let old = log.with_file_name("old.log");
    fs::rename(&log, &old).expect("a rename");
    until(LONG, "the file under its name", || log.exists().then_some(()));

    // Nobody has to write for it to be noticed that the disk is well.
    faults.broken_audit_disk(false);
    until(LONG, "a disk that is well", || health()["audit_devices_failing"].is_null().then_some(()));
    assert_eq!(failing(), 0.0);
    nodes.server(0).until_logged("an audit file can be synced again");
    root.post("kv/good", json!({"v": 2})).expect(204);
    let told = |path: &str| {
        let lines = [&old, &log].into_iter().flat_map(|file| all_lines(file));
        lines.filter(|l| l["request"]["path"] == path).count()
    };
    assert!(told("kv/good") >= 4 && told("kv/refused0") >= 1);
}

#[test]
fn a_file_whose_disk_hangs_holds_nobody_up_beside_another() {
    let (nodes, faults) = start_audited(|folder| {
        let other = file("other", &folder.join("other.log"), "durability = \"write\"");
        file("main", &folder.join("audit.log"), "") + &other
    });
    let root = nodes.root(0);
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    root.post("kv/good", json!({"v": 1})).expect(204);
    faults.slow_audit_disk(Duration::from_secs(20));
    let start = Instant::now();
    for n in 0..12 {
        root.post(&format!("kv/{n}"), json!({"v": 1})).expect(204);
    }
    // The promise of the first one is waited for, two seconds at most; then it is known to be late.
    assert!((2..15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let failing = || series(&root, "holdfast_audit_device_failing", "main");
    until(LONG, "a device that fails", || (failing() == 1.0).then_some(()));
    assert_eq!(root.get("sys/health").json()["audit_devices_failing"], json!(1));
    faults.slow_audit_disk(Duration::ZERO);
    until(LONG, "a disk that is well", || (failing() == 0.0).then_some(()));
    // Both have all of it.
    let before = series(&root, "holdfast_audit_device_sync_count", "main");
    root.post("kv/again", json!({"v": 1})).expect(204);
    assert!(series(&root, "holdfast_audit_device_sync_count", "main") > before);
}

#[test]
fn a_file_whose_server_of_files_is_gone_holds_nobody_up_beside_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let away = Hanging::mount(&folder.path().join("away"));
    let logs = [folder.path().join("away/audit.log"), folder.path().join("other.log")];
    let running = bare(&(file("away", &logs[0], "") + &file("other", &logs[1], "")));
    let root = &running.root;
    let failing = || series(root, "holdfast_audit_device_failing", "away");
    root.post("secret/data/good", json!({"data": {"v": 1}})).expect(200);
    assert_eq!(failing(), 0.0);

    away.hang(true);
    let start = Instant::now();
    for n in 0..100 {
        root.post(&format!("secret/data/{n}"), json!({"data": {"v": n}})).expect(200);
        root.get("secret/data/good").expect(200);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    until(LONG, "a device that fails", || (failing() == 1.0).then_some(()));
    assert_eq!(root.get("sys/health").json()["audit_devices_failing"], json!(1));
    // Nor does a rotation, or whoever looks after the files, wait for more than its time.
    running.server.signal(Signal::HUP);
    for _ in 0..20 {
        root.get("secret/data/good").expect(200);
        std::thread::sleep(Duration::from_millis(200));
    }
    away.hang(false);
    until(LONG, "a device that is well", || {
        root.get("secret/data/good").expect(200);
        (failing() == 0.0).then_some(())
    });
    root.post("secret/data/again", json!({"data": {"v": 1}})).expect(200);

    // It is sealed all the same.
    away.hang(true);
    let start = Instant::now();
    root.post("sys/seal", json!({})).expect(204);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    away.hang(false);
    let running = running.restart(|server| drop(server.stop()));
    let (key, checkpoints) = (chain::keep(&running, "public-key"), chain::keep(&running, "checkpoints"));
    // The one that hung has not been sealed by a checkpoint yet.
    for (log, checkpoints) in logs.iter().zip([None, Some(&*checkpoints)]) {
        let (code, said) = chain::verify(&running, &key, checkpoints, &[log]);
        assert_eq!(code, Some(0), "{}: {said}", log.display());
        assert!(all_lines(log).iter().any(|l| l["request"]["path"] == "secret/data/again"));
    }
}
