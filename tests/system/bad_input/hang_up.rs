//! Clients that hang up anywhere: nothing is cancelled half way, and the audit log is whole.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_random::Random;
use holdfast_tests::{Client, Running, Setup, until};
use serde_json::{Value, json};

#[test]
fn every_audit_request_line_has_its_response_line_whenever_clients_hang_up() {
    let seed = u64::from_le_bytes(random());
    println!("seed {seed}");
    for setup in [Setup::shamir(), Setup::shamir().without_tls()] {
        let running = Running::start(setup);
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let root = running.root.with_token(running.root.token());
                scope.spawn(move || maltreat(&root, worker, &mut Random::new(seed.wrapping_add(worker))));
            }
        });
        until(Duration::from_secs(10), "a response line for each request line", || {
            unanswered(&running).is_empty().then_some(())
        });
        // What was reported as done is there, and what is there was reported.
        let lines = lines(&running);
        let done = |path: &str| {
            lines.iter().any(|l| {
                l["type"] == "response" && l["request"]["path"] == path && l.get("error").is_none_or(|e| e == "")
            })
        };
        let mut there = 0;
        for worker in 0..4 {
            for i in 0..150 {
                let path = format!("secret/data/w{worker}/{i}");
                let status = running.root.get(&path).status;
                assert_eq!(status == 200, done(&path), "{path}: {status}");
                there += usize::from(status == 200);
            }
        }
        assert!(there > 20, "only {there} requests arrived whole: the test tests nothing");
        running.server.stop();
    }
}

fn maltreat(root: &Client, worker: u64, random: &mut Random) {
    for i in 0..150 {
        let body = json!({ "data": { "worker": worker, "i": i, "long": "x".repeat(random.index(3000)) } }).to_string();
        let request = format!(
            "POST /v1/secret/data/w{worker}/{i} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nContent-Length: {}\r\n\r\n{body}",
            root.token(),
            body.len()
        );
        let mut connection = root.connect().expect("a connection");
        let cut = if random.index(3) == 0 { random.index(request.len()) } else { request.len() };
        let _closed_early = connection.send(&request.as_bytes()[..cut]);
        match random.index(4) {
            0 => {}
            1 => std::thread::sleep(Duration::from_micros(random.index(1500) as u64)),
            2 => std::thread::sleep(Duration::from_micros(random.index(150) as u64)),
            _ if cut == request.len() => drop(connection.reply(false)),
            _ => {}
        }
        connection.hang_up();
    }
}

/// Without the device's own test line and checkpoints.
fn lines(running: &Running) -> Vec<Value> {
    let text = std::fs::read_to_string(running.site.audit_file()).expect("the audit log");
    let all = text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")));
    all.filter(|l: &Value| l["type"] != "checkpoint" && l["request"]["path"] != "sys/audit/test").collect()
}

/// Ids with a request line and no response line, or the other way round, or more than one of a kind.
fn unanswered(running: &Running) -> Vec<String> {
    let mut seen: HashMap<String, (usize, usize)> = HashMap::new();
    for line in lines(running) {
        let id = line["request"]["id"].as_str().expect("an id").to_owned();
        let counts = seen.entry(id).or_default();
        match line["type"].as_str() {
            Some("request") => counts.0 += 1,
            Some("response") => counts.1 += 1,
            other => panic!("{other:?}"),
        }
    }
    seen.into_iter().filter(|(_, counts)| *counts != (1, 1)).map(|(id, _)| id).collect()
}

fn random() -> [u8; 8] {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes
}
