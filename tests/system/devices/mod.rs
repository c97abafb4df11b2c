//! Devices that the configuration names: a SoftHSM token, a TPM of swtpm, each behind its helper.

mod attestation;
mod audit_signing;
mod blinking;
mod faults;
mod hanging;
pub mod managed_keys;

use std::time::Duration;

use holdfast_tests::process::helpers;
use holdfast_tests::program::{holdfast, run};
use holdfast_tests::token::{LABEL, PIN, library};
use holdfast_tests::tpm::Tpm;
use holdfast_tests::yubihsm::Hsm;
use holdfast_tests::{Client, Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A device on the token of the site, which the seal uses too.
pub fn token_device(name: &str) -> String {
    format!(
        "device \"pkcs11\" \"{name}\" {{\n lib = \"{}\"\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"\n}}\n",
        library().display()
    )
}

/// A server whose token is a device named `main`.
pub fn with_token() -> Running {
    Running::start(Setup::hardware().with_top(&token_device("main")))
}

/// What is known of a device.
pub fn status(root: &Client, name: &str) -> Value {
    root.get("sys/devices").expect(200).at(&format!("/data/key_info/{name}"))
}

pub fn until_healthy(root: &Client, name: &str, healthy: bool) {
    until(Duration::from_secs(60), &format!("device {name}: healthy is {healthy}"), || {
        (status(root, name)["healthy"] == healthy).then_some(())
    });
}

#[test]
fn a_named_device_is_listed_tried_and_measured() {
    let running = with_token();
    let root = &running.root;
    until_healthy(root, "main", true);
    assert_eq!(root.list("sys/devices").expect(200).at("/data/keys"), json!(["main"]));

    let info = root.get("sys/devices/main").expect(200);
    assert_eq!((info.text_at("/data/type"), info.text_at("/data/token_label")), ("pkcs11".into(), LABEL.to_owned()));
    let makes = info.at("/data/makes");
    assert!(makes.as_array().unwrap().contains(&json!("EC P-256")), "{makes}");
    // The key of the seal is there.
    assert!(info.at("/data/keys").as_array().unwrap().iter().any(|key| key["label"] == "holdfast-root"), "{info:?}");
    assert!(!info.text().contains(PIN));

    let tried = root.post("sys/devices/main/test", json!({})).expect(200);
    let rows = tried.at("/data/tried");
    let outcome = |what: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["what"] == what);
        row.unwrap_or_else(|| panic!("{what} was not tried: {rows}"))["outcome"].clone()
    };
    for what in [
        "random bytes",
        "AES-256: encrypt and decrypt, CKM_AES_GCM",
        "RSA-2048: sign, RSA PSS with SHA512",
        "EC P-384: sign, ECDSA with SHA384",
        "Ed25519: sign, Ed25519",
        "HMAC-SHA256: tag, and check it",
    ] {
        assert_eq!(outcome(what), "works", "{what}: {rows}");
    }
    assert_eq!(tried.at("/data/works"), true, "{rows}");
    // Nothing of it stays.
    let left = root.get("sys/devices/main").expect(200);
    assert_eq!(left.at("/data/keys_total"), info.at("/data/keys_total"), "{left:?}");

    let measured = root.post("sys/devices/main/bench", json!({"seconds": 1})).expect(200);
    let rows = measured.at("/data/measured");
    let all = rows.as_array().unwrap();
    assert_eq!(all.len(), 8, "{rows}");
    assert!(all.iter().all(|row| row["per_second"].as_f64().unwrap() > 1.0), "{rows}");
    root.post("sys/devices/main/bench", json!({"seconds": 60})).refused(400);
    root.get("sys/devices/other").expect(404);

    let metrics = root.get("sys/metrics?format=prometheus").expect(200).text();
    assert!(metrics.contains("holdfast_device_healthy{device=\"main\",type=\"pkcs11\"} 1"), "{metrics}");
    assert!(metrics.contains("holdfast_device_calls{device=\"main\",type=\"pkcs11\",quantile=\"0.99\"}"), "{metrics}");
}

#[test]
fn who_has_no_sudo_asks_no_device() {
    let running = with_token();
    let root = &running.root;
    let rules = r#"path "sys/devices*" { capabilities = ["read", "list", "create", "update"] }"#;
    root.post("sys/policies/acl/almost", json!({ "policy": rules })).expect(204);
    let made = root.post("auth/token/create", json!({ "policies": ["almost"] })).expect(200);
    let almost = root.with_token(&made.text_at("/auth/client_token"));
    almost.get("sys/devices").refused(403);
    almost.get("sys/devices/main").refused(403);
    almost.post("sys/devices/main/test", json!({})).refused(403);
    almost.post("sys/devices/main/bench", json!({})).refused(403);
}

