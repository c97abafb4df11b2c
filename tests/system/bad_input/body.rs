//! Bodies: malformed, nested, large, of wrong types.

use holdfast_tests::process::memory_bytes;
use holdfast_tests::{Reply, Running, Setup};
use serde_json::{Value, json};

use super::{plain, still_works};

fn send(running: &Running, path: &str, body: &[u8]) -> Reply {
    running.root.raw("POST", &format!("/v1/{path}"), &[], body)
}

#[test]
fn what_is_no_json_object_is_refused() {
    let running = plain();
    let bodies: &[&[u8]] = &[
        b"{",
        b"}",
        b"[]",
        b"[{}]",
        b"5",
        b"true",
        b"\"text\"",
        b"{\"data\":}",
        b"{\"data\":{\"a\":\"b\"}",
        b"{'data':{}}",
        b"{\"data\":{\"a\":01}}",
        b"{\"data\":{\"a\":NaN}}",
        b"\xff\xfe{\"data\":{}}",
        b"{\"data\":{\"a\":\"\x01\"}}",
        b"data=a",
        b"\0",
    ];
    for body in bodies {
        for path in ["secret/data/x", "sys/policies/acl/x", "auth/token/create", "sys/unseal"] {
            let reply = send(&running, path, body);
            assert_eq!(reply.status, 400, "{path} {:?}: {}", String::from_utf8_lossy(body), reply.text());
            assert_ne!(reply.refused(400), "", "{path} {:?}", String::from_utf8_lossy(body));
        }
    }
    running.root.get("secret/metadata/x").expect(404);
    still_works(&running);
}

#[test]
fn a_hundred_thousand_levels_of_nesting_are_refused() {
    let mut running = plain();
    let levels = 100_000;
    let lists = format!("{{\"data\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let objects = format!("{}1{}", "{\"data\":".repeat(levels), "}".repeat(levels));
    let open_lists = format!("{{\"data\":{}", "[".repeat(levels));
    for body in [lists, objects, open_lists] {
        for path in ["secret/data/deep", "sys/init", "sys/unseal", "auth/token/create", "sys/policies/acl/deep"] {
            let reply = send(&running, path, body.as_bytes());
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
            assert!(reply.body.len() < 1000, "the answer repeats the question");
        }
    }
    assert!(running.server.is_alive());
    still_works(&running);
}

#[test]
fn a_body_of_33_mib_is_refused_with_413() {
    let running = plain();
    let body = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(33 << 20));
    let mut connection = running.root.connect().expect("a connection");
    let head = format!(
        "POST /v1/secret/data/large HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nContent-Length: {}\r\n\r\n",
        running.root.token(),
        body.len()
    );
    connection.send(head.as_bytes()).expect("sent");
    // The server need not read what it will not use; it must answer all the same.
    let _refused_early = connection.send(body.as_bytes());
    let text = connection.reply(false).expect("an answer, though the body is too large").refused(413);
    assert!(text.contains("33554432"), "{text}");

    // Without a declared length: counted while it comes.
    let mut connection = running.root.connect().expect("a connection");
    let head = format!(
        "POST /v1/secret/data/large HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        running.root.token()
    );
    connection.send(head.as_bytes()).expect("sent");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    for _ in 0..34 {
        if connection.send(chunk.as_bytes()).is_err() {
            break;
        }
    }
    connection.reply(false).expect("an answer, though the body is too large").expect(413);
    running.root.get("secret/metadata/large").expect(404);
    still_works(&running);
}

#[test]
fn a_client_that_asks_first_is_told_before_it_sends() {
    let running = plain();
    let mut connection = running.root.connect().expect("a connection");
    let head = format!(
        "POST /v1/secret/data/large HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nContent-Length: 34603008\r\n\
         Expect: 100-continue\r\n\r\n",
        running.root.token()
    );
    connection.send(head.as_bytes()).expect("sent");
    connection.reply(false).expect("an answer").expect(413);
}

#[test]
fn the_size_of_a_body_can_be_limited() {
    let running = Running::start(Setup::shamir().without_tls().with_listener("max_request_size = 4096"));
    let body = json!({ "data": { "a": "x".repeat(5000) } }).to_string();
    send(&running, "secret/data/x", body.as_bytes()).expect(413);
    still_works(&running);
}

#[test]
fn a_value_over_max_entry_size_is_refused_with_413_and_nothing_is_half_done() {
    let running = plain();
    let body = |bytes: usize| json!({ "data": { "a": "x".repeat(bytes) } }).to_string();
    let text = send(&running, "secret/data/large", body(2 << 20).as_bytes()).refused(413);
    assert!(text.contains("1048576"), "{text}");
    running.root.get("secret/metadata/large").expect(404);
    running.root.list("secret/metadata").expect(404);
    send(&running, "secret/data/large", body(900 << 10).as_bytes()).expect(200);
    send(&running, "secret/data/large", body(2 << 20).as_bytes()).expect(413);
    assert_eq!(running.root.get("secret/metadata/large").expect(200).at("/data/current_version"), 1);
    still_works(&running);
}

