//! Redis 7.

use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database};
use serde_json::json;

use super::{Site, users_end_with_their_leases};

#[test]
fn users_of_redis_end_with_their_leases() {
    users_end_with_their_leases(Database::redis(), &["~things:*", "+get"]);
}

#[test]
fn no_user_of_redis_is_left_after_kill_9() {
    super::no_user_is_left_after_kill_9(Database::redis(), &["~things:*", "+get"], 30);
}

#[test]
fn many_ask_redis_for_users_at_once() {
    super::many_ask_at_once(Database::redis(), &["~things:*", "+get"]);
}

#[test]
fn what_redis_says_reaches_the_operator_without_the_password() {
    let wrong = ["+nothing-of-that-name", "bad>{{password}}"];
    super::what_a_database_says_comes_without_the_password(Database::redis(), &wrong, "SETUSER");
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
