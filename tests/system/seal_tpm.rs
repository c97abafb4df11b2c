//! A TPM opens the store: by itself, after restarts, and only on the machine and the start that it was sealed for.

use std::fs;
use std::time::Duration;

use holdfast_tests::program::{command, run};
use holdfast_tests::{Client, Running, Server, Setup, Site, until};
use rustix::process::Signal;
use serde_json::json;

use super::seal_kinds::{House, Kind, Stanza, name_of};

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
pub fn trouble(server: &Server, words: &[&str]) {
    let client = server.client();
    until(Duration::from_secs(40), &format!("a trouble with {words:?}"), || {
        let status = client.get("sys/seal-status").expect(200).json();
        assert_eq!(status["sealed"], true, "it is unsealed: {status}");
        let text = status["seal_trouble"].as_str()?.to_owned();
        assert!(!text.contains('\n'), "more than one line: {text}");
        words.iter().all(|word| text.contains(word)).then_some(())
    });
}

#[test]
fn a_tpm_opens_the_store_after_each_restart_and_kill() {
    let running = Running::start(Setup::tpm());
    write(&running.root);
    let status = running.root.get("sys/seal-status").expect(200);
    assert_eq!((status.text_at("/type"), status.at("/recovery_seal")), ("tpm".to_owned(), true.into()), "{status:?}");
    let running = running.restart(|server| drop(server.stop()));
    is_read(&running.server, &running.keys.root_token);
    let mut running = running.restart(Server::kill);
    is_read(&running.server, &running.keys.root_token);
    // The machine was off too.
    running.server.signal(Signal::TERM);
    running.server.wait();
    running.site.tpm.as_mut().expect("a TPM").restart();
    let running = running.restart(drop);
    is_read(&running.server, &running.keys.root_token);
}

#[test]
fn a_tpm_that_goes_away_and_comes_back_needs_no_restart_of_the_server() {
    let Running { server, root, keys, mut site } = Running::start(Setup::tpm());
    write(&root);
    let tpm = site.tpm.as_mut().expect("a TPM");
    tpm.kill();
    root.get("sys/health").expect(200);
    is_read(&server, &keys.root_token);
    root.post("sys/seal", json!({})).expect(204);
    server.signal(Signal::HUP);
    trouble(&server, &["does not answer", "tcti"]);
    tpm.start_again();
    server.until_unsealed();
    // Sealing anew needs the TPM too, in a connection that has seen it end.
    tpm.restart();
    root.post("sys/rotate/root", json!({})).expect(204);
    is_read(&server, &keys.root_token);
    server.stop();
    let server = site.start();
    server.until_unsealed();
    is_read(&server, &keys.root_token);
}

#[test]
fn another_tpm_is_said_and_opens_nothing() {
    let Running { server, mut site, .. } = Running::start(Setup::tpm());
    server.stop();
    site.tpm.as_mut().expect("a TPM").exchange();
    let server = site.start();
    trouble(&server, &["storage root key is another", "cleared or replaced"]);
    server.client().get("sys/health").expect(503);
}

#[test]
fn a_tpm_that_is_exchanged_while_the_server_serves_is_told_and_gets_a_lock_of_its_own() {
    let mut house = House::build(&[Stanza::Named(Kind::Tpm, 1)]);
    let server = house.site.start();
    server.until_unsealed();
    let name = name_of(Kind::Tpm);
    house.tpm.exchange();
    server.signal(Signal::HUP);
    let failing = until(Duration::from_secs(40), "the loss is told", || {
        Some(house.backend(&server, &name)).filter(|backend| backend["healthy"] == false)
    });
    let said = failing["last_error"].as_str().expect("a text");
    assert!(said.contains("cleared or replaced"), "{said}");
    // It serves on, and says so.
    house.is_kept(&server);
    assert_eq!(house.root(&server).get("sys/health").expect(200).at("/seals_failing"), 1);
    assert_eq!(house.rewrap(&server), (0, vec![format!("{name} wrapped")]));
    until(Duration::from_secs(40), "it is well again", || {
        (house.backend(&server, &name)["healthy"] == true).then_some(())
    });
    let server = house.site.start_after(server);
    server.until_unsealed();
    house.is_kept(&server);
}

#[test]
fn a_machine_that_is_measured_otherwise_stays_sealed_and_opens_when_it_is_as_before() {
    let Running { server, keys, root, mut site } = Running::start(Setup::tpm().with_seal("pcrs = \"sha256:0,7\""));
    write(&root);
    server.stop();
    site.tpm.as_ref().expect("a TPM").measure(7);
    let server = site.start();
    trouble(&server, &["PCR 7 of sha256 (the Secure Boot state and keys) changed"]);
    server.stop();
    site.tpm.as_mut().expect("a TPM").restart();
    let server = site.start();
    server.until_unsealed();
    is_read(&server, &keys.root_token);
}

