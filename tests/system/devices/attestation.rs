//! A verifier with the program asks a server's TPM what it is, and judges it by itself, with and without the server.

use std::fs;

use holdfast_tests::program::{Output, holdfast, run};
use holdfast_tests::tpm::Tpm;
use holdfast_tests::{Running, Setup};
use serde_json::{Value, json};

#[test]
fn a_tpm_is_believed_by_its_manufacturers_ca_and_measurements() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut tpm = Tpm::start_endorsed(folder.path());
    let keys_of_it = folder.path().join("keys");
    let chip =
        format!("device \"tpm\" \"chip\" {{\n tcti = \"{}\"\n keys = \"{}\"\n}}\n", tpm.tcti(), keys_of_it.display());
    let Running { server, root, keys, site } = Running::start(Setup::shamir().with_top(&chip));
    let place = |name: &str| folder.path().join(name).display().to_string();
    let ca = format!("-ek-ca={}", tpm.ca().display());
    let [root_ca, between] = tpm.ca_chain();
    let root_ca = format!("-ek-ca={}", root_ca.display());
    let chain = format!("-ek-chain={}", between.display());
    let cli = |arguments: &[&str]| -> Output {
        let mut cli = site.cli(&holdfast(), &server, &keys.root_token);
        run(cli.args(["operator", "device"]).args(arguments).env_remove("VAULT_FORMAT"))
    };
    let attest = |more: &[&str]| cli(&[&["attest", "-format=json"][..], more, &["chip"]].concat());

    let out = format!("-out={}", place("evidence"));
    let proved = attest(&[&ca, &out, "-pcrs=sha256:0,7+sha384:1"]).json();
    assert_eq!(proved["proved"], true, "{proved:#}");
    let checks: Vec<&str> = proved["checks"].as_array().unwrap().iter().filter_map(|c| c["what"].as_str()).collect();
    assert_eq!(checks, ["endorsement key", "credential", "attestation key", "quote", "registers"]);
    // By the root alone, and by the endorsement key on P-384.
    for kind in ["-endorsement-key=rsa-2048", "-endorsement-key=p384"] {
        let proved = attest(&[&root_ca, &chain, kind]).json();
        assert_eq!(proved["proved"], true, "{proved:#}");
    }
    let said = attest(&[&root_ca]).bad(2);
    assert!(said.contains("those in between are to be given"), "{said}");
    let said = attest(&[&root_ca, &chain, "-endorsement-key=p256"]).bad(2);
    assert!(said.contains("holds no certificate"), "{said}");

    let name = format!("-attestation-key={}", proved["attestation_key_name"].as_str().unwrap());

    // Elsewhere, by who has the file, the CA, the nonce that was asked with, and the key's name from before.
    let evidence: Value = serde_json::from_slice(&fs::read(place("evidence")).unwrap()).unwrap();
    let nonce = format!("-nonce={}", evidence["nonce"].as_str().unwrap());
    fs::write(place("expected"), evidence["pcrs"].to_string()).unwrap();
    let expect = format!("-expect={}", place("expected"));
    let file = place("evidence");
    let verified = cli(&["verify", "-format=json", &ca, &nonce, &name, &expect, &file]).json();
    assert_eq!(verified["proved"], true, "{verified:#}");
    let bad = |arguments: &[&str], word: &str| {
        let said = cli(&[&["verify"][..], arguments, &[&file]].concat()).bad(2);
        assert!(said.contains("NOT PROVED") && said.contains(word), "{word}: {said}");
    };
    bad(&[&ca, &nonce, &expect], "name it with -attestation-key");
    bad(&[&ca, "-nonce=00112233", &name], "another nonce");
    bad(&[&nonce, &name], "leads to none that is trusted");
    assert!(cli(&["verify", &ca, &file]).bad(1).contains("-nonce is missing"));

    // A verifier elsewhere has given the nonce.
    let given = attest(&["-nonce=0badcafe", "-pcrs=sha256:7"]).json();
    assert_eq!(given["nonce"], "0badcafe");
    // The machine is started otherwise.
    tpm.restart();
    fs::write(place("expected"), json!({ "sha256": { "7": "ab".repeat(32) } }).to_string()).unwrap();
    let said = attest(&[&ca, &expect]).bad(2);
    assert!(said.contains("sha256 PCR 7 is"), "{said}");

    let bad = |body: Value| root.post("sys/devices/chip/attest", body).expect(400);
    bad(json!({ "nonce": "zz", "pcrs": "sha256:7" }));
    bad(json!({ "nonce": "00", "pcrs": "sha256:24" }));
    bad(json!({ "nonce": "00", "pcrs": "sha256:7", "endorsement_key_type": "rsa" }));
    root.post("sys/devices/chip/activate", json!({ "credential_blob": "", "encrypted_secret": "AA==" })).expect(400);
    root.post("sys/devices/none/attest", json!({ "nonce": "00", "pcrs": "sha256:7" })).expect(404);
}
