//! Connections that are slow, idle, or many.

use std::io;
use std::time::{Duration, Instant};

use holdfast_tests::process::{memory_bytes, raise_file_limit};
use holdfast_tests::{Connection, Running, Setup};
use serde_json::json;

use super::still_works;

/// Send a byte every 100 ms until the server hangs up; how long it listened.
fn dribble(mut connection: Connection, bytes: &[u8]) -> Duration {
    connection.set_read_limit(Duration::from_millis(100));
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        if connection.send(std::slice::from_ref(byte)).is_err() {
            break;
        }
        match connection.reply(false) {
            // It said why, or just closed.
            Ok(_) => break,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the server listens on and on");
    }
    start.elapsed()
}

#[test]
fn a_head_that_dribbles_is_cut_off() {
    for setup in [Setup::shamir(), Setup::shamir().without_tls()] {
        let running = Running::start(setup.with_listener("http_read_header_timeout = \"1s\""));
        let connection = running.root.connect().expect("a connection");
        let listened =
            dribble(connection, b"GET /v1/sys/health HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        assert!(listened < Duration::from_secs(5), "{listened:?}");

        // Also the second request of a connection.
        let mut connection = running.root.connect().expect("a connection");
        connection.request("GET", "/v1/sys/health", &[], b"").expect("sent");
        connection.reply(false).expect("an answer").expect(200);
        let listened =
            dribble(connection, b"GET /v1/sys/health HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        assert!(listened < Duration::from_secs(5), "{listened:?}");
        still_works(&running);
    }
}

#[test]
fn a_handshake_that_dribbles_is_cut_off() {
    let running = Running::start(Setup::shamir().with_listener("http_read_header_timeout = \"1s\""));
    let connection = Connection::open(&running.server.listeners[0], None).expect("a connection");
    // The head of a TLS record that announces much and brings little.
    let mut bytes = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb];
    bytes.resize(200, 0);
    let listened = dribble(connection, &bytes);
    assert!(listened < Duration::from_secs(5), "{listened:?}");
    still_works(&running);
}

#[test]
fn a_body_that_dribbles_or_stops_is_cut_off_and_nothing_is_done() {
    let keys = "http_read_timeout = \"1s\"";
    let running = Running::start(Setup::shamir().without_tls().with_listener(keys));
    let head = format!(
        "POST /v1/secret/data/slow HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nContent-Length: 10000\r\n\r\n",
        running.root.token()
    );
    let mut dribbling = running.root.connect().expect("a connection");
    dribbling.send(head.as_bytes()).expect("sent");
    let listened = dribble(dribbling, b"{\"data\":{\"a\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert!(listened < Duration::from_secs(5), "{listened:?}");

    let mut stopping = running.root.connect().expect("a connection");
    stopping.send(head.as_bytes()).expect("sent");
    stopping.send(b"{\"data\":{").expect("sent");
    let start = Instant::now();
    stopping.reply(false).expect("an answer").expect(408);
    assert!(start.elapsed() < Duration::from_secs(5));
    running.root.get("secret/metadata/slow").expect(404);
    still_works(&running);
}

#[test]
fn an_idle_connection_ends_at_its_time() {
    let running = Running::start(Setup::shamir().with_listener("http_idle_timeout = \"1s\""));
    let mut connection = running.root.connect().expect("a connection");
    connection.request("GET", "/v1/sys/health", &[], b"").expect("sent");
    connection.reply(false).expect("an answer").expect(200);
    let start = Instant::now();
    connection.set_read_limit(Duration::from_secs(10));
    let _closed = connection.reply(false).expect_err("nothing was asked");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn ten_thousand_idle_connections_leave_the_server_answering() {
    const IDLE: usize = 10_000;
    raise_file_limit(IDLE as u64 + 2_000);
    let running = Running::start(Setup::shamir());
    still_works(&running);
    let before = memory_bytes(running.server.pid(), "VmRSS");
    let open = |_| running.root.connect();
    let halves = std::thread::scope(|scope| {
        let half = || (0..IDLE / 2).map(open).collect::<io::Result<Vec<_>>>();
        [scope.spawn(half), scope.spawn(half)].map(|h| h.join().expect("no panic").expect("a connection"))
    });
    let start = Instant::now();
    for i in 0..50 {
        running.root.without_token().get("sys/health").expect(200);
        running.root.post(&format!("secret/data/busy/{i}"), json!({ "data": { "i": i } })).expect(200);
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "100 requests and 50 handshakes took {took:?}");
    let grown = memory_bytes(running.server.pid(), "VmRSS").saturating_sub(before);
    println!("{} KiB a TLS connection", grown / 1024 / IDLE as u64);
    assert!(grown / (IDLE as u64) < 64 << 10, "{} KiB a connection", grown / 1024 / IDLE as u64);

    // None of them was closed, and each is served when it asks.
    for mut connection in halves.into_iter().flatten().step_by(997) {
        connection.request("GET", "/v1/sys/health", &[], b"").expect("sent");
        connection.reply(false).expect("an answer").expect(200);
    }
    still_works(&running);
    running.server.stop();
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let running = Running::start(Setup::shamir());
    let mut connection = running.root.connect().expect("a connection");
    let mut bytes = Vec::new();
    for i in 0..50 {
        let body = format!("{{\"data\":{{\"i\":{i}}}}}");
        bytes.extend(format!(
            "POST /v1/secret/data/ahead/{i} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {0}\r\nContent-Length: {1}\r\n\r\n{body}\
             GET /v1/secret/data/ahead/{i} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {0}\r\n\r\n",
            running.root.token(),
            body.len()
        ).into_bytes());
    }
    connection.send(&bytes).expect("sent");
    for i in 0..50 {
        connection.reply(false).expect("an answer").expect(200);
        assert_eq!(connection.reply(false).expect("an answer").expect(200).at("/data/data/i"), i);
    }
}
