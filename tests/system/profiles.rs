//! `sys/pprof`: profiles on request, of a server behind its walls.

use std::time::{Duration, Instant};

use holdfast_tests::program::{command, run_with_input};
use holdfast_tests::{Running, Server, Setup};
use serde_json::json;

/// The fields of a protobuf message: number, and what stands there (numbers as they are, else bytes).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let (byte, rest) = bytes.split_first().expect("the message is whole");
            *bytes = rest;
            n |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return n;
            }
        }
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("a length");
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(value.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        all.push((tag >> 3, field));
    }
    all
}

#[derive(Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

#[test]
fn a_cpu_profile_is_read_by_what_reads_them_and_one_is_made_at_a_time() {
    let Running { server, root, keys, site: _site } = Running::start(Setup::hardware().without_tls());
    root.post("secret/data/app", json!({ "data": { "k": "v" } })).expect(200);
    let begun = Instant::now();
    let profile = std::thread::scope(|scope| {
        // On a connection of its own.
        let other = server.client().with_token(&keys.root_token);
        let first = scope.spawn(move || other.get("sys/pprof/profile?seconds=3").expect(200).body);
        std::thread::sleep(Duration::from_secs(1));
        let busy = root.get("sys/pprof/profile?seconds=1");
        assert_eq!(busy.status, 429, "{}", busy.text());
        // Something to see: requests, while it goes on, are answered.
        while !first.is_finished() {
            root.get("secret/data/app").expect(200);
            root.post("secret/data/app", json!({ "data": { "k": "w" } })).expect(200);
        }
        first.join().expect("it does not panic")
    });
    assert!(begun.elapsed() < Duration::from_secs(30));
    let plain = {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &profile).expect("written");
        let mut gunzip = command("sh");
        gunzip.arg("-c").arg(format!("gzip -dc < {} | od -An -v -tx1", file.path().display()));
        let hex: String = run_with_input(&mut gunzip, b"").good().split_whitespace().collect();
        hex::decode(hex).expect("hex")
    };
    let all = fields(&plain);
    let texts: Vec<String> = all
        .iter()
        .filter_map(|(n, f)| match (n, f) {
            (6, Field::Bytes(b)) => Some(String::from_utf8_lossy(b).into_owned()),
            _ => None,
        })
        .collect();
    let count = |field: u64| all.iter().filter(|(n, _)| *n == field).count();
    assert_eq!((count(1), texts[0].as_str()), (2, ""), "two kinds of values, and the empty text first");
    assert!(["samples", "count", "cpu", "nanoseconds"].iter().all(|t| texts.iter().any(|x| x == t)), "{texts:?}");
    assert!(count(2) > 0 && count(4) > 0 && count(4) == count(5), "{} samples, {} functions", count(2), count(5));
    assert!(texts.iter().any(|t| t.contains("holdfast")), "functions by name: {texts:?}");
    let duration = all.iter().find_map(|(n, f)| match (n, f) {
        (10, Field::Number(ns)) => Some(*ns),
        _ => None,
    });
    assert_eq!(duration, Some(3_000_000_000));
    let secrets = [&keys.root_token, &keys.shares[0]];
    assert!(secrets.iter().all(|s| texts.iter().all(|t| !t.contains(s.as_str()))));
    // And once more, after the first.
    root.get("sys/pprof/profile?seconds=1").expect(200);
    server.stop();
}

#[test]
fn the_other_kinds_tell_of_threads_and_memory_and_never_a_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    let index = root.get("sys/pprof/").expect(200).text();
    assert!(index.contains("sys/pprof/profile") && index.contains("sys/pprof/heap"), "{index}");
    let line = root.get("sys/pprof/cmdline").expect(200).text();
    assert!(
        line.contains("server\0-dev\0") && line.contains("-dev-root-token-id=…") && !line.contains("id=root"),
        "{line}"
    );
    let threads = root.get("sys/pprof/goroutine").expect(200).text();
    assert!(threads.starts_with("threads: total ") && threads.contains("tokio"), "{threads}");
    let memory = root.get("sys/pprof/heap").expect(200).text();
    assert!(memory.contains("VmRSS"), "{memory}");
    for kind in ["allocs", "block", "mutex", "trace"] {
        let refused = root.get(&format!("sys/pprof/{kind}")).refused(400);
        assert!(refused.contains(kind) && refused.contains("profile"), "{refused}");
    }
    assert_eq!(root.get("sys/pprof/nosuch").status, 404);
    for seconds in ["0", "61", "-1"] {
        root.get(&format!("sys/pprof/profile?seconds={seconds}")).refused(400);
    }
    // Only who has sudo.
    let rules = "path \"sys/pprof/*\" { capabilities = [\"read\"] }";
    root.post("sys/policies/acl/p", json!({ "policy": rules })).expect(204);
    let made = root.post("auth/token/create", json!({ "policies": ["p"] })).expect(200);
    let weak = root.with_token(&made.text_at("/auth/client_token"));
    for kind in ["", "cmdline", "profile", "heap", "goroutine"] {
        assert_eq!(weak.get(&format!("sys/pprof/{kind}")).status, 403, "{kind}");
    }
    assert_eq!(server.client().get("sys/pprof/cmdline").status, 403);
    assert_eq!(root.get("sys/pprof").status, 307);
}
