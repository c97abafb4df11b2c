//! The look at the audit logs that all tests leave finds what it is there for.

use std::fs;
use std::thread;

use holdfast_tests::program::run;
use holdfast_tests::{Address, audited, token};
use serde_json::json;

fn checked(text: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.log");
    fs::write(&file, text).expect("a file");
    audited::fault(&file)
}

const GOOD: &str = r#"{"time":"2026-11-30T05:00:00.1Z","type":"request","auth":{},"request":{"id":"1","operation":"read","namespace":{"id":"root"},"path":"a"}}"#;

/// Where nobody listens.
fn nowhere() -> Address {
    Address::Unix("/nonexistent/of-no-server".into())
}

fn asked(path: &str, body: serde_json::Value) {
    audited::asked(&nowhere(), "POST", &format!("/v1/{path}"), body.to_string().as_bytes());
}

/// Whether a line with this in its path is wrong.
fn is_found(word: &str) -> bool {
    let told = GOOD.replace("\"path\":\"a\"", &format!("\"path\":\"x/{word}\""));
    checked(&format!("{told}\n")).is_some_and(|fault| fault.contains("secret"))
}

#[test]
fn a_broken_line_and_another_shape_are_found_and_a_torn_end_is_none() {
    assert_eq!(checked(&format!("{GOOD}\n{{\"torn")), None);
    assert!(checked(&format!("{GOOD}\n{{\"torn\n{GOOD}\n")).is_some_and(|f| f.contains(":2:")));
    assert!(checked(&format!("{}\n", GOOD.replace("\"auth\":{},", ""))).is_some_and(|f| f.contains("auth")));
    assert!(checked(&format!("{}\n", GOOD.replace("\"auth\"", "\"else\":1,\"auth\""))).is_some());
    // Behind a device's prefix stands a line as any other.
    assert_eq!(checked(&format!("audit: {GOOD}\n")), None);
    assert!(checked(&format!("audit: {}\n", GOOD.replace("\"auth\":{},", ""))).is_some());
}

#[test]
fn a_member_that_nobody_knows_and_one_of_another_type_are_found_at_each_place() {
    let hash = format!("hmac-sha256:{}", "0".repeat(64));
    let whole = r#"{"time":"2026-11-30T05:00:00.1Z","type":"response","auth":{"client_token":"HASH","token_type":"default","policies":["a"],"policy_results":{"allowed":true,"granting_policies":[{"name":"a","namespace_id":"root","type":"acl"}]},"metadata":{"k":"v"},"token_ttl":1},"request":{"id":"1","operation":"read","namespace":{"id":"root"},"remote_port":1,"headers":{"x":["y"]}},"response":{"auth":{"accessor":"a"},"wrap_info":{"ttl":1,"token":"HASH"},"secret":{"lease_id":"l"},"warnings":["w"]},"error":"e","chain":{"seq":1,"prev":"p"}}"#
        .replace("HASH", &hash);
    assert_eq!(checked(&format!("{whole}\n")), None);
    let places = [
        ",\"type\":\"response\"",
        "{\"client_token\"",
        "{\"id\":\"1\"",
        "{\"auth\"",
        "{\"accessor\"",
        "{\"ttl\"",
        "{\"lease_id\"",
        "{\"allowed\"",
        "{\"name\"",
        "{\"seq\"",
    ];
    for at in places {
        let (sign, name) = at.split_at(1);
        let more = whole.replacen(at, &format!("{sign}\"strange\":1,{name}"), 1);
        assert!(checked(&format!("{more}\n")).is_some_and(|f| f.contains("strange")), "{at}");
    }
    for (right, wrong) in [
        ("\"token_ttl\":1", "\"token_ttl\":\"1\""),
        ("\"remote_port\":1", "\"remote_port\":\"1\""),
        ("\"operation\":\"read\"", "\"operation\":2"),
        ("[\"a\"]", "\"a\""),
        ("\"allowed\":true", "\"allowed\":\"true\""),
        ("{\"k\":\"v\"}", "{\"k\":1}"),
        ("{\"x\":[\"y\"]}", "{\"x\":\"y\"}"),
        ("[\"w\"]", "[1]"),
        ("\"error\":\"e\"", "\"error\":\"\""),
        ("\"namespace\":{\"id\":\"root\"}", "\"namespace\":\"root\""),
        ("\"seq\":1", "\"seq\":\"1\""),
        (&hash, "plain"),
    ] {
        let other = whole.replacen(right, wrong, 1);
        assert!(checked(&format!("{other}\n")).is_some_and(|f| f.contains("type")), "{wrong}");
    }
    let checkpoint = r#"{"time":"2026-11-30T05:00:00.1Z","type":"checkpoint","auth":{},"request":{},"checkpoint":{"id":"i","log":"l","seq":1,"head":"h","time":"t","key":"k","kept_in":"barrier","signature":"s"}}"#;
    assert_eq!(checked(&format!("{checkpoint}\n")), None);
    for wrong in [checkpoint.replace("\"seq\":1,", ""), checkpoint.replace("\"seq\":1", "\"seq\":1,\"x\":2")] {
        assert!(checked(&format!("{wrong}\n")).is_some(), "{wrong}");
    }
}

