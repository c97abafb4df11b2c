//! Recovery mode: a server that repairs its store, with a token that holders of its shares make.

use std::time::Duration;

use holdfast_tests::program::{holdfast, run};
use holdfast_tests::{Client, Keys, Running, Server, Setup, Site, until};
use serde_json::{Value, json};

/// Start in recovery mode.
fn in_recovery_mode(site: &Site) -> Server {
    Server::start(site.server_command().arg("-recovery"), site.folder(), 1, site.client_config())
}

/// A recovery token, made with the command line.
fn token(site: &Site, server: &Server, keys: &Keys) -> String {
    let generate = |args: &[&str]| {
        let mut cli = site.cli(&holdfast(), server, "");
        run(cli.args(["operator", "generate-root", "-recovery-token", "-format=json"]).args(args)).json()
    };
    let begun = generate(&["-init"]);
    let (nonce, otp) = (begun["nonce"].as_str().expect("a nonce"), begun["otp"].as_str().expect("a password"));
    generate(&[&format!("-nonce={nonce}"), &keys.shares[0]]);
    let done = generate(&[&format!("-nonce={nonce}"), &keys.shares[2]]);
    assert_eq!(done["complete"], true, "{done}");
    let encoded = done["encoded_token"].as_str().expect("a token");
    let decoded = generate(&[&format!("-decode={encoded}"), &format!("-otp={otp}")]);
    let token = decoded["token"].as_str().expect("a token").to_owned();
    assert!(token.starts_with("hvr.") && token.len() == 28, "the form of a recovery token");
    token
}

/// Leave something, read it again, take it away.
fn repair(client: &Client) {
    client.post("sys/raw/mended/by-hand", json!({ "value": "hello" })).expect(204);
    assert_eq!(client.get("sys/raw/mended/by-hand").expect(200).at("/data/value"), "hello");
    let top = client.call("LIST", "sys/raw/", None).expect(200);
    assert!(top.at("/data/keys").as_array().expect("names").contains(&json!("mended/")), "{}", top.text());
}

