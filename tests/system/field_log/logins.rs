//! Reports about approle and userpass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::{Client, until};
use serde_json::{Value, json};

use super::{Site, keys};

/// A role for applications, and its role id.
fn role(site: &Site, name: &str, more: Value) -> String {
    let mounted = site.root.get("sys/auth").json()["data"].get("approle/").is_some();
    if !mounted {
        site.root.post("sys/auth/approle", json!({"type": "approle"})).expect(204);
    }
    site.root.post(&format!("auth/approle/role/{name}"), more).expect(204);
    site.root.get(&format!("auth/approle/role/{name}/role-id")).expect(200).text_at("/data/role_id")
}

fn secret_id(client: &Client, role: &str) -> (String, String) {
    let made = client.post(&format!("auth/approle/role/{role}/secret-id"), json!({})).expect(200);
    (made.text_at("/data/secret_id"), made.text_at("/data/secret_id_accessor"))
}

/// F145. An accessor that is unknown, or of another role, or whose secret id is gone, is not there.
#[test]
fn an_accessor_that_is_unknown_or_of_another_role_is_not_found() {
    let site = Site::new();
    role(&site, "one", json!({}));
    role(&site, "two", json!({}));
    let (_, accessor) = secret_id(&site.root, "one");
    let (gone, gone_accessor) = secret_id(&site.root, "two");
    site.root.post("auth/approle/role/two/secret-id/destroy", json!({"secret_id": gone})).expect(204);
    for unknown in ["nonsense", accessor.as_str(), gone_accessor.as_str(), "🦀"] {
        let body = json!({ "secret_id_accessor": unknown });
        site.root.post("auth/approle/role/two/secret-id-accessor/lookup", body.clone()).expect(404);
        // The reference calls this a failure of the server, and its clients know it so.
        let destroyed = site.root.post("auth/approle/role/two/secret-id-accessor/destroy", body).status;
        assert!([403, 500].contains(&destroyed), "{unknown}: {destroyed}");
    }
    let nothing = json!({"secret_id_accessor": ""});
    site.root.post("auth/approle/role/two/secret-id-accessor/lookup", nothing).expect(400);
    let path = "auth/approle/role/one/secret-id-accessor/lookup";
    site.root.post(path, json!({"secret_id_accessor": accessor})).expect(200);
}

/// F148. Parameters of other types, and bodies of other shapes.
#[test]
fn a_login_with_a_parameter_of_another_type_is_refused() {
    let site = Site::new();
    let role_id = role(&site, "app", json!({}));
    let (secret_id, _) = secret_id(&site.root, "app");
    let nobody = site.root.without_token();
    for wrong in [json!([]), json!(["a"]), json!(7), json!({}), json!({"a": 1}), json!(null), json!(true), json!("")] {
        nobody.post("auth/approle/login", json!({"role_id": wrong, "secret_id": secret_id})).expect(400);
        nobody.post("auth/approle/login", json!({"role_id": role_id, "secret_id": wrong})).expect(400);
    }
    for body in ["[]", "[{}]", "\"text\"", "7", "null", "{", ""] {
        nobody.raw("POST", "/v1/auth/approle/login", &[], body.as_bytes()).expect(400);
    }
    site.root.post("sys/auth/userpass", json!({"type": "userpass"})).expect(204);
    site.root.post("auth/userpass/users/ann", json!({"password": "right"})).expect(204);
    for wrong in [json!([]), json!(["right"]), json!({"a": 1})] {
        nobody.post("auth/userpass/login/ann", json!({ "password": wrong })).expect(400);
    }
}

/// F149. What is tuned on the mount counts, for each of the methods that lock out.
#[test]
fn a_lockout_lasts_as_long_as_its_mount_says() {
    let site = Site::new();
    let role_id = role(&site, "app", json!({}));
    let (secret_id, _) = secret_id(&site.root, "app");
    site.root.post("sys/auth/userpass", json!({"type": "userpass"})).expect(204);
    site.root.post("auth/userpass/users/ann", json!({"password": "right"})).expect(204);
    let nobody = site.root.without_token();
    let app = |secret: &str| nobody.post("auth/approle/login", json!({"role_id": role_id, "secret_id": secret})).status;
    let ann = |password: &str| nobody.post("auth/userpass/login/ann", json!({ "password": password })).status;
    let logins: [(&str, &dyn Fn(bool) -> u16); 2] = [
        ("approle", &|right| app(if right { &secret_id } else { "wrong" })),
        ("userpass", &|right| ann(if right { "right" } else { "wrong" })),
    ];
    for (mount, login) in logins {
        let tune = json!({"user_lockout_config": {"lockout_threshold": "3", "lockout_duration": "3s"}});
        site.root.post(&format!("sys/auth/{mount}/tune"), tune).expect(204);
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(login(false), 400, "{mount}");
        }
        // On a machine that stood still meanwhile it may be over.
        let refused = login(true);
        assert!(refused == 403 || began.elapsed() > Duration::from_secs(3), "{mount}: {refused}");
        until(Duration::from_secs(30), "the end of the lockout", || (login(true) == 200).then_some(()));
        assert!(began.elapsed() >= Duration::from_secs(3), "{mount}: over before its time");
        assert_eq!(site.root.get("sys/locked-users").expect(200).at("/data/total"), 0, "{mount}");
    }
}

