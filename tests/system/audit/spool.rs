//! Devices with a spool: their peer is away, slow, comes back and dies again, and nobody waits for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::{Client, Running, Server, Setup, audited, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::LONG;

/// A folder for a spool and the socket of its peer.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a folder") }
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("peer")
    }

    /// A server whose only device is this spool's.
    fn server(&self, more: &str) -> Running {
        let (socket, spool) = (self.socket(), self.spool());
        let device = format!(
            "audit \"socket\" \"peer\" {{\n options {{\n address = {socket:?}\n socket_type = \"unix\"\n spool_path = {spool:?}\n {more}\n }}\n}}\n"
        );
        Running::start(Setup { top: device, ..Setup::shamir().without_tls().without_audit() })
    }
}

/// Lines by their spool's id and their number, each as it came first.
type Lines = BTreeMap<(String, u64), Value>;

/// A peer that reads lines; what it has read of each connection is kept.
#[derive(Clone, Default)]
struct Peer {
    seen: Arc<Mutex<(Lines, usize)>>,
}

impl Peer {
    /// Listen, and leave each connection after so many lines.
    fn listen(&self, socket: &Path, leaves_after: usize) {
        let _not_there_at_first = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("a socket");
        let seen = self.seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                for line in BufReader::new(stream).lines().map_while(Result::ok).take(leaves_after) {
                    audited::line(&line);
                    let line: Value = serde_json::from_str(&line).expect("a line");
                    // The test line of a new device does not go through the spool.
                    let Some(number) = line["spool"]["seq"].as_u64() else { continue };
                    let id = line["spool"]["id"].as_str().expect("an id").to_owned();
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(before) = seen.0.insert((id, number), line.clone()) {
                        assert_eq!(before, line, "the same number is the same line");
                        seen.1 += 1;
                    }
                }
            }
        });
    }

    fn lines(&self) -> Vec<Value> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0.values().cloned().collect()
    }

    /// Lines that came more than once.
    fn repeated(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Wait for the line of a response; all before it are there then, with no number missing.
    #[track_caller]
    fn until_response(&self, path: &str) -> Vec<Value> {
        let is = |l: &Value| l["type"] == "response" && l["request"]["path"] == path;
        until(LONG, &format!("the response line of {path}"), || self.lines().iter().any(is).then_some(()));
        let lines = self.lines();
        let numbers: Vec<u64> = lines.iter().map(|l| l["spool"]["seq"].as_u64().expect("a number")).collect();
        let ids: std::collections::BTreeSet<&str> = lines.iter().filter_map(|l| l["spool"]["id"].as_str()).collect();
        assert_eq!(ids.len(), 1, "one spool has one id");
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no line is missing");
        lines
    }
}

#[track_caller]
fn write(root: &Client, path: &str) {
    root.post(path, json!({ "data": { "a": "b" } })).expect(200);
}

