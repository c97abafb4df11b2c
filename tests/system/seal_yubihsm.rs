//! A YubiHSM 2 opens the store and holds keys: over the simulator, which is no YubiHSM (docs/yubihsm.md).

use std::time::Duration;

use holdfast_tests::program::{command, holdfast, run, stock};
use holdfast_tests::yubihsm::{Hsm, PASSWORD};
use holdfast_tests::{Client, Running, Server, Setup, Site, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::devices::{managed_keys::signing_key, status, until_healthy};

fn write(client: &Client) {
    client.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
}

#[track_caller]
fn is_read(server: &Server, token: &str) {
    let read = server.client().with_token(token).get("secret/data/a").expect(200);
    assert_eq!(read.text_at("/data/data/x"), "y");
}

/// Wait until seal-status tells a trouble that holds all these words.
#[track_caller]
fn trouble(server: &Server, words: &[&str]) {
    let client = server.client();
    until(Duration::from_secs(40), &format!("a trouble with {words:?}"), || {
        let status = client.get("sys/seal-status").expect(200).json();
        assert_eq!(status["sealed"], true, "it is unsealed: {status}");
        let text = status["seal_trouble"].as_str()?.to_owned();
        assert!(!text.contains('\n'), "more than one line: {text}");
        words.iter().all(|word| text.contains(word)).then_some(())
    });
}

fn hsm(site: &mut Site) -> &mut Hsm {
    site.hsm.as_mut().expect("a simulator")
}

#[test]
fn a_yubihsm_opens_the_store_after_each_restart_and_kill() {
    let running = Running::start(Setup::yubihsm());
    write(&running.root);
    let status = running.root.get("sys/seal-status").expect(200);
    assert_eq!(
        (status.text_at("/type"), status.at("/recovery_seal")),
        ("yubihsm".to_owned(), true.into()),
        "{status:?}"
    );
    let backend = running.root.get("sys/seal-backend-status").expect(200).text();
    assert!(backend.contains("YUBIHSM_WRAP_DATA/AES-CCM") && backend.contains("holdfast-root"), "{backend}");
    let running = running.restart(|server| drop(server.stop()));
    is_read(&running.server, &running.keys.root_token);
    // Its session stays behind, and is in nobody's way.
    let mut running = running.restart(Server::kill);
    is_read(&running.server, &running.keys.root_token);
    hsm(&mut running.site).power_cycle();
    running.root.post("sys/rotate/root", json!({})).expect(204);
    let running = running.restart(|server| drop(server.stop()));
    is_read(&running.server, &running.keys.root_token);
    assert!(!running.server.stop().contains(PASSWORD));
}

#[test]
fn a_connector_that_goes_away_and_comes_back_needs_no_restart_of_the_server() {
    let Running { server, root, keys, mut site } = Running::start(Setup::yubihsm());
    write(&root);
    hsm(&mut site).kill();
    root.get("sys/health").expect(200);
    is_read(&server, &keys.root_token);
    root.post("sys/seal", json!({})).expect(204);
    server.signal(Signal::HUP);
    trouble(&server, &["connector does not answer", "yubihsm-connector"]);
    hsm(&mut site).start_again();
    server.until_unsealed();
    is_read(&server, &keys.root_token);
    // A session that the device has ended meanwhile.
    hsm(&mut site).pass(Duration::from_secs(40));
    root.post("sys/rotate/root", json!({})).expect(204);
    server.stop();
    let server = site.start();
    server.until_unsealed();
    is_read(&server, &keys.root_token);
}

#[test]
fn a_wrong_password_is_tried_once_and_taken_anew_at_a_hangup() {
    let Running { server, root, keys, mut site } = Running::start(Setup::yubihsm());
    write(&root);
    server.stop();
    hsm(&mut site).write_password("wrong-password-1");
    let server = site.start();
    trouble(&server, &["password of authentication key 2", "tried once", "password_file"]);
    let asked = hsm(&mut site).commands();
    server.signal(Signal::HUP);
    trouble(&server, &["tried once"]);
    assert_eq!(hsm(&mut site).commands(), asked, "the same password is not tried again");
    hsm(&mut site).write_password(PASSWORD);
    server.signal(Signal::HUP);
    server.until_unsealed();
    is_read(&server, &keys.root_token);
    assert!(!server.stop().contains("wrong-password-1"));
}

#[test]
fn an_exchanged_or_reset_device_is_said_and_opens_nothing() {
    let Running { server, mut site, .. } = Running::start(Setup::yubihsm());
    let first = hsm(&mut site).serial().to_string();
    server.stop();
    hsm(&mut site).exchange();
    let server = site.start();
    trouble(&server, &["has no authentication key 2", "reset"]);
    hsm(&mut site).set_up();
    let second = hsm(&mut site).serial().to_string();
    // Whoever set it up anew hears which device is missing.
    trouble(&server, &["holdfast-root", &first, &second]);
    server.client().get("sys/health").expect(503);
}

/// A server with shares, and the simulator as a device.
pub fn with_hsm(more: &str) -> (Hsm, Running) {
    let site = Site::make(Setup::shamir());
    let hsm = Hsm::start(site.folder());
    let device = format!("device \"yubihsm\" \"hsm\" {{\n  {}\n  {more}\n}}\n", hsm.keys());
    site.write_config(&format!("{}\n{device}", site.config()));
    (hsm, Running::of(site))
}

#[test]
fn a_yubihsm_is_a_device_that_is_listed_and_tried() {
    let (_hsm, running) = with_hsm("");
    let Running { server, keys, root, site } = &running;
    until_healthy(root, "hsm", true);
    let ask = |arguments: &[&str]| run(site.cli(&holdfast(), server, &keys.root_token).args(arguments));
    let listed = ask(&["operator", "device", "list"]).good();
    assert!(listed.contains("hsm") && listed.contains("yubihsm") && listed.contains("true"), "{listed}");
    let info = ask(&["operator", "device", "info", "hsm"]).good();
    assert!(info.contains("firmware 2.4.0") && info.contains("aes256-ccm-wrap"), "{info}");
    let tried: Value =
        serde_json::from_str(&ask(&["operator", "device", "test", "-format=json", "hsm"]).good()).unwrap();
    let has = |what: &str, outcome: &str| {
        let rows = tried["tried"].as_array().unwrap_or_else(|| panic!("{tried}"));
        assert!(rows.iter().any(|row| row["what"] == what && row["outcome"] == outcome), "{what}: {tried}");
    };
    has("EC P-384: sign, ECDSA with SHA384", "works");
    has("EC P-521: sign, ECDSA with SHA512", "works");
    has("RSA-2048: sign, RSA PSS with SHA512", "works");
    has("Ed25519: sign, Ed25519", "works");
    has("AES-256-CCM: encrypt and decrypt, YUBIHSM_WRAP_DATA/AES-CCM", "works");
    has("AES-256: make, for encryption", "not supported by the device");
}

#[test]
fn managed_keys_are_in_a_yubihsm_and_end_with_it() {
    let log = tempfile::tempdir().unwrap();
    let file = log.path().join("log");
    let (hsm, running) = with_hsm(&format!("log_file = \"{}\"", file.display()));
    hsm.force_audit();
    let root = &running.root;
    let key = signing_key(root, "yubihsm", "hsm", "k");
    for (name, mechanism, more) in [
        ("rsa", "CKM_RSA_PKCS", json!({"key_bits": 2048})),
        ("ed", "CKM_EDDSA", json!({})),
        ("p384", "CKM_ECDSA", json!({"curve": "P384"})),
        ("p521", "CKM_ECDSA", json!({"curve": "P521"})),
    ] {
        let mut wanted =
            json!({"library": "hsm", "key_label": name, "mechanism": mechanism, "allow_generate_key": true});
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root.post(&format!("sys/managed-keys/yubihsm/{name}"), wanted).expect(204);
        root.post(&format!("sys/managed-keys/yubihsm/{name}/test/sign"), json!({})).expect(200);
    }
    // A device that must log everything goes on, since its log is kept; sessions that ended are opened again.
    for _ in 0..70 {
        root.post("sys/managed-keys/yubihsm/k/test/sign", json!({})).expect(200);
    }
    hsm.pass(Duration::from_secs(40));
    root.post("sys/managed-keys/yubihsm/rsa/test/sign", json!({"use_pss": true})).expect(200);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.lines().count() > 60 && !kept.contains("broken"), "{kept}");

    let running = running.restart(|server| drop(server.stop()));
    let root = &running.root;
    root.post("sys/managed-keys/yubihsm/k/test/sign", json!({})).expect(200);
    assert_eq!(root.get("sys/managed-keys/yubihsm/k").expect(200).at("/data/public_key"), key["public_key"]);
    hsm.exchange();
    hsm.set_up();
    let said = root.post("sys/managed-keys/yubihsm/k/test/sign", json!({})).refused(500);
    assert!(said.contains("not in device") || said.contains("no key"), "{said}");
}

