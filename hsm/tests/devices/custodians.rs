//! What a TPM gives back only when so many custodians have signed its nonce.

use super::softhsm::run;
use super::suite::class;
use super::swtpm::SwTpm;
use super::tpm::{EC, RSA, approval, approve, key_pair, pcrs, pin, root_of_config, spawned};
use super::{Bench, Test};
use holdfast_hsm::device::{Challenge, CipherMechanism, CustodianSignature, DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::memory::Key;
use holdfast_hsm::tpm::{Custodians, PcrHash, TpmConfig};
use holdfast_hsm::{DeviceClient, WrapKeyConfig, WrapKeyInfo, custodians_of};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

pub const TESTS: &[Test] = &[
    ("a_tpm_opens_when_enough_custodians_have_signed", enough_have_signed),
    ("custodians_signatures_serve_once_and_for_one_tpm_object", serve_once),
    ("too_few_custodians_and_strangers_open_nothing_of_a_tpm", too_few),
    ("many_custodians_of_a_tpm_are_joined_in_nested_policies", many),
    ("custodians_of_a_tpm_are_asked_beside_measurements_approvals_and_a_pin", beside_other_policies),
    ("a_challenge_to_custodians_ends_with_its_time_or_its_tpm", ends),
    ("sessions_that_wait_for_custodians_leave_nothing_in_a_tpm", leave_nothing),
    ("what_a_tpm_has_sealed_tells_whose_signatures_it_asks_for", tells_whose),
    ("custodians_that_cannot_be_are_refused_before_a_tpm_seals", cannot_be),
];

const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const VALID: Duration = Duration::from_secs(600);

/// Keys of custodians c0, c1, …
pub fn keys(algorithms: &[&[&str]]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, algorithm) in algorithms.iter().enumerate() {
        key_pair(folder.path(), &format!("c{i}"), algorithm);
        // Their name is the file's without its ending.
        fs::rename(folder.path().join(format!("c{i}.pub")), folder.path().join(format!("c{i}.pem"))).unwrap();
    }
    folder
}

pub fn with(config: TpmConfig, folder: &Path, threshold: u8, count: usize) -> TpmConfig {
    let file = |i| folder.join(format!("c{i}.pem")).display().to_string();
    let public_keys = (0..count).map(file).collect();
    TpmConfig { custodians: Some(Custodians { threshold, public_keys }), ..config }
}

/// A secret that custodians sign for.
struct Sealed<'d> {
    device: &'d DeviceClient,
    key: WrapKeyInfo,
    wrapped: Vec<u8>,
}

impl<'d> Sealed<'d> {
    fn by(device: &'d DeviceClient, config: &TpmConfig) -> Self {
        let key = root_of_config(device, config);
        assert_eq!(key.mechanism, CipherMechanism::TpmSealSigned);
        let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
        Self { device, key, wrapped }
    }

    fn challenge(&self) -> Result<Challenge, DeviceError> {
        self.device.challenge(&self.key, &self.wrapped, b"cluster", VALID)
    }

    fn open(&self, message: &[u8], signatures: Vec<CustodianSignature>) -> Result<Key, DeviceError> {
        self.device.unwrap_signed(&self.key, &self.wrapped, b"cluster", message, signatures)
    }
}

/// As a custodian does it, who has the message in a file.
fn sign(folder: &Path, message: &[u8], custodian: u8, hash: &str) -> CustodianSignature {
    let place = |name: &str| folder.join(name).display().to_string();
    fs::write(place("message"), message).unwrap();
    let key = place(&format!("c{custodian}"));
    run("openssl", &["dgst", hash, "-sign", &key, "-out", &place("signature"), &place("message")]);
    CustodianSignature { custodian, signature: fs::read(place("signature")).unwrap() }
}

pub fn signed(folder: &Path, challenge: &Challenge, by: &[u8]) -> Vec<CustodianSignature> {
    by.iter().map(|custodian| sign(folder, &challenge.message, *custodian, "-sha256")).collect()
}

fn refused(result: Result<Key, DeviceError>, word: &str) {
    let Err(error) = result else { panic!("it is opened") };
    assert_eq!(error.class, Class::PolicyRefused, "{error}");
    assert!(error.text.contains(word), "{word}: {error}");
}

