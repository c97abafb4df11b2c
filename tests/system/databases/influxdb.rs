//! InfluxDB 1.

use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database};
use serde_json::json;

use super::{
    SOON, Site, a_user_goes_when_its_database_is_back, no_user_is_left_after_kill_9, users_end_with_their_leases,
};

const CREATE: &str = "CREATE USER \"{{username}}\" WITH PASSWORD '{{password}}'";
const GRANT: &str = "GRANT READ ON \"shop\" TO \"{{username}}\"";

#[test]
fn users_of_influxdb_end_with_their_leases() {
    users_end_with_their_leases(Database::influx(), &[CREATE, GRANT]);
}

#[test]
fn a_user_of_influxdb_goes_when_its_database_is_back() {
    a_user_goes_when_its_database_is_back(Database::influx(), &Database::redis(), &[CREATE]);
}

#[test]
fn no_user_of_influxdb_is_left_after_kill_9() {
    no_user_is_left_after_kill_9(Database::influx(), &[CREATE, GRANT], 20);
}

#[test]
fn what_influxdb_says_reaches_the_operator_without_the_password() {
    let wrong = [
        "CREATE USER \"{{username}}\" WITH PASSWORD {{password}}",
        "CREATE USER \"{{username}}\" WITH PASSWORD '{{password}}' '{{password}}'",
        "DROP SERIES FROM \"{{password}}",
    ];
    super::what_a_database_says_comes_without_the_password(Database::influx(), &wrong, "error parsing query");
}

#[test]
fn a_user_of_influxdb_may_do_what_was_granted_and_one_that_is_half_made_goes() {
    let site = Site::new(Database::influx());
    site.role("reader", &[CREATE, GRANT], "1h");
    let user = site.user("reader");
    let ask = |text: &str| site.database.ask(&user.name, &user.password, text);
    assert!(ask("SELECT n FROM shop.autogen.things").unwrap()[0].ends_with("|1"));
    ask("SELECT n FROM others.autogen.things").unwrap_err();
    ask("CREATE DATABASE third").unwrap_err();
    ask("DROP MEASUREMENT things").unwrap_err();
    // Without statements of its own the role makes a user who may nothing.
    site.role("plain", &[], "1h");
    let plain = site.user("plain");
    assert!(site.is_let_in(&plain));
    // Dropped by somebody else: it is gone, which is all that was asked for.
    site.database.sql(&format!("DROP USER \"{}\"", plain.name));
    site.revoke(&plain).expect(204);
    site.role("half", &[CREATE, "GRANT READ ON \"nowhere\" TO \"{{username}}\""], "1h");
    let refused = site.root().get("database/creds/half");
    assert!(refused.clone().expect(500).text().contains("database not found"), "{refused:?}");
    holdfast_tests::until(SOON, "the end of half a user", || {
        (site.database.made_users() == [user.name.clone()]).then_some(())
    });
}

#[test]
fn the_passwords_of_influxdb_are_changed() {
    let site = Site::new(Database::influx());
    site.database.sql("CREATE USER app WITH PASSWORD 'app-password'");
    site.root()
        .post("database/static-roles/app", json!({ "db_name": "shop", "username": "app", "rotation_period": "1h" }))
        .expect(204);
    let password = site.root().get("database/static-creds/app").expect(200).text_at("/data/password");
    assert!(site.database.logs_in("app", &password));
    assert!(!site.database.logs_in("app", "app-password"));
    site.root().post("database/rotate-root/shop", json!({})).expect(204);
    assert!(!site.database.logs_in(ADMIN, ADMIN_PASSWORD));
    site.role("plain", &[], "1h");
    site.user("plain");
    // Who is no administrator cannot make users, and is refused at once.
    let mut body = site.database.config();
    (body["username"], body["password"]) = ("app".into(), password.into());
    site.root().post("database/config/other", body).expect(400);
}