/// F085: many at once share a session; those that killed servers left are in nobody's way.
#[test]
fn forty_signatures_at_once_pauses_and_kills_leave_the_yubihsm_free() {
    let (hsm, mut running) = with_hsm("");
    signing_key(&running.root, "yubihsm", "hsm", "k");
    let forty = |root: &Client| {
        std::thread::scope(|scope| {
            for _ in 0..40 {
                let client = root.with_token(root.token()).patient_for(Duration::from_secs(60));
                scope.spawn(move || client.post("sys/managed-keys/yubihsm/k/test/sign", json!({})).expect(200));
            }
        });
    };
    forty(&running.root);
    assert_eq!(hsm.sessions(), 1);
    hsm.pass(Duration::from_secs(40));
    forty(&running.root);
    for _ in 0..2 {
        running = running.restart(Server::kill);
        forty(&running.root);
    }
    // A helper whose server was killed may have had the time to end its session, or may not.
    let held = hsm.sessions();
    assert!((1..=3).contains(&held), "one is in use, two at most were left: {held}");
    running.server.stop();
    until(Duration::from_secs(10), "the end of the session", || (hsm.sessions() == held - 1).then_some(()));
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let (hsm, running) = with_hsm("");
    until_healthy(&running.root, "hsm", true);
    hsm.authentication_key(2, PASSWORD, 0b1, 1 << 0x13, 0);
    hsm.power_cycle();
    let wanted = json!({"library": "hsm", "key_label": "k", "mechanism": "CKM_EDDSA", "allow_generate_key": true});
    let said = running.root.post("sys/managed-keys/yubihsm/k", wanted).refused(503);
    assert!(said.contains("authentication key 2") && said.contains("generate-asymmetric-key"), "{said}");
    assert_eq!(status(&running.root, "hsm")["healthy"], true, "the device is well");
}

