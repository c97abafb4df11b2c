//! Logins and rate limits while 64 clients ask at once.

use std::sync::Barrier;
use std::thread;

use holdfast_tests::{Client, Server, until};
use serde_json::json;

const CLIENTS: usize = 64;

fn at_once<T: Send>(client: &Client, ask: impl Fn(usize, &Client) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (start, ask) = (&start, &ask);
                scope.spawn(move || {
                    start.wait();
                    ask(n, client)
                })
            })
            .collect();
        clients.into_iter().map(|c| c.join().expect("no panic")).collect()
    })
}

/// Who guesses with 64 clients learns of as many guesses as with one, and a right one among the others gets nothing.
#[test]
fn a_lockout_holds_exactly_under_many_clients() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    root.post("sys/auth/up", json!({"type": "userpass"})).expect(204);
    root.post("auth/up/users/bob", json!({"password": "right"})).expect(204);
    let tune = json!({"user_lockout_config": {"lockout_threshold": "7", "lockout_duration": "1h"}});
    root.post("sys/auth/up/tune", tune).expect(204);
    let login = |n: usize, client: &Client| {
        let mut told = (0, 0, 0);
        for guess in 0..3 {
            let body = json!({"password": format!("wrong {n} {guess}")});
            let reply = client.post("auth/up/login/bob", body);
            match reply.status {
                400 => told.0 += 1,
                403 => told.1 += 1,
                _ => told.2 += 1,
            }
        }
        told
    };
    let told = at_once(&server.client(), login);
    let sum = |pick: fn(&(usize, usize, usize)) -> usize| told.iter().map(pick).sum::<usize>();
    assert_eq!((sum(|t| t.0), sum(|t| t.1), sum(|t| t.2)), (7, 3 * CLIENTS - 7, 0));
    // Locked, the right one is refused as all others; an operator lets the user in again.
    let right = json!({"password": "right"});
    server.client().post("auth/up/login/bob", right.clone()).expect(403);
    let locked = root.get("sys/locked-users").expect(200);
    assert_eq!(locked.at("/data/total"), 1, "{}", locked.text());
    let accessor = root.get("sys/auth").expect(200).text_at("/data/up~1/accessor");
    root.post(&format!("sys/locked-users/{accessor}/unlock/bob"), json!({})).expect(204);
    server.client().post("auth/up/login/bob", right.clone()).expect(200);
    // Nobody is locked out by logging in right at once.
    let good = at_once(&server.client(), |_, client| client.post("auth/up/login/bob", right.clone()).status);
    assert_eq!(good, [200; CLIENTS]);
}

/// The same for a role of applications, whose role id everybody may know.
#[test]
fn a_lockout_of_a_role_holds_exactly_under_many_clients() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    root.post("sys/auth/approle", json!({"type": "approle"})).expect(204);
    root.post("auth/approle/role/app", json!({"token_policies": "default"})).expect(204);
    let role_id = root.get("auth/approle/role/app/role-id").expect(200).text_at("/data/role_id");
    let told = at_once(&server.client(), |n, client| {
        client.post("auth/approle/login", json!({"role_id": role_id, "secret_id": format!("guess-{n}")})).status
    });
    assert_eq!(told.iter().filter(|s| **s == 400).count(), 5, "the threshold is 5: {told:?}");
    assert!(told.iter().all(|s| [400, 403].contains(s)), "{told:?}");
}

#[test]
fn a_rate_limit_holds_exactly_under_many_clients() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    root.post("secret/data/a", json!({"data": {"a": "b"}})).expect(200);
    root.post("sys/quotas/config", json!({"enable_rate_limit_response_headers": true})).expect(204);
    root.post("sys/quotas/rate-limit/kv", json!({"path": "secret/", "rate": 100, "interval": "1h"})).expect(204);
    let told = at_once(&root, |_, client| {
        let replies: Vec<_> = (0..5).map(|_| client.get("secret/data/a")).collect();
        let headers = |name: &str| replies.iter().filter(|r| r.status == 429 && r.header(name).is_some()).count();
        let count = |status| replies.iter().filter(|r| r.status == status).count();
        (count(200), count(429), headers("retry-after"), headers("x-ratelimit-limit"))
    });
    let sum = |pick: fn(&(usize, usize, usize, usize)) -> usize| told.iter().map(pick).sum::<usize>();
    let refused = 5 * CLIENTS - 100;
    assert_eq!((sum(|t| t.0), sum(|t| t.1), sum(|t| t.2), sum(|t| t.3)), (100, refused, refused, refused));
    // What it does not name goes on.
    root.get("sys/mounts").expect(200);
}

/// A blocked client stays out for the block's time, and each network address has a limit of its own.
#[test]
fn a_rate_limit_that_blocks_keeps_the_client_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    let limit = json!({"path": "secret/", "rate": 3, "interval": "1s", "block_interval": "2s"});
    root.post("sys/quotas/rate-limit/kv", limit).expect(204);
    let statuses: Vec<u16> = (0..6).map(|_| root.get("secret/data/none").status).collect();
    assert!(statuses.contains(&404) && statuses.ends_with(&[429, 429]), "{statuses:?}");
    until(std::time::Duration::from_secs(20), "the end of the block", || {
        (root.get("secret/data/none").status == 404).then_some(())
    });
}
