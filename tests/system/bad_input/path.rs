//! Paths and heads.

use holdfast_tests::{Reply, Running};
use serde_json::json;

use super::{plain, still_works};

fn raw(running: &Running, method: &str, path: &str) -> Reply {
    running.root.raw(method, path, &[], if method == "POST" { b"{\"data\":{\"a\":1}}" } else { b"" })
}

#[test]
fn paths_that_climb_are_redirected_to_the_cleaned_path_or_refused() {
    let running = plain();
    running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    for (path, cleaned) in [
        ("/v1/secret/data/b/../a", "/v1/secret/data/a"),
        ("/v1/secret/data/./a", "/v1/secret/data/a"),
        ("/v1/secret//data/a", "/v1/secret/data/a"),
    ] {
        let reply = raw(&running, "GET", path).expect(307);
        assert_eq!(reply.header("location"), Some(cleaned), "{path}");
    }
    for path in ["/v1/secret/data/%2e%2e/sys/x", "/v1/secret/data/..%2fa", "/v1/secret/data/%2e%2e"] {
        let text = raw(&running, "GET", path).refused(400);
        assert!(text.contains("relative paths not supported"), "{path}: {text}");
        raw(&running, "POST", path).refused(400);
    }
    let reply = raw(&running, "GET", "/v1/../../../../etc/passwd");
    assert!([307, 404, 400].contains(&reply.status), "{}", reply.status);
    still_works(&running);
}

#[test]
fn invalid_utf_8_and_control_characters_in_a_path_are_refused() {
    let running = plain();
    for path in ["%ff", "%c3", "a%00b", "a%0ab", "a%1bb", "%7f", "a%0d%0aX: y"] {
        let path = format!("/v1/secret/data/{path}").replace(' ', "%20");
        for method in ["GET", "POST", "DELETE", "LIST"] {
            let reply = raw(&running, method, &path);
            assert!(reply.status == 400, "{method} {path}: {} {}", reply.status, reply.text());
        }
    }
    running.root.list("secret/metadata").expect(404);
    raw(&running, "POST", "/v1/secret/data/x/").refused(400);
    still_works(&running);
}

#[test]
fn names_of_any_letters_are_kept() {
    let running = plain();
    let names = ["%C3%BC%E2%82%AC%20%F0%9F%94%91", "a%25b", "a%2Bb+c", "a:b@c;d=e&f", "%7Bx%7D%22%27"];
    for name in names {
        let path = format!("/v1/secret/data/n/{name}");
        raw(&running, "POST", &path).expect(200);
        raw(&running, "GET", &path).expect(200);
    }
    let keys = running.root.list("secret/metadata/n").expect(200).at("/data/keys");
    let keys: Vec<&str> = keys.as_array().expect("a list").iter().filter_map(|k| k.as_str()).collect();
    for name in ["ü€ 🔑", "a%b", "a+b+c", "a:b@c;d=e&f", "{x}\"'"] {
        assert!(keys.contains(&name), "{name:?} in {keys:?}");
    }
}

#[test]
fn a_long_path_is_kept_or_refused_and_never_a_failure() {
    let running = plain();
    for length in [500, 4_000, 16_000, 60_000, 200_000] {
        let path = format!("/v1/secret/data/{}", "x".repeat(length));
        let mut connection = running.root.connect().expect("a connection");
        let headers = [("X-Vault-Token", running.root.token())];
        let _refused_early = connection.request("POST", &path, &headers, b"{\"data\":{\"a\":1}}");
        let status = connection.reply(false).expect("an answer").status;
        assert!([200, 400, 413, 414, 431].contains(&status), "{length}: {status}");
        if status == 200 {
            let mut connection = running.root.connect().expect("a connection");
            connection.request("GET", &path, &headers, b"").expect("sent");
            connection.reply(false).expect("an answer").expect(200);
        }
    }
    let deep = format!("secret/data/{}", "d/".repeat(2000) + "x");
    let status = running.root.post(&deep, json!({ "data": { "a": 1 } })).status;
    assert!([200, 400].contains(&status), "{status}");
    still_works(&running);
}

#[test]
fn huge_heads_are_refused() {
    let running = plain();
    let header = |name: &str, bytes: usize| format!("{name}: {}\r\n", "x".repeat(bytes));
    let heads = [
        header("X-Large", 300 << 10),
        header("X-Vault-Token", 200 << 10),
        (0..2000).map(|i| format!("X-{i}: y\r\n")).collect::<String>(),
    ];
    for head in heads {
        let mut connection = running.root.connect().expect("a connection");
        let _refused_early =
            connection.send(format!("GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n{head}\r\n").as_bytes());
        let status = connection.reply(false).expect("an answer").status;
        assert!([400, 431].contains(&status), "{status}");
    }
    // A long token is merely unknown.
    running.root.with_token(&"x".repeat(20_000)).get("auth/token/lookup-self").refused(403);
    still_works(&running);
}

#[test]
fn what_is_no_http_is_refused_or_hung_up_on() {
    let running = plain();
    let requests: &[&[u8]] = &[
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/sys/health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/sys/health HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/sys/unseal HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/sys/unseal HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 4096],
        &[0xff; 4096],
        b"POST /v1/sys/unseal HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"POST /v1/sys/unseal HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for bytes in requests {
        let mut connection = running.root.connect().expect("a connection");
        connection.set_read_limit(std::time::Duration::from_millis(300));
        let _refused_early = connection.send(bytes);
        if let Ok(reply) = connection.reply(false) {
            assert!((400..=505).contains(&reply.status), "{}: {}", String::from_utf8_lossy(bytes), reply.status);
        }
    }
    still_works(&running);
}

#[test]
fn unknown_methods_and_places_are_answered_as_clients_expect() {
    let running = plain();
    raw(&running, "TRACE", "/v1/secret/data/a").expect(405);
    raw(&running, "BREW", "/v1/secret/data/a").expect(405);
    raw(&running, "GET", "/elsewhere").expect(404);
    raw(&running, "GET", "/v2/sys/health").expect(404);
    let text = raw(&running, "GET", "/v1/nowhere/x").refused(404);
    assert_eq!(text, "no handler for route \"nowhere/x\". route entry not found.");
    running.root.raw("PATCH", "/v1/secret/data/a", &[("Content-Type", "application/json")], b"{}").expect(415);
}