#[test]
fn a_body_that_would_need_much_memory_is_refused() {
    let running = plain();
    still_works(&running);
    let before = memory_bytes(running.server.pid(), "VmHWM");
    // Fifteen million numbers: short to send, large to hold.
    let numbers = format!("{{\"data\":{{\"a\":[{}0]}}}}", "0,".repeat(15 << 20));
    let lists = format!("{{\"data\":{{\"a\":[{}[]]}}}}", "[],".repeat(10 << 20));
    let objects = format!("{{\"data\":{{\"a\":[{}{{}}]}}}}", "{},".repeat(10 << 20));
    for body in [numbers, lists, objects] {
        let reply = send(&running, "secret/data/wide", body.as_bytes());
        assert!([400, 413].contains(&reply.status), "{} {}", reply.status, reply.text());
        assert_ne!(reply.clone().refused(reply.status), "");
    }
    let grown = memory_bytes(running.server.pid(), "VmHWM").saturating_sub(before) >> 20;
    assert!(grown < 256, "the server grew by {grown} MiB");
    still_works(&running);
}

#[test]
fn more_than_a_thousand_strings_are_refused() {
    let running = plain();
    let data =
        |n: usize| json!({ "data": (0..n).map(|i| (format!("k{i}"), json!(1))).collect::<serde_json::Map<_, _>>() });
    running.root.post("secret/data/few", data(900)).expect(200);
    let text = running.root.post("secret/data/many", data(1100)).refused(400);
    assert!(text.contains("strings"), "{text}");
    let texts = json!({ "data": { "a": vec!["x"; 1100] } });
    running.root.post("secret/data/many", texts).refused(400);
}

#[test]
fn values_of_wrong_types_are_refused_and_strings_are_understood() {
    let running = plain();
    let refused = [
        ("secret/data/x", json!({ "data": "text" })),
        ("secret/data/x", json!({ "data": [1, 2] })),
        ("secret/data/x", json!({ "data": { "a": 1 }, "options": 5 })),
        ("secret/data/x", json!({ "data": { "a": 1 }, "options": { "cas": "x" } })),
        ("secret/data/x", json!({ "data": { "a": 1 }, "options": { "cas": {} } })),
        ("secret/data/x", json!({})),
        ("secret/delete/x", json!({ "versions": { "a": 1 } })),
        ("secret/destroy/x", json!({ "versions": ["x"] })),
        ("secret/metadata/x", json!({ "max_versions": "many" })),
        ("secret/metadata/x", json!({ "custom_metadata": [1] })),
        ("secret/config", json!({ "delete_version_after": "soon" })),
        ("auth/token/create", json!({ "ttl": {} })),
        ("auth/token/create", json!({ "num_uses": "several" })),
        ("auth/token/create", json!({ "meta": 5 })),
        ("sys/policies/acl/x", json!({ "policy": { "path": 5 } })),
        ("sys/policies/acl/x", json!({ "policy": "path \"x\" { capabilities = [\"fly\"] }" })),
        ("sys/mounts/x", json!({ "type": [] })),
        ("sys/mounts/x", json!({ "type": "kv", "options": 3 })),
    ];
    for (path, body) in refused {
        let reply = running.root.post(path, body.clone());
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
        assert_ne!(reply.refused(400), "", "{path} {body}");
    }
    running.root.get("secret/metadata/x").expect(404);
    let made = json!({ "ttl": "3600", "num_uses": "5", "renewable": "false", "policies": "default" });
    let made = running.root.post("auth/token/create", made).expect(200);
    assert_eq!((made.at("/auth/lease_duration"), made.at("/auth/renewable")), (3600.into(), false.into()));
    let written = json!({ "data": { "a": 1 }, "options": { "cas": "0" } });
    running.root.post("secret/data/y", written).expect(200);
    still_works(&running);
}

#[test]
fn unknown_keys_are_warned_of_and_a_key_given_twice_counts_as_the_later() {
    let running = plain();
    let reply = running.root.post("secret/data/x", json!({ "data": { "a": 1 }, "dta": 1, "zzz": [] })).expect(200);
    let warnings = reply.at("/warnings").to_string();
    assert!(warnings.contains("dta") && warnings.contains("zzz"), "{warnings}");
    send(&running, "secret/data/x", br#"{"data":{"a":1,"a":2},"data":{"a":3,"a":4}}"#).expect(200);
    assert_eq!(running.root.get("secret/data/x").at("/data/data"), json!({ "a": 4 }));
}

#[test]
fn invalid_utf_8_in_a_value_becomes_the_replacement_character() {
    let running = plain();
    send(&running, "secret/data/x", b"{\"data\":{\"a\":\"x\xff\xc3y\"}}").expect(200);
    let value = running.root.get("secret/data/x").text_at("/data/data/a");
    assert!(value.starts_with('x') && value.ends_with('y') && value.contains('\u{fffd}'), "{value:?}");
}

#[test]
fn large_and_exact_numbers_come_back_as_they_were() {
    let running = plain();
    let body = br#"{"data":{"a":123456789012345678901234567890,"b":1.10,"c":-0.0,"d":1e400,"e":18446744073709551616}}"#;
    send(&running, "secret/data/x", body).expect(200);
    let text = running.root.get("secret/data/x").expect(200).text();
    for number in ["123456789012345678901234567890", "1.10", "-0.0", "18446744073709551616"] {
        assert!(text.contains(number), "{number} in {text}");
    }
    let back: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(back["data"]["data"].as_object().map(|m| m.len()), Some(5));
}
