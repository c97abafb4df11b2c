//! Two of three members stand still: nobody is told that something was written, everybody is answered in time, and
//! nothing that was acknowledged is lost when they go on.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::nodes::{Nodes, WITHIN};
use holdfast_tests::until;

const CLIENTS: usize = 40;
/// The server gives a write up after 10 s; a busy machine takes longer to say so.
const IN_TIME: Duration = Duration::from_secs(40);

#[test]
fn with_two_of_three_stopped_everybody_is_answered_in_time_and_nothing_acknowledged_is_lost() {
    let nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    let leader = nodes.until_led();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for n in 0..20 {
        nodes.put(leader, &format!("kv/before-{n}"), json!({ "n": n }));
    }
    // With one of them nothing changes.
    nodes.server(followers[0]).signal(Signal::STOP);
    for n in 0..20 {
        nodes.put(leader, &format!("kv/with-one-{n}"), json!({ "n": n }));
    }
    nodes.read(leader, "kv/before-0");
    nodes.server(followers[1]).signal(Signal::STOP);

    let acknowledged = Mutex::new(Vec::new());
    let slowest = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let root = nodes.root(leader);
            let (acknowledged, slowest) = (&acknowledged, &slowest);
            scope.spawn(move || {
                // Of the first ones nobody knows; later ones find a node that does not lead any more.
                for round in 0..2 {
                    let path = format!("kv/stopped-{client}-{round}");
                    let began = Instant::now();
                    let written = root.try_call("POST", &path, Some(&json!({ "n": client }))).expect("an answer");
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = began.elapsed().max(*slowest);
                    drop(slowest);
                    match written.status {
                        204 => acknowledged.lock().unwrap().push(path),
                        503 => assert!(written.text().len() > 30, "{}", written.text()),
                        other => panic!("{other}: {}", written.text()),
                    }
                    // A read is answered, or refused in words: never from what may be behind.
                    let read = root.try_call("GET", "kv/before-0", None).expect("an answer");
                    assert!([200, 503].contains(&read.status), "{}: {}", read.status, read.text());
                }
            });
        }
        // What needs no agreement is answered at once all the time.
        for _ in 0..20 {
            let began = Instant::now();
            nodes.client(leader).get("sys/seal-status").expect(200);
            assert!([200, 429, 473].contains(&nodes.client(leader).get("sys/health").status));
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        }
    });
    let (slowest, acknowledged) = (slowest.into_inner().unwrap(), acknowledged.into_inner().unwrap());
    println!("the slowest answer took {slowest:?}; {} writes were acknowledged", acknowledged.len());
    assert!(slowest < IN_TIME, "{slowest:?}");

    for n in followers {
        nodes.server(n).signal(Signal::CONT);
    }
    nodes.until_led();
    nodes.until_all_vote();
    for n in 0..3 {
        nodes.put(n, &format!("kv/after-{n}"), json!({ "n": n }));
    }
    for n in 0..20 {
        assert_eq!(nodes.read(n % 3, &format!("kv/before-{n}")).at("/data/n"), n);
        assert_eq!(nodes.read(n % 3, &format!("kv/with-one-{n}")).at("/data/n"), n);
    }
    for (n, path) in acknowledged.iter().enumerate() {
        nodes.read(n % 3, path);
    }
    // What nobody knew is there at every node, or at none.
    for client in 0..CLIENTS {
        let path = format!("kv/stopped-{client}-0");
        let seen: Vec<u16> = (0..3)
            .map(|n| {
                until(WITHIN, &path, || {
                    let read = nodes.root(n).try_call("GET", &path, None).ok()?;
                    [200, 404].contains(&read.status).then_some(read.status)
                })
            })
            .collect();
        assert!(seen.iter().all(|status| *status == seen[0]), "{path}: {seen:?}");
    }
}
