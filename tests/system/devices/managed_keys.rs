//! `sys/managed-keys`: keys in devices and in software, by the API of a real server.

use std::path::Path;
use std::time::Duration;

use holdfast_tests::module::shim;
use holdfast_tests::program::{command, run};
use holdfast_tests::token::{LABEL, PIN, library};
use holdfast_tests::{Client, Running, Server, Setup, Site, until};
use serde_json::{Value, json};

use super::{patient, with_token, with_tpm};

/// A P-256 key in a device, by a name that is its label too.
#[track_caller]
pub fn signing_key(root: &Client, kind: &str, device: &str, name: &str) -> Value {
    let wanted = json!({
        "library": device, "key_label": format!("managed-{name}"), "mechanism": "CKM_ECDSA", "curve": "P256",
        "allow_generate_key": true,
    });
    root.post(&format!("sys/managed-keys/{kind}/{name}"), wanted).expect(204);
    root.get(&format!("sys/managed-keys/{kind}/{name}")).expect(200).at("/data")
}

/// `pkcs11-tool` on the token of the site.
#[track_caller]
fn tool(running: &Running, arguments: &[&str]) -> String {
    let mut tool = command("pkcs11-tool");
    tool.arg("--module").arg(library()).args(["--token-label", LABEL, "--login", "--pin", PIN]).args(arguments);
    run(tool.env("SOFTHSM2_CONF", running.site.token.as_ref().expect("a token").conf())).good()
}

#[test]
fn a_key_on_p521_waits_until_all_nodes_know_such_keys() {
    const BEFORE_P521: &str = "5";
    let site = Site::make(Setup::hardware().with_top(&super::token_device("main")));
    let mut earlier = site.server_command();
    earlier.env("HOLDFAST_MAX_FEATURE_LEVEL", BEFORE_P521);
    let server = Server::start(&mut earlier, site.folder(), 1, site.client_config());
    let keys = site.initialise(&server.client());
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    let key = |curve: &str| json!({"mechanism": "CKM_ECDSA", "curve": curve, "allow_generate_key": true});
    let in_token = |curve: &str| {
        let mut key = key(curve);
        (key["library"], key["key_label"]) = ("main".into(), format!("long-{curve}").into());
        key
    };
    for (kind, wanted) in [("software", key("P521")), ("pkcs11", in_token("P521"))] {
        let said = root.post(&format!("sys/managed-keys/{kind}/long-{kind}"), wanted).refused(503);
        assert!(said.contains("all nodes of the cluster run a version that knows them"), "{said}");
        root.get(&format!("sys/managed-keys/{kind}/long-{kind}")).expect(404);
    }
    root.post("sys/managed-keys/pkcs11/shorter", in_token("P384")).expect(204);
    // None was made in the token for nothing.
    let info = root.get("sys/devices/main").expect(200).at("/data/keys");
    assert!(info.as_array().is_some_and(|keys| keys.iter().all(|key| key["label"] != "long-P521")), "{info}");

    let server = site.start_after(server);
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    for (kind, wanted) in [("software", key("P521")), ("pkcs11", in_token("P521"))] {
        let path = format!("sys/managed-keys/{kind}/long-{kind}");
        until(Duration::from_secs(30), "a store of this feature level", || {
            root.try_call("POST", &path, Some(&wanted)).ok().filter(|reply| reply.status == 204).map(drop)
        });
        let signed = root.post(&format!("{path}/test/sign"), json!({})).expect(200);
        assert!(signed.text().contains("ECDSA with SHA512"), "{}", signed.text());
    }
}

