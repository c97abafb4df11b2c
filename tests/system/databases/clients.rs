//! A database's credentials from the first command to the last, with the stock clients and ours: enable, configure,
//! rotate the password, a role, credentials, psql with them, renew, revoke, revoke a prefix.

use std::path::PathBuf;

use holdfast_tests::database::{ADMIN, ADMIN_PASSWORD, Database};
use holdfast_tests::program::{holdfast, run, stock};
use holdfast_tests::{Running, Setup, until};
use serde_json::Value;

use super::SOON;

const CREATE: &str = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; \
                      GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{{name}}\";";

#[test]
fn bao_does_the_whole_walk_of_a_databases_credentials() {
    walk(stock("bao"));
}

#[test]
fn our_command_line_does_the_whole_walk_of_a_databases_credentials() {
    walk(holdfast());
}

#[test]
fn hvac_does_the_whole_walk_of_a_databases_credentials() {
    let (running, database) = (Running::start(Setup::shamir()), Database::postgres());
    let mut hvac = running.site.python_command("databases/hvac_walk.py", &running.server, &running.keys.root_token);
    hvac.args([database.port.to_string().as_str(), ADMIN, ADMIN_PASSWORD, CREATE]);
    assert!(run(&mut hvac).good().ends_with("every step as expected\n"));
    assert!(!database.logs_in(ADMIN, ADMIN_PASSWORD));
    assert!(database.made_users().is_empty());
}

struct Cli<'a> {
    program: PathBuf,
    running: &'a Running,
}

impl Cli<'_> {
    fn good(&self, words: &[&str]) -> String {
        let mut command = self.running.site.cli(&self.program, &self.running.server, &self.running.keys.root_token);
        run(command.args(words)).good()
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.good(words);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
    }
}

fn walk(program: PathBuf) {
    let (running, database) = (Running::start(Setup::shamir()), Database::postgres());
    let cli = Cli { program, running: &running };
    cli.good(&["secrets", "enable", "database"]);
    let url = format!(
        "connection_url=postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/shop?sslmode=disable",
        database.port
    );
    let (user, password) = (format!("username={ADMIN}"), format!("password={ADMIN_PASSWORD}"));
    let plugin = "plugin_name=postgresql-database-plugin";
    cli.good(&["write", "database/config/mydb", plugin, &url, "allowed_roles=readonly,readwrite", &user, &password]);
    cli.good(&["write", "-f", "database/rotate-root/mydb"]);
    assert!(!database.logs_in(ADMIN, ADMIN_PASSWORD), "nobody knows the password any more");
    let creation = format!("creation_statements={CREATE}");
    cli.good(&["write", "database/roles/readonly", "db_name=mydb", &creation, "default_ttl=1h", "max_ttl=24h"]);
    let creds = || cli.json(&["read", "-format=json", "database/creds/readonly"]);
    let text = |v: &Value, at: &str| v.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("{v}")).to_owned();
    let (first, second, third) = (creds(), creds(), creds());
    let login = |creds: &Value| (text(creds, "/data/username"), text(creds, "/data/password"));
    let asks = |creds: &Value, statement: &str| {
        let (user, password) = login(creds);
        database.ask(&user, &password, statement)
    };
    assert_eq!(first["lease_duration"], 3600);
    assert_eq!(asks(&first, "SELECT name FROM things ORDER BY n").unwrap(), ["one", "two"]);
    assert!(asks(&first, "DELETE FROM things").unwrap_err().contains("permission denied"));

    let lease = text(&first, "/lease_id");
    let renewed = cli.json(&["lease", "renew", "-format=json", &lease]);
    assert!((3590..=3600).contains(&renewed["lease_duration"].as_u64().unwrap()), "{renewed}");
    let renewed = cli.json(&["lease", "renew", "-format=json", "-increment=30m", &lease]);
    assert_eq!(renewed["lease_duration"], 1800);
    let until_when = || {
        let asked = format!(
            "SELECT round(extract(epoch FROM valuntil - now())) FROM pg_user WHERE usename = '{}'",
            login(&first).0
        );
        database.sql(&asked)[0].parse::<i64>().unwrap()
    };
    assert!((1500..=1806).contains(&until_when()), "the database knows the new end");
    let shown = cli.json(&["lease", "lookup", "-format=json", &lease]);
    assert_eq!(shown.pointer("/data/id"), Some(&lease.clone().into()));

    cli.good(&["lease", "revoke", "-sync", &lease]);
    assert!(asks(&first, "SELECT 1").is_err());
    assert!(asks(&second, "SELECT 1").is_ok());
    // Without -sync the answer comes when the end has begun.
    cli.good(&["lease", "revoke", &text(&second, "/lease_id")]);
    until(SOON, "the end of the second user", || asks(&second, "SELECT 1").is_err().then_some(()));
    assert!(asks(&third, "SELECT 1").is_ok());
    cli.good(&["lease", "revoke", "-sync", "-prefix", "database/creds/readonly"]);
    assert!(asks(&third, "SELECT 1").is_err());
    assert!(database.made_users().is_empty());
}
