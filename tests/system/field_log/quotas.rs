//! Reports about rate limits.

use std::fs;
use std::time::Duration;

use holdfast_tests::{Running, Setup, until};
use serde_json::json;

use super::Site;

/// F180. A limit that is moved or deleted is so at once.
#[test]
fn a_limit_that_is_moved_or_deleted_leaves_its_path_at_once() {
    let site = Site::new();
    let limit = "sys/quotas/rate-limit/x";
    let statuses = |path: &str| (0..5).map(|_| site.root.get(path).status).collect::<Vec<_>>();
    site.root.post(limit, json!({"path": "secret/", "rate": 1, "interval": "1h"})).expect(204);
    assert_eq!(statuses("secret/data/a"), [404, 429, 429, 429, 429]);
    site.root.post(limit, json!({"path": "secret/data/hot", "rate": 1, "interval": "1h"})).expect(204);
    assert_eq!(statuses("secret/data/a"), [404; 5]);
    assert_eq!(statuses("secret/data/hot")[1..], [429; 4]);
    site.root.delete(limit).expect(204);
    assert_eq!(statuses("secret/data/hot"), [404; 5]);
}

/// F181. What a limit refuses is in the audit log when that is asked for, and not when it is not.
#[test]
fn a_refused_request_is_in_the_audit_log_when_it_is_asked_for() {
    let running = Running::start(Setup::shamir());
    let root = &running.root;
    let refuse = |name: &str| while root.get(&format!("secret/data/{name}")).status != 429 {};
    let is_logged = |name: &str| {
        let log = fs::read_to_string(running.site.audit_file()).expect("an audit log");
        log.lines().any(|line| line.contains(&format!("secret/data/{name}")) && line.contains("quota exceeded"))
    };
    root.post("sys/quotas/rate-limit/x", json!({"path": "secret/", "rate": 1, "interval": "1h"})).expect(204);
    refuse("silent");
    root.post("sys/quotas/config", json!({"enable_rate_limit_audit_logging": true})).expect(204);
    refuse("logged");
    // The refusal does not wait for its line.
    until(Duration::from_secs(30), "a line of the refusal", || is_logged("logged").then_some(()));
    assert!(!is_logged("silent"));
}