fn enough_have_signed(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[RSA, EC, P384]);
    let folder = folder.path();
    let config = || with(tpm.config(), folder, 2, 3);
    let device = spawned(bench, config());
    let sealed = Sealed::by(&device, &config());
    // It does not open by itself, and says who is asked.
    let error = device.unwrap(&sealed.key, &sealed.wrapped, b"cluster").err().unwrap();
    assert_eq!(error.class, Class::NeedsCustodians, "{error}");
    assert!(error.text.contains("2 of its 3 custodians (c0, c1, c2)"), "{error}");

    for by in [[0, 1], [2, 0], [1, 2]] {
        let challenge = sealed.challenge().unwrap();
        assert_eq!((challenge.threshold, challenge.valid_secs), (2, 600));
        let names: Vec<&str> = challenge.custodians.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["c0", "c1", "c2"]);
        let sign = |c: u8| sign(folder, &challenge.message, c, if c == 2 { "-sha384" } else { "-sha256" });
        let signatures: Vec<_> = by.into_iter().map(sign).collect();
        assert_eq!(sealed.open(&challenge.message, signatures).unwrap().expose(), b"root key", "{by:?}");
    }
    // All of them are as good as enough; so it is after a restart of the helper, and without the files of their keys.
    device.log_out();
    (0..3).for_each(|i| fs::remove_file(folder.join(format!("c{i}.pem"))).unwrap());
    let challenge = sealed.challenge().unwrap();
    let mut all = signed(folder, &challenge, &[0, 1]);
    all.push(sign(folder, &challenge.message, 2, "-sha384"));
    assert_eq!(sealed.open(&challenge.message, all).unwrap().expose(), b"root key");
}

fn serve_once(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC, EC]);
    let folder = folder.path();
    let device = spawned(bench, with(tpm.config(), folder, 2, 2));
    let sealed = Sealed::by(&device, &with(tpm.config(), folder, 2, 2));
    let first = sealed.challenge().unwrap();
    let signatures = signed(folder, &first, &[0, 1]);
    assert!(sealed.open(&first.message, signatures.clone()).is_ok());
    refused(sealed.open(&first.message, signatures.clone()), "begin a new one");
    // What was signed for one nonce is nothing for the next.
    let second = sealed.challenge().unwrap();
    assert_ne!(first.message, second.message);
    refused(sealed.open(&second.message, signatures), "c0 is not one of their key over this challenge");
    // Nor is a challenge that another one has ended.
    let third = sealed.challenge().unwrap();
    let fourth = sealed.challenge().unwrap();
    refused(sealed.open(&third.message, signed(folder, &third, &[0, 1])), "begin a new one");
    assert!(sealed.open(&fourth.message, signed(folder, &fourth, &[0, 1])).is_ok());
    // What was signed for one object opens no other of the same place and custodians.
    let other = Sealed { device: &device, key: sealed.key.clone(), wrapped: sealed.wrapped.clone() };
    let other = Sealed { wrapped: device.wrap(&other.key, b"other", b"cluster").unwrap(), ..other };
    let challenge = sealed.challenge().unwrap();
    let signatures = signed(folder, &challenge, &[0, 1]);
    assert_eq!(class(other.open(&challenge.message, signatures)), Class::PolicyRefused);
    // Nor the same object elsewhere.
    let challenge = sealed.challenge().unwrap();
    let signatures = signed(folder, &challenge, &[0, 1]);
    let moved = device.unwrap_signed(&sealed.key, &sealed.wrapped, b"another", &challenge.message, signatures);
    assert!(moved.is_err());
}

fn too_few(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC, EC, EC, EC]);
    let folder = folder.path();
    let device = spawned(bench, with(tpm.config(), folder, 2, 3));
    let sealed = Sealed::by(&device, &with(tpm.config(), folder, 2, 3));
    let attempt = |tamper: &dyn Fn(&mut Vec<CustodianSignature>)| {
        let challenge = sealed.challenge().unwrap();
        let mut signatures = signed(folder, &challenge, &[0, 1]);
        tamper(&mut signatures);
        sealed.open(&challenge.message, signatures)
    };
    assert!(attempt(&|_| ()).is_ok());
    refused(attempt(&|s| s.truncate(1)), "1 custodians have signed, and 2 have to");
    refused(attempt(&|s| s.clear()), "0 custodians have signed");
    refused(attempt(&|s| s[1] = s[0].clone()), "1 custodians have signed");
    refused(attempt(&|s| s[1].custodian = 7), "1 custodians have signed");
    // The same signature under another's name, and one by somebody who is no custodian.
    refused(
        attempt(&|s| {
            s[1].signature = s[0].signature.clone();
        }),
        "c1 is not one of their key",
    );
    let challenge = sealed.challenge().unwrap();
    let mut signatures = signed(folder, &challenge, &[0, 3]);
    signatures[1].custodian = 1;
    refused(sealed.open(&challenge.message, signatures), "c1 is not one of their key");
    let mut bits = signed(folder, &sealed.challenge().unwrap(), &[0, 1]);
    bits[0].signature.truncate(9);
    assert!(sealed.open(&[], bits).is_err());
    // Wrong signatures are no tries that lock a TPM.
    device.log_out();
    assert!(tpm.tool("tpm2_getcap", &["properties-variable"]).contains("LOCKOUT_COUNTER: 0x0\n"));
}

