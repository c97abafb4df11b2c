//! Devices that `sys/audit` makes, and where it may put files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use super::{bare, lines, short};

fn file(path: &std::path::Path) -> Value {
    json!({ "type": "file", "options": { "file_path": path } })
}

#[test]
fn files_are_made_below_the_audit_directories_alone_and_never_executable() {
    let folder = tempfile::tempdir().expect("a folder");
    let (inside, outside) = (folder.path().join("logs"), folder.path().join("elsewhere"));
    fs::create_dir_all(&inside).expect("a folder");
    fs::create_dir_all(&outside).expect("a folder");
    symlink(&outside, inside.join("way-out")).expect("a link");
    symlink(outside.join("target"), inside.join("link.log")).expect("a link");
    let running = bare(&format!("audit_directories = [{:?}]", inside.display().to_string()));
    let root = &running.root;

    let up = inside.join("../elsewhere/x.log");
    for path in [outside.join("x.log"), up, inside.join("way-out/x.log"), inside.join("link.log"), "x.log".into()] {
        let text = root.post("sys/audit/x", file(&path)).refused(400);
        assert!(text.contains("audit_directories"), "{}: {text}", path.display());
    }
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);
    assert!(!inside.join("way-out/x.log").exists());

    let made = inside.join("new/audit.log");
    let options = json!({ "type": "file", "options": { "file_path": made, "mode": "0755" } });
    root.post("sys/audit/x", options).expect(204);
    assert_eq!(fs::metadata(&made).expect("a file").permissions().mode() & 0o777, 0o644);
    let prefixed = json!({ "type": "file", "options": { "file_path": inside.join("p.log"), "prefix": "#!/bin/sh" } });
    assert!(root.post("sys/audit/p", prefixed).refused(400).contains("allow_audit_log_prefixing"));
    // What is no file has no folder.
    root.post("sys/audit/d", json!({ "type": "file", "options": { "file_path": "discard" } })).expect(204);
}

#[test]
fn without_a_setting_files_are_made_in_three_folders_alone() {
    let running = bare("");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let path = elsewhere.path().join("audit.log");
    let text = running.root.post("sys/audit/x", file(&path)).refused(400);
    assert!(text.contains("audit_directories"), "it names the setting: {text}");
    assert!(!path.exists());
    // A folder that begins like one of them is another.
    for path in ["/var/log/holdfast-x/audit.log", "/var/log/audit.log", "/var/log/vault/../x.log"] {
        let text = running.root.post("sys/audit/x", file(path.as_ref())).refused(400);
        assert!(text.contains("audit_directories"), "{path}: {text}");
    }
    running.root.post("sys/audit/d", json!({ "type": "file", "options": { "file_path": "discard" } })).expect(204);
}

#[test]
fn where_the_configuration_forbids_it_the_api_makes_no_device() {
    let running = bare("unsafe_allow_api_audit_creation = false");
    for device in [json!({ "type": "file", "options": { "file_path": "discard" } }), json!({}), json!({ "type": "x" })]
    {
        let text = running.root.post("sys/audit/x", device).refused(400);
        assert!(text.contains("unsafe_allow_api_audit_creation"), "{text}");
    }
}

#[test]
fn a_device_and_its_salt_outlive_the_server_and_end_with_the_device() {
    let running = bare("unsafe_allow_api_audit_creation = true");
    let log = running.site.folder().join("made.log");
    running.root.post("sys/audit/made", file(&log)).expect(204);
    let hash = |running: &holdfast_tests::Running| {
        let answer = running.root.post("sys/audit-hash/made", json!({ "input": "alice" }));
        answer.expect(200).text_at("/data/hash")
    };
    let before = hash(&running);
    let running = running.restart(|server| drop(server.stop()));
    assert_eq!(hash(&running), before);
    let listed = running.root.get("sys/audit").expect(200);
    assert_eq!(listed.at("/data/made~1/options/file_path"), log.to_str().expect("a text"));
    running.root.get("secret/data/none").refused(404);
    let last: Vec<_> = short(&lines(&log)).split_off(lines(&log).len() - 2);
    assert_eq!(last, [("request".into(), "secret/data/none".into()), ("response".into(), "secret/data/none".into())]);

    running.root.delete("sys/audit/made").expect(204);
    let end = lines(&log).len();
    running.root.get("secret/data/none").refused(404);
    assert_eq!(lines(&log).len(), end);
    running.root.post("sys/audit/made", file(&log)).expect(204);
    assert_ne!(hash(&running), before);
}

#[test]
fn requests_that_no_namespace_takes_are_written_down() {
    let running = bare("unsafe_allow_api_audit_creation = true");
    let log = running.site.folder().join("made.log");
    running.root.post("sys/audit/made", file(&log)).expect(204);
    running.root.post("sys/namespaces/locked", json!({})).expect(200);
    running.root.call("PUT", "sys/namespaces/api-lock/lock/locked", Some(&json!({}))).expect(200);
    let before = lines(&log).len();
    let headers = [("X-Vault-Namespace", "nowhere"), ("X-Vault-Token", running.root.token())];
    let reply = running.server.client().try_raw("GET", "/v1/secret/data/x", &headers, b"").expect("an answer");
    assert_eq!(reply.status, 404);
    running.root.get("locked/sys/mounts").refused(503);
    let new = lines(&log).split_off(before);
    assert_eq!(
        new.iter().map(|l| l["type"].as_str()).collect::<Vec<_>>(),
        [Some("request"), Some("response"), Some("request"), Some("response")]
    );
    assert!(new.iter().all(|l| l["error"].is_string() && l["request"]["remote_address"] == "127.0.0.1"), "{new:?}");
    assert_eq!(new[0]["request"]["namespace"]["path"], "nowhere/");
    assert_eq!(new[2]["request"]["namespace"]["path"], "locked/");
    assert!(!fs::read_to_string(&log).expect("a file").contains(running.root.token()));
}
