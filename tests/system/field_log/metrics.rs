//! Reports about figures of leases.

use holdfast_tests::{Running, Setup};
use serde_json::json;

use super::Site;

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

/// F199.
#[test]
fn the_series_do_not_grow_with_the_ends_of_leases() {
    let site = Site::new();
    let series = || site.metrics().lines().filter(|l| !l.starts_with('#')).count();
    site.token(json!({ "policies": ["default"], "ttl": "1h" }));
    let with_one = series();
    for n in 1..=100 {
        site.token(json!({ "policies": ["default"], "ttl": format!("{n}h") }));
    }
    assert_eq!(series(), with_one);
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