fn many(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC; 14]);
    let folder = folder.path();
    for (threshold, count, by) in [
        (1, 9, &[8][..]),
        (2, 5, &[3, 4][..]),
        (5, 6, &[0, 2, 3, 4, 5][..]),
        (7, 14, &[0, 3, 4, 8, 9, 12, 13][..]),
        (14, 14, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13][..]),
    ] {
        let config = || with(tpm.config(), folder, threshold, count);
        let device = spawned(bench, config());
        let sealed = Sealed::by(&device, &config());
        let challenge = sealed.challenge().unwrap();
        let signatures = signed(folder, &challenge, by);
        let opened = sealed.open(&challenge.message, signatures).unwrap_or_else(|e| panic!("{threshold}/{count}: {e}"));
        assert_eq!(opened.expose(), b"root key");
        if threshold > 1 {
            let challenge = sealed.challenge().unwrap();
            let fewer = signed(folder, &challenge, &by[1..]);
            refused(sealed.open(&challenge.message, fewer), "have signed");
        }
        device.log_out();
    }
}

fn beside_other_policies(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC, RSA]);
    let folder = folder.path();
    key_pair(folder, "key", RSA);
    approve(&tpm, folder, "key", 11);
    for (approver, pin_text) in [(None, None), (None, Some("1234")), (Some(approval(folder, "key")), Some("1234"))] {
        approve(&tpm, folder, "key", 11);
        let config = || {
            let mut config = with(tpm.config(), folder, 2, 2);
            config.pcrs = vec![pcrs(PcrHash::Sha256, &[11])];
            config.approval.clone_from(&approver);
            config.pin = pin_text.and_then(pin);
            config
        };
        let device = spawned(bench, config());
        let sealed = Sealed::by(&device, &config());
        let challenge = sealed.challenge().unwrap();
        assert!(sealed.open(&challenge.message, signed(folder, &challenge, &[0, 1])).is_ok());
        if pin_text.is_some() {
            device.reconfigure(TpmConfig { pin: pin("4321"), ..config() }).unwrap();
            let challenge = sealed.challenge().unwrap();
            assert_eq!(class(sealed.open(&challenge.message, signed(folder, &challenge, &[0, 1]))), Class::PinWrong);
            device.log_out();
            tpm.tool("tpm2_dictionarylockout", &["--clear-lockout"]);
            device.reconfigure(config()).unwrap();
        }
        device.log_out();
        tpm.measure(11);
        // Nobody is asked in vain.
        let error = sealed.challenge().unwrap_err();
        assert_eq!(error.class, Class::PolicyRefused, "{error}");
        assert!(error.text.contains("PCR 11"), "{error}");
        device.log_out();
        if approver.is_some() {
            approve(&tpm, folder, "key", 11);
            let challenge = sealed.challenge().unwrap();
            assert!(sealed.open(&challenge.message, signed(folder, &challenge, &[0, 1])).is_ok());
            device.log_out();
        }
    }
}

fn ends(bench: &Bench) {
    let mut tpm = SwTpm::start();
    let folder = keys(&[EC]);
    let folder = folder.path();
    let device = spawned(bench, with(tpm.config(), folder, 1, 1));
    let sealed = Sealed::by(&device, &with(tpm.config(), folder, 1, 1));
    // The TPM's clock cannot be moved.
    let second = Duration::from_secs(1);
    let challenge = device.challenge(&sealed.key, &sealed.wrapped, b"cluster", second).unwrap();
    let signatures = signed(folder, &challenge, &[0]);
    sleep(second + Duration::from_millis(100));
    refused(sealed.open(&challenge.message, signatures), "begin a new one");
    for valid in [Duration::ZERO, Duration::from_secs(100_000)] {
        assert_eq!(class(device.challenge(&sealed.key, &sealed.wrapped, b"cluster", valid)), Class::Invalid);
    }

    let challenge = sealed.challenge().unwrap();
    tpm.kill();
    tpm.start_again();
    refused(sealed.open(&challenge.message, signed(folder, &challenge, &[0])), "begin a new one");
    let challenge = sealed.challenge().unwrap();
    super::helpers::kill(device.helper_pid().unwrap());
    assert!(sealed.open(&challenge.message, signed(folder, &challenge, &[0])).is_err());
    let challenge = sealed.challenge().unwrap();
    assert!(sealed.open(&challenge.message, signed(folder, &challenge, &[0])).is_ok());
}

