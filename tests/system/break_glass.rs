//! The runbook `docs/runbooks/break-glass.md`, step by step: a root token has leaked, and no other is left.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Address, Running, Server, Setup, until};
use serde_json::json;

/// The runbook's filters.
const BY_ACCESSOR: &str = "select(.type==\"response\" and .auth.accessor==$h) \
     | [.time, .request.operation, .request.path, .request.remote_address, .error]";
const CHANGES: &str = "select(.type==\"response\" and (.request.operation|IN(\"create\",\"update\",\"patch\",\"delete\")) \
     and (.request.path|test(\"^(sys/(polic|mounts|auth|audit|remount|config)|auth/[^/]+/(role|users|config)|identity/)\"))) \
     | [.time, .request.operation, .request.path, .auth.display_name]";

/// What `jq` makes of a log.
fn filter(log: &Path, words: &[&str], filter: &str) -> String {
    run(command("jq").arg("-c").args(words).arg(filter).arg(log)).good()
}

#[test]
fn the_runbook_has_the_filters_that_are_tried_here() {
    let page = std::fs::read_to_string(holdfast_tests::program::repository().join("docs/runbooks/break-glass.md"));
    let page: String = page.expect("the runbook").split_whitespace().collect();
    for filter in [BY_ACCESSOR, CHANGES] {
        let filter: String = filter.split_whitespace().collect();
        assert!(page.contains(&filter), "{filter} is not in the runbook");
    }
}

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
    let accessor = root.get("auth/token/lookup-self").expect(200).text_at("/data/accessor");
    let by_cli = |server: &Server, token: &str, args: &[&str]| run(site.cli(&holdfast(), server, token).args(args));
    // What whoever has the token does: a policy that is wider, a login of their own, a secret that is read.
    root.post("sys/policies/acl/wide", json!({ "policy": "path \"*\" { capabilities = [\"read\"] }" })).expect(204);
    root.post("sys/auth/theirs", json!({ "type": "userpass" })).expect(204);
    root.post("auth/theirs/users/eve", json!({ "password": "a-long-password", "token_policies": "wide" })).expect(204);
    let theirs = server.client().post("auth/theirs/login/eve", json!({ "password": "a-long-password" })).expect(200);
    let theirs = theirs.text_at("/auth/client_token");
    let used = |server: &Server| {
        let page = server.client().with_token(&leaked).get("sys/metrics?format=prometheus").expect(200).text();
        let line = page.lines().find_map(|l| l.strip_prefix("holdfast_requests_by_root ")).expect("the counter");
        line.parse::<f64>().expect("a number")
    };
    // What an alert looks at.
    let before = used(&server);
    root.get("secret/data/app").expect(200);
    assert!(used(&server) >= before + 2.0);

    // What an operator exports from time to time.
    let keep = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, by_cli(&server, &leaked, &["audit", name]).good()).expect("a file");
        path.display().to_string()
    };
    until(Duration::from_secs(60), "a checkpoint to export", || {
        by_cli(&server, &leaked, &["audit", "checkpoints"]).good().contains("\"seq\"").then_some(())
    });
    let (key, checkpoints) = (keep("public-key"), keep("checkpoints"));

    // Minutes, step 2: the server is sealed; nothing is answered.
    by_cli(&server, &leaked, &["operator", "seal"]).good();
    assert_eq!(server.client().with_token(&theirs).get("secret/data/app").status, 503);
    // Step 4: the evidence is kept; the log ends with the seal.
    let copy = folder.path().join("audit.log");
    std::fs::copy(site.audit_file(), &copy).expect("a copy");
    let unseal = |server: &Server, shares: &[String]| {
        for share in shares {
            server.client().post("sys/unseal", json!({ "key": share })).expect(200);
        }
        server.until_unsealed();
    };
    unseal(&server, &keys.shares[..2]);

    let root = server.client().with_token(&leaked);

    // Hours, step 1: the log is whole.
    let (key, checkpoints) = (format!("-public-key={key}"), format!("-checkpoints={checkpoints}"));
    by_cli(&server, "", &["audit", "verify", &key, &checkpoints, &copy.display().to_string()]).good();
    // Step 2: what the token did, by its accessor's HMAC.
    let input = format!("input={accessor}");
    let hash = by_cli(&server, &leaked, &["write", "-field=hash", "sys/audit-hash/file", &input]).good();
    let did = filter(&copy, &["--arg", "h", hash.trim()], BY_ACCESSOR);
    assert!(did.contains("\"read\",\"secret/data/app\""), "{did}");
    // Step 3: what was changed, and by whom.
    let changed = filter(&copy, &[], CHANGES);
    for path in ["sys/policies/acl/wide", "sys/auth/theirs", "auth/theirs/users/eve"] {
        assert!(changed.contains(path), "{path} is not in {changed}");
    }
    // Step 4: what was made ends.
    by_cli(&server, &leaked, &["lease", "revoke", "-prefix", "auth/theirs/"]).good();
    assert_eq!(server.client().with_token(&theirs).get("secret/data/app").status, 403);
    by_cli(&server, &leaked, &["auth", "disable", "theirs"]).good();
    by_cli(&server, &leaked, &["policy", "delete", "wide"]).good();

    // Step 3 of the minutes, if it can wait so long: the token that leaked is ended, and it was the last one.
    let made_by_it = root.post("auth/token/create", json!({ "policies": ["default"] })).expect(200);
    by_cli(&server, &leaked, &["token", "revoke", "-self"]).good();
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
    // New shares, which count when their holders gave them back.
    let rotate = |args: &[&str]| {
        let mut cli = site.cli(&holdfast(), &server, token);
        run(cli.args(["operator", "rotate-keys", "-format=json"]).args(args)).json()
    };
    let begun = rotate(&["-init", "-verify", "-key-shares=3", "-key-threshold=2"]);
    let nonce = format!("-nonce={}", begun["nonce"].as_str().expect("a nonce"));
    rotate(&[&nonce, &keys.shares[2]]);
    let done = rotate(&[&nonce, &keys.shares[1]]);
    let fresh = done["keys"].as_array().expect("shares").iter().map(|s| s.as_str().expect("a share").to_owned());
    let fresh: Vec<String> = fresh.collect();
    assert_eq!((fresh.len(), &done["complete"]), (3, &json!(true)), "{done}");
    let nonce = format!("-nonce={}", done["verification_nonce"].as_str().expect("a nonce"));
    rotate(&["-verify", &nonce, &fresh[0]]);
    assert_eq!(rotate(&["-verify", &nonce, &fresh[2]])["complete"], true);
    // A new term, a new key of the audit chain, all tokens anew, and the new root token is ended too.
    by_cli(&server, token, &["operator", "rotate"]).good();
    by_cli(&server, token, &["write", "-f", "sys/audit-chain/rotate"]).good();
    let other = root.post("auth/token/create", json!({ "policies": ["default"], "no_parent": true })).expect(200);
    let other = other.text_at("/auth/client_token");
    by_cli(&server, token, &["token", "revoke", "-mode=path", "auth/token/"]).good();
    let end_of_all = || (server.client().with_token(&other).get("auth/token/lookup-self").status == 403).then_some(());
    until(Duration::from_secs(60), "the end of a token", end_of_all);
    by_cli(&server, token, &["token", "revoke", "-self"]).good();
    server.stop();
    let server = site.start();
    server.client().post("sys/unseal", json!({ "key": keys.shares[0] })).expect(200);
    let old = server.client().post("sys/unseal", json!({ "key": keys.shares[1] }));
    assert_eq!(old.status, 400, "former shares open nothing: {}", old.text());
    unseal(&server, &fresh[1..]);
    assert!(server.listeners.iter().any(|l| matches!(l, Address::Unix(_))));
}