/// F150. What is listed can be looked up, while secret ids come, go and end.
#[test]
fn every_accessor_that_is_listed_can_be_looked_up() {
    let site = Site::new();
    role(&site, "app", json!({"secret_id_ttl": "2s"}));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            let (site, stop) = (&site, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (secret_id, _) = secret_id(&site.root, "app");
                    if n % 2 == 0 {
                        let path = "auth/approle/role/app/secret-id/destroy";
                        site.root.post(path, json!({ "secret_id": secret_id })).expect(204);
                    }
                }
            });
        }
        let began = Instant::now();
        let mut looked_up = 0;
        while began.elapsed() < Duration::from_secs(4) || looked_up < 50 {
            for accessor in listed(&site) {
                match lookup(&site, &accessor) {
                    200 => looked_up += 1,
                    // It went between the two questions.
                    404 => assert!(!listed(&site).contains(&accessor), "{accessor} is listed and not there"),
                    other => panic!("status {other}"),
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Those that ended are listed no longer.
    until(Duration::from_secs(30), "no accessors", || listed(&site).is_empty().then_some(()));
}

fn listed(site: &Site) -> Vec<String> {
    let reply = site.root.list("auth/approle/role/app/secret-id");
    if reply.status == 404 { Vec::new() } else { keys(&reply) }
}

fn lookup(site: &Site, accessor: &str) -> u16 {
    let path = "auth/approle/role/app/secret-id-accessor/lookup";
    site.root.post(path, json!({ "secret_id_accessor": accessor })).status
}

/// F147. Very many secret ids of a role that is gone keep nobody waiting: neither its deletion nor tidying holds up
/// logins beside it, whose slowest may take no longer than all of the tidying together.
#[test]
fn tidying_what_a_role_has_left_keeps_no_login_waiting() {
    let site = Site::new();
    role(&site, "old", json!({}));
    let role_id = role(&site, "app", json!({}));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..375 {
                    secret_id(&site.root, "old");
                }
            });
        }
    });
    let (secret_id, _) = secret_id(&site.root, "app");
    site.root.delete("auth/approle/role/old").expect(204);
    let stop = AtomicBool::new(false);
    let (tidied, requests, slowest) = thread::scope(|scope| {
        let logins = scope.spawn(|| {
            let (nobody, mut slowest, mut count) = (site.root.without_token(), Duration::ZERO, 0_u32);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let body = json!({"role_id": role_id, "secret_id": secret_id});
                nobody.post("auth/approle/login", body).expect(200);
                slowest = slowest.max(began.elapsed());
                count += 1;
            }
            assert!(count > 0);
            slowest
        });
        let (began, mut requests) = (Instant::now(), 0);
        loop {
            requests += 1;
            let tidied = site.root.post("auth/approle/tidy/secret-id", json!({})).expect(202);
            if !tidied.text().contains("ask again") {
                break;
            }
        }
        let tidied = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        (tidied, requests, logins.join().expect("no panic"))
    });
    println!("{requests} requests in {tidied:?}, the slowest login {slowest:?}");
    assert!(slowest < tidied.max(Duration::from_secs(5)), "{slowest:?} of {tidied:?}");
}

/// F166. How long a refused login takes does not say whether the user is there: both hash, so that neither is quicker.
#[test]
fn the_time_of_a_refused_login_does_not_tell_whether_the_user_is_there() {
    let site = Site::new();
    site.root.post("sys/auth/userpass", json!({"type": "userpass"})).expect(204);
    // The threshold would end the test, not the measurement.
    site.root.post("sys/auth/userpass/tune", json!({"user_lockout_config": {"lockout_disable": true}})).expect(204);
    site.root.post("auth/userpass/users/ann", json!({"password": "right"})).expect(204);
    let nobody = site.root.without_token();
    let mut times = [Vec::new(), Vec::new()];
    // One after the other, so that what else the machine does meets both.
    for n in 0..60 {
        for (kind, user) in ["ann".to_owned(), format!("nobody-{n}")].into_iter().enumerate() {
            let began = Instant::now();
            nobody.post(&format!("auth/userpass/login/{user}"), json!({"password": "wrong"})).expect(400);
            times[kind].push(began.elapsed());
        }
    }
    let [known, unknown] = times.map(|mut t| {
        t.sort();
        t[t.len() / 2].as_secs_f64()
    });
    println!("medians: {known} s of a user, {unknown} s of nobody");
    assert!((0.6..1.6).contains(&(known / unknown)), "{known} and {unknown} s");
}
