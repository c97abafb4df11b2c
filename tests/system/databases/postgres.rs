//! PostgreSQL 15.

use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database};
use serde_json::json;

use super::{Site, User, users_end_with_their_leases};

const CREATE: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
const GRANT: &str = "GRANT SELECT ON things TO \"{{name}}\"";

#[test]
fn users_of_postgres_end_with_their_leases() {
    users_end_with_their_leases(Database::postgres(), &[CREATE, GRANT]);
}

#[test]
fn a_user_of_postgres_may_do_what_was_granted_and_no_more() {
    let site = Site::new(Database::postgres());
    site.role("reader", &[CREATE, GRANT], "1h");
    let user = site.user("reader");
    let ask = |text: &str| site.database.ask(&user.name, &user.password, text);
    assert_eq!(ask("SELECT name FROM things ORDER BY n").unwrap(), ["one", "two"]);
    assert!(ask("INSERT INTO things VALUES (3, 'three')").unwrap_err().contains("permission denied"));
    assert!(ask("CREATE ROLE other").unwrap_err().contains("permission denied"));
    let valid = |user: &User| {
        let asked =
            format!("SELECT round(extract(epoch FROM valuntil - now())) FROM pg_user WHERE usename = '{}'", user.name);
        site.database.sql(&asked)[0].parse::<i64>().unwrap()
    };
    assert!((3595..=3606).contains(&valid(&user)));
    let body = json!({ "lease_id": user.lease, "increment": 600 });
    site.root().post("sys/leases/renew", body).expect(200);
    assert!((590..=606).contains(&valid(&user)));
    let used = holdfast_tests::until(super::SOON, "the last use of the role", || {
        let role = site.root().get("sys/last-use/database/roles/reader").expect(200);
        role.at("/data/last_used_time").as_str().map(str::to_owned)
    });
    assert!(used.ends_with(":00:00Z"), "to the hour: {used}");
}

#[test]
fn many_ask_postgres_for_users_at_once() {
    super::many_ask_at_once(Database::postgres(), &[CREATE, GRANT]);
}

#[test]
fn an_open_session_ends_with_its_user_of_postgres() {
    super::an_open_session_ends_with_its_user(Database::postgres(), &[CREATE, GRANT], "SELECT count(*) FROM things");
}

#[test]
fn no_user_of_postgres_is_left_after_kill_9() {
    super::no_user_is_left_after_kill_9(Database::postgres(), &[CREATE, GRANT], 30);
}

#[test]
fn a_user_of_postgres_goes_when_the_database_is_back() {
    super::a_user_goes_when_its_database_is_back(Database::postgres(), &Database::redis(), &[CREATE, GRANT]);
}

#[test]
fn what_postgres_says_reaches_the_operator_without_the_password() {
    let site = Site::new(Database::postgres());
    for (n, wrong) in [
        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD {{password}}",
        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' '{{password}}'",
        "SELECT '{{password}}'::int",
        "CREATE ROLE \"{{name}}\" bad",
    ]
    .iter()
    .enumerate()
    {
        let role = format!("wrong-{n}");
        site.role(&role, &[wrong], "1h");
        let said = site.root().get(&format!("database/creds/{role}")).expect(500).text();
        assert!(!said.contains("AAAA"), "{said}");
    }
    // A password that is known beforehand.
    let policy = "length = 12\nrule \"charset\" { charset = \"A\" }";
    site.root().post("sys/policies/password/known", json!({ "policy": policy })).expect(204);
    site.root().post("database/config/shop", json!({ "password_policy": "known" })).expect(204);
    for n in 0..4 {
        let said = site.root().get(&format!("database/creds/wrong-{n}")).expect(500).text();
        assert!(!said.contains("AAAA"), "{said}");
    }
    let said = site.root().get("database/creds/wrong-3").expect(500).text();
    assert!(said.contains("unrecognized role option") && said.contains("42601"), "{said}");
    assert!(site.database.made_users().is_empty());
}

#[test]
fn names_that_try_to_be_statements_are_inert() {
    let site = Site::new(Database::postgres());
    let template = "{{.DisplayName}}\"; DROP TABLE things; --{{random 4}}";
    site.root().post("database/config/shop", json!({ "username_template": template })).expect(204);
    site.role("quoted", &[CREATE, GRANT], "1h");
    let user = site.user("quoted");
    assert!(site.is_let_in(&user), "{}", user.name);
    site.role("bare", &["CREATE ROLE {{name}} LOGIN PASSWORD '{{password}}'"], "1h");
    let said = site.root().get("database/creds/bare").expect(500).text();
    assert!(said.contains("put it between quotes"), "{said}");
    // A schema of such a name is there when the user is dropped in the default way.
    site.database.sql(&format!("CREATE SCHEMA \"x\"\"; DROP TABLE things; --\" AUTHORIZATION {ADMIN}"));
    site.database.sql("CREATE TABLE \"x\"\"; DROP TABLE things; --\".t (n int)");
    let grant = format!("GRANT SELECT ON \"x\"\"; DROP TABLE things; --\".t TO \"{}\"", user.name.replace('"', "\"\""));
    site.database.sql(&format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA \"x\"\"; DROP TABLE things; --\" TO {ADMIN} WITH GRANT OPTION"
    ));
    site.database.ask(ADMIN, ADMIN_PASSWORD, &grant).unwrap();
    site.revoke(&user).expect(204);
    assert!(!site.is_let_in(&user));
    assert_eq!(site.database.sql("SELECT count(*) FROM things"), ["2"]);
}

