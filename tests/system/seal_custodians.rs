//! A TPM opens the store when enough custodians have signed: people with keys in files and in a token.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::token::{PIN, Token, library};
use holdfast_tests::{Running, Server, Setup, Site, until};
use serde_json::{Value, json};

use super::seal_kinds::{House, Kind, Stanza};

/// Where custodians keep what they have.
struct Custodians {
    folder: PathBuf,
    token: Token,
}

impl Custodians {
    /// Ann and Ben have a key in a file, of different kinds; Cem has one in a token.
    fn of(site: &Site) -> Custodians {
        let folder = site.folder().join("custodians");
        fs::create_dir(&folder).expect("a folder");
        let token = Token::make(&folder.join("softhsm"));
        let all = Custodians { folder, token };
        for (name, algorithm) in [
            ("ann", ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
            ("ben", ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ] {
            let key = all.place(&format!("{name}.key"));
            let mut genpkey = command("openssl");
            run(genpkey.args(["genpkey", "-quiet", "-out", &key, "-algorithm"]).args(algorithm)).good();
            all.openssl(&["pkey", "-in", &key, "-pubout", "-out", &all.place(&format!("{name}.pem"))]);
        }
        all.pkcs11(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "cem"]);
        all.pkcs11(&["--read-object", "--type", "pubkey", "--id", "01", "--output-file", &all.place("cem.der")]);
        all.openssl(&["pkey", "-pubin", "-inform", "DER", "-in", &all.place("cem.der"), "-out", &all.place("cem.pem")]);
        all
    }

    fn place(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn openssl(&self, arguments: &[&str]) {
        run(command("openssl").args(arguments)).good();
    }

    fn pkcs11(&self, arguments: &[&str]) {
        let mut tool = command("pkcs11-tool");
        tool.env("SOFTHSM2_CONF", self.token.conf()).arg("--module").arg(library()).args(["--login", "--pin", PIN]);
        run(tool.args(arguments)).good();
    }

    /// The keys of the seal: two of the three.
    fn keys(&self) -> String {
        let files = ["ann", "ben", "cem"].map(|name| self.place(&format!("{name}.pem")));
        format!("custodians = {files:?}\n  custodian_threshold = 2")
    }

    /// Sign the message as docs/tpm.md shows it: the file with the signature.
    fn sign(&self, name: &str) -> String {
        let (message, signature) = (self.place("message"), self.place(&format!("{name}.sig")));
        if name == "cem" {
            let digest = self.place("digest");
            self.openssl(&["dgst", "-sha256", "-binary", "-out", &digest, &message]);
            let files = ["--input-file", &digest, "--output-file", &signature];
            self.pkcs11(&[&["--sign", "--id", "01", "--mechanism", "ECDSA"][..], &files].concat());
        } else {
            self.openssl(&[
                "dgst",
                "-sha256",
                "-sign",
                &self.place(&format!("{name}.key")),
                "-out",
                &signature,
                &message,
            ]);
        }
        signature
    }

    /// Ask the server for what is to be signed.
    fn challenge(&self, site: &Site, server: &Server, more: &[&str]) -> Value {
        let out = format!("-out={}", self.place("message"));
        let mut cli = site.cli(&holdfast(), server, "");
        cli.args(["operator", "custodians", "challenge", "-format=json", &out]).args(more);
        run(&mut cli).json()
    }
}

fn give(site: &Site, server: &Server, signature: &str, more: &[&str]) -> holdfast_tests::program::Output {
    let mut cli = site.cli(&holdfast(), server, "");
    run(cli.args(["operator", "custodians", "give", "-format=json"]).args(more).arg(signature))
}

fn with_custodians() -> (Running, Custodians) {
    let site = Site::make(Setup::tpm());
    let custodians = Custodians::of(&site);
    let site = site.with_seal(&custodians.keys());
    let running = Running::of(site);
    running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    (running, custodians)
}

#[track_caller]
fn is_sealed_for_custodians(server: &Server) {
    let client = server.client();
    until(Duration::from_secs(40), "custodians are asked for", || {
        let status = client.get("sys/seal-status").expect(200).json();
        assert_eq!(status["sealed"], true, "it is unsealed: {status}");
        let text = status["seal_trouble"].as_str()?;
        ["2 of its 3 custodians (ann, ben, cem)", "operator custodians challenge"]
            .iter()
            .all(|word| text.contains(word))
            .then_some(())
    });
}

#[track_caller]
fn is_read(server: &Server, token: &str) {
    let read = server.client().with_token(token).get("secret/data/a").expect(200);
    assert_eq!(read.text_at("/data/data/x"), "y");
}

#[test]
fn custodians_with_files_and_tokens_unseal_a_server_by_its_tpm() {
    let (Running { server, keys, site, .. }, custodians) = with_custodians();
    server.stop();
    let server = site.start();
    is_sealed_for_custodians(&server);
    let status = server.client().get("sys/unseal/custodians").expect(200);
    assert_eq!(status.json(), json!({ "sealed": true, "waiting": false }));
    assert!(give(&site, &server, &custodians.place("ann.pem"), &[]).bad(2).contains("begin a challenge first"));

    let challenge = custodians.challenge(&site, &server, &[]);
    assert_eq!((&challenge["threshold"], &challenge["given"]), (&json!(2), &json!(0)), "{challenge}");
    let message = fs::read(custodians.place("message")).expect("the message");
    // Asked again, it is the same: nobody who asks takes it from those who sign.
    assert_eq!(custodians.challenge(&site, &server, &[]), challenge);

    let by_cem = custodians.sign("cem");
    let given = give(&site, &server, &by_cem, &[]).json();
    assert_eq!((&given["given"], &given["sealed"]), (&json!(1), &json!(true)));
    assert_eq!(given["custodians"][2]["signed"], true, "{given}");
    // Twice by one is once, and what is not a custodian's is refused and changes nothing.
    assert_eq!(give(&site, &server, &by_cem, &[]).json()["given"], 1);
    assert!(give(&site, &server, &by_cem, &["-custodian=ann"]).bad(2).contains("not one of ann"));
    assert!(give(&site, &server, &by_cem, &["-custodian=eve"]).bad(2).contains("no custodian"));
    fs::write(custodians.place("message"), "another message").expect("a file");
    let wrong = custodians.sign("ben");
    assert!(give(&site, &server, &wrong, &[]).bad(2).contains("not one of any custodian (ann, ben, cem)"));
    fs::write(custodians.place("message"), &message).expect("a file");
    let by_ben = custodians.sign("ben");
    let last = give(&site, &server, &by_ben, &[]).json();
    assert_eq!(last["sealed"], false, "{last}");
    is_read(&server, &keys.root_token);
    let log = fs::read_to_string(site.audit_file()).expect("the audit log");
    assert!(log.contains("2 of 3 custodians (ben, cem) signed"), "{log}");

    // The same signatures open nothing the next time.
    server.stop();
    let server = site.start();
    let next = custodians.challenge(&site, &server, &[]);
    assert_ne!(next["message"], challenge["message"]);
    assert!(give(&site, &server, &by_ben, &[]).bad(2).contains("over the present challenge"));
    let reset = custodians.challenge(&site, &server, &["-reset"]);
    assert_ne!(next["message"], reset["message"]);
    // In base64, on standard input, as it comes out of a mail.
    let by_ann = custodians.sign("ann");
    let mut base64 = command("openssl");
    let text = run(base64.args(["base64", "-in", &by_ann])).good();
    let mut cli = site.cli(&holdfast(), &server, "");
    cli.args(["operator", "custodians", "give", "-"]);
    let shown = holdfast_tests::program::run_with_input(&mut cli, text.as_bytes()).good();
    assert!(shown.contains("1 of 2"), "{shown}");
    let by_cem = custodians.sign("cem");
    assert!(give(&site, &server, &by_cem, &[]).good().contains("\"sealed\": false"));
    is_read(&server, &keys.root_token);
}

#[test]
fn a_server_whose_custodians_are_asked_is_healthy_and_its_root_key_rotates() {
    let (running, custodians) = with_custodians();
    let backends = || running.root.get("sys/seal-backend-status").expect(200);
    until(Duration::from_secs(30), "the seal was checked", || {
        backends().at("/backends/0/last_checked").as_str().map(drop)
    });
    let status = backends();
    assert_eq!((status.at("/healthy"), status.at("/fully_wrapped")), (true.into(), true.into()), "{status:?}");
    assert_eq!(status.at("/backends/0/needs_custodians"), true, "{status:?}");
    assert_eq!(status.at("/backends/0/mechanism"), "TPM2_SEAL+POLICY_SIGNED/AES-256-GCM");
    assert!(running.root.get("sys/health").expect(200).json().get("seals_failing").is_none());
    running.root.post("sys/rotate/root", json!({})).expect(204);
    assert_eq!(running.root.post("sys/unseal/custodians", json!({})).expect(200).at("/sealed"), false);

    // Sealed by hand it waits for them too, and opens without a restart.
    let Running { server, root, keys, site } = running;
    root.post("sys/seal", json!({})).expect(204);
    custodians.challenge(&site, &server, &[]);
    let signatures = ["ann", "ben"].map(|name| custodians.sign(name));
    assert_eq!(give(&site, &server, &signatures[0], &[]).json()["sealed"], true);
    assert_eq!(give(&site, &server, &signatures[1], &[]).json()["sealed"], false);
    is_read(&server, &keys.root_token);

    // They have opened it by now, and are known to open what asks for the same ones.
    let backend = || root.get("sys/seal-backend-status").expect(200);
    assert_eq!(backend().at("/backends/0/proved"), true);
    let before = backend().at("/backends/0/id");
    root.post("sys/rotate/root", json!({})).expect(204);
    assert_eq!(backend().at("/backends/0/proved"), true);
    assert_ne!(backend().at("/backends/0/id"), before);
    // Others, of whom nobody knows that they can: they would be the only way to the store.
    let (pem, kept) = (custodians.place("ben.pem"), custodians.place("ben.kept"));
    fs::rename(&pem, &kept).expect("his key");
    custodians.openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-out", &custodians.place("none.key")]);
    custodians.openssl(&["pkey", "-in", &custodians.place("none.key"), "-pubout", "-out", &pem]);
    let before = backend().at("/backends/0/id");
    let said = root.post("sys/rotate/root", json!({})).refused(400);
    assert!(said.contains("other custodians") && said.contains("put another seal beside"), "{said}");
    assert_eq!(backend().at("/backends/0/id"), before);
    let server = site.start_after(server);
    is_sealed_for_custodians(&server);
    custodians.challenge(&site, &server, &[]);
    for name in ["ben", "cem"] {
        give(&site, &server, &custodians.sign(name), &[]).good();
    }
    is_read(&server, &keys.root_token);
    fs::rename(&kept, &pem).expect("his key");
    server.client().with_token(&keys.root_token).post("sys/rotate/root", json!({})).expect(204);
}

#[test]
fn custodians_alone_do_not_open_a_machine_that_is_measured_otherwise() {
    let site = Site::make(Setup::tpm());
    let custodians = Custodians::of(&site);
    let site = site.with_seal(&format!("pcrs = \"sha256:7\"\n  {}", custodians.keys()));
    let Running { server, keys, mut site, .. } = Running::of(site);
    server.stop();
    site.tpm.as_ref().expect("a TPM").measure(7);
    let server = site.start();
    let refused = server.client().post("sys/unseal/custodians", json!({})).expect(503);
    assert!(refused.text().contains("PCR 7"), "{refused:?}");
    server.stop();
    site.tpm.as_mut().expect("a TPM").restart();
    let server = site.start();
    custodians.challenge(&site, &server, &[]);
    for name in ["ann", "cem"] {
        give(&site, &server, &custodians.sign(name), &[]).good();
    }
    server.client().with_token(&keys.root_token).get("sys/mounts").expect(200);
}

/// Away from custodians and back, by several seals at once and by the holders of the shares; what cannot be is refused.
#[test]
fn a_store_of_custodians_moves_away_and_back_and_is_told_the_way() {
    let mut house = House::prepare();
    let custodians = Custodians::of(&house.site);
    house.of_tpm = custodians.keys();
    let house = house.initialise(&[Stanza::Alone(Kind::Tpm)], json!({}));
    let site = &house.site;
    let sign = |server: &Server| {
        is_sealed_for_custodians(server);
        custodians.challenge(site, server, &[]);
        for name in ["ann", "cem"] {
            give(site, server, &custodians.sign(name), &[]).good();
        }
        house.is_kept(server);
    };
    // The holders cannot agree beside custodians: what they give is checked inside the store, which only these open.
    for stanzas in [&[Stanza::Alone(Kind::YubiHsm), Stanza::Disabled(Kind::Tpm)][..], &[Stanza::Disabled(Kind::Tpm)]] {
        house.say(stanzas);
        let server = site.start();
        let client = server.client();
        until(Duration::from_secs(30), "the way that is told", || {
            let said = client.get("sys/seal-status").expect(200).json()["seal_trouble"].as_str()?.to_owned();
            (said.contains("custodians alone") && said.contains("several seals")).then_some(())
        });
        let body = json!({ "key": house.keys.shares[0], "migrate": true });
        assert!(client.post("sys/unseal", body).refused(400).contains("operator seal rewrap"));
        assert!(client.post("sys/unseal/custodians", json!({})).refused(400).contains("operator seal rewrap"));
        server.stop();
    }
    // By several seals: they sign once more.
    let both = [Stanza::Named(Kind::Tpm, 2), Stanza::Named(Kind::YubiHsm, 1)];
    house.say(&both);
    let server = site.start();
    sign(&server);
    assert_eq!(house.rewrap(&server), (0, vec!["the-yubihsm wrapped".into(), "the-tpm renamed".into()]));
    let leave = |server: &Server, stays: Kind, outcome: &str| {
        house.say(&[Stanza::Named(stays, 1)]);
        house.hang_up(server, &[stays]);
        let (code, did) = house.rewrap(server);
        assert!((code == 0) == (outcome == "removed") && did[1].ends_with(outcome), "{did:?} beside {stays:?}");
    };
    leave(&server, Kind::YubiHsm, "removed");
    let server = site.start_after(server);
    server.until_unsealed();
    house.is_kept(&server);
    // And back. Nothing tells that their keys open it before they have done so: until then the other lock stays.
    house.say(&both);
    let planned = house.plan(&server);
    assert!(planned["possible"] == true && planned.to_string().contains("who are not asked here"), "{planned}");
    house.hang_up(&server, &[Kind::Tpm, Kind::YubiHsm]);
    assert_eq!(house.rewrap(&server).0, 0);
    let tpm = house.backend(&server, "the-tpm");
    assert_eq!((&tpm["proved"], &tpm["needs_custodians"]), (&json!(false), &json!(true)), "{tpm}");
    leave(&server, Kind::Tpm, "kept");
    let why = house.root(&server).get("sys/seal/rewrap").expect(200).text_at("/data/seals/1/error");
    assert!(why.contains("its custodians have not opened it yet"), "{why}");
    let server = site.start_after(server);
    sign(&server);
    assert_eq!(house.backend(&server, "the-tpm")["proved"], true, "they have opened it by now");
    leave(&server, Kind::Tpm, "removed");
    let status = house.root(&server).get("sys/seal-backend-status").expect(200);
    assert_eq!(status.at("/data/fully_wrapped"), true, "{status:?}");
    let server = site.start_after(server);
    sign(&server);

    // Away again, without a restart.
    house.say(&both);
    house.hang_up(&server, &[Kind::Tpm, Kind::YubiHsm]);
    assert_eq!(house.rewrap(&server).0, 0);
    leave(&server, Kind::YubiHsm, "removed");
    server.stop();
}

/// What they cannot open takes no way to the store away, by neither way of changing seals.
#[test]
fn the_seal_of_before_opens_the_store_where_custodians_have_other_keys_than_was_said() {
    let mut house = House::prepare();
    let custodians = Custodians::of(&house.site);
    house.of_tpm = custodians.keys();
    let house = house.initialise(&[Stanza::Named(Kind::Token, 1)], json!({}));
    let site = &house.site;
    // Ann and Ben have handed in public keys that are none of theirs.
    for name in ["ann", "ben"] {
        let key = custodians.place(&format!("{name}.key"));
        custodians.openssl(&[
            "genpkey",
            "-quiet",
            "-out",
            &key,
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]);
    }
    house.say(&[Stanza::Named(Kind::Token, 1), Stanza::Named(Kind::Tpm, 2)]);
    let server = site.start();
    server.until_unsealed();
    assert_eq!(house.rewrap(&server).0, 0);
    house.say(&[Stanza::Named(Kind::Tpm, 1)]);
    house.hang_up(&server, &[Kind::Tpm]);
    assert_eq!(house.rewrap(&server), (2, vec!["the-tpm renamed".into(), "\"the-pkcs11\" (pkcs11) kept".into()]));
    let server = site.start_after(server);
    is_sealed_for_custodians(&server);
    custodians.challenge(site, &server, &[]);
    give(site, &server, &custodians.sign("cem"), &[]).good();
    for name in ["ann", "ben"] {
        let said = give(site, &server, &custodians.sign(name), &[]).bad(2);
        assert!(said.contains("not one of any custodian"), "{said}");
    }
    server.stop();
    house.say(&[Stanza::Named(Kind::Token, 1)]);
    let server = site.start();
    server.until_unsealed();
    house.is_kept(&server);
    // The other one goes, since this one opens.
    assert_eq!(house.rewrap(&server), (0, vec!["the-pkcs11 good".into(), "\"the-tpm\" (tpm) removed".into()]));
    server.stop();

    house.say(&[Stanza::Alone(Kind::Tpm), Stanza::Disabled(Kind::Token)]);
    let server = site.start();
    until(Duration::from_secs(30), "a migration that waits", || {
        (server.client().get("sys/seal-status").expect(200).at("/migration") == true).then_some(())
    });
    let give_share = |share: &String| server.client().post("sys/unseal", json!({ "key": share, "migrate": true }));
    give_share(&house.keys.shares[0]).expect(200);
    let said = give_share(&house.keys.shares[1]).refused(400);
    assert!(said.contains("custodians alone") && said.contains("beside that device"), "{said}");
    server.stop();
    house.say(&[Stanza::Alone(Kind::Token)]);
    let server = site.start();
    server.until_unsealed();
    house.is_kept(&server);
}
