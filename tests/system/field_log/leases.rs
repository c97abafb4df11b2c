//! Reports about leases.

use std::time::Duration;

use holdfast_tests::database::Database;
use holdfast_tests::until;
use serde_json::json;

use super::Site;

const SOON: Duration = Duration::from_secs(60);

/// F005.
#[test]
fn a_namespace_is_deleted_only_when_what_its_leases_stand_for_is_gone_however_often_it_is_asked_for() {
    let site = Site::new();
    let mut database = Database::postgres();
    site.root.post("sys/namespaces/x", json!({})).expect(200);
    site.root.post("x/sys/mounts/database", json!({ "type": "database" })).expect(204);
    site.root.post("x/database/config/shop", database.config()).expect(204);
    let statements = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
    let role = json!({ "db_name": "shop", "creation_statements": statements, "default_ttl": "1h" });
    site.root.post("x/database/roles/r", role).expect(204);
    let user = site.root.get("x/database/creds/r").expect(200).text_at("/data/username");
    assert_eq!(database.made_users(), std::slice::from_ref(&user));

    database.stop();
    for _ in 0..3 {
        let asked = site.root.delete("sys/namespaces/x");
        assert_eq!((asked.status, asked.at("/data/status")), (200, json!("in-progress")), "{}", asked.text());
    }
    let waits = until(SOON, "a job that says what it waits for", || {
        let jobs = site.root.get("sys/jobs").expect(200).text();
        jobs.contains(&user).then_some(jobs)
    });
    assert!(waits.contains("sys/intents"), "{waits}");
    database.start();
    until(SOON, "the end of the user", || database.made_users().is_empty().then_some(()));
    let gone = || site.root.delete("sys/namespaces/x").text().contains("does not exist").then_some(());
    until(SOON, "the end of the namespace", gone);
    assert_eq!(site.root.get("sys/jobs").expect(200).at("/data/jobs"), json!([]));
}
