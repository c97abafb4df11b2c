//! `policy lint`, as a build server runs it, and `policy explain`, as who was refused asks.

use holdfast_tests::Server;
use holdfast_tests::program::{command, holdfast, run, run_with_input};

#[test]
fn lint_says_by_its_exit_code_whether_something_was_found() {
    let lint = |flags: &[&str], text: &str| {
        run_with_input(command(holdfast()).args(["policy", "lint"]).args(flags).arg("-"), text.as_bytes())
    };
    let text = "path \"secret/app\" {\n  capabilities = [\"read\"]\n}\n";
    assert_eq!(lint(&["-kv2="], text).good(), "");
    let found = lint(&[], text).bad(1);
    assert!(found.starts_with("-:1:6: path \"secret/app\": "), "{found}");
    assert!(found.contains("write \"secret/data/app\" [kv2-path]\n"), "{found}");
    let found: serde_json::Value = serde_json::from_str(&lint(&["-format=json"], text).bad(1)).expect("JSON");
    assert_eq!((&found[0]["line"], &found[0]["check"]), (&1.into(), &"kv2-path".into()));
    assert_eq!(lint(&["-kv2=", "-format=json"], text).json(), serde_json::json!([]));
    assert!(lint(&[], "path \"a\" {").bad(2).contains("-: at 1:"), "where it cannot be read is told");
}

#[test]
fn explain_names_the_rule_and_what_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    let policy = "path \"secret/data/app\" {\n  capabilities = [\"read\"]\n}";
    root.post("sys/policies/acl/app", serde_json::json!({ "policy": policy })).expect(204);
    let made = root.post("auth/token/create", serde_json::json!({ "policies": ["app"] })).expect(200);
    let token = made.json()["auth"]["client_token"].as_str().expect("a token").to_owned();
    let explain = |flags: &[&str], path: &str| {
        let mut explain = command(holdfast());
        explain.env("VAULT_ADDR", server.url()).env("VAULT_TOKEN", &token);
        run(explain.args(["policy", "explain"]).args(flags).arg(path))
    };
    let allowed = explain(&[], "secret/data/app").good();
    assert!(allowed.starts_with("Allowed: read secret/data/app\n"), "{allowed}");
    let refused = explain(&["-operation=write"], "secret/data/app").bad(1);
    for line in ["Refused: create secret/data/app", "create: no, update: no", "in policy:       app, line 1", "Needed:"]
    {
        assert!(refused.contains(line), "{line:?} is not in {refused}");
    }
    let refused = explain(&[], "secret/app").bad(1);
    assert!(refused.contains("\"secret/data/app\" would be allowed"), "{refused}");
    assert!(explain(&["-accessor=x"], "a").bad(2).contains("permission denied"));
    // An operator asks for who was refused.
    let accessor = made.json()["auth"]["accessor"].as_str().expect("an accessor").to_owned();
    let mut ask = command(holdfast());
    ask.env("VAULT_ADDR", server.url()).env("VAULT_TOKEN", "root");
    ask.args(["policy", "explain", &format!("-accessor={accessor}"), "-operation=delete", "secret/data/app"]);
    let refused = run(&mut ask).bad(1);
    for line in ["Refused: delete secret/data/app", "in policy:       app, line 1"] {
        assert!(refused.contains(line), "{line:?} is not in {refused}");
    }
}
