//! Devices behind a socket: gone, slow, and back.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use holdfast_tests::until;
use serde_json::{Value, json};

use super::{LONG, bare, lines};

const ALLOWED: &str = "unsafe_allow_api_audit_creation = true";

fn socket(address: &str) -> Value {
    json!({ "type": "socket", "options": { "address": address, "write_timeout": "1s" } })
}

/// The paths of the lines that a connection brings.
fn paths(stream: TcpStream) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).expect("a line");
            if sender.send(line["request"]["path"].as_str().unwrap_or_default().to_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[test]
fn a_peer_that_swallows_everything_holds_nobody_up_beside_a_file() {
    let running = bare(ALLOWED);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let log = running.site.folder().join("good.log");
    running.root.post("sys/audit/good", json!({ "type": "file", "options": { "file_path": log } })).expect(204);
    running.root.post("sys/audit/slow", socket(&address)).expect(204);
    // It is accepted, and never read from: its buffers fill up, then its queue.
    let (_kept, _) = listener.accept().expect("a connection");
    let value = "x".repeat(20_000);
    let before = lines(&log).len();
    thread::scope(|scope| {
        for client in 0..20 {
            let (root, value) = (running.root.with_token(running.root.token()), &value);
            scope.spawn(move || {
                for n in 0..20 {
                    let headers = [("X-Correlation-Id", value.as_str())];
                    let path = format!("/v1/secret/data/{client}/{n}");
                    let body = json!({ "data": { "a": "b" } }).to_string();
                    let reply = root.try_raw("POST", &path, &headers, body.as_bytes()).expect("an answer");
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
    });
    assert_eq!(lines(&log).len(), before + 2 * 400);
    running.server.until_logged("an audit device refuses lines");
    // Another line tells whether it still does.
    until(LONG, "it in the health", || {
        running.root.get("secret/data/none").refused(404);
        (running.root.get("sys/health").expect(200).json()["audit_devices_failing"] == 1).then_some(())
    });
}

#[test]
fn the_only_device_gone_stops_everything_until_it_is_back() {
    let running = bare(ALLOWED);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    running.root.post("sys/audit/peer", socket(&address.to_string())).expect(204);
    let (stream, _) = listener.accept().expect("a connection");
    let seen = paths(stream.try_clone().expect("a handle"));
    assert_eq!(seen.recv_timeout(LONG).expect("a line"), "sys/audit/test");
    assert_eq!(seen.recv_timeout(LONG).expect("a line"), "sys/audit/peer");
    running.root.post("secret/data/before", json!({ "data": { "a": "b" } })).expect(200);
    assert_eq!(seen.recv_timeout(LONG).expect("a line"), "secret/data/before");

    drop(listener);
    stream.shutdown(std::net::Shutdown::Both).expect("an open connection");
    drop((stream, seen));
    running.root.post("secret/data/gone", json!({ "data": { "a": "b" } })).refused(500);
    running.root.get("secret/data/before").refused(500);
    running.root.get("sys/health").expect(200);

    let listener = TcpListener::bind(address).expect("the same port");
    let lines = thread::spawn(move || paths(listener.accept().expect("a connection").0));
    until(LONG, "an answer", || (running.root.get("secret/data/before").status == 200).then_some(()));
    assert_eq!(running.root.get("secret/data/gone").status, 404, "what was refused was not done");
    let lines = lines.join().expect("no panic");
    assert_eq!(lines.recv_timeout(LONG).expect("a line"), "secret/data/before");
}

#[test]
fn what_an_http_peer_refuses_is_not_answered() {
    let running = bare(ALLOWED);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("http://{}/in", listener.local_addr().expect("an address"));
    let (say, said) = mpsc::channel::<&'static str>();
    thread::spawn(move || {
        // One request for each word; the connection ends with each answer.
        for status in said {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            while !seen.ends_with(b"}\n") {
                let bytes = stream.read(&mut buffer).expect("a request");
                seen.extend_from_slice(&buffer[..bytes]);
            }
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            std::io::Write::write_all(&mut stream, answer.as_bytes()).expect("an answer");
        }
    });
    // The test line, and the answer's own.
    say.send("200 OK").expect("it listens");
    say.send("204 No Content").expect("it listens");
    running.root.post("sys/audit/http", json!({ "type": "http", "options": { "uri": uri } })).expect(204);
    say.send("503 Unavailable").expect("it listens");
    running.root.post("secret/data/a", json!({ "data": { "a": "b" } })).refused(500);
    say.send("200 OK").expect("it listens");
    say.send("200 OK").expect("it listens");
    running.root.get("secret/data/a").refused(404);
}

#[test]
fn the_system_log_is_given_datagrams_with_priority_and_tag() {
    let running = bare(ALLOWED);
    let at = running.site.folder().join("log.sock");
    let log = UnixDatagram::bind(&at).expect("a socket");
    log.set_read_timeout(Some(LONG)).expect("a limit");
    let options = json!({ "facility": "local3", "tag": "vault", "address": at });
    running.root.post("sys/audit/syslog", json!({ "type": "syslog", "options": options })).expect(204);
    let mut buffer = [0; 65536];
    for path in ["sys/audit/test", "sys/audit/syslog"] {
        let bytes = log.recv(&mut buffer).expect("a datagram");
        let text = std::str::from_utf8(&buffer[..bytes]).expect("a text");
        let start = format!("vault[{}]: ", running.server.pid());
        assert!(text.starts_with("<158>"), "{text}");
        let line = text.split_once(&start).map(|(_, line)| line).unwrap_or_else(|| panic!("{text}"));
        let line: Value = serde_json::from_str(line).expect("a line");
        assert_eq!(line["request"]["path"], path);
    }
}