#[test]
fn a_store_goes_from_shares_to_a_yubihsm_and_back() {
    let site = Site::make(Setup::shamir());
    let hsm = Hsm::start(site.folder());
    let Running { server, root, keys, site } = Running::of(site);
    write(&root);
    server.stop();
    let seal = |more: &str| {
        let stanza = format!("seal \"yubihsm\" {{\n  {}\n  generate_key = true\n  {more}\n}}\n", hsm.keys());
        site.write_config(&format!("{}\n{stanza}", site.config()));
        site.start()
    };
    let migrate = |server: &Server| {
        let client = server.client();
        until(Duration::from_secs(30), "a migration that waits", || {
            (client.get("sys/seal-status").expect(200).json()["migration"] == true).then_some(())
        });
        for share in &keys.shares[..2] {
            run(site.cli(&holdfast(), server, "").args(["operator", "unseal", "-migrate", share])).good();
        }
        is_read(server, &keys.root_token);
    };
    let server = seal("");
    migrate(&server);
    server.stop();
    let server = seal("");
    server.until_unsealed();
    is_read(&server, &keys.root_token);
    server.stop();
    let server = seal("disabled = \"true\"");
    migrate(&server);
    server.stop();
    site.write_config(&site.config());
    let server = site.start();
    for share in &keys.shares[..2] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    is_read(&server, &keys.root_token);
}

/// The simulator is right for the library of the device's maker, not for our driver alone.
#[test]
fn yubicos_own_library_uses_the_simulator_as_a_yubihsm() {
    let folder = tempfile::tempdir().unwrap();
    let hsm = Hsm::start(folder.path());
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("system/yubicos_library.py");
    let said = run(command(stock("python")).arg(script).arg(hsm.connector())).good();
    assert!(said.contains("all as expected"), "{said}");
}
