//! What a TPM seals, and when it gives it back.

use super::softhsm::run;
use super::suite::{Cell, class};
use super::swtpm::SwTpm;
use super::{Bench, Test};
use holdfast_hsm::device::{
    CipherMechanism, DeviceErrorClass as Class, Hash, KeyKind, KeyRef, KeySpec, KeyUsage, SignInput, SignMechanism,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::{Approval, PcrBank, PcrHash, TpmConfig};
use holdfast_hsm::{DeviceClient, WrapKeyConfig, WrapKeyInfo};
use holdfast_tests::tpm::Tpm;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

pub const TESTS: &[Test] = &[
    ("a_tpm_opens_what_it_sealed_unchanged_and_in_its_place", only_unchanged),
    ("a_tpm_that_was_away_is_opened_again_within_the_call", comes_back),
    ("helpers_of_a_tpm_that_are_killed_leave_it_usable", killed_helpers),
    ("a_cleared_and_another_tpm_are_told_from_a_wrong_key", cleared),
    ("a_tpm_refuses_when_the_machine_is_measured_otherwise", measured_otherwise),
    ("registers_that_a_tpm_does_not_have_are_named", no_such_register),
    ("approved_measurements_open_without_a_new_seal", approved),
    ("approvals_by_another_key_open_nothing", approved_by_another),
    ("a_wrong_tpm_pin_is_tried_once_and_the_last_try_is_not_risked", wrong_pin),
    ("a_tpm_that_is_locked_out_still_serves_what_needs_no_pin", locked_out),
    ("a_pin_is_asked_for_beside_measurements_and_approvals", pin_and_pcrs),
    ("the_storage_root_key_may_be_one_that_is_there", root_handle),
    ("an_authorisation_of_the_hierarchy_is_used_and_its_lack_is_said", hierarchy_auth),
    ("a_tpm_that_is_not_there_is_gone_and_its_place_is_named", not_there),
    ("a_helper_of_a_tpm_is_confined", confined),
    ("a_tpm_key_under_another_name_signs_nothing", another_name),
    ("keys_of_a_cleared_tpm_are_told_from_missing_ones", keys_of_a_cleared_tpm),
];

pub fn spawned(bench: &Bench, config: TpmConfig) -> DeviceClient {
    DeviceClient::spawned(Arc::clone(&bench.spawner), config)
}

fn root_of(device: &DeviceClient) -> WrapKeyInfo {
    root_of_config(device, &TpmConfig::new("swtpm"))
}

pub fn root_of_config(device: &DeviceClient, config: &TpmConfig) -> WrapKeyInfo {
    device.ensure_wrapping_key(&WrapKeyConfig::from(config)).unwrap()
}

pub fn pcrs(hash: PcrHash, indices: &[u8]) -> PcrBank {
    PcrBank { hash, indices: indices.to_vec() }
}

fn only_unchanged(bench: &Bench) {
    let tpm = SwTpm::start();
    let device = spawned(bench, tpm.config());
    let info = device.info().unwrap();
    assert_eq!((info.backend.as_str(), info.module), ("tpm", tpm.tcti()));
    let key = root_of(&device);
    assert_eq!((key.mechanism, key.key_label.as_str()), (CipherMechanism::TpmSeal, TpmConfig::ROOT_LABEL));
    assert_eq!(key.key_id.len(), 34, "the Name: its hash's number and the hash");
    assert_eq!(device.find(KeyRef::default()).unwrap()[0].kind, KeyKind::TpmStorage);

    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    assert_ne!(wrapped, device.wrap(&key, b"root key", b"cluster").unwrap());
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
    assert_eq!(class(device.unwrap(&key, &wrapped, b"another")), Class::Tampered);
    for place in (0..wrapped.len()).step_by(7) {
        let mut changed = wrapped.clone();
        changed[place] ^= 1;
        assert!(device.unwrap(&key, &changed, b"cluster").is_err(), "byte {place}");
        assert!(device.unwrap(&key, &wrapped[..place], b"cluster").is_err(), "cut at {place}");
    }
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
    let other = device.encrypt(KeyRef::label("root"), CipherMechanism::TpmSeal, Secret::new(vec![1]), b"");
    assert_eq!(class(other), Class::KeyMissing);
    // In another process the same key is made from the template.
    device.log_out();
    assert_eq!(root_of(&device), key);
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
}

fn comes_back(bench: &Bench) {
    let mut tpm = SwTpm::start();
    let device = spawned(bench, tpm.config());
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    let helper = device.helper_pid().unwrap();
    for _ in 0..3 {
        tpm.kill();
        tpm.start_again();
        assert_eq!(device.unwrap(&key, &wrapped, b"").unwrap().expose(), b"root key");
    }
    assert_eq!(device.helper_pid(), Some(helper), "sessions are made again, not the process");

    tpm.kill();
    let error = device.unwrap(&key, &wrapped, b"").err().unwrap();
    assert_eq!(error.class, Class::Gone, "{error}");
    assert!(error.text.contains(&tpm.tcti()), "{error}");
    tpm.start_again();
    assert_eq!(device.unwrap(&key, &wrapped, b"").unwrap().expose(), b"root key");
}

fn killed_helpers(bench: &Bench) {
    let tpm = SwTpm::start();
    let device = spawned(bench, tpm.config());
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    // A TPM without a resource manager has room for three objects and three sessions.
    for _ in 0..8 {
        super::helpers::kill(device.helper_pid().unwrap());
        assert_eq!(device.unwrap(&key, &wrapped, b"").unwrap().expose(), b"root key");
    }
}

fn cleared(bench: &Bench) {
    let mut tpm = SwTpm::start();
    let device = spawned(bench, tpm.config());
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    let is_said = |device: &DeviceClient| {
        let error = device.unwrap(&key, &wrapped, b"").err().unwrap();
        assert_eq!(error.class, Class::KeyMissing, "{error}");
        for word in ["cleared or replaced", "storage root key", &hex::encode(&key.key_id)] {
            assert!(error.text.contains(word), "{word}: {error}");
        }
    };
    device.log_out();
    tpm.tool("tpm2_clear", &["-c", "platform"]);
    is_said(&device);
    tpm.exchange();
    is_said(&device);
    // It is of use again for what is sealed from now on.
    let new = root_of(&device);
    assert_ne!(new.key_id, key.key_id);
    let wrapped = device.wrap(&new, b"root key", b"").unwrap();
    assert_eq!(device.unwrap(&new, &wrapped, b"").unwrap().expose(), b"root key");
}

fn measured_otherwise(bench: &Bench) {
    let tpm = SwTpm::start();
    let mut config = tpm.config();
    config.pcrs = vec![pcrs(PcrHash::Sha384, &[1, 8]), pcrs(PcrHash::Sha256, &[0, 2, 3, 4, 5, 6, 7, 9, 11, 14])];
    let device = spawned(bench, config);
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    let open = || device.unwrap(&key, &wrapped, b"");
    assert_eq!(open().unwrap().expose(), b"root key");

    device.log_out();
    tpm.measure(10);
    assert_eq!(open().unwrap().expose(), b"root key", "a register that is not selected counts for nothing");
    device.log_out();
    tpm.measure(7);
    tpm.measure(8);
    for _ in 0..5 {
        let error = open().err().unwrap();
        assert_eq!(error.class, Class::PolicyRefused, "{error}");
        for word in ["PCR 8 of sha384 (the boot loader's commands)", "PCR 7 of sha256 (the Secure Boot state and keys)"]
        {
            assert!(error.text.contains(word), "{word}: {error}");
        }
        assert!(!error.text.contains("PCR 8 of sha256") && !error.text.contains("PCR 0"), "{error}");
    }
    device.log_out();
    assert!(tpm.tool("tpm2_getcap", &["properties-variable"]).contains("LOCKOUT_COUNTER: 0x0\n"));
    // What is sealed now opens under the new measurements.
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"").unwrap().expose(), b"root key");
}

