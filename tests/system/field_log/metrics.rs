//! Reports about figures of leases.

use std::collections::BTreeSet;
use std::thread;

use holdfast_tests::database::Database;
use holdfast_tests::{Client, Running, Setup, until};
use serde_json::json;

use super::Site;
use crate::cluster::nodes::WITHIN;

impl Site {
    fn metrics(&self) -> String {
        self.root.get("sys/metrics?format=prometheus").expect(200).text()
    }
}

fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
    line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// F198, for tokens and leases.
#[test]
fn tokens_and_leases_are_counted_from_their_beginning_to_their_end() {
    let site = Site::new();
    let before = site.metrics();
    let token = site.token(json!({ "policies": ["default"], "ttl": "1h" }));
    let with_it = site.metrics();
    for name in ["vault_token_count", "vault_expire_num_leases", "holdfast_leases{mount=\"auth/token/\"}"] {
        let at_first = if before.contains(name) { value(&before, name) } else { 0.0 };
        assert_eq!(value(&with_it, name), at_first + 1.0, "{name}");
    }
    site.root.post("auth/token/revoke", json!({ "token": token })).expect(204);
    let after = site.metrics();
    assert_eq!(value(&after, "vault_token_count"), value(&before, "vault_token_count"));
    // A login's token counts for its mount.
    site.root.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
    site.root.post("auth/userpass/users/ann", json!({ "password": "pa55word" })).expect(204);
    site.root.post("auth/userpass/login/ann", json!({ "password": "pa55word" })).expect(200);
    assert_eq!(value(&site.metrics(), "holdfast_leases{mount=\"auth/userpass/\"}"), 1.0);
}

/// Tokens that come and go, and leases of an engine.
const TOKENS: usize = 10_000;
const LEASES: usize = 100;

/// F199.
#[test]
fn the_series_do_not_grow_with_ten_thousand_tokens_and_leases_and_their_ends() {
    let database = Database::redis();
    let running = Running::start(Setup::shamir().without_tls());
    let root = &running.root;
    root.post("sys/mounts/db", json!({ "type": "database" })).expect(204);
    root.post("db/config/shop", database.config()).expect(204);
    let role = json!({ "db_name": "shop", "creation_statements": ["~things:*", "+get"], "default_ttl": "1h" });
    root.post("db/roles/app", role).expect(204);
    let series = || {
        let page = root.get("sys/metrics?format=prometheus").expect(200).text();
        let lines = page.lines().filter(|l| !l.starts_with('#'));
        lines.filter_map(|l| l.rsplit_once(' ').map(|(name, _)| name.to_owned())).collect::<BTreeSet<_>>()
    };
    let make = |root: &Client, ttl: usize| {
        let wanted = json!({ "policies": ["default"], "ttl": format!("{ttl}h") });
        root.post("auth/token/create", wanted).expect(200).text_at("/auth/client_token")
    };
    let lease = || root.get("db/creds/app").expect(200).text_at("/lease_id");
    let end = |token: &str| {
        root.post("auth/token/revoke", json!({ "token": token })).expect(204);
    };
    // One of each kind, and its end; some gauges are counted by the minute, and one of them is of lifetimes.
    // It is held: a mount without any has no gauge of them.
    lease();
    (1..=30).for_each(|ttl| drop(make(root, ttl * 24)));
    root.post("sys/leases/revoke", json!({ "lease_id": lease(), "sync": true })).expect(204);
    end(&make(root, 24));
    until(WITHIN, "the gauges that are counted by the minute", || {
        series().iter().any(|name| name.starts_with("vault_token_count_by_ttl")).then_some(())
    });
    let at_first = series();
    assert!(!at_first.iter().any(|name| name.contains("lease_id") || name.contains("hvs.")), "{at_first:?}");

    thread::scope(|scope| {
        for client in 0..8 {
            let (root, make, end) = (root.with_token(root.token()), &make, &end);
            scope.spawn(move || {
                for n in 0..TOKENS / 8 {
                    let token = make(&root, 24 * (1 + n % 30));
                    // Half of them end; the others are there when it is counted.
                    if n % 2 == client % 2 {
                        end(&token);
                    }
                }
            });
        }
    });
    let leases: Vec<String> = (0..LEASES).map(|_| lease()).collect();
    for id in &leases[..LEASES / 2] {
        root.post("sys/leases/revoke", json!({ "lease_id": id, "sync": true })).expect(204);
    }
    until(WITHIN, "a count of them", || {
        let page = root.get("sys/metrics?format=prometheus").expect(200).text();
        (value(&page, "vault_token_count") >= (TOKENS / 2) as f64).then_some(())
    });
    assert_eq!(series().difference(&at_first).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// F201.
#[test]
fn a_sealed_server_says_that_it_is_not_unsealed() {
    let open = "telemetry {\n    unauthenticated_metrics_access = true\n  }";
    let running = Running::start(Setup::shamir().without_tls().with_listener(open));
    let unsealed = || {
        value(
            &running.root.without_token().get("sys/metrics?format=prometheus").expect(200).text(),
            "vault_core_unsealed",
        )
    };
    assert_eq!(unsealed(), 1.0);
    running.root.post("sys/seal", json!({})).expect(204);
    assert_eq!(unsealed(), 0.0);
}
