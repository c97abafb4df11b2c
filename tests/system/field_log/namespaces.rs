//! Reports about namespaces.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_tests::process::signal;
use holdfast_tests::{Running, Server, Setup, until};
use rustix::process::Signal;
use serde_json::json;

use super::Site;

/// F045. Limits of rates and of leases go with the namespace that they were set on.
#[test]
fn a_limit_of_a_namespace_is_not_there_for_the_next_of_its_name() {
    let site = Site::new();
    for round in 0..2 {
        site.root.post("sys/namespaces/x", json!({})).expect(200);
        site.root.post("x/sys/mounts/kv", json!({"type": "kv"})).expect(204);
        for n in 0..20 {
            site.root.post(&format!("x/kv/{n}"), json!({"n": n})).expect(204);
        }
        if round == 0 {
            site.root.post("sys/quotas/rate-limit/r", json!({"path": "x/", "rate": 1, "interval": "1h"})).expect(204);
            site.root
                .post("sys/quotas/rate-limit/kv", json!({"path": "x/kv/", "rate": 1, "interval": "1h"}))
                .expect(204);
            site.root.post("sys/quotas/lease-count/l", json!({"path": "x/", "max_leases": 1})).expect(204);
        }
        site.root.delete("sys/namespaces/x").expect(200);
        for kind in ["rate-limit/r", "rate-limit/kv", "lease-count/l"] {
            site.root.get(&format!("sys/quotas/{kind}")).expect(404);
        }
    }
}

/// F047. Killed while namespaces come and go, it starts; what was acknowledged is as it was, and the rest is whole or gone.
#[test]
fn a_kill_amid_namespaces_that_come_and_go_leaves_a_server_that_starts() {
    let mut running = Running::start(Setup::hardware());
    for round in 0..4 {
        let (done, pid) = (AtomicUsize::new(0), running.server.pid());
        // Another moment in each round.
        let enough = 6 + round * 7;
        let (made, gone): (Vec<String>, Vec<String>) = std::thread::scope(|scope| {
            let (running, done) = (&running, &done);
            let clients: Vec<_> = (0..4)
                .map(|client| scope.spawn(move || come_and_go(running, &format!("r{round}-c{client}"), done)))
                .collect();
            until(Duration::from_secs(60), "some namespaces", || {
                (done.load(Ordering::Relaxed) >= enough).then_some(())
            });
            signal(pid, Signal::KILL);
            let told: Vec<_> = clients.into_iter().map(|c| c.join().expect("no panic")).collect();
            let (made, gone): (Vec<_>, Vec<_>) = told.into_iter().unzip();
            (made.concat(), gone.concat())
        });
        running = running.restart(Server::kill);
        let root = &running.root;
        for name in &made {
            assert_eq!(root.get(&format!("{name}/kv/a")).expect(200).at("/data/v"), 1);
            root.delete(&format!("sys/namespaces/{name}")).expect(200);
        }
        for name in &gone {
            root.get(&format!("sys/namespaces/{name}")).expect(404);
        }
        // Those in between are whole, or not there; and all of them can be made and deleted.
        let there = root.list("sys/namespaces");
        for name in there.json()["data"]["keys"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("a name").trim_end_matches('/');
            root.get(&format!("{name}/sys/mounts")).expect(200);
            root.delete(&format!("sys/namespaces/{name}")).expect(200);
        }
        until(Duration::from_secs(60), "no jobs", || {
            let jobs = root.get("sys/jobs").json();
            jobs["data"]["jobs"].as_array().is_none_or(Vec::is_empty).then_some(())
        });
    }
}

/// Make and delete namespaces until the server is gone: those that were made whole, and those that were deleted.
fn come_and_go(running: &Running, prefix: &str, done: &AtomicUsize) -> (Vec<String>, Vec<String>) {
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    let call = |method: &str, path: &str, body: Option<serde_json::Value>, good: u16| {
        running.root.try_call(method, path, body.as_ref()).is_ok_and(|r| r.status == good)
    };
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        let whole = call("POST", &format!("sys/namespaces/{name}"), Some(json!({})), 200)
            && call("POST", &format!("{name}/sys/mounts/kv"), Some(json!({"type": "kv"})), 204)
            && call("POST", &format!("{name}/kv/a"), Some(json!({"v": 1})), 204);
        if !whole {
            break;
        }
        if n % 2 == 1 {
            made.push(name);
        } else if call("DELETE", &format!("sys/namespaces/{name}"), None, 200) {
            gone.push(name);
        } else {
            break;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    (made, gone)
}
