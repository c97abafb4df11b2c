//! The seal and a named device on PKCS#11 modules other than SoftHSM, each with its own way to be configured.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use holdfast_tests::nss::{self, Database};
use holdfast_tests::opencryptoki::{self, Opencryptoki};
use holdfast_tests::process::{helpers, need_root, status};
use holdfast_tests::tpm2_pkcs11::{self, TpmToken};
use holdfast_tests::{Client, Server, Setup, Site, until};
use serde_json::json;

use super::trouble;

/// How a server is started that sees the token.
type Enter<'a> = &'a dyn Fn(Command) -> Command;

const OAEP: &str = "CKM_RSA_PKCS_OAEP/SHA256";

#[test]
fn opencryptokis_soft_token_opens_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = Opencryptoki::start(folder.path());
    // It lists no AES-GCM, and OAEP with SHA-256 it does.
    let site = sealed_by(&token.keys());
    opens_the_store(&site, &|command| token.enter(&command), opencryptoki::PIN, OAEP);
    holds_managed_keys(&site, &|command| token.enter(&command), "RSA-2048");

    // Its keys are gone: that is said, and no new one is made in their place.
    let objects = token.objects();
    let away = objects.with_file_name("away");
    fs::rename(&objects, &away).expect("the token's objects");
    fs::create_dir(&objects).expect("an empty folder");
    let server = start(&site, &|command| token.enter(&command));
    trouble(&server, &["holdfast-root"]);
    assert!(!server.log().contains("making the wrapping key"), "a new key cannot open an old store");
    drop(server);
    fs::remove_dir_all(&objects).expect("the empty folder");
    fs::rename(&away, &objects).expect("the objects back in place");
    start(&site, &|command| token.enter(&command)).until_unsealed();
}

#[test]
fn nss_opens_the_store_also_with_a_helper_that_is_another_user() {
    need_root("to give the database to another user");
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::make(folder.path());
    let site = sealed_by(&database.keys());
    // It has AES-GCM, but secret keys come out of it.
    opens_the_store(&site, &|command| command, nss::PIN, OAEP);
    holds_managed_keys(&site, &|command| command, "EC P-256");

    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("a folder that others may pass");
    let own = [Ok(database.folder().to_owned())].into_iter();
    let files = fs::read_dir(database.folder()).expect("the database").map(|entry| entry.map(|e| e.path()));
    for path in own.chain(files) {
        chown(path.expect("a file"), Some(54_321), Some(54_321)).expect("given away");
    }
    let site = site.with_seal(&format!("{}\n helper_user = \"54321\"", database.keys()));
    let server = site.start();
    server.until_unsealed();
    let users: Vec<_> = helpers(server.pid()).iter().filter_map(|helper| status(*helper, "Uid")).collect();
    assert!(users.iter().any(|user| user.starts_with("54321")), "{users:?}");
}

#[test]
fn tpm2_pkcs11_opens_the_store_and_waits_for_its_tpm() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut token = TpmToken::start(folder.path());
    let site = sealed_by(&token.keys());
    opens_the_store(&site, &|command| command, tpm2_pkcs11::PIN, OAEP);
    holds_managed_keys(&site, &|command| command, "EC P-256");

    token.switch_off();
    let server = site.start();
    trouble(&server, &["libtpm2_pkcs11"]);
    token.switch_on();
    server.until_unsealed();
}

fn sealed_by(keys: &str) -> Site {
    let site = Site::make(Setup::hardware()).with_seal(keys);
    let device = format!("device \"pkcs11\" \"main\" {{\n {keys}\n}}\n");
    site.write_config(&(site.config() + &device));
    site
}

fn start(site: &Site, enter: Enter<'_>) -> Server {
    Server::start(&mut enter(site.server_command()), site.folder(), 1, site.client_config())
}