#[test]
fn the_password_of_the_administrator_changes_under_load() {
    let site = Site::new(Database::postgres());
    site.role("reader", &[CREATE], "1h");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let client = site.root().with_token(site.root().token());
                    (0..15).map(|_| client.get("database/creds/reader").status).collect::<Vec<_>>()
                })
            })
            .collect();
        for _ in 0..5 {
            site.root().post("database/rotate-root/shop", json!({})).expect(204);
        }
        for client in clients {
            let statuses = client.join().expect("no panic");
            assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
        }
    });
    assert!(!site.database.logs_in(ADMIN, ADMIN_PASSWORD));
    let old = site.root().post("database/config/shop", json!({ "password": ADMIN_PASSWORD })).expect(400).text();
    assert!(old.contains("replaced by rotate-root"), "{old}");
    let unverified = json!({ "password": ADMIN_PASSWORD, "verify_connection": false });
    site.root().post("database/config/shop", unverified).expect(400);
    site.root().post("database/reset/shop", json!({})).expect(204);
}

#[test]
fn two_hundred_clients_may_ask_at_once() {
    let site = Site::new(Database::postgres());
    site.role("reader", &[CREATE], "1h");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|_| scope.spawn(|| site.root().with_token(site.root().token()).get("database/creds/reader").status))
            .collect();
        clients.into_iter().map(|c| c.join().expect("no panic")).collect()
    });
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    assert_eq!((site.database.made_users().len(), site.leases("reader")), (200, 200));
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'boss'";
    assert!(site.database.sql(connections)[0].parse::<u32>().unwrap() <= 4, "connections are bounded");
}

#[test]
fn a_static_password_is_changed_on_time_and_taken_back_when_that_fails() {
    let site = Site::new(Database::postgres());
    site.database.sql("CREATE ROLE app LOGIN PASSWORD 'first'");
    let body = json!({ "db_name": "shop", "username": "app", "rotation_period": 5 });
    site.root().post("database/static-roles/app", body).expect(204);
    let password = || site.root().get("database/static-creds/app").expect(200).text_at("/data/password");
    let first = password();
    assert!(site.database.logs_in("app", &first) && !site.database.logs_in("app", "first"));
    holdfast_tests::until(super::SOON, "another password", || (password() != first).then_some(()));
    assert!(site.database.logs_in("app", &password()) || site.database.logs_in("app", &password()));
    assert!(!site.database.logs_in("app", &first));
    // The server tells that it did so by itself, and why.
    let log = std::fs::read_to_string(site.running.site.audit_file()).expect("the audit log");
    let own = log.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let own: Vec<_> = own.filter(|l| l["actor"] == "system" && l["request"]["mount_point"] == "database/").collect();
    let rotated = own.iter().find(|l| l["type"] == "response" && l["request"]["operation"] == "rotate");
    let rotated = rotated.unwrap_or_else(|| panic!("no line of a rotation among {own:#?}"));
    assert_eq!(rotated["cause"], "it was time by the schedule of the mount");
    assert!(rotated["request"]["path"].as_str().is_some_and(|p| p.ends_with("/app")), "{rotated}");
    assert!(!log.contains(&first), "a password is in the log");
    // That it was read is noted, and to the hour.
    let used = holdfast_tests::until(super::SOON, "the last use", || {
        let path = "sys/last-use/database/static-roles/app";
        site.root().get(path).expect(200).at("/data/last_used_time").as_str().map(str::to_owned)
    });
    assert!(used.ends_with(":00:00Z"), "{used}");
    let scheduled = json!({ "username": "app", "rotation_schedule": "0 3 * * sun", "rotation_window": "2h" });
    site.root().post("database/static-roles/app", scheduled).expect(204);
    let shown = site.root().get("database/static-roles/app").expect(200);
    assert_eq!(
        (shown.at("/data/rotation_schedule"), shown.at("/data/rotation_window")),
        (json!("0 3 * * sun"), json!(7200))
    );
}