#[test]
fn an_operator_sees_tries_and_measures_a_device_by_the_command_line() {
    let Running { server, keys, root, site } = with_token();
    until_healthy(&root, "main", true);
    let ask = |arguments: &[&str]| run(site.cli(&holdfast(), &server, &keys.root_token).args(arguments));
    let listed = ask(&["operator", "device", "list"]).good();
    assert!(listed.contains("main") && listed.contains("pkcs11") && listed.contains("true"), "{listed}");
    let json: Value = serde_json::from_str(&ask(&["operator", "device", "list", "-format=json"]).good()).unwrap();
    assert_eq!(json["main"]["healthy"], true);
    let info = ask(&["operator", "device", "info", "main"]).good();
    assert!(info.contains("CKM_") && info.contains("SoftHSM"), "{info}");
    let tried = ask(&["operator", "device", "test", "main"]).good();
    assert!(tried.contains("EC P-256: sign, ECDSA with SHA256") && tried.contains("works"), "{tried}");
    let measured = ask(&["operator", "device", "bench", "-seconds=1", "main"]).good();
    assert!(measured.contains("Per Second") && measured.contains("RSA-2048"), "{measured}");
}

/// The four commands, for each family.
#[test]
fn a_tpm_a_yubihsm_and_software_are_seen_tried_and_measured_by_the_command_line() {
    let site = Site::make(Setup::shamir());
    let (tpm, hsm) = (Tpm::start(site.folder()), Hsm::start(site.folder()));
    let place = |name: &str| site.folder().join(name).display().to_string();
    let stanzas = [
        format!("device \"tpm\" \"chip\" {{\n tcti = \"{}\"\n keys = \"{}\"\n}}\n", tpm.tcti(), place("tpm-keys")),
        format!("device \"yubihsm\" \"hsm\" {{\n {}\n}}\n", hsm.keys()),
        format!("device \"software\" \"soft\" {{\n key_file = \"{}\"\n}}\n", place("soft-keys")),
    ];
    site.write_config(&format!("{}\n{}", site.config(), stanzas.concat()));
    let Running { server, keys, root, site } = Running::of(site);
    let ask = |arguments: &[&str]| {
        run(site.cli(&holdfast(), &server, &keys.root_token).args(["operator", "device"]).args(arguments))
    };
    for (name, kind, made, tried, measured) in [
        ("chip", "tpm", "EC P-256", "EC P-256: sign, ECDSA with SHA256", "RSA-2048: decrypt"),
        ("hsm", "yubihsm", "Ed25519", "AES-256-CCM: encrypt and decrypt, YUBIHSM_WRAP_DATA/AES-CCM", "EC P-256: sign"),
        ("soft", "software", "AES-256", "AES-256: encrypt and decrypt", "AES-256: decrypt"),
    ] {
        until_healthy(&root, name, true);
        let listed: Value = ask(&["list", "-format=json"]).json();
        assert_eq!((&listed[name]["type"], &listed[name]["healthy"]), (&json!(kind), &json!(true)), "{listed}");
        let table = ask(&["list"]).good();
        assert!(table.lines().any(|line| line.contains(name) && line.contains(kind)), "{table}");
        let info = ask(&["info", name]).good();
        assert!(info.contains(made) && info.contains("Random Bytes"), "{info}");
        let test = ask(&["test", name]).good();
        assert!(test.contains(tried) && test.contains("works") && !test.contains("fails"), "{test}");
        let bench: Value = ask(&["bench", "-format=json", name]).json();
        let rows = bench["measured"].as_array().unwrap_or_else(|| panic!("{bench}"));
        let is_measured = |row: &Value| {
            row["what"].as_str().unwrap().starts_with(measured) && row["per_second"].as_f64().unwrap() > 0.0
        };
        assert!(rows.iter().any(is_measured), "{name}: {bench}");
    }
    ask(&["test", "none"]).bad(2);
}

#[test]
fn a_device_that_does_not_do_what_it_says_gives_its_test_an_exit_code() {
    let site = Site::make(Setup::hardware());
    let shim = holdfast_tests::module::shim(site.folder());
    let library = library().display().to_string();
    let of_shim = format!("{}\"\n helper_write_paths = [\"{}\"]\n", shim.module.display(), shim.folder().display());
    let device = token_device("main").replace(&format!("{library}\"\n"), &of_shim);
    site.write_config(&format!("{}\n{device}", site.config()));
    let Running { server, keys, site, .. } = Running::of(site);
    let test = || run(site.cli(&holdfast(), &server, &keys.root_token).args(["operator", "device", "test", "main"]));
    test().good();
    shim.misbehave("lies");
    let output = test();
    assert_eq!(output.code, Some(2), "{output:?}");
    let lines: Vec<&str> = output.stdout.lines().filter(|line| line.contains("sign, ECDSA with SHA256")).collect();
    assert!(lines.iter().any(|line| line.contains("not one of its public key")), "{}", output.stdout);
    // What does not sign works still, and is told so.
    assert!(output.stdout.lines().any(|line| line.contains("AES-256") && line.contains("works")), "{}", output.stdout);
    shim.behave("lies");
    test().good();
}