#[test]
fn a_managed_key_is_made_in_a_token_listed_read_tried_and_forgotten() {
    let running = with_token();
    let root = &running.root;
    root.list("sys/managed-keys/pkcs11").expect(404);
    for (name, mechanism, more, scheme) in [
        ("ec", "0x1041", json!({"curve": "P384"}), "ECDSA with SHA384"),
        ("rsa", "1", json!({"key_bits": "2048"}), "RSA PKCS#1 v1.5 with SHA256"),
        ("pss", "CKM_RSA_PKCS_PSS", json!({"key_bits": 2048}), "RSA PSS with SHA256"),
        ("ed", "CKM_EDDSA", json!({}), "Ed25519"),
    ] {
        let path = format!("sys/managed-keys/pkcs11/{name}");
        let mut wanted = json!({"library": "main", "key_label": format!("label-{name}"), "mechanism": mechanism});
        for (key, value) in more.as_object().unwrap() {
            wanted[key] = value.clone();
        }
        // Nothing is made that was not asked for.
        let said = root.post(&path, wanted.clone()).refused(400);
        assert!(said.contains("allow_generate_key") && said.contains(&format!("label-{name}")), "{said}");
        wanted["allow_generate_key"] = true.into();
        root.post(&path, wanted).expect(204);
        let read = root.get(&path).expect(200);
        assert!(read.text_at("/data/public_key").starts_with("-----BEGIN PUBLIC KEY-----"), "{read:?}");
        let signed = root.post(&format!("{path}/test/sign"), json!({})).expect(200);
        assert_eq!((signed.at("/data/verified"), signed.text_at("/data/scheme")), (true.into(), scheme.to_owned()));
    }
    let pss =
        root.post("sys/managed-keys/pkcs11/rsa/test/sign", json!({"use_pss": true, "hash_algorithm": "sha2-512"}));
    assert_eq!(pss.expect(200).text_at("/data/scheme"), "RSA PSS with SHA512");
    assert_eq!(root.list("sys/managed-keys/pkcs11").expect(200).at("/data/keys"), json!(["ec", "ed", "pss", "rsa"]));
    let rsa = root.get("sys/managed-keys/pkcs11/rsa").expect(200);
    assert_eq!((rsa.text_at("/data/mechanism"), rsa.text_at("/data/key_type")), ("0x0001".into(), "RSA-2048".into()));
    assert_eq!(rsa.text_at("/data/library"), "main");

    // They are the token's, and do not leave it.
    let objects = tool(&running, &["--list-objects", "--type", "privkey"]);
    assert!(objects.contains("label-rsa") && objects.contains("never extractable"), "{objects}");

    root.delete("sys/managed-keys/pkcs11/rsa").expect(204);
    root.get("sys/managed-keys/pkcs11/rsa").expect(404);
    root.post("sys/managed-keys/pkcs11/rsa/test/sign", json!({})).expect(404);
    assert!(tool(&running, &["--list-objects", "--type", "privkey"]).contains("label-rsa"), "the key itself stays");
    // And it is found again.
    root.post("sys/managed-keys/pkcs11/rsa", json!({"library": "main", "key_label": "label-rsa", "mechanism": "1"}))
        .expect(204);
    assert_eq!(root.get("sys/managed-keys/pkcs11/rsa").expect(200).at("/data/public_key"), rsa.at("/data/public_key"));
}