#[test]
fn holders_of_shares_read_and_write_the_store_and_nothing_else_is_served() {
    let Running { server, keys, site, root } =
        Running::start(Setup::shamir().without_tls().with_top("raw_storage_endpoint = true"));
    root.post("secret/data/kept", json!({ "data": { "k": "v" } })).expect(200);
    drop(root);
    server.stop();
    let server = in_recovery_mode(&site);
    let nobody = server.client();
    let health = nobody.get("sys/health").expect(503);
    assert_eq!((health.at("/sealed"), health.at("/recovery_mode")), (true.into(), true.into()));
    assert_eq!(nobody.get("sys/seal-status").expect(200).at("/recovery_mode"), true);
    for path in ["sys/raw/", "sys/raw/core/locks", "sys/raw/mended/by-hand"] {
        assert_eq!(nobody.get(path).status, 403, "{path}");
    }
    // The root token of the store is none here.
    assert_eq!(nobody.with_token(&keys.root_token).get("sys/raw/sys/mounts").status, 403);
    let token = token(&site, &server, &keys);
    let client = server.client().with_token(&token);
    repair(&client);
    assert_eq!(client.get("sys/raw/core/keyring").status, 400, "what opens everything is never shown");
    for path in ["secret/data/kept", "sys/mounts", "auth/token/lookup-self", "sys/unseal", "sys/init", "sys/metrics"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    assert_eq!(client.post("sys/unseal", json!({ "key": keys.shares[0] })).status, 404);
    // A token that is nearly right is as wrong as any.
    let other = if token.ends_with('x') { 'y' } else { 'x' };
    for wrong in [format!("{}{other}", &token[..27]), token[..27].to_owned(), format!("{token}x"), "hvr.".into()] {
        assert_eq!(server.client().with_token(&wrong).get("sys/raw/mended/by-hand").status, 403);
    }
    // One token, and it is not made anew while the process lives.
    let again = nobody.post("sys/generate-recovery-token/attempt", json!({})).refused(400);
    assert!(again.contains("already unsealed"), "{again}");
    assert!(!server.log().contains(&token) && keys.shares.iter().all(|s| !server.log().contains(s)));
    let log = server.stop();
    assert!(log.contains("recovery mode") && log.contains("mended/by-hand"), "what was done stands in the log");

    // A normal start goes on, with what was mended; the token has ended.
    let server = site.start();
    for share in &keys.shares[..2] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    let root = server.client().with_token(&keys.root_token);
    assert_eq!(root.get("secret/data/kept").expect(200).at("/data/data/k"), "v");
    assert_eq!(root.get("sys/raw/mended/by-hand").expect(200).at("/data/value"), "hello");
    assert_eq!(server.client().with_token(&token).get("sys/raw/mended/by-hand").status, 403);
    let ended = server.client().get("sys/generate-recovery-token/attempt").status;
    assert!([403, 404].contains(&ended), "{ended}");
    // There were no audit devices: now there are, and what was changed is told.
    let told = until(Duration::from_secs(60), "the line of what was mended", || {
        let text = std::fs::read_to_string(site.audit_file()).expect("a log");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line"));
        let own = lines.filter(|l| l["type"] == "response" && l["actor"] == "system");
        own.filter(|l| l["recovered"] == true).find(|l| l["request"]["path"] == "sys/raw/mended/by-hand")
    });
    assert!(told["cause"].as_str().expect("a cause").contains("recovery token"), "{told}");
    assert_eq!(told["request"]["operation"], "update");
}

#[test]
fn wrong_shares_and_wrong_steps_make_no_token() {
    let Running { server, keys, site, .. } = Running::start(Setup::shamir().without_tls());
    server.stop();
    let server = in_recovery_mode(&site);
    let client = server.client();
    let update = |body| client.post("sys/generate-recovery-token/update", body);
    assert!(update(json!({ "key": keys.shares[0], "nonce": "" })).refused(400).contains("no root generation"));
    let begun = client.post("sys/generate-recovery-token/attempt", json!({})).expect(200);
    assert_eq!((begun.at("/required"), begun.at("/otp_length")), (2.into(), 28.into()));
    assert!(client.post("sys/generate-recovery-token/attempt", json!({})).refused(400).contains("already in progress"));
    let nonce = begun.text_at("/nonce");
    assert!(update(json!({ "key": keys.shares[0], "nonce": "x" })).refused(400).contains("incorrect nonce"));
    update(json!({ "key": keys.shares[0], "nonce": nonce })).expect(200);
    assert!(update(json!({ "key": keys.shares[0], "nonce": nonce })).refused(400).contains("already been provided"));
    let wrong = update(json!({ "key": "ab".repeat(33), "nonce": nonce })).refused(400);
    assert!(wrong.contains("invalid key"), "{wrong}");
    assert_eq!(client.call("DELETE", "sys/generate-recovery-token/attempt", None).status, 204);
    assert_eq!(client.get("sys/generate-recovery-token/attempt").expect(200).at("/started"), false);
    assert_eq!(client.get("sys/raw/").status, 403);
    server.stop();
}

#[test]
fn a_store_of_a_device_is_repaired_with_recovery_keys_while_the_device_answers_and_with_escrowed_ones_without_it() {
    for form in ["authorise", "escrow"] {
        let site = Site::make(Setup::hardware().without_tls());
        let server = site.start();
        let keys = site.initialise_with(&server.client(), json!({ "recovery_form": form }));
        server.until_unsealed();
        server.stop();
        let server = in_recovery_mode(&site);
        repair(&server.client().with_token(&token(&site, &server, &keys)));
        server.stop();

        site.token.as_ref().expect("a token").pull_out();
        let server = in_recovery_mode(&site);
        assert_eq!(server.client().get("sys/seal-status").expect(200).at("/recovery_form"), form);
        if form == "escrow" {
            repair(&server.client().with_token(&token(&site, &server, &keys)));
        } else {
            let client = server.client();
            let nonce = client.post("sys/generate-recovery-token/attempt", json!({})).expect(200).text_at("/nonce");
            let update = |share: &String| {
                client.post("sys/generate-recovery-token/update", json!({ "key": share, "nonce": nonce }))
            };
            update(&keys.shares[0]).expect(200);
            let said = update(&keys.shares[1]).refused(503);
            assert!(said.contains("pkcs11") && said.contains("does not open it"), "{said}");
        }
        server.stop();
    }
}

#[test]
fn the_only_member_of_a_cluster_is_repaired_alone_and_goes_on_afterwards() {
    let site = Site::make(Setup::shamir().without_tls());
    let raft = format!(
        "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"n1\"\n}}\ncluster_addr = \"https://127.0.0.1:1\"",
        site.store().display()
    );
    let file = format!("storage \"file\" {{\n  path = \"{}\"\n}}", site.store().display());
    site.write_config(&site.config().replace(&file, &raft));
    let server = site.start();
    let keys = site.initialise(&server.client());
    let unseal = |server: &Server| {
        for share in &keys.shares[..2] {
            server.client().post("sys/unseal", json!({ "key": share })).expect(200);
        }
        server.until_unsealed();
    };
    unseal(&server);
    let root = server.client().with_token(&keys.root_token);
    root.post("sys/mounts/secret", json!({ "type": "kv" })).expect(204);
    root.post("secret/kept", json!({ "k": "v" })).expect(204);
    server.stop();
    let server = in_recovery_mode(&site);
    repair(&server.client().with_token(&token(&site, &server, &keys)));
    server.stop();
    let server = site.start();
    unseal(&server);
    let root = server.client().with_token(&keys.root_token);
    assert_eq!(root.get("secret/kept").expect(200).at("/data/k"), "v");
    root.post("secret/more", json!({ "k": "v" })).expect(204);
    server.stop();
}
