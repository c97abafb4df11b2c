//! A database that takes connections and does not answer.

use std::time::Duration;

use holdfast_tests::database::Database;
use holdfast_tests::until;

use super::{SOON, Site, User};

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_database_that_hangs_is_tried_by_one_at_a_time_and_nobody_else_waits() {
    let site = Site::new(Database::redis());
    site.role("reader", &["~things:*", "+get"], "1h");
    let before = site.user("reader");
    site.database.hang();
    // So many wait for it in vain; those behind them are told at once.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let refused = site.root().get("database/creds/reader").status;
                assert!(refused == 500 || refused == 503, "{refused}");
            });
        }
    });
    let told = until(LONG, "a refusal without a try", || {
        let said = site.root().get("database/creds/reader");
        (said.status == 503 && said.text().contains("does not answer at present")).then(|| said.text())
    });
    assert!(told.contains("shop"), "{told}");
    assert!(metric(&site, "holdfast_outside_targets_shut") >= 1.0);
    // Whoever asks for another database has it.
    let other = Database::redis();
    site.root().post("database/config/other", other.config()).expect(204);
    let body = serde_json::json!({ "db_name": "other", "creation_statements": ["~*", "+get"] });
    site.root().post("database/roles/elsewhere", body).expect(204);
    site.root().get("database/creds/elsewhere").expect(200);
    site.database.go_on();
    let after = until(LONG, "a user again", || {
        let made = site.root().get("database/creds/reader");
        (made.status == 200).then(|| User::of(&made))
    });
    assert!(site.is_let_in(&after) && site.is_let_in(&before));
    assert!(metric(&site, "holdfast_outside_targets_shut") == 0.0);
    // What was begun while it hung is taken back.
    until(LONG, "the end of what broke off", || {
        let mut users = site.database.made_users();
        users.sort();
        let mut known = [before.name.clone(), after.name.clone()];
        known.sort();
        (users == known).then_some(())
    });
    until(SOON, "two leases", || (site.leases("reader") == 2).then_some(()));
}

fn metric(site: &Site, name: &str) -> f64 {
    let text = site.root().get("sys/metrics?format=prometheus").expect(200).text();
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
    line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}
