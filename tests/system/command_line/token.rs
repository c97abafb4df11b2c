//! `token report`, as an auditor reads it.

use holdfast_tests::Server;
use holdfast_tests::program::{Output, command, holdfast, run};
use serde_json::{Value, json};

#[test]
fn a_report_tells_powerful_tokens_by_their_accessors_and_never_a_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    let policy = "path \"sys/raw/*\" {\n  capabilities = [\"read\", \"sudo\"]\n}";
    root.post("sys/policies/acl/ops", json!({ "policy": policy })).expect(204);
    let made = |body: Value| {
        let auth = root.post("auth/token/create", body).expect(200).json()["auth"].clone();
        let text = |name: &str| auth[name].as_str().expect("a text").to_owned();
        (text("client_token"), text("accessor"))
    };
    let (token, accessor) = made(json!({ "policies": ["ops"], "ttl": "1h", "display_name": "nightly" }));
    let (_, plain) = made(json!({ "policies": ["default"], "ttl": "1h" }));
    let report = |flags: &[&str], by: &str| -> Output {
        let mut report = command(holdfast());
        report.env("VAULT_ADDR", server.url()).env("VAULT_TOKEN", by);
        run(report.args(["token", "report"]).args(flags))
    };
    let table = report(&[], "root").good();
    let line = table.lines().find(|l| l.starts_with(&accessor)).unwrap_or_else(|| panic!("{table}"));
    for word in ["token-nightly", "sudo", "default,ops", "sys/raw/*"] {
        assert!(line.contains(word), "{word:?} is not in {line}");
    }
    assert!(!table.contains(&token) && !table.contains(&plain), "{table}");
    let json = report(&["-format=json", "-reason=sudo"], "root").json();
    assert_eq!(json.as_array().expect("a list").len(), 1, "{json}");
    assert_eq!(json[0]["sudo_paths"], json!([{ "path": "sys/raw/*", "policies": ["ops"] }]));
    assert_eq!(report(&["-reason=unused"], "root").good(), "No token is to be told of.\n");
    assert!(report(&[], &token).bad(2).contains("permission denied"));
    assert!(report(&["-reason=bad"], "root").bad(2).contains("periodic"), "it says what is possible");
}
