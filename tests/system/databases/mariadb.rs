//! MariaDB 10.11.

use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database};
use serde_json::json;

use super::{Site, users_end_with_their_leases};

const CREATE: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'";
const GRANT: &str = "GRANT SELECT ON shop.things TO '{{name}}'@'%'";

#[test]
fn users_of_mariadb_end_with_their_leases() {
    users_end_with_their_leases(Database::mariadb(), &[CREATE, GRANT]);
}

#[test]
fn a_user_of_mariadb_may_do_what_was_granted_and_one_that_is_half_made_goes() {
    let site = Site::new(Database::mariadb());
    site.role("reader", &[CREATE, GRANT], "1h");
    let user = site.user("reader");
    let ask = |text: &str| site.database.ask(&user.name, &user.password, text);
    assert_eq!(ask("SELECT name FROM shop.things ORDER BY n").unwrap(), ["one", "two"]);
    assert!(ask("INSERT INTO shop.things VALUES (3, 'three')").unwrap_err().contains("denied"));
    site.revoke(&user).expect(204);
    // Its statements commit each for itself.
    site.role("half", &[CREATE, "GRANT SELECT ON shop.nowhere TO '{{name}}'@'%'"], "1h");
    site.root().get("database/creds/half").expect(500);
    holdfast_tests::until(super::SOON, "the end of half a user", || {
        site.database.made_users().is_empty().then_some(())
    });
    site.root().post("database/rotate-root/shop", json!({})).expect(204);
    assert!(!site.database.logs_in(ADMIN, ADMIN_PASSWORD));
    site.user("reader");
}

#[test]
fn a_user_of_mariadb_goes_when_the_database_is_back() {
    super::a_user_goes_when_its_database_is_back(Database::mariadb(), &Database::redis(), &[CREATE, GRANT]);
}

#[test]
fn what_mariadb_says_reaches_the_operator_without_the_password() {
    let wrong = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY {{password}}",
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}' '{{password}}'",
        "SELECT '{{password}}' FROM shop.nowhere",
        "CREATE USER '{{name}}'@'%' bad '{{password}}'",
    ];
    super::what_a_database_says_comes_without_the_password(Database::mariadb(), &wrong, "error in your SQL syntax");
}

#[test]
fn names_that_try_to_be_statements_are_inert_in_mariadb() {
    let site = Site::new(Database::mariadb());
    let template = "{{.DisplayName | truncate 4}}'@'%'; DROP TABLE shop.things; --{{random 4}}\\";
    site.root().post("database/config/shop", json!({ "username_template": template })).expect(204);
    site.role("quoted", &[CREATE, "GRANT SELECT ON shop.things TO '{{name}}'@'%'"], "1h");
    let user = site.user("quoted");
    assert!(site.is_let_in(&user), "{}", user.name);
    assert_eq!(site.database.sql("SELECT count(*) FROM shop.things"), ["2"]);
    site.role("bare", &["CREATE USER {{name}} IDENTIFIED BY '{{password}}'"], "1h");
    let said = site.root().get("database/creds/bare").expect(500).text();
    assert!(said.contains("put it between quotes"), "{said}");
    site.revoke(&user).expect(204);
    assert!(!site.is_let_in(&user));
    assert_eq!(site.database.sql("SELECT count(*) FROM shop.things"), ["2"]);
    assert_eq!(site.database.sql("SELECT user FROM mysql.user WHERE user LIKE '%DROP%'"), [""; 0]);
}

#[test]
fn many_ask_mariadb_for_users_at_once() {
    super::many_ask_at_once(Database::mariadb(), &[CREATE, GRANT]);
}

#[test]
fn an_open_session_ends_with_its_user_of_mariadb() {
    super::an_open_session_ends_with_its_user(
        Database::mariadb(),
        &[CREATE, GRANT],
        "SELECT count(*) FROM shop.things",
    );
}

#[test]
fn no_user_of_mariadb_is_left_after_kill_9() {
    super::no_user_is_left_after_kill_9(Database::mariadb(), &[CREATE, GRANT], 30);
}