fn no_such_register(bench: &Bench) {
    let tpm = SwTpm::start();
    tpm.tool("tpm2_pcrallocate", &["sha1:none+sha256:all+sha384:none+sha512:none"]);
    let mut tpm = tpm;
    tpm.kill();
    tpm.start_again();
    let mut config = tpm.config();
    config.pcrs = vec![pcrs(PcrHash::Sha384, &[7])];
    let error = spawned(bench, config).ensure_wrapping_key(&WrapKeyConfig::from(&tpm.config())).unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(error.text.contains("[7]") && error.text.contains("sha384"), "{error}");
}

/// Approves what is measured now, as docs/tpm.md shows it.
pub fn approve(tpm: &SwTpm, folder: &Path, private_key: &str, pcr: u8) {
    let place = |name: &str| folder.join(name).display().to_string();
    tpm.tool("tpm2_createpolicy", &["--policy-pcr", "-l", &format!("sha256:{pcr}"), "-L", &place("policy")]);
    run("openssl", &["dgst", "-sha256", "-sign", &place(private_key), "-out", &place("signature"), &place("policy")]);
    let signature = run("openssl", &["base64", "-A", "-in", &place("signature")]);
    let policy = hex::encode(fs::read(place("policy")).unwrap());
    let json = format!(r#"{{"sha256":[{{"pcrs":[{pcr}],"pol":"{policy}","sig":"{}"}}]}}"#, signature.trim());
    fs::write(place("new"), json).unwrap();
    fs::rename(place("new"), place("signatures.json")).unwrap();
}

pub fn key_pair(folder: &Path, name: &str, algorithm: &[&str]) {
    let (private, public) = (folder.join(name), folder.join(format!("{name}.pub")));
    let (private, public) = (private.display().to_string(), public.display().to_string());
    run("openssl", &[&["genpkey", "-quiet", "-out", &private][..], algorithm].concat());
    run("openssl", &["pkey", "-in", &private, "-pubout", "-out", &public]);
}

pub const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
pub const EC: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

pub fn approval(folder: &Path, key: &str) -> Approval {
    Approval {
        public_key: folder.join(format!("{key}.pub")).display().to_string(),
        signatures: folder.join("signatures.json").display().to_string(),
    }
}

/// Of register 11, with measurements that a key approves.
fn with_approval(tpm: &SwTpm, folder: &Path, key: &str) -> TpmConfig {
    TpmConfig { pcrs: vec![pcrs(PcrHash::Sha256, &[11])], approval: Some(approval(folder, key)), ..tpm.config() }
}

fn approved(bench: &Bench) {
    for algorithm in [RSA, EC] {
        let folder = tempfile::tempdir().unwrap();
        key_pair(folder.path(), "key", algorithm);
        let tpm = SwTpm::start();
        approve(&tpm, folder.path(), "key", 11);
        let config = with_approval(&tpm, folder.path(), "key");
        let device = spawned(bench, config);
        let key = root_of(&device);
        let wrapped = device.wrap(&key, b"root key", b"").unwrap();
        let open = || device.unwrap(&key, &wrapped, b"");
        assert_eq!(open().unwrap().expose(), b"root key");

        device.log_out();
        tpm.measure(11);
        let error = open().err().unwrap();
        assert_eq!(error.class, Class::PolicyRefused, "{error}");
        assert!(error.text.contains("PCR 11") && error.text.contains("signatures.json"), "{error}");
        device.log_out();
        approve(&tpm, folder.path(), "key", 11);
        let policy = hex::encode(fs::read(folder.path().join("policy")).unwrap());
        assert!(error.text.contains(&policy), "it names what is to be signed: {policy}, {error}");
        // Neither a restart nor a new seal: the file is read at each use.
        assert_eq!(open().unwrap().expose(), b"root key");
    }
}

fn approved_by_another(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    key_pair(folder.path(), "key", RSA);
    key_pair(folder.path(), "other", RSA);
    let tpm = SwTpm::start();
    approve(&tpm, folder.path(), "key", 11);
    let config = with_approval(&tpm, folder.path(), "key");
    let device = spawned(bench, config);
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    device.log_out();
    approve(&tpm, folder.path(), "other", 11);
    let error = device.unwrap(&key, &wrapped, b"").err().unwrap();
    assert_eq!(error.class, Class::PolicyRefused, "{error}");
    assert!(error.text.contains("not by the key"), "{error}");
    // Nor does it help to configure the other key.
    let config = with_approval(&tpm, folder.path(), "other");
    device.reconfigure(config).unwrap();
    assert_eq!(class(device.unwrap(&key, &wrapped, b"")), Class::PolicyRefused);
    fs::write(folder.path().join("signatures.json"), "{").unwrap();
    assert_eq!(class(device.unwrap(&key, &wrapped, b"")), Class::Config);
}

pub fn pin(text: &str) -> Option<Secret<String>> {
    Some(Secret::new(text.to_owned()))
}

fn failed_tries(tpm: &SwTpm) -> String {
    let properties = tpm.tool("tpm2_getcap", &["properties-variable"]);
    let line = properties.lines().find_map(|line| line.strip_prefix("TPM2_PT_LOCKOUT_COUNTER: "));
    line.unwrap_or_else(|| panic!("{properties}")).to_owned()
}

fn wrong_pin(bench: &Bench) {
    let tpm = SwTpm::start();
    let mut config = tpm.config();
    config.pin = pin("1234");
    let device = spawned(bench, config);
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    let open = || device.unwrap(&key, &wrapped, b"");
    assert_eq!(open().unwrap().expose(), b"root key");

    device.reconfigure(tpm.config()).unwrap();
    let error = open().err().unwrap();
    assert_eq!(error.class, Class::NeedsLogin, "{error}");
    let with_pin = |text: &str| {
        let mut config = tpm.config();
        config.pin = pin(text);
        device.reconfigure(config).unwrap();
    };
    with_pin("4321");
    for _ in 0..5 {
        let error = open().err().unwrap();
        assert_eq!(error.class, Class::PinWrong);
        assert!(!error.text.contains("4321"), "{error}");
    }
    device.log_out();
    assert_eq!(failed_tries(&tpm), "0x1");
    // Of three tries, two are gone with another wrong one; the third is not risked, not even with the right PIN.
    with_pin("9999");
    assert_eq!(class(open()), Class::PinWrong);
    with_pin("1234");
    let error = open().err().unwrap();
    assert_eq!(error.class, Class::PinLocked);
    assert!(error.text.contains("2 wrong tries of 3") && error.text.contains("tpm2_dictionarylockout"), "{error}");
    device.log_out();
    assert_eq!(failed_tries(&tpm), "0x2");
    tpm.tool("tpm2_dictionarylockout", &["--clear-lockout"]);
    with_pin("1234");
    assert_eq!(open().unwrap().expose(), b"root key");
}

fn locked_out(bench: &Bench) {
    let tpm = SwTpm::start();
    let keys = tempfile::tempdir().unwrap();
    let with_pin = |text: &str| TpmConfig { pin: pin(text), ..tpm.config() };
    let device = spawned(bench, with_pin("1234"));
    let root = root_of(&device);
    let wrapped = device.wrap(&root, b"root key", b"").unwrap();
    device.log_out();
    let without = spawned(bench, tpm.config_with_keys(keys.path()));
    let plain = without.wrap(&root, b"root key", b"").unwrap();
    let spec = KeySpec { label: "key".into(), id: None, kind: KeyKind::EcP256, usage: KeyUsage::Sign };
    let signing = without.generate(spec).unwrap().key_ref();
    without.log_out();

    // A TPM that allows one wrong try, and has it.
    let times = ["--recovery-time=1000", "--lockout-recovery-time=1000"];
    tpm.tool("tpm2_dictionarylockout", &[&["--setup-parameters", "--max-tries=1"][..], &times].concat());
    device.reconfigure(with_pin("4321")).unwrap();
    assert_eq!(class(device.unwrap(&root, &wrapped, b"")), Class::PinWrong);
    device.log_out();
    assert_eq!(failed_tries(&tpm), "0x1");
    device.reconfigure(with_pin("1234")).unwrap();
    for _ in 0..3 {
        let error = device.unwrap(&root, &wrapped, b"").err().unwrap();
        assert_eq!(error.class, Class::PinLocked, "{error}");
        for word in ["locked out", "recovery interval", "tpm2_dictionarylockout --clear-lockout"] {
            assert!(error.text.contains(word), "{word}: {error}");
        }
        assert!(!error.text.contains("1234"), "{error}");
    }
    device.log_out();
    assert_eq!(failed_tries(&tpm), "0x1");

    // What can be guessed by nobody counts no tries.
    assert_eq!(without.unwrap(&root, &plain, b"").unwrap().expose(), b"root key");
    let sign = || without.sign(signing.clone(), SignMechanism::Ecdsa(Hash::Sha256), SignInput::Message(b"m".to_vec()));
    sign().expect("a key counts no tries");
    without.log_out();

    tpm.tool("tpm2_dictionarylockout", &["--clear-lockout"]);
    device.reconfigure(with_pin("1234")).unwrap();
    assert_eq!(device.unwrap(&root, &wrapped, b"").unwrap().expose(), b"root key");
}

fn pin_and_pcrs(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    key_pair(folder.path(), "key", EC);
    let tpm = SwTpm::start();
    for approval in [None, Some(approval(folder.path(), "key"))] {
        approve(&tpm, folder.path(), "key", 11);
        let config = |text: &str| {
            let mut config = tpm.config();
            config.pcrs = vec![pcrs(PcrHash::Sha256, &[11])];
            config.approval = approval.clone();
            config.pin = pin(text);
            config
        };
        let device = spawned(bench, config("1234"));
        let key = root_of(&device);
        let wrapped = device.wrap(&key, b"root key", b"").unwrap();
        assert_eq!(device.unwrap(&key, &wrapped, b"").unwrap().expose(), b"root key");
        device.reconfigure(config("4321")).unwrap();
        assert_eq!(class(device.unwrap(&key, &wrapped, b"")), Class::PinWrong);
        device.log_out();
        tpm.tool("tpm2_dictionarylockout", &["--clear-lockout"]);
        tpm.measure(11);
        device.reconfigure(config("1234")).unwrap();
        assert_eq!(class(device.unwrap(&key, &wrapped, b"")), Class::PolicyRefused);
        device.log_out();
        assert_eq!(failed_tries(&tpm), "0x0", "measurements are looked at before a try is spent");
    }
}

fn root_handle(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().join("srk").display().to_string();
    tpm.tool("tpm2_createprimary", &["-C", "o", "-G", "rsa2048:aes128cfb", "-c", &context]);
    tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", &context, "0x81000001"]);
    let mut config = tpm.config();
    config.root_handle = Some(0x8100_0001);
    let device = spawned(bench, config);
    let key = root_of(&device);
    let wrapped = device.wrap(&key, b"root key", b"").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"").unwrap().expose(), b"root key");
    // The key of the template is another.
    device.reconfigure(tpm.config()).unwrap();
    assert_eq!(class(device.unwrap(&key, &wrapped, b"")), Class::KeyMissing);
    let mut config = tpm.config();
    config.root_handle = Some(0x8100_0002);
    device.reconfigure(config).unwrap();
    let error = device.unwrap(&key, &wrapped, b"").err().unwrap();
    assert_eq!(error.class, Class::Config, "{error}");
    assert!(error.text.contains("0x81000002 holds no key"), "{error}");
}