#[test]
fn what_clients_and_commands_send_and_are_given_is_found() {
    audited::answered(br#"{"auth":{"client_token":"hvs.AAAAAAAAAAAAAAAAAAAAAAAAAA"}}"#);
    let (share, base64) = ("0011223344556677889900aabbccddeeff", "ABEiM0RVZneIma+7zN3u/wABEiM0RQ==");
    audited::answered(json!({ "keys": [share], "keys_base64": [base64] }).to_string().as_bytes());
    audited::answered(br#"{"data":{"keys":["a-name-of-a-secret-in-a-list"]}}"#);
    audited::answered(br#"{"data":{"username":"v-root-app","password":"Qx7-made-by-db"}}"#);
    audited::answered(br#"{"otp":"Kd93kfLs02kfSlw9Fls2","encoded_token":"GR4wQBcHKDx+CgV/aaBBccDD"}"#);
    asked("secret/data/x", json!({ "data": { "k": ["A-value-that-is-secret-4711"] } }));
    asked("kv/x", json!({ "k": "A-value-of-version-1-4711" }));
    asked("sys/wrapping/wrap", json!({ "k": "A-value-to-be-wrapped-4711" }));
    asked("auth/userpass/users/ann", json!({ "password": "pa55word" }));
    asked("auth/userpass/users/bob", json!({ "password": "password" }));
    asked("sys/unseal", json!({ "key": "an-unknown-share-of-somebody" }));
    // What stands behind the first word of a command is not looked at.
    run(std::process::Command::new("true").args(["operator", "unseal", "a-share-given-to-a-command"]));
    run(std::process::Command::new("echo").args(["Unseal Key 1: c29tZS9zaGFyZStpbi1iYXNlNjQ=", "init"]));
    for secret in [
        "hvs.AAAAAAAAAAAAAAAAAAAAAAAAAA",
        share,
        base64,
        "Qx7-made-by-db",
        "Kd93kfLs02kfSlw9Fls2",
        "GR4wQBcHKDx+CgV/aaBBccDD",
        "A-value-that-is-secret-4711",
        "A-value-of-version-1-4711",
        "A-value-to-be-wrapped-4711",
        "pa55word",
        "an-unknown-share-of-somebody",
        "a-share-given-to-a-command",
        token::PIN,
    ] {
        // In base64 a slash is a letter: such a share stands alone, or between other signs.
        let is_found = is_found(secret) || is_found(&format!(" {secret} "));
        assert!(is_found, "{secret}");
    }
    for word in ["a-name-of-a-secret-in-a-list", "password"] {
        assert!(!is_found(word), "{word} is no secret");
    }
}

#[test]
fn files_below_a_folder_and_files_made_by_the_api_are_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = format!("{GOOD}\nno line\nnor this\n");
    let rotated = folder.path().join("n1/logs/audit.log.3");
    fs::create_dir_all(rotated.parent().expect("a folder")).expect("a folder");
    fs::write(folder.path().join("other.log"), "a server said this\n").expect("a file");
    assert_eq!(audited::fault_of(folder.path()), None);
    fs::write(&rotated, &broken).expect("a file");
    assert!(audited::fault_of(folder.path()).is_some_and(|fault| fault.contains("audit.log.3:3")));
    fs::remove_file(&rotated).expect("a file");

    // By another thread, elsewhere: it belongs to the folder of its server.
    let (elsewhere, server) = (tempfile::tempdir().expect("a folder"), Address::Unix(folder.path().join("socket")));
    let file = elsewhere.path().join("made.log");
    fs::write(&file, &broken).expect("a file");
    audited::serves(&server, &folder.path().join("n1"));
    let body = json!({ "type": "file", "options": { "file_path": file } }).to_string();
    thread::scope(|scope| {
        scope.spawn(|| audited::asked(&server, "PUT", "/v1/sys/audit/made", body.as_bytes()));
    });
    assert!(audited::fault_of(folder.path()).is_some_and(|fault| fault.contains("made.log:3")));
    assert_eq!(audited::fault_of(folder.path()), None, "it is looked at once");
}