/// Initialises, restarts, is told a wrong PIN, and opens the store each time that it can.
fn opens_the_store(site: &Site, enter: Enter<'_>, pin: &str, mechanism: &str) {
    let server = start(site, enter);
    let keys = site.initialise(&server.client());
    server.until_unsealed();
    fs::write(site.folder().join("root-token"), &keys.root_token).expect("a note of the test");
    let root = server.client().with_token(&keys.root_token);
    root.post("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).expect(204);
    root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    assert_eq!(root.get("sys/seal-status").text_at("/type"), "pkcs11");
    let locks = root.get("sys/seal-backend-status").expect(200);
    assert_eq!(locks.text_at("/data/backends/0/mechanism"), mechanism, "{locks:?}");
    for helper in helpers(server.pid()) {
        assert_eq!(status(helper, "Seccomp").as_deref(), Some("2"));
        assert_eq!(status(helper, "NoNewPrivs").as_deref(), Some("1"));
    }
    server.stop();

    let text = fs::read_to_string(site.config_file()).expect("the configuration");
    site.write_config(&text.replace(pin, "0-wrong"));
    let server = start(site, enter);
    trouble(&server, &["PIN"]);
    assert!(!server.log().contains("0-wrong"), "the log tells the PIN");
    server.stop();

    site.write_config(&text);
    let server = start(site, enter);
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    assert_eq!(root.get("secret/data/a").text_at("/data/data/x"), "y");
    assert!(!server.log().contains(pin), "the log tells the PIN");
    server.stop();
}

/// The named device: what it does works, what it lacks is said, and a managed key in it signs, whatever it is named by.
fn holds_managed_keys(site: &Site, enter: Enter<'_>, kind: &str) {
    let token = fs::read_to_string(site.folder().join("root-token")).expect("the test's note");
    let server = start(site, enter);
    server.until_unsealed();
    let root = server.client().with_token(&token);
    until_healthy(&root);

    let tried = root.post("sys/devices/main/test", json!({})).expect(200);
    assert_eq!(tried.at("/data/works"), true, "{}", tried.text());
    let info = root.get("sys/devices/main").expect(200);
    let makes = info.at("/data/makes");
    assert!(makes.as_array().expect("a list").contains(&json!(kind)), "{makes}");

    let mut key = json!({"library": "main", "key_label": "ca", "allow_generate_key": true});
    match kind {
        "RSA-2048" => {
            key["mechanism"] = "CKM_RSA_PKCS".into();
            key["key_bits"] = 2048.into();
        }
        _ => {
            key["mechanism"] = "CKM_ECDSA".into();
            key["curve"] = "P256".into();
        }
    }
    root.post("sys/managed-keys/pkcs11/ca", key.clone()).expect(204);
    let public = root.get("sys/managed-keys/pkcs11/ca").expect(200).text_at("/data/public_key");
    let signed = root.post("sys/managed-keys/pkcs11/ca/test/sign", json!({})).expect(200);
    assert_eq!(signed.at("/data/verified"), true);
    let keys = root.get("sys/devices/main").expect(200).at("/data/keys");
    let made = keys.as_array().expect("a list").iter().find(|k| k["label"] == "ca").expect("it is there").clone();
    assert_eq!((&made["extractable"], &made["private"]), (&json!(false), &json!(true)));
    let id = made["id"].as_str().expect("an id").to_uppercase();
    for (name, id) in [("by-id", id.clone()), ("by-prefixed-id", format!("0x{id}"))] {
        let mut again = json!({"library": "main", "key_id": id, "mechanism": key["mechanism"]});
        if kind != "RSA-2048" {
            again["curve"] = "P256".into();
        }
        let path = format!("sys/managed-keys/pkcs11/{name}");
        root.post(&path, again).expect(204);
        assert_eq!(root.get(&path).expect(200).text_at("/data/public_key"), public, "{name}");
    }
    server.stop();
}

fn until_healthy(root: &Client) {
    until(Duration::from_secs(60), "the device's health", || {
        let device = root.get("sys/devices").expect(200).at("/data/key_info/main");
        (device["healthy"] == true).then_some(())
    });
}
