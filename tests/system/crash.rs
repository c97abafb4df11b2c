//! kill -9 in the middle of a thousand writes: what was acknowledged is there, the rest is whole or absent.
//! (Lost power, with a disk that forgets what was not synced, is tried in the storage crate.)

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_tests::process::signal;
use holdfast_tests::{Running, Server, Setup, until};
use rustix::process::Signal;
use serde_json::json;

const ROUNDS: usize = 8;
const WRITERS: usize = 8;
const WRITES: usize = 1000 / WRITERS;

/// What a writer was told before the server was killed.
#[derive(Default)]
struct Told {
    /// Secrets of its own.
    written: Vec<usize>,
    /// Versions that it made of the key that all write.
    shared: Vec<u64>,
    /// Tokens, policies.
    tokens: Vec<String>,
    policies: Vec<String>,
}

fn value(round: usize, writer: usize, i: usize) -> String {
    format!("{round}/{writer}/{i} ").repeat(1 + i % 30)
}

#[test]
fn after_kill_9_amid_a_thousand_writes_every_acknowledged_one_is_there() {
    let mut running = Running::start(Setup::hardware());
    let mut versions = HashSet::new();
    let mut tokens = Vec::new();
    for round in 0..ROUNDS {
        let acknowledged = AtomicUsize::new(0);
        // Another moment in each round, and in each run.
        let enough = 200 + (std::process::id() as usize * 31 + round * 457) % 600;
        let pid = running.server.pid();
        let told: Vec<Told> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (running, acknowledged) = (&running, &acknowledged);
                    scope.spawn(move || write(running, round, writer, acknowledged))
                })
                .collect();
            until(Duration::from_secs(60), "enough writes", || {
                (acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
            });
            signal(pid, Signal::KILL);
            writers.into_iter().map(|w| w.join().expect("no panic")).collect()
        });
        let written = acknowledged.load(Ordering::Relaxed);
        println!("round {round}: killed after {written} of {} writes", WRITERS * WRITES);
        assert!(written < WRITERS * WRITES, "the kill came too late");

        running = running.restart(Server::kill);
        let root = &running.root;
        for (writer, told) in told.iter().enumerate() {
            for i in 0..WRITES {
                let reply = root.get(&format!("secret/data/r{round}/w{writer}/{i}"));
                if reply.status == 200 {
                    assert_eq!(reply.at("/data/data/v"), value(round, writer, i));
                } else {
                    assert_eq!(reply.status, 404, "{}", reply.text());
                    assert!(!told.written.contains(&i), "round {round}: write {i} of writer {writer} is lost");
                }
            }
            for policy in &told.policies {
                root.get(&format!("sys/policies/acl/{policy}")).expect(200);
            }
            for version in &told.shared {
                assert!(versions.insert(*version), "version {version} was handed out twice");
            }
            tokens.extend(told.tokens.iter().cloned());
        }
        let metadata = root.get("secret/metadata/shared").expect(200);
        let current = metadata.at("/data/current_version").as_u64().expect("a number");
        let newest = versions.iter().max().copied().unwrap_or(0);
        assert!(current >= newest, "version {newest} was acknowledged, {current} is the current one");
        // The store is not merely readable.
        root.post("secret/data/after", json!({ "data": { "round": round } })).expect(200);
    }
    for token in tokens {
        running.root.with_token(&token).get("auth/token/lookup-self").expect(200);
    }
}

fn write(running: &Running, round: usize, writer: usize, acknowledged: &AtomicUsize) -> Told {
    let root = running.root.with_token(running.root.token());
    let mut told = Told::default();
    let post = |path: &str, body: serde_json::Value| match root.try_call("POST", path, Some(&body)) {
        Ok(reply) => {
            assert!([200, 204].contains(&reply.status), "{}", reply.text());
            acknowledged.fetch_add(1, Ordering::Relaxed);
            Some(reply)
        }
        // Killed: nobody knows about this one.
        Err(_) => None,
    };
    for i in 0..WRITES {
        let body = json!({ "data": { "v": value(round, writer, i) } });
        let Some(_) = post(&format!("secret/data/r{round}/w{writer}/{i}"), body) else { return told };
        told.written.push(i);
        let more = match i % 10 {
            3 => post("secret/data/shared", json!({ "data": { "round": round, "writer": writer, "i": i } }))
                .map(|r| told.shared.push(r.at("/data/version").as_u64().expect("a version"))),
            5 => post("auth/token/create", json!({ "policies": ["default"] }))
                .map(|r| told.tokens.push(r.text_at("/auth/client_token"))),
            7 => {
                let name = format!("r{round}-w{writer}-{i}");
                let rules = json!({ "policy": "path \"x\" { capabilities = [\"read\"] }" });
                post(&format!("sys/policies/acl/{name}"), rules).map(|_| told.policies.push(name))
            }
            _ => Some(()),
        };
        if more.is_none() {
            return told;
        }
    }
    told
}
