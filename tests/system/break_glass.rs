//! The runbook `docs/runbooks/break-glass.md`, step by step: a root token has leaked, and no other is left.

use std::os::unix::fs::PermissionsExt;

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Address, Running, Setup};
use serde_json::json;

#[test]
fn losing_every_token_is_not_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (own, shared) = (folder.path().join("own.sock"), folder.path().join("shared.sock"));
    let listeners = format!(
        "listener \"unix\" {{\n  address = \"{}\"\n}}\nlistener \"unix\" {{\n  address = \"{}\"\n  socket_mode = \"0666\"\n}}",
        own.display(),
        shared.display()
    );
    let Running { server, site, keys, root } = Running::start(Setup::shamir().without_tls().with_top(&listeners));
    let mode = std::fs::metadata(&own).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    root.post("secret/data/app", json!({ "data": { "k": "v" } })).expect(200);
    let leaked = keys.root_token.clone();

    // Minutes: the token that leaked is ended, and it was the last one.
    let made_by_it = root.post("auth/token/create", json!({ "policies": ["default"] })).expect(200);
    let end = |server| run(site.cli(&holdfast(), server, &leaked).args(["token", "revoke", "-self"])).good();
    end(&server);
    for token in [&leaked, &made_by_it.text_at("/auth/client_token")] {
        assert_eq!(server.client().with_token(token).get("auth/token/lookup-self").status, 403);
    }

    // Days: a new one is made by the holders, at the socket of the server's user, and nowhere else.
    let cli = |socket: &std::path::Path, args: &[&str]| {
        let mut cli = command(holdfast());
        cli.env("HOME", folder.path()).env("VAULT_ADDR", format!("unix://{}", socket.display()));
        cli.args(["operator", "generate-root", "-format=json"]).args(args);
        run(&mut cli)
    };
    let said = cli(&shared, &["-init"]).bad(2);
    assert!(said.contains("unsupported operation"), "{said}");
    let tcp = server.client().post("sys/generate-root/attempt", json!({}));
    assert_eq!(tcp.status, 405, "{}", tcp.text());
    let begun = cli(&own, &["-init"]).json();
    let (nonce, otp) = (begun["nonce"].as_str().expect("a nonce"), begun["otp"].as_str().expect("a password"));
    cli(&own, &[&format!("-nonce={nonce}"), &keys.shares[2]]).json();
    let done = cli(&own, &[&format!("-nonce={nonce}"), &keys.shares[0]]).json();
    let encoded = done["encoded_token"].as_str().expect("a token");
    let decoded = cli(&own, &[&format!("-decode={encoded}"), &format!("-otp={otp}")]).json();
    let token = decoded["token"].as_str().expect("a token");
    let root = server.client().with_token(token);
    assert_eq!(root.get("secret/data/app").expect(200).at("/data/data/k"), "v");

    // Who did what: it is in the audit log, and the token is not.
    let log = std::fs::read_to_string(site.audit_file()).expect("the audit log");
    assert!(log.contains("holders of shares made a root token"), "the audit log tells of it");
    assert!(!log.contains(token) && keys.shares.iter().all(|s| !log.contains(s)));
    // New shares, a new term, and the new root token is ended too.
    let begun = root.post("sys/rotate/root/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).expect(200);
    let mut done = None;
    for share in &keys.shares[..2] {
        let body = json!({ "key": share, "nonce": begun.text_at("/data/nonce") });
        done = Some(root.post("sys/rotate/root/update", body).expect(200));
    }
    let fresh = done.expect("an answer").at("/data/keys/0").as_str().expect("a share").to_owned();
    run(site.cli(&holdfast(), &server, token).args(["operator", "rotate"])).good();
    run(site.cli(&holdfast(), &server, token).args(["token", "revoke", "-self"])).good();
    server.stop();
    let server = site.start();
    let old = server.client().post("sys/unseal", json!({ "key": keys.shares[0] }));
    assert_eq!(old.status, 400, "a former share opens nothing: {}", old.text());
    server.client().post("sys/unseal", json!({ "key": fresh })).expect(200);
    server.until_unsealed();
    assert!(server.listeners.iter().any(|l| matches!(l, Address::Unix(_))));
}