fn paths(lines: &[Value], kind: &str) -> Vec<String> {
    let of = lines.iter().filter(|l| l["type"] == kind);
    of.map(|l| l["request"]["path"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The value of a series of the device.
fn figure(root: &Client, name: &str) -> f64 {
    let page = root.get("sys/metrics?format=prometheus").expect(200).text();
    let line = page.lines().find(|l| l.starts_with(&format!("{name}{{device=\"peer/\"")));
    line.and_then(|l| l.rsplit_once(' ')).unwrap_or_else(|| panic!("no {name}")).1.parse().expect("a number")
}

#[test]
fn what_a_peer_that_is_away_has_missed_comes_in_order_when_it_is_there() {
    let place = Place::new();
    let running = place.server("");
    let start = Instant::now();
    for n in 0..50 {
        write(&running.root, &format!("secret/data/n{n}"));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "nobody waits for a peer that is away");
    assert!(figure(&running.root, "holdfast_audit_spool_lines") >= 100.0);
    assert!(figure(&running.root, "holdfast_audit_spool_bytes") >= 100.0 * 300.0);
    assert!(figure(&running.root, "holdfast_audit_spool_peer_failures") >= 1.0);
    assert_eq!(figure(&running.root, "holdfast_audit_device_failing"), 0.0, "it takes every line");
    running.server.until_logged("they are kept in its spool");
    for entry in fs::read_dir(place.spool()).expect("a spool") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
        let token = running.root.token().as_bytes();
        assert!(!bytes.windows(token.len()).any(|w| w == token), "the root token is in the spool");
    }

    let peer = Peer::default();
    peer.listen(&place.socket(), usize::MAX);
    let lines = peer.until_response("secret/data/n49");
    let wanted: Vec<String> = (0..50).map(|n| format!("secret/data/n{n}")).collect();
    for kind in ["request", "response"] {
        let written = paths(&lines, kind).into_iter().filter(|p| p.starts_with("secret/data/"));
        assert_eq!(written.collect::<Vec<_>>(), wanted, "{kind}");
    }
    let synced = figure(&running.root, "holdfast_audit_device_sync_count");
    for n in 0..5 {
        write(&running.root, &format!("secret/data/live{n}"));
    }
    let now = figure(&running.root, "holdfast_audit_device_sync_count");
    assert!(now >= synced + 10.0, "each of ten lines is synced before the next step: {synced}, then {now}");
    peer.until_response("secret/data/live4");
    running.server.until_logged("takes lines again");
}

#[test]
fn a_killed_server_sends_the_rest_and_nothing_that_was_answered_is_missing() {
    let place = Place::new();
    let mut running = place.server("");
    let peer = Peer::default();
    peer.listen(&place.socket(), usize::MAX);
    for round in 0..3 {
        for n in 0..20 {
            write(&running.root, &format!("secret/data/r{round}n{n}"));
        }
        running = running.restart(Server::kill);
    }
    write(&running.root, "secret/data/last");
    let lines = peer.until_response("secret/data/last");
    let answered = paths(&lines, "response");
    for (round, n) in (0..3).flat_map(|r| (0..20).map(move |n| (r, n))) {
        assert!(answered.contains(&format!("secret/data/r{round}n{n}")), "r{round}n{n}");
    }
}

#[test]
fn lines_that_a_dying_peer_may_have_lost_are_sent_again_with_their_numbers() {
    let place = Place::new();
    let running = place.server("");
    let peer = Peer::default();
    peer.listen(&place.socket(), 7);
    for n in 0..30 {
        write(&running.root, &format!("secret/data/n{n}"));
    }
    // What stands unread in the socket of a connection that was left is lost: with seven lines each they would never end.
    thread::sleep(Duration::from_millis(300));
    peer.listen(&place.socket(), usize::MAX);
    write(&running.root, "secret/data/last");
    let lines = peer.until_response("secret/data/last");
    assert_eq!(paths(&lines, "response").iter().filter(|p| p.starts_with("secret/data/n")).count(), 30);
    assert!(peer.repeated() > 0, "some came twice");
}

#[test]
fn a_full_spool_refuses_until_the_peer_has_taken_some() {
    let place = Place::new();
    let running = place.server("spool_max_bytes = \"1048576\"");
    let value = "x".repeat(20_000);
    let ask = |n: usize| {
        let headers = [("X-Correlation-Id", value.as_str())];
        let body = json!({ "data": { "a": "b" } }).to_string();
        running.root.raw("POST", &format!("/v1/secret/data/n{n}"), &headers, body.as_bytes())
    };
    let refused = (0..200).find(|n| ask(*n).status == 500).expect("it has a bound");
    assert!(refused > 10, "it has room for more than {refused} requests");
    let files: u64 = fs::read_dir(place.spool())
        .expect("a spool")
        .map(|e| e.expect("an entry").metadata().expect("a file").len())
        .sum();
    assert!(files <= (1 << 20) + 100, "{files} bytes");
    // What is left takes some small ones.
    until(LONG, "a refusal", || (running.root.get("secret/data/n0").status == 500).then_some(()));
    running.server.until_logged("its spool is full");

    let peer = Peer::default();
    peer.listen(&place.socket(), usize::MAX);
    until(LONG, "an answer", || (running.root.get("secret/data/n0").status == 200).then_some(()));
    write(&running.root, "secret/data/last");
    let lines = peer.until_response("secret/data/last");
    let answered = paths(&lines, "response");
    assert!((0..refused).all(|n| answered.contains(&format!("secret/data/n{n}"))));
}

#[test]
fn an_http_peer_that_hangs_holds_nobody_up_and_is_given_each_line_until_it_takes_it() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("http://{}/in", listener.local_addr().expect("an address"));
    let spool = place.spool();
    let device = format!(
        "audit \"http\" \"peer\" {{\n options {{\n uri = {uri:?}\n spool_path = {spool:?}\n skip_test = \"true\"\n }}\n}}\n"
    );
    let running = Running::start(Setup { top: device, ..Setup::shamir().without_tls().without_audit() });
    // Nobody answers: connections are taken by the kernel.
    let start = Instant::now();
    for n in 0..10 {
        write(&running.root, &format!("secret/data/n{n}"));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let kept = seen.clone();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut stream = stream;
            let (mut bytes, mut buffer) = (Vec::new(), [0; 65536]);
            while !bytes.ends_with(b"}\n") {
                match stream.read(&mut buffer) {
                    Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            // Every third is refused.
            let status = if n % 3 == 0 { "503 Busy" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _left_meanwhile = std::io::Write::write_all(&mut stream, answer.as_bytes());
            let body = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
            body.and_then(|at| std::str::from_utf8(&bytes[at..]).ok()).into_iter().for_each(audited::line);
            let line = body.and_then(|at| serde_json::from_slice::<Value>(&bytes[at..]).ok());
            if let Some(number) = line.as_ref().and_then(|l| l["spool"]["seq"].as_u64()).filter(|_| n % 3 != 0) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            }
        }
    });
    let numbers = until(LONG, "20 lines", || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (seen.last().is_some_and(|n| *n >= 20)).then_some(seen)
    });
    assert!(numbers.is_sorted(), "in order: {numbers:?}");
    assert_eq!(numbers.iter().copied().collect::<std::collections::BTreeSet<_>>().first(), Some(&1));
}