fn leave_nothing(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC]);
    let folder = folder.path();
    let device = spawned(bench, with(tpm.config(), folder, 1, 1));
    let sealed = Sealed::by(&device, &with(tpm.config(), folder, 1, 1));
    // A TPM without a resource manager has room for three sessions.
    for _ in 0..8 {
        sealed.challenge().unwrap();
    }
    let challenge = sealed.challenge().unwrap();
    // What else it is asked meanwhile does not disturb it.
    assert_eq!(class(device.unwrap(&sealed.key, &sealed.wrapped, b"cluster")), Class::NeedsCustodians);
    assert!(device.wrap(&sealed.key, b"other", b"cluster").is_ok());
    device.random(16).unwrap();
    assert!(
        sealed.open(&challenge.message, signed(folder, &challenge, &[0])).is_err(),
        "sealing has tried the TPM out"
    );
    let challenge = sealed.challenge().unwrap();
    device.random(16).unwrap();
    assert!(sealed.open(&challenge.message, signed(folder, &challenge, &[0])).is_ok());
    sealed.challenge().unwrap();
    device.log_out();
    for handles in ["handles-transient", "handles-loaded-session", "handles-saved-session"] {
        assert_eq!(tpm.tool("tpm2_getcap", &[handles]).trim(), "", "{handles}");
    }
}

fn cannot_be(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC, EC]);
    let folder = folder.path();
    fs::copy(folder.join("c0.pem"), folder.join("c2.pem")).unwrap();
    fs::write(folder.join("c3.pem"), "no key").unwrap();
    key_pair(folder, "ed", &["-algorithm", "ED25519"]);
    let file = |name: &str| folder.join(name).display().to_string();
    let said = |threshold: u8, files: &[&str]| {
        let public_keys = files.iter().map(|name| file(name)).collect();
        let config = || TpmConfig {
            custodians: Some(Custodians { threshold, public_keys: Vec::clone(&public_keys) }),
            ..tpm.config()
        };
        let device = spawned(bench, config());
        let error = device.ensure_wrapping_key(&(&config()).into()).unwrap_err();
        device.log_out();
        assert_eq!(error.class, Class::Config, "{error}");
        error.text
    };
    assert!(said(1, &["c0.pem", "c1.pem", "c2.pem"]).contains("c0 and c2"));
    assert!(said(1, &["c3.pem"]).contains("no public key in PEM"));
    assert!(said(1, &["ed.pub"]).contains("P-256 or P-384"));
    assert!(said(1, &["missing.pem"]).contains("cannot be read"));
    assert!(said(3, &["c0.pem", "c1.pem"]).contains("3 of 2 custodians"));
    assert!(said(0, &["c0.pem"]).contains("0 of 1"));
}

fn tells_whose(bench: &Bench) {
    let tpm = SwTpm::start();
    let folder = keys(&[EC, EC, EC]);
    let asked = |config: TpmConfig| {
        let wrapping = WrapKeyConfig::from(&config);
        let device = spawned(bench, config);
        let key = device.ensure_wrapping_key(&wrapping).unwrap();
        let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
        custodians_of(&wrapped).map(<[u8]>::to_vec)
    };
    let two_of_two = asked(with(tpm.config(), folder.path(), 2, 2));
    assert!(two_of_two.is_some());
    assert_eq!(asked(TpmConfig { pin: pin("1234"), ..with(tpm.config(), folder.path(), 2, 2) }), two_of_two);
    assert_ne!(asked(with(tpm.config(), folder.path(), 1, 2)), two_of_two);
    assert_ne!(asked(with(tpm.config(), folder.path(), 2, 3)), two_of_two);
    assert_eq!(asked(tpm.config()), None);
    // Another key under the same name.
    fs::rename(folder.path().join("c2.pem"), folder.path().join("c1.pem")).unwrap();
    let other = asked(with(tpm.config(), folder.path(), 2, 2));
    assert!(other.is_some() && other != two_of_two);
}