/// The same where a device opens the store, over TLS: what is other than with shares.
#[test]
fn losing_every_token_of_a_store_that_a_device_opens_is_not_the_end_either() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own.sock");
    let listener = format!("listener \"unix\" {{\n  address = \"{}\"\n}}", own.display());
    let Running { server, site, keys, root } = Running::start(Setup::hardware().with_top(&listener));
    root.post("secret/data/app", json!({ "data": { "k": "v" } })).expect(200);
    let by_cli = |token: &str, args: &[&str]| run(site.cli(&holdfast(), &server, token).args(args));

    // Minutes, step 2: sealed by hand it stays so, though the device would open it; a hangup lets it.
    by_cli(root.token(), &["operator", "seal"]).good();
    let is_sealed = || server.client().get("sys/seal-status").expect(200).at("/sealed") == true;
    assert!(is_sealed());
    server.until_logged("sealed");
    assert!(is_sealed(), "the device is there, and nobody has asked for it");
    server.signal(rustix::process::Signal::HUP);
    server.until_unsealed();

    // Step 5, and Days, step 1: the last token is ended; holders of recovery shares make one at the socket alone.
    by_cli(root.token(), &["token", "revoke", "-self"]).good();
    assert_eq!(root.get("auth/token/lookup-self").status, 403);
    let at_socket = |args: &[&str]| {
        let mut cli = command(holdfast());
        cli.env("HOME", folder.path()).env("VAULT_ADDR", format!("unix://{}", own.display()));
        run(cli.args(["operator", "generate-root", "-format=json"]).args(args))
    };
    assert_eq!(server.client().post("sys/generate-root/attempt", json!({})).status, 405);
    let begun = at_socket(&["-init"]).json();
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let nonce = format!("-nonce={}", text(&begun["nonce"]));
    at_socket(&[&nonce, &keys.shares[1]]).json();
    let done = at_socket(&[&nonce, &keys.shares[2]]).json();
    let (encoded, otp) = (text(&done["encoded_token"]), text(&begun["otp"]));
    let token = text(&at_socket(&[&format!("-decode={encoded}"), &format!("-otp={otp}")]).json()["token"]);
    let root = server.client().with_token(&token);
    assert_eq!(root.get("secret/data/app").expect(200).at("/data/data/k"), "v");

    // What the page lets look at.
    let report = by_cli(&token, &["read", "-format=json", "sys/tokens/report"]).json();
    assert!(report.to_string().contains("root"), "{report}");
    by_cli(&token, &["read", "sys/config/state/sanitized"]).good();
    let none = by_cli(&token, &["read", "sys/leases", "type=irrevocable"]);
    assert_eq!(none.code, Some(0), "{none:?}");
    let made = root.post("auth/token/create", json!({ "policies": ["default"] })).expect(200);
    let accessor = made.text_at("/auth/accessor");
    let accessor_flag = format!("-accessor={accessor}");
    let explained = by_cli(&token, &["policy", "explain", &accessor_flag, "secret/data/app"]);
    assert!((explained.stdout.clone() + &explained.stderr).contains("default"), "{explained:?}");
    by_cli(&token, &["token", "revoke", "-accessor", &accessor]).good();
    let ended = server.client().with_token(&made.text_at("/auth/client_token")).get("auth/token/lookup-self");
    assert_eq!(ended.status, 403);

    // Step 2: new recovery shares; the former ones make nothing.
    let rotate = |args: &[&str]| {
        let mut cli = site.cli(&holdfast(), &server, &token);
        run(cli.args(["operator", "rotate-keys", "-target=recovery", "-format=json"]).args(args)).json()
    };
    let nonce = format!("-nonce={}", text(&rotate(&["-init", "-key-shares=3", "-key-threshold=2"])["nonce"]));
    rotate(&[&nonce, &keys.shares[0]]);
    let fresh = rotate(&[&nonce, &keys.shares[1]]);
    let fresh: Vec<String> = fresh["keys"].as_array().expect("shares").iter().map(text).collect();
    for (shares, code) in [(&keys.shares, 2), (&fresh, 0)] {
        let nonce = format!("-nonce={}", text(&at_socket(&["-init"]).json()["nonce"]));
        let first = at_socket(&[&nonce, &shares[0]]);
        let second = at_socket(&[&nonce, &shares[1]]);
        assert_eq!(first.code.max(second.code), Some(code), "{second:?}");
        at_socket(&["-cancel"]);
    }
}