#[test]
fn options_of_a_spool_that_are_wrong_are_refused_by_name() {
    let place = Place::new();
    let top = format!("audit_directories = [{:?}]", place.folder.path());
    let running = Running::start(Setup { top, ..Setup::shamir().without_tls().without_audit() });
    let socket = UnixListener::bind(place.socket()).expect("a socket");
    thread::spawn(move || {
        socket.incoming().map_while(Result::ok).map(BufReader::new).for_each(|r| {
            let _read = r.lines().count();
        })
    });
    let enable = |path: &str, kind: &str, options: Value| {
        let mut all = json!({ "address": place.socket(), "socket_type": "unix" });
        for (k, v) in options.as_object().expect("an object") {
            all[k] = v.clone();
        }
        running.root.post(&format!("sys/audit/{path}"), json!({ "type": kind, "options": all }))
    };
    let outside = running.site.folder().join("spool");
    for (options, kind, says) in [
        (json!({ "spool_path": "spool" }), "socket", "absolute path"),
        (json!({ "spool_path": outside }), "socket", "audit_directories"),
        (json!({ "spool_path": place.folder.path().join("..").join("x") }), "socket", "audit_directories"),
        (json!({ "spool_path": place.spool(), "spool_max_bytes": "1000" }), "socket", "spool_max_bytes"),
        (json!({ "spool_path": place.spool(), "spool_max_bytes": "much" }), "socket", "spool_max_bytes"),
        (json!({ "spool_max_bytes": "2000000" }), "socket", "spool_path"),
        (
            json!({ "spool_path": place.spool(), "file_path": place.folder.path().join("f") }),
            "file",
            "a file needs none",
        ),
    ] {
        let reply = enable("wrong", kind, options.clone());
        assert_eq!(reply.status, 400, "{options}: {}", reply.text());
        assert!(reply.text().contains(says), "{options}: {}", reply.text());
    }
    assert!(!outside.exists());
    enable("peer", "socket", json!({ "spool_path": place.spool() })).expect(204);
    let second = enable("second", "socket", json!({ "spool_path": place.spool() }));
    assert!(second.status == 400 && second.text().contains("another audit device"), "{}", second.text());
    assert_eq!(figure(&running.root, "holdfast_audit_spool_max_bytes"), f64::from(256 << 20));
    // The folder of one that was disabled is free for the next.
    running.root.delete("sys/audit/peer").expect(204);
    enable("next", "socket", json!({ "spool_path": place.spool() })).expect(204);
}

#[test]
fn a_spool_and_a_disk_of_a_spool_that_fill_up_are_told_by_log_metric_and_health() {
    let place = Place::new();
    let disk = Tmpfs::mount(&place.spool(), 20);
    let running = place.server("spool_max_bytes = \"1048576\"");
    let told = |name: &str| running.root.get("sys/health").expect(200).json()[name].as_u64();
    // Each line is of some KiB; the peer was never there.
    let data: serde_json::Map<String, Value> = (0..40).map(|n| (format!("key{n}"), json!("value"))).collect();
    let fill = |percent: f64| {
        until(LONG, "a spool that fills up", || {
            let is_full = figure(&running.root, "holdfast_audit_spool_used_percent") >= percent;
            (!is_full).then(|| running.root.post("secret/data/a", json!({ "data": data })).expect(200));
            is_full.then_some(())
        });
    };
    assert_eq!((told("audit_spool_used_percent"), told("audit_disk_used_percent")), (None, None));
    fill(80.0);
    running.server.until_logged("an audit spool fills up");
    assert!(told("audit_spool_used_percent").is_some_and(|used| used >= 80));
    fill(95.0);
    running.server.until_logged("an audit spool is nearly full");
    assert_eq!(told("audit_disk_used_percent"), None);
    let ballast = disk.fill(3 << 20);
    running.server.until_logged("the disk of the audit log fills up");
    until(LONG, "80 %", || told("audit_disk_used_percent").filter(|used| (80..95).contains(used)));
    assert!(figure(&running.root, "holdfast_audit_disk_used_percent") >= 80.0);
    drop(ballast);
    // Room comes back with a peer that takes the lines.
    let peer = Peer::default();
    peer.listen(&place.socket(), usize::MAX);
    until(LONG, "room", || told("audit_spool_used_percent").is_none().then_some(()));
}
