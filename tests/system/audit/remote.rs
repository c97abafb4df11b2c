//! Devices behind a socket: gone, slow, and back.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use holdfast_tests::{audited, until};
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
            audited::line(&line);
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
    // The kernel would take as much as all clients send together.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).expect("a small buffer");
    let address = listener.local_addr().expect("an address").to_string();
    let log = running.site.folder().join("good.log");
    running.root.post("sys/audit/good", json!({ "type": "file", "options": { "file_path": log } })).expect(204);
    running.root.post("sys/audit/slow", socket(&address)).expect(204);
    // It is accepted, and never read from: its buffers fill up, then its queue.
    let (_kept, _) = listener.accept().expect("a connection");
    let value = "x".repeat(20_000);
    let before = lines(&log).len();
    let figure = |name: &str| {
        let page = running.server.client().with_token(running.root.token()).get("sys/metrics?format=prometheus");
        let page = page.expect(200).text();
        let line = page.lines().find(|l| l.starts_with(&format!("{name}{{device=\"slow/\"")));
        line.and_then(|l| l.rsplit_once(' ')).unwrap_or_else(|| panic!("no {name} in {page}")).1.parse::<f64>().unwrap()
    };
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Its queue has a bound, whatever comes.
        scope.spawn(|| {
            for _ in 0..1000 {
                if asked.load(Ordering::SeqCst) >= 400 {
                    break;
                }
                assert!(figure("holdfast_audit_device_queue") <= 4096.0);
                assert!(figure("holdfast_audit_device_queue_bytes") <= f64::from(9 << 20));
                thread::sleep(Duration::from_millis(50));
            }
        });
        for client in 0..20 {
            let (root, value, asked) = (running.root.with_token(running.root.token()), &value, &asked);
            scope.spawn(move || {
                for n in 0..20 {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let headers = [("X-Correlation-Id", value.as_str())];
                    let path = format!("/v1/secret/data/{client}/{n}");
                    let body = json!({ "data": { "a": "b" } }).to_string();
                    let reply = root.try_raw("POST", &path, &headers, body.as_bytes()).expect("an answer");
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
    });
    let written = lines(&log).into_iter().skip(before);
    let written = written.filter(|l| l["request"]["path"].as_str().is_some_and(|p| p.starts_with("secret/data/")));
    assert_eq!(written.count(), 2 * 400);
    // On a slow machine the kernel has taken what was in the queue meanwhile, over a connection anew: more fills it again.
    until(LONG, "it in the health", || {
        let headers = [("X-Correlation-Id", value.as_str())];
        for _ in 0..20 {
            assert_eq!(running.root.raw("GET", "/v1/secret/data/none", &headers, b"").status, 404);
        }
        let told = running.root.get("sys/health").expect(200).json()["audit_devices_failing"] == 1;
        (told && figure("holdfast_audit_device_failing") == 1.0).then_some(())
    });
    running.server.until_logged("an audit device refuses lines");
    assert!(figure("holdfast_audit_device_failures") >= 1.0);
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

/// An HTTP server that takes lines, and refuses response lines of one path.
struct Chooser {
    uri: String,
    refuses: Arc<Mutex<&'static str>>,
}

impl Chooser {
    fn start() -> Chooser {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let uri = format!("http://{}/in", listener.local_addr().expect("an address"));
        let refuses = Arc::new(Mutex::new(""));
        let refused = refuses.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                while !seen.ends_with(b"}\n") {
                    match stream.read(&mut buffer) {
                        Ok(bytes @ 1..) => seen.extend_from_slice(&buffer[..bytes]),
                        _ => break,
                    }
                }
                let text = String::from_utf8_lossy(&seen).into_owned();
                text.lines().filter(|line| line.starts_with('{')).for_each(audited::line);
                let refused = *refused.lock().unwrap_or_else(PoisonError::into_inner);
                let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
                let mut asked = lines.filter(|l| l["type"] == "response" && l["actor"].is_null());
                let status = match asked.any(|l| l["request"]["path"] == refused) {
                    true => "503 Unavailable",
                    false => "200 OK",
                };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _left_meanwhile = std::io::Write::write_all(&mut stream, answer.as_bytes());
            }
        });
        Chooser { uri, refuses }
    }

    fn refuses(&self, path: &'static str) {
        *self.refuses.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }
}

#[test]
fn nothing_is_left_of_what_was_made_for_an_answer_that_no_device_takes() {
    let running = bare(ALLOWED);
    let root = &running.root;
    let peer = Chooser::start();
    root.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
    root.post("auth/userpass/users/ann", json!({ "password": "a-long-password" })).expect(204);
    root.post("secret/data/a", json!({ "data": { "k": "v" } })).expect(200);
    root.post("sys/audit/http", json!({ "type": "http", "options": { "uri": peer.uri } })).expect(204);
    let accessors = || root.list("auth/token/accessors").expect(200).at("/data/keys");
    let before = accessors();

    let refused = |path: &'static str, answer: &dyn Fn() -> holdfast_tests::Reply| {
        peer.refuses(path);
        let answer = answer();
        peer.refuses("");
        assert_eq!(answer.status, 500, "{path}: {}", answer.text());
        assert!(!answer.text().contains("hvs."), "{path} reveals a token: {}", answer.text());
        assert_eq!(accessors(), before, "{path} leaves a token");
    };
    let policies = json!({ "policies": ["default"], "ttl": "1h" });
    refused("auth/token/create", &|| root.post("auth/token/create", policies.clone()));
    let password = json!({ "password": "a-long-password" });
    refused("auth/userpass/login/ann", &|| running.server.client().post("auth/userpass/login/ann", password.clone()));
    refused("secret/data/a", &|| root.raw("GET", "/v1/secret/data/a", &[("X-Vault-Wrap-TTL", "60")], b""));
    // A root token that enough shares agreed to.
    let begun = root.post("sys/generate-root-token/attempt", json!({})).expect(200);
    let give = |share: &str| json!({ "key": share, "nonce": begun.at("/data/nonce") });
    root.post("sys/generate-root-token/update", give(&running.keys.shares[0])).expect(200);
    refused("sys/generate-root-token/update", &|| {
        root.post("sys/generate-root-token/update", give(&running.keys.shares[1]))
    });
    // Taken, the same things are answered.
    running.server.client().post("auth/userpass/login/ann", password).expect(200);
    root.post("auth/token/create", policies).expect(200);
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
        audited::line(line);
        let line: Value = serde_json::from_str(line).expect("a line");
        assert_eq!(line["request"]["path"], path);
    }
}
