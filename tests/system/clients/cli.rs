//! The stock command line and ours: the same words do the same.

use std::path::PathBuf;

use holdfast_tests::program::{Output, holdfast, run, run_with_input, stock};
use holdfast_tests::{Running, Setup};
use serde_json::Value;

use super::APP_POLICY;

/// A client program with a token.
struct Cli<'a> {
    program: PathBuf,
    running: &'a Running,
    token: String,
}

impl Cli<'_> {
    fn run(&self, words: &str) -> Output {
        let mut command = self.running.site.cli(&self.program, &self.running.server, &self.token);
        run(command.args(words.split(' ')))
    }

    fn good(&self, words: &str) -> String {
        self.run(words).good()
    }

    fn json(&self, words: &str) -> Value {
        // The flag stands behind the command's own words, before its arguments.
        let mut parts: Vec<&str> = words.split(' ').collect();
        let nested = ["kv", "token", "policy", "secrets", "operator"].contains(&parts[0]);
        parts.insert(1 + usize::from(nested), "-format=json");
        self.run(&parts.join(" ")).json()
    }

    fn with_input(&self, words: &str, input: &str) -> Output {
        let mut command = self.running.site.cli(&self.program, &self.running.server, &self.token);
        run_with_input(command.args(words.split(' ')), input.as_bytes())
    }
}

#[test]
fn bao_does_the_daily_work_of_an_operator_and_an_application() {
    daily_work(stock("bao"));
}

#[test]
fn our_command_line_does_the_daily_work_of_an_operator_and_an_application() {
    daily_work(holdfast());
}

fn daily_work(program: PathBuf) {
    let running = Running::start(Setup::hardware());
    let root = Cli { program: program.clone(), running: &running, token: running.keys.root_token.clone() };
    let nobody = Cli { program: program.clone(), running: &running, token: String::new() };

    let status = nobody.json("status");
    assert_eq!(
        (&status["sealed"], &status["type"], &status["initialized"]),
        (&false.into(), &"pkcs11".into(), &true.into())
    );
    assert!(nobody.good("status").contains("Total Recovery Shares    3"));

    kv_walk(&root);
    mounts_walk(&root);
    tokens_walk(&root, &program);

    let mut refused = running.site.cli(&program, &running.server, "hvs.unknown");
    let text = run(refused.args(["kv", "get", "secret/app/db"])).bad(2);
    assert!(text.contains("Code: 403") && text.contains("permission denied"), "{text}");

    assert!(root.good("operator seal").contains("sealed"));
    let status = nobody.run("status -format=json");
    assert_eq!(status.code, Some(2), "a sealed server: {status:?}");
    assert!(root.run("kv get secret/app/db").bad(2).contains("Vault is sealed"));
}

fn kv_walk(root: &Cli<'_>) {
    let put = root.json("kv put secret/app/db user=alice password=pa55");
    assert_eq!(put["data"]["version"], 1);
    assert_eq!(root.json("kv put -mount=secret app/db user=bob")["data"]["version"], 2);
    let read = root.json("kv get secret/app/db");
    assert_eq!((&read["data"]["data"]["user"], &read["data"]["metadata"]["version"]), (&"bob".into(), &2.into()));
    assert_eq!(root.good("kv get -version=1 -field=password secret/app/db").trim(), "pa55");
    assert!(root.good("kv get secret/app/db").contains("= Data ="));
    let text = root.run("kv put -cas=1 secret/app/db user=eve").bad(2);
    assert!(text.contains("check-and-set parameter did not match the current version"), "{text}");
    root.good("kv put -cas=2 secret/app/db user=carol");
    root.with_input("kv put secret/app/from-input -", r#"{"nested":{"list":[1,2.50,"x"]}}"#).good();
    let nested = root.json("kv get secret/app/from-input");
    assert_eq!(nested["data"]["data"]["nested"]["list"].to_string(), r#"[1,2.50,"x"]"#);
    assert_eq!(root.json("kv list secret/app"), serde_json::json!(["db", "from-input"]));
    root.good("kv delete secret/app/db");
    let gone = root.json("kv get secret/app/db");
    assert!(gone["data"]["data"].is_null() && gone["data"]["metadata"]["deletion_time"] != "", "{gone}");
    assert!(root.run("kv get secret/app/nothing").bad(2).contains("No value found at secret/data/app/nothing"));
    assert_eq!(root.good("kv get -version=2 -field=user secret/app/db").trim(), "bob");
}

fn mounts_walk(root: &Cli<'_>) {
    root.good("secrets enable -path=team -version=2 kv");
    let mounts = root.json("secrets list");
    assert_eq!((&mounts["team/"]["type"], &mounts["team/"]["options"]["version"]), (&"kv".into(), &"2".into()));
    root.good("kv put team/x y=z");
    assert_eq!(root.good("read -field=data team/data/x").trim(), "map[y:z]");
    root.good("secrets disable team");
    assert!(root.json("secrets list").get("team/").is_none());
    assert!(root.run("read team/data/x").bad(2).contains("No value found at team/data/x"));
    let text = root.run("write team/data/x y=z").bad(2);
    assert!(text.contains("no handler for route \"team/data/x\". route entry not found."), "{text}");
}

fn tokens_walk(root: &Cli<'_>, program: &std::path::Path) {
    root.with_input("policy write app -", APP_POLICY).good();
    assert_eq!(root.good("policy read app").trim(), APP_POLICY.trim());
    assert!(root.good("policy list").lines().any(|l| l == "app"));

    let made = root.json("token create -policy=app -ttl=1h -no-default-policy");
    assert_eq!(
        (&made["auth"]["policies"], &made["auth"]["lease_duration"]),
        (&serde_json::json!(["app"]), &3600.into())
    );
    let token = made["auth"]["client_token"].as_str().expect("a token").to_owned();
    let accessor = made["auth"]["accessor"].as_str().expect("an accessor");
    let app = Cli { program: program.to_owned(), running: root.running, token: token.clone() };
    assert_eq!(app.json("token lookup")["data"]["policies"], serde_json::json!(["app"]));
    assert_eq!(root.json(&format!("token lookup -accessor {accessor}"))["data"]["accessor"], accessor);
    app.good("kv put -mount=secret app/own a=b");
    let text = app.run("kv put -mount=secret app/locked a=b").bad(2);
    assert!(text.contains("Code: 403") && text.contains("permission denied"), "{text}");
    assert!(app.run("policy list").bad(2).contains("permission denied"));
    let renewed = app.json("token renew -increment=30m");
    assert_eq!(renewed["auth"]["lease_duration"], 1800);

    // login writes the token where later commands find it.
    let nobody = Cli { program: program.to_owned(), running: root.running, token: String::new() };
    nobody.with_input("login -no-print -", &token).good();
    assert_eq!(nobody.json("token lookup")["data"]["accessor"], accessor);
    root.good(&format!("token revoke {token}"));
    assert!(nobody.run("token lookup").bad(2).contains("permission denied"));
    assert!(root.run(&format!("token lookup {token}")).bad(2).contains("bad token"));
    root.good("policy delete app");
    assert!(!root.good("policy list").lines().any(|l| l == "app"));
}
