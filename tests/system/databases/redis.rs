//! Redis 7.

use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database};
use serde_json::json;

use super::{Site, users_end_with_their_leases};

#[test]
fn users_of_redis_end_with_their_leases() {
    users_end_with_their_leases(Database::redis(), &["~things:*", "+get"]);
}

#[test]
fn a_user_of_redis_may_do_what_its_rules_say() {
    let site = Site::new(Database::redis());
    site.database.sql("SET things:1 one");
    site.role("reader", &["~things:*", "+get"], "1h");
    let user = site.user("reader");
    let ask = |text: &str| site.database.ask(&user.name, &user.password, text);
    assert_eq!(ask("GET things:1").unwrap(), ["one"]);
    assert!(ask("GET others").unwrap_err().contains("NOPERM"));
    assert!(ask("SET things:1 two").unwrap_err().contains("NOPERM"));
    site.root().post("database/rotate-root/shop", json!({})).expect(204);
    assert!(!site.database.logs_in(ADMIN, ADMIN_PASSWORD));
    site.revoke(&user).expect(204);
}