/// What docs/tpm.md says about a planned update without approvals.
#[test]
fn a_planned_update_is_survived_by_taking_the_registers_off_before() {
    let Running { server, keys, root, site } = Running::start(Setup::tpm().with_seal("pcrs = \"sha256:7\""));
    write(&root);
    let mut server = Some(server);
    let mut site = Some(site);
    let mut sealed_with = |keys_of_seal: &str, prepare: &dyn Fn(&Site)| {
        server.take().expect("a server").stop();
        let changed = site.take().expect("a site").with_seal(keys_of_seal);
        prepare(&changed);
        let started = changed.start();
        started.until_unsealed();
        started.client().with_token(&keys.root_token).post("sys/rotate/root", json!({})).expect(204);
        is_read(&started, &keys.root_token);
        server = Some(started);
        site = Some(changed);
    };
    sealed_with("", &|_| ());
    let update = |site: &Site| site.tpm.as_ref().expect("a TPM").measure(7);
    sealed_with("pcrs = \"sha256:7\"", &update);
    server.take().expect("a server").stop();
    let site = site.expect("a site");
    let again = site.start();
    again.until_unsealed();
    again.stop();
    // And it is bound again.
    update(&site);
    trouble(&site.start(), &["PCR 7"]);
}

/// Approves what is measured now, as docs/tpm.md shows it.
fn approve(site: &Site) {
    let folder = site.folder().join("approvals");
    let place = |name: &str| folder.join(name).display().to_string();
    let openssl = |arguments: &[&str]| run(command("openssl").args(arguments)).good();
    if !folder.exists() {
        fs::create_dir(&folder).expect("a folder");
        openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &place("key")]);
        openssl(&["pkey", "-in", &place("key"), "-pubout", "-out", &place("key.pub")]);
    }
    let tpm = site.tpm.as_ref().expect("a TPM");
    tpm.tool("tpm2_createpolicy", &["--policy-pcr", "-l", "sha256:11", "-L", &place("policy")]);
    openssl(&["dgst", "-sha256", "-sign", &place("key"), "-out", &place("signature"), &place("policy")]);
    let signature = openssl(&["base64", "-A", "-in", &place("signature")]);
    let policy = hex::encode(fs::read(place("policy")).expect("the policy"));
    let approvals = json!({ "sha256": [{ "pcrs": [11], "pol": policy, "sig": signature.trim() }] });
    fs::write(place("new"), approvals.to_string()).expect("approvals");
    fs::rename(place("new"), place("signatures.json")).expect("approvals");
}

#[test]
fn a_signed_update_changes_the_measurements_and_the_server_opens_by_itself() {
    let site = Site::make(Setup::tpm());
    approve(&site);
    let place = |name: &str| site.folder().join("approvals").join(name).display().to_string();
    let keys = format!(
        "pcrs = \"sha256:11\"\n  pcr_public_key = \"{}\"\n  pcr_signatures = \"{}\"",
        place("key.pub"),
        place("signatures.json")
    );
    let site = site.with_seal(&keys);
    let server = site.start();
    let keys = site.initialise(&server.client());
    server.until_unsealed();
    server.stop();

    site.tpm.as_ref().expect("a TPM").measure(11);
    let server = site.start();
    trouble(&server, &["nobody has approved", "PCR 11", "signatures.json"]);
    server.stop();
    approve(&site);
    let server = site.start();
    server.until_unsealed();
    server.client().with_token(&keys.root_token).get("sys/mounts").expect(200);
}

#[test]
fn a_wrong_pin_is_tried_once_and_a_corrected_file_is_read_at_sighup() {
    let site = Site::make(Setup::tpm());
    let file = site.folder().join("pin");
    fs::write(&file, "4711\n").expect("the PIN's file");
    let site = site.with_seal(&format!("pin_file = \"{}\"", file.display()));
    let server = site.start();
    site.initialise(&server.client());
    server.until_unsealed();
    server.stop();

    fs::write(&file, "1147\n").expect("the PIN's file");
    let server = site.start();
    trouble(&server, &["PIN", "is wrong"]);
    server.signal(Signal::HUP);
    trouble(&server, &["PIN", "is wrong"]);
    fs::write(&file, "4711\n").expect("the PIN's file");
    server.signal(Signal::HUP);
    server.until_unsealed();
    assert!(!server.log().contains("1147") && !server.log().contains("4711"), "the log tells the PIN");
    server.stop();
    let properties = site.tpm.as_ref().expect("a TPM").tool("tpm2_getcap", &["properties-variable"]);
    assert!(properties.contains("LOCKOUT_COUNTER: 0x1\n"), "{properties}");
}