#[test]
fn a_device_that_is_added_or_taken_away_is_followed_at_a_hangup() {
    let running = with_token();
    let (site, root) = (&running.site, &running.root);
    let config = site.config();
    // A stanza that is wrong changes nothing.
    site.write_config(&format!("{config}\ndevice \"pkcs11\" \"more\" {{ lib = \"/x.so\" }}\n"));
    running.server.signal(Signal::HUP);
    running.server.until_logged("needs token_label");
    assert_eq!(root.list("sys/devices").expect(200).at("/data/keys"), json!(["main"]));

    site.write_config(&format!("{config}\n{}", token_device("more")));
    running.server.signal(Signal::HUP);
    until(Duration::from_secs(20), "the second device", || {
        (root.list("sys/devices").expect(200).at("/data/keys") == json!(["main", "more"])).then_some(())
    });
    assert_eq!(root.get("sys/devices/more").expect(200).text_at("/data/token_label"), LABEL);

    site.write_config(&config.replace("device \"pkcs11\" \"main\"", "device \"pkcs11\" \"other\""));
    running.server.signal(Signal::HUP);
    until(Duration::from_secs(20), "another name", || {
        (root.list("sys/devices").expect(200).at("/data/keys") == json!(["other"])).then_some(())
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_taken_anew_at_a_hangup() {
    let site = Site::make(Setup::hardware());
    let pin = site.folder().join("pin");
    std::fs::write(&pin, "wrong-pin-1\n").unwrap();
    let device =
        token_device("main").replace(&format!("pin = \"{PIN}\""), &format!("pin_file = \"{}\"", pin.display()));
    site.write_config(&format!("{}\n{device}", site.config()));
    let server = site.start();
    let keys = site.initialise(&server.client());
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    until(Duration::from_secs(30), "the trouble", || {
        status(&root, "main")["last_error"].as_str()?.contains("PIN is wrong").then_some(())
    });
    for _ in 0..5 {
        let said = root.post("sys/devices/main/test", json!({})).refused(503);
        assert!(said.contains("PIN is wrong") && !said.contains("wrong-pin-1"), "{said}");
    }
    std::fs::write(&pin, format!("{PIN}\n")).unwrap();
    server.signal(Signal::HUP);
    until_healthy(&root, "main", true);
    assert!(!server.log().contains("wrong-pin-1") && !server.log().contains(PIN));
}

/// Making RSA keys takes a TPM its time.
pub fn patient(root: &Client) -> Client {
    root.with_token(root.token()).patient_for(Duration::from_secs(120))
}

/// A server with shares, and a TPM as a device.
pub fn with_tpm() -> (Tpm, Running) {
    let site = Site::make(Setup::shamir());
    let tpm = Tpm::start(site.folder());
    let keys = site.folder().join("tpm-keys");
    let device =
        format!("device \"tpm\" \"chip\" {{\n tcti = \"{}\"\n keys = \"{}\"\n}}\n", tpm.tcti(), keys.display());
    site.write_config(&format!("{}\n{device}", site.config()));
    (tpm, Running::of(site))
}

#[test]
fn a_tpm_is_a_device_too() {
    let (_tpm, running) = with_tpm();
    until_healthy(&running.root, "chip", true);
    let tried = patient(&running.root).post("sys/devices/chip/test", json!({})).expect(200);
    assert_eq!(tried.at("/data/works"), true, "{tried:?}");
    let rows = tried.at("/data/tried");
    let has = |what: &str, outcome: &str| {
        rows.as_array().unwrap().iter().any(|row| row["what"] == what && row["outcome"] == outcome)
    };
    assert!(has("EC P-256: sign, ECDSA with SHA256", "works"), "{rows}");
    assert!(has("Ed25519: make, for signatures", "not supported by the device"), "{rows}");
}

#[test]
fn sealing_ends_the_helpers_of_devices_and_nobody_logs_in_until_it_is_unsealed() {
    let (_tpm, running) = with_tpm();
    until_healthy(&running.root, "chip", true);
    let all = || helpers(running.server.pid());
    assert_eq!(all().len(), 1);
    running.root.post("sys/seal", json!({})).expect(204);
    until(Duration::from_secs(20), "the end of the helper", || all().is_empty().then_some(()));
    for share in &running.keys.shares[..2] {
        running.server.client().call("PUT", "sys/unseal", Some(&json!({ "key": share }))).expect(200);
    }
    running.root.get("sys/devices/chip").expect(200);
    assert_eq!(all().len(), 1);
}