#[test]
fn a_key_that_is_lost_exchanged_or_of_another_type_is_said() {
    let running = with_token();
    let root = &running.root;
    let first = signing_key(root, "pkcs11", "main", "k");
    let (path, sign) = ("sys/managed-keys/pkcs11/k", "sys/managed-keys/pkcs11/k/test/sign");
    root.post(sign, json!({})).expect(200);
    let destroy = |kind: &str| tool(&running, &["--delete-object", "--type", kind, "--label", "managed-k"]);
    destroy("privkey");
    destroy("pubkey");
    let said = root.post(sign, json!({})).refused(500);
    assert!(said.contains("managed-k") && said.contains("not in device 'main'") && said.contains("any more"), "{said}");

    tool(&running, &["--keypairgen", "--key-type", "EC:secp256r1", "--label", "managed-k", "--id", "77"]);
    let said = root.post(sign, json!({})).refused(500);
    assert!(said.contains("another key than the one that was recorded"), "{said}");
    // The record says which one it was, and takes the new one when it is told to alone.
    let said = root.post(path, json!({})).refused(400);
    assert!(said.contains("allow_replace_key") && said.contains(first["fingerprint"].as_str().unwrap()), "{said}");
    let replaced = root.post(path, json!({"allow_replace_key": true})).expect(200);
    assert!(replaced.at("/warnings/0").as_str().unwrap().contains("another key was recorded"), "{replaced:?}");
    root.post(sign, json!({})).expect(200);
    assert_ne!(root.get(path).expect(200).at("/data/public_key"), first["public_key"]);

    destroy("privkey");
    destroy("pubkey");
    tool(&running, &["--keypairgen", "--key-type", "rsa:2048", "--label", "managed-k", "--id", "78"]);
    let said = root.post(sign, json!({})).refused(500);
    assert!(said.contains("is RSA-2048 now, and EC P-256 was recorded"), "{said}");
    let said = root.post(path, json!({})).refused(400);
    assert!(said.contains("is RSA-2048, and EC P-256 is asked for"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let running = with_token();
    let root = &running.root;
    let refused = |path: &str, wanted: Value, why: &str| {
        let said = root.post(&format!("sys/managed-keys/{path}"), wanted).refused(400);
        assert!(said.contains(why), "{path}: {said}");
    };
    let key =
        json!({"library": "main", "key_label": "l", "mechanism": "1", "key_bits": 2048, "allow_generate_key": true});
    let with = |name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    refused("awskms/k", key.clone(), "use pkcs11, tpm, yubihsm, software");
    refused("tpm/k", key.clone(), "is of type pkcs11, not tpm");
    refused("pkcs11/k", with("library", "other".into()), "there are: main");
    refused("pkcs11/k", with("library", Value::Null), "'library' is required");
    refused("pkcs11/k", with("mechanism", "0x1085".into()), "CKM_RSA_PKCS_PSS");
    refused("pkcs11/k", with("key_bits", 1024.into()), "2048, 3072 or 4096");
    refused("pkcs11/k", with("key_label", "".into()), "no key is named");
    refused("pkcs11/k", with("key_id", "xyz".into()), "hexadecimal");
    refused("pkcs11/k", with("usages", json!(["sign", "cook"])), "cook");
    refused("pkcs11/k", with("token_label", "other".into()), "is not that of device");
    // What opens the store opens nothing else: who could use it through a mount could open a copy of the store.
    let seal = json!({"library": "main", "key_label": "holdfast-root", "mechanism": "CKM_AES_GCM"});
    refused("pkcs11/k", seal, "opens this store");
    root.get("sys/managed-keys/pkcs11/k").expect(404);

    let made = root.post("sys/managed-keys/pkcs11/k", with("pin", "4711-is-not-kept".into())).expect(200);
    assert!(made.at("/warnings/0").as_str().unwrap().contains("'pin' is not used"), "{made:?}");
    assert!(!root.get("sys/managed-keys/pkcs11/k").expect(200).text().contains("4711"));
    // Names are one list for all types.
    refused("software/k", json!({"mechanism": "CKM_EDDSA", "allow_generate_key": true}), "of type pkcs11 already");
    // The device has no such curve or mechanism for this kind: nothing is done in its place.
    root.post("sys/managed-keys/pkcs11/k/test/sign", json!({"hash_algorithm": "md5"})).refused(400);
    let oaep =
        json!({"library": "main", "key_label": "o", "mechanism": "9", "key_bits": 2048, "allow_generate_key": true});
    root.post("sys/managed-keys/pkcs11/o", oaep).expect(204);
    let said = root.post("sys/managed-keys/pkcs11/o/test/sign", json!({})).refused(400);
    assert!(said.contains("does not sign"), "{said}");
    // A key that may only decrypt signs nothing.
    root.post("sys/managed-keys/pkcs11/k", json!({"usages": "decrypt"})).expect(204);
    let said = root.post("sys/managed-keys/pkcs11/k/test/sign", json!({})).refused(400);
    assert!(said.contains("may not be used to sign"), "{said}");
}

#[test]
fn a_key_is_found_by_label_by_id_in_every_form_and_by_both() {
    let running = with_token();
    let root = &running.root;
    tool(&running, &["--keypairgen", "--key-type", "rsa:2048", "--label", "private half", "--id", "ab01cd"]);
    let forms = [
        json!({"key_id": "ab01cd"}),
        json!({"key_id": "0xab01cd"}),
        json!({"key_id": "0xAB01CD"}),
        json!({"key_id": "AB01CD"}),
        json!({"key_label": "private half"}),
        json!({"key_label": "private half", "key_id": "0xAB01cd"}),
    ];
    for (n, form) in forms.into_iter().enumerate() {
        let mut wanted = form;
        (wanted["library"], wanted["mechanism"]) = ("main".into(), "CKM_RSA_PKCS".into());
        root.post(&format!("sys/managed-keys/pkcs11/form-{n}"), wanted).expect(204);
        root.post(&format!("sys/managed-keys/pkcs11/form-{n}/test/sign"), json!({})).expect(200);
    }
}

#[test]
fn keys_are_in_a_tpm_and_end_with_it() {
    let (mut tpm, running) = with_tpm();
    let root = patient(&running.root);
    let key = signing_key(&root, "tpm", "chip", "k");
    assert_eq!(key["key_type"], "EC P-256");
    root.post("sys/managed-keys/tpm/k/test/sign", json!({})).expect(200);
    let rsa =
        json!({"library": "chip", "key_label": "r", "mechanism": "1", "key_bits": 2048, "allow_generate_key": true});
    root.post("sys/managed-keys/tpm/r", rsa).expect(204);
    let pss = json!({"use_pss": true});
    root.post("sys/managed-keys/tpm/r/test/sign", pss).expect(200);
    let ed = json!({"library": "chip", "key_label": "e", "mechanism": "CKM_EDDSA", "allow_generate_key": true});
    let said = root.post("sys/managed-keys/tpm/e", ed).refused(400);
    assert!(said.contains("Ed25519"), "{said}");

    let running = running.restart(|server| drop(server.stop()));
    let root = patient(&running.root);
    root.post("sys/managed-keys/tpm/k/test/sign", json!({})).expect(200);
    assert_eq!(root.get("sys/managed-keys/tpm/k").expect(200).at("/data/public_key"), key["public_key"]);

    tpm.exchange();
    let said = root.post("sys/managed-keys/tpm/k/test/sign", json!({})).refused(500);
    assert!(said.contains("another storage root key") || said.contains("not in device"), "{said}");
}

#[test]
fn keys_in_software_are_sealed_by_the_barrier_and_survive_a_restart() {
    let running = Running::start(Setup::shamir());
    let root = &running.root;
    for (name, wanted, scheme) in [
        ("rsa", json!({"mechanism": "CKM_RSA_PKCS", "key_bits": 2048}), "RSA PKCS#1 v1.5 with SHA256"),
        ("ec", json!({"mechanism": "CKM_ECDSA", "curve": "P-384"}), "ECDSA with SHA384"),
        ("ed", json!({"mechanism": "CKM_EDDSA"}), "Ed25519"),
    ] {
        let path = format!("sys/managed-keys/software/{name}");
        root.post(&path, wanted.clone()).refused(400);
        let mut wanted = wanted;
        wanted["allow_generate_key"] = true.into();
        let made = root.post(&path, wanted.clone()).expect(200);
        assert!(made.text().contains("the key is in software"), "{made:?}");
        let first = root.get(&path).expect(200);
        assert_eq!(root.post(&format!("{path}/test/sign"), json!({})).expect(200).text_at("/data/scheme"), scheme);
        // Writing the same again makes no other key.
        root.post(&path, wanted).expect(204);
        assert_eq!(root.get(&path).expect(200).at("/data/public_key"), first.at("/data/public_key"));
    }
    let rsa = root.get("sys/managed-keys/software/rsa").expect(200);
    let running = running.restart(|server| server.kill());
    let root = &running.root;
    assert_eq!(
        root.get("sys/managed-keys/software/rsa").expect(200).at("/data/public_key"),
        rsa.at("/data/public_key")
    );
    root.post("sys/managed-keys/software/rsa/test/sign", json!({})).expect(200);
    // Nothing of a private key rests in the clear, while it is there.
    let store = running.site.store();
    assert_eq!(private_keys_in(&store), [] as [&str; 0]);
    root.delete("sys/managed-keys/software/rsa").expect(204);
    root.post("sys/managed-keys/software/rsa/test/sign", json!({})).expect(404);
    assert_eq!(private_keys_in(&store), [] as [&str; 0]);

    // They would be found: keys as OpenSSL writes them, in a file of that folder.
    let planted = store.join("planted");
    for (kind, make) in [
        ("RSA", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
        ("P-384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("Ed25519", &["-algorithm", "ED25519"]),
    ] {
        let pem = store.join("planted.pem");
        run(command("openssl").arg("genpkey").args(make).arg("-out").arg(&pem)).good();
        let mut openssl = command("openssl");
        openssl.args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"]).arg(&pem).arg("-out").arg(&planted);
        run(&mut openssl).good();
        std::fs::remove_file(pem).unwrap();
        assert_eq!(private_keys_in(&store), [kind]);
        let mut key = std::fs::read(&planted).unwrap();
        key.splice(0..0, vec![0x5A; 10_000]);
        std::fs::write(&planted, key).unwrap();
        assert_eq!(private_keys_in(&store), [kind], "in the middle of something");
    }
    std::fs::remove_file(planted).unwrap();
}

/// Kinds of private keys that lie in the clear in the files of a folder: what stands before the secret in each PKCS#8 form (RFC
/// 5208, 5958), the algorithm and the beginning of the octet string. A public key has a bit string there.
fn private_keys_in(folder: &Path) -> Vec<&'static str> {
    const RSA: &[u8] = &[0x30, 13, 6, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 5, 0, 4, 0x82];
    const P384: &[u8] = &[0x30, 16, 6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 6, 5, 0x2B, 0x81, 4, 0, 0x22, 4, 0x81];
    const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(private_keys_in(&path));
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file of the store");
        for (kind, needle) in [("RSA", RSA), ("P-384", P384), ("Ed25519", ED25519)] {
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(kind);
            }
        }
    }
    found
}

#[test]
fn a_signature_that_its_own_public_key_refuses_is_given_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let shim = shim(folder.path());
    let device =
        format!("device \"pkcs11\" \"main\" {{\n {}\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"\n}}\n", shim.keys());
    let running = Running::start(Setup::hardware().with_top(&device));
    let root = &running.root;
    signing_key(root, "pkcs11", "main", "k");
    let sign = || root.post("sys/managed-keys/pkcs11/k/test/sign", json!({}));
    sign().expect(200);
    shim.disturb("garbage-sign");
    let said = sign().refused(500);
    assert!(said.contains("gave a signature that is not one of") && said.contains("do not use this device"), "{said}");
    assert!(!shim.is_to_disturb("garbage-sign"), "it came");
    assert_eq!(sign().expect(200).at("/data/verified"), true);
    // A length that is garbage costs the helper, not the answer.
    shim.disturb("garbage-length");
    assert_eq!(sign().expect(200).at("/data/verified"), true);
    assert!(!shim.is_to_disturb("garbage-length"));
}