fn hierarchy_auth(bench: &Bench) {
    let tpm = SwTpm::start();
    tpm.tool("tpm2_changeauth", &["-c", "owner", "owner-secret"]);
    let device = spawned(bench, tpm.config());
    let error = device.ensure_wrapping_key(&WrapKeyConfig::from(&tpm.config())).unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
    assert!(error.text.contains("owner hierarchy") && error.text.contains("hierarchy_auth_file"), "{error}");
    let mut config = tpm.config();
    config.hierarchy_auth = pin("owner-secret");
    device.reconfigure(config).unwrap();
    let key = root_of(&device);
    assert!(device.wrap(&key, b"root key", b"").is_ok());
}

fn not_there(bench: &Bench) {
    let device = spawned(bench, TpmConfig::new("device:/dev/no-tpm-here"));
    let error = device.info().unwrap_err();
    assert!(matches!(error.class, Class::Gone), "{error}");
    assert!(error.text.contains("/dev/no-tpm-here") && error.text.contains("'tcti'"), "{error}");
    let error = spawned(bench, TpmConfig::new("telepathy")).info().unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
}

fn confined(bench: &Bench) {
    let tpm = SwTpm::start();
    let device = spawned(bench, tpm.config());
    device.random(100).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", device.helper_pid().unwrap())).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t3"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

/// Public and private part of the only key in a folder, as tpm2-tools take them.
fn parts(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(file).unwrap();
    let mut decoder = minicbor::Decoder::new(&bytes);
    assert_eq!(decoder.array().unwrap(), Some(8));
    (0..6).for_each(|_| decoder.skip().unwrap());
    let mut part = || {
        let part = decoder.bytes().unwrap();
        [&(part.len() as u16).to_be_bytes()[..], part].concat()
    };
    (part(), part())
}

/// As tpm2-tools take them, of the object in which the seal's secret is: fields 1 and 2 of the header, behind the way of the client
/// and a length.
fn parts_of_sealed(wrapped: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut decoder = minicbor::Decoder::new(&wrapped[4..]);
    decoder.array().unwrap();
    decoder.skip().unwrap();
    let mut part = || {
        let part = decoder.bytes().unwrap();
        [&(part.len() as u16).to_be_bytes()[..], part].concat()
    };
    (part(), part())
}

const ROOT: &str = "0x81000001";

/// Under the storage root key of `ROOT`, whether the TPM gives the object to another one. It is loaded as what it is first.
fn comes_out(tpm: &Tpm, folder: &Path, (public, private): (Vec<u8>, Vec<u8>)) -> (bool, String) {
    let place = |name: &str| folder.join(name).display().to_string();
    fs::write(place("public"), public).unwrap();
    fs::write(place("private"), private).unwrap();
    let loaded = ["-C", ROOT, "-u", &place("public"), "-r", &place("private"), "-c", &place("key")];
    tpm.tool("tpm2_load", &loaded);
    let attributes = tpm.tool("tpm2_readpublic", &["-c", &place("key")]);
    let to_nobody = ["-C", "null", "-G", "null", "-r", &place("copy"), "-s", &place("seed")];
    let mut duplicate = Command::new("tpm2_duplicate");
    let duplicate = duplicate.args(["-T", &tpm.tcti(), "-c", &place("key")]).args(to_nobody).output().unwrap();
    tpm.tool("tpm2_flushcontext", &["-t"]);
    (duplicate.status.success(), attributes)
}

/// On a TPM of its own, with a root key that tpm2-tools can name.
pub fn asked_for_keys(bench: &Bench) -> Cell {
    use KeyUsage::{Derive, Encrypt, Sign};
    let tpm = SwTpm::start();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    tpm.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", &place("srk")]);
    tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", &place("srk"), ROOT]);
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let mut config = tpm.config_with_keys(&keys);
    config.root_handle = Some(0x8100_0001);
    let device = spawned(bench, config);
    let all = [
        (KeyKind::Rsa(2048), Sign),
        (KeyKind::Rsa(2048), Encrypt),
        (KeyKind::Rsa(3072), Sign),
        (KeyKind::Rsa(3072), Encrypt),
        (KeyKind::EcP256, Sign),
        (KeyKind::EcP256, Derive),
        (KeyKind::EcP384, Sign),
        (KeyKind::EcP384, Derive),
        (KeyKind::EcP521, Sign),
        (KeyKind::EcP521, Derive),
    ];
    for (kind, usage) in all {
        let key = device.generate(KeySpec { label: "k".into(), id: None, kind, usage }).unwrap();
        device.log_out();
        let (out, attributes) = comes_out(&tpm, folder.path(), parts(&keys));
        for attribute in ["fixedtpm", "fixedparent", "sensitivedataorigin", "noda"] {
            assert!(attributes.contains(attribute), "{kind}: {attributes}");
        }
        assert!(!out, "{kind} for {usage:?}: the TPM gave its key away");
        device.destroy(key.key_ref()).unwrap();
    }
    // Nor the object in which the seal's secret is.
    let root = root_of(&device);
    let wrapped = device.wrap(&root, b"root key", b"").unwrap();
    device.log_out();
    let (out, attributes) = comes_out(&tpm, folder.path(), parts_of_sealed(&wrapped));
    assert!(attributes.contains("fixedtpm") && attributes.contains("fixedparent"), "{attributes}");
    assert!(!out, "the TPM gave what it sealed away");

    // The attempt is a real one: a key that was made to be let out comes out by it.
    tpm.tool("tpm2_startauthsession", &["-S", &place("session")]);
    tpm.tool("tpm2_policycommandcode", &["-S", &place("session"), "-L", &place("policy"), "TPM2_CC_Duplicate"]);
    tpm.tool("tpm2_flushcontext", &[&place("session")]);
    let open = ["-C", ROOT, "-G", "ecc", "-L", &place("policy"), "-a", "sensitivedataorigin|userwithauth|sign"];
    tpm.tool("tpm2_create", &[&open[..], &["-u", &place("open-public"), "-r", &place("open-private")]].concat());
    let loaded = ["-C", ROOT, "-u", &place("open-public"), "-r", &place("open-private"), "-c", &place("open")];
    tpm.tool("tpm2_load", &loaded);
    tpm.tool("tpm2_startauthsession", &["--policy-session", "-S", &place("session")]);
    tpm.tool("tpm2_policycommandcode", &["-S", &place("session"), "TPM2_CC_Duplicate"]);
    let with = format!("session:{}", place("session"));
    let to_nobody = ["-C", "null", "-G", "null", "-p", &with, "-r", &place("copy"), "-s", &place("seed")];
    tpm.tool("tpm2_duplicate", &[&["-c", &place("open")][..], &to_nobody].concat());
    Cell::WORKS
}

fn another_name(bench: &Bench) {
    let tpm = SwTpm::start();
    let keys = tempfile::tempdir().unwrap();
    let device = spawned(bench, tpm.config_with_keys(keys.path()));
    let spec = KeySpec { label: "aaaa".into(), id: None, kind: KeyKind::EcP256, usage: KeyUsage::Sign };
    device.generate(spec).unwrap();
    let sign = |label: &str| {
        let input = SignInput::Message(b"m".to_vec());
        device.sign(KeyRef::label(label), SignMechanism::Ecdsa(Hash::Sha256), input)
    };
    sign("aaaa").unwrap();
    device.log_out();
    let file = fs::read_dir(keys.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let place = bytes.windows(4).position(|window| window == b"aaaa").unwrap();
    bytes[place..place + 4].copy_from_slice(b"bbbb");
    fs::write(&file, bytes).unwrap();
    for _ in 0..5 {
        assert_eq!(class(sign("bbbb")), Class::Tampered);
    }
    device.log_out();
    assert_eq!(failed_tries(&tpm), "0x0", "that counts as no try");
}

fn keys_of_a_cleared_tpm(bench: &Bench) {
    let tpm = SwTpm::start();
    let keys = tempfile::tempdir().unwrap();
    let device = spawned(bench, tpm.config_with_keys(keys.path()));
    let spec = KeySpec { label: "k".into(), id: None, kind: KeyKind::EcP256, usage: KeyUsage::Sign };
    device.generate(spec).unwrap();
    device.log_out();
    tpm.tool("tpm2_clear", &["-c", "platform"]);
    let input = SignInput::Message(b"m".to_vec());
    let error = device.sign(KeyRef::label("k"), SignMechanism::Ecdsa(Hash::Sha256), input).unwrap_err();
    assert_eq!(error.class, Class::KeyMissing);
    assert!(error.text.contains("cleared or replaced"), "{error}");
}
