//! What is special to a YubiHSM 2, over the simulator: sessions, capabilities, the log, a device that is reset or exchanged.

use super::suite::{Cell, class};
use super::{Bench, Test, helpers};
use holdfast_hsm::device::{
    CipherMechanism, DeviceErrorClass as Class, Hash, KeyDevice, KeyKind, KeyRef, KeySpec, KeyUsage, SignInput,
    SignMechanism, ec_point_of_spki,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::yubihsm::{YubiHsmConfig, YubiHsmDevice};
use holdfast_hsm::{DeviceClient, WrapKeyConfig};
use holdfast_yubihsm_simulator::{Simulator, capability};
use std::sync::Arc;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("yubihsm_forty_users_share_a_session_and_leave_none_behind", one_session),
    ("yubihsm_a_session_that_ended_is_opened_again", ended),
    ("yubihsm_sixteen_sessions_that_others_left_are_outwaited", sixteen),
    ("yubihsm_a_helper_that_was_killed_leaves_room_for_the_next", killed),
    ("yubihsm_a_wrong_password_is_tried_once", wrong_password),
    ("yubihsm_a_connector_that_was_away_is_used_again", away),
    ("yubihsm_an_exchanged_or_reset_device_is_said", exchanged),
    ("yubihsm_a_copy_of_the_wrap_key_opens_what_the_first_wrapped", copied),
    ("yubihsm_a_missing_capability_or_domain_is_named", missing),
    ("yubihsm_a_full_device_says_so", full),
    ("yubihsm_a_full_log_is_kept_before_it_is_forgotten", log),
    ("yubihsm_a_log_that_lost_an_entry_is_told_of", lost_entry),
    ("yubihsm_a_changed_answer_is_noticed", tampered),
    ("yubihsm_its_other_curve_and_every_digest_work", further_kinds),
    ("yubihsm_its_helper_is_confined_and_wraps_the_root_key", confined),
];

const PASSWORD: &str = "password";

/// For a device as it left the factory.
pub fn config(simulator: &Simulator) -> YubiHsmConfig {
    YubiHsmConfig { password: Some(secret(PASSWORD)), ..YubiHsmConfig::new(simulator.connector()) }
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn here(config: YubiHsmConfig) -> YubiHsmDevice {
    YubiHsmDevice::new(config).unwrap()
}

fn spawned(bench: &Bench, config: YubiHsmConfig) -> DeviceClient {
    DeviceClient::spawned(Arc::clone(&bench.spawner), config)
}

fn spec(label: &str, kind: KeyKind, usage: KeyUsage) -> KeySpec {
    KeySpec { label: label.to_owned(), id: None, kind, usage }
}

fn signing_key(device: &dyn KeyDevice, label: &str) -> KeyRef {
    device.generate(&spec(label, KeyKind::EcP256, KeyUsage::Sign)).unwrap().key_ref()
}

const ECDSA: SignMechanism = SignMechanism::Ecdsa(Hash::Sha256);

fn message() -> SignInput {
    SignInput::Message(b"to be signed".to_vec())
}

fn one_session(_: &Bench) {
    let simulator = Simulator::start();
    let device = here(config(&simulator));
    let key = signing_key(&device, "shared");
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| device.sign(&key, ECDSA, &message()).unwrap());
        }
    });
    assert_eq!(simulator.sessions(), 1);
    device.log_out();
    assert_eq!(simulator.sessions(), 0);
}

fn ended(_: &Bench) {
    let simulator = Simulator::start();
    let device = here(config(&simulator));
    let key = signing_key(&device, "key");
    for _ in 0..2 {
        simulator.pass(Duration::from_secs(40));
        device.sign(&key, ECDSA, &message()).unwrap();
    }
    simulator.power_cycle();
    // What may not be done twice is done all the same: the device said that it was not done.
    device.generate(&spec("another", KeyKind::EcP256, KeyUsage::Sign)).unwrap();
    assert_eq!(device.find(&KeyRef::label("another")).unwrap().len(), 1);
    assert_eq!(simulator.sessions(), 1);
}

fn sixteen(_: &Bench) {
    let simulator = Simulator::start();
    let others: Vec<_> = (0..16)
        .map(|_| {
            let other = here(config(&simulator));
            other.random(1).unwrap();
            other
        })
        .collect();
    assert_eq!(simulator.sessions(), 16);
    let device = here(config(&simulator));
    let error = device.random(1).unwrap_err();
    assert_eq!(error.class, Class::Busy);
    assert!(error.text.contains("16 sessions") && error.text.contains("30 s"), "{error}");
    simulator.pass(Duration::from_secs(31));
    device.random(1).unwrap();
    assert_eq!(simulator.sessions(), 1);
    drop(others);
}

fn killed(bench: &Bench) {
    let simulator = Simulator::start();
    let device = spawned(bench, config(&simulator));
    for left in 1..=3 {
        device.random(1).unwrap();
        assert_eq!(simulator.sessions(), left);
        helpers::kill(device.helper_pid().unwrap());
    }
    device.random(1).unwrap();
    simulator.pass(Duration::from_secs(31));
    device.random(1).unwrap();
    assert_eq!(simulator.sessions(), 1);
}

fn wrong_password(bench: &Bench) {
    let simulator = Simulator::start();
    let device = spawned(bench, YubiHsmConfig { password: Some(secret("guessed")), ..config(&simulator) });
    let error = device.find(KeyRef::label("root")).unwrap_err();
    assert_eq!(error.class, Class::PinWrong);
    assert!(error.text.contains("tried once") && error.text.contains("authentication key 1"), "{error}");
    assert!(!error.text.contains("guessed"), "{error}");
    let asked = simulator.commands();
    for _ in 0..3 {
        assert_eq!(class(device.find(KeyRef::label("root"))), Class::PinWrong);
    }
    assert_eq!(simulator.commands(), asked, "it is not asked again");
    device.info().expect("what it is it says to everybody");
    assert!(!device.take_pin(secret("guessed")), "the same password is not tried again");
    assert!(device.take_pin(secret(PASSWORD)));
    assert_eq!(device.find(KeyRef::label("root")).unwrap(), []);

    let nobody = here(YubiHsmConfig { auth_key: 77, ..config(&simulator) });
    let error = nobody.random(1).unwrap_err();
    assert_eq!(error.class, Class::NeedsLogin);
    assert!(error.text.contains("no authentication key 77") && error.text.contains("reset"), "{error}");
    let without = here(YubiHsmConfig { password: None, ..config(&simulator) });
    assert_eq!(class(without.random(1)), Class::NeedsLogin);
    without.info().unwrap();
}

fn away(bench: &Bench) {
    let mut simulator = Simulator::start();
    let device = spawned(bench, config(&simulator));
    let spec = spec("key", KeyKind::EcP256, KeyUsage::Sign);
    let key = device.generate(spec).unwrap().key_ref();
    simulator.kill();
    let error = device.sign(key.clone(), ECDSA, message()).unwrap_err();
    assert_eq!(error.class, Class::Gone);
    assert!(error.text.contains(&simulator.connector()) && error.text.contains("yubihsm-connector"), "{error}");
    simulator.start_again();
    device.sign(key.clone(), ECDSA, message()).unwrap();
    // A connector that was restarted between two calls costs neither of them.
    simulator.kill();
    simulator.start_again();
    device.sign(key.clone(), ECDSA, message()).unwrap();
    simulator.unplug(true);
    let error = device.sign(key.clone(), ECDSA, message()).unwrap_err();
    assert!(error.class == Class::Gone && error.text.contains("503") && error.text.contains("plugged in"), "{error}");
    simulator.unplug(false);
    device.sign(key, ECDSA, message()).unwrap();
}

fn wrapping(device: &YubiHsmDevice) -> (KeyRef, Vec<u8>) {
    let key = device.generate(&spec("root", KeyKind::AesCcm(256), KeyUsage::Encrypt)).unwrap().key_ref();
    let wrapped = device.encrypt(&key, CipherMechanism::YubiHsmWrap, &Secret::new(vec![7; 32]), b"").unwrap();
    (key, wrapped.bytes)
}

fn exchanged(_: &Bench) {
    let simulator = Simulator::start();
    let first = simulator.serial();
    let device = here(config(&simulator));
    let (key, wrapped) = wrapping(&device);
    let unwrap = |device: &YubiHsmDevice| device.decrypt(&key, CipherMechanism::YubiHsmWrap, &wrapped, b"");
    assert!(unwrap(&device).unwrap().ct_eq([7; 32]));

    simulator.exchange();
    let second = simulator.serial();
    let error = unwrap(&device).unwrap_err();
    assert_eq!(error.class, Class::KeyMissing);
    assert!(error.text.contains(&first.to_string()) && error.text.contains(&second.to_string()), "{error}");
    let bound = here(YubiHsmConfig { serial: Some(first), ..config(&simulator) });
    let error = unwrap(&bound).unwrap_err();
    assert_eq!(error.class, Class::Gone);
    assert!(error.text.contains("exchanged") && error.text.contains(&first.to_string()), "{error}");

    let all = capability::ALL;
    simulator.authentication_key(2, "mine", 0xffff, all, all);
    let own = here(YubiHsmConfig { auth_key: 2, password: Some(secret("mine")), ..config(&simulator) });
    own.random(1).unwrap();
    simulator.reset();
    let error = own.random(1).unwrap_err();
    assert!(error.class == Class::NeedsLogin && error.text.contains("the device was reset"), "{error}");
}

fn copied(_: &Bench) {
    let (simulator, backup) = (Simulator::start(), Simulator::start());
    let device = here(config(&simulator));
    let (key, wrapped) = wrapping(&device);
    backup.copy_wrap_keys(&simulator);
    let other = here(config(&backup));
    assert!(other.decrypt(&key, CipherMechanism::YubiHsmWrap, &wrapped, b"").unwrap().ct_eq([7; 32]));
    for place in [0, 4, 20, wrapped.len() - 1] {
        let mut changed = wrapped.clone();
        changed[place] ^= 1;
        assert_eq!(class(other.decrypt(&key, CipherMechanism::YubiHsmWrap, &changed, b"")), Class::Tampered);
    }
    for cut in [1, 4, 10, 30] {
        assert_eq!(class(other.decrypt(&key, CipherMechanism::YubiHsmWrap, &wrapped[..cut], b"")), Class::Tampered);
    }
    let long = Secret::new(vec![0; 1025]);
    assert_eq!(class(device.encrypt(&key, CipherMechanism::YubiHsmWrap, &long, b"")), Class::Invalid);
    assert_eq!(class(device.encrypt(&key, CipherMechanism::YubiHsmWrap, &Secret::new(vec![1]), b"a")), Class::Invalid);
}

fn missing(_: &Bench) {
    let simulator = Simulator::start();
    let admin = here(config(&simulator));
    let key = signing_key(&admin, "ours");
    let as_key = |id: u16, domains, capabilities, delegated| {
        simulator.authentication_key(id, "own", domains, capabilities, delegated);
        here(YubiHsmConfig { auth_key: id, password: Some(secret("own")), ..config(&simulator) })
    };
    let refused = |result: Result<Vec<u8>, holdfast_hsm::device::DeviceError>, text: &str| {
        let error = result.unwrap_err();
        assert!(error.class == Class::PolicyRefused && error.text.contains(text), "{text}: {error}");
    };
    let nothing = as_key(10, 0xffff, 0, 0);
    refused(nothing.sign(&key, ECDSA, &message()), "authentication key 10 on the YubiHSM");
    refused(nothing.sign(&key, ECDSA, &message()), "capability sign-ecdsa");
    refused(nothing.random(8).map(|bytes| bytes.expose().clone()), "get-pseudo-random");
    let made =
        |device: &YubiHsmDevice| device.generate(&spec("new", KeyKind::EcP256, KeyUsage::Sign)).map(|key| key.id);
    refused(made(&nothing), "generate-asymmetric-key");
    let gives_nothing = as_key(11, 0xffff, capability::GENERATE_ASYMMETRIC_KEY, 0);
    refused(made(&gives_nothing), "delegated capability sign-ecdsa");
    let can = nothing.info().unwrap().capabilities;
    assert!(can.generate.is_empty() && can.sign.is_empty() && !can.random, "{can:?}");

    let seal = WrapKeyConfig::from(&YubiHsmConfig {
        key_label: Some("root".into()),
        generate_key: true,
        ..config(&simulator)
    });
    let client = DeviceClient::in_process(Box::new(as_key(15, 0xffff, capability::GENERATE_WRAP_KEY, 0)));
    let error = client.ensure_wrapping_key(&seal).unwrap_err();
    assert!(error.text.contains("delegated capability wrap-data, unwrap-data"), "{error}");

    // The key itself may not.
    let derives = admin.generate(&spec("derives", KeyKind::EcP256, KeyUsage::Derive)).unwrap().key_ref();
    refused(admin.sign(&derives, ECDSA, &message()), "key 'derives'");

    let elsewhere = as_key(12, 0b100, capability::ALL, capability::ALL);
    simulator.authentication_key(13, "own", 0b1, capability::ALL, capability::ALL);
    let first = YubiHsmConfig { auth_key: 13, password: Some(secret("own")), ..config(&simulator) };
    let hidden = signing_key(&here(first), "hidden");
    let error = elsewhere.sign(&hidden, ECDSA, &message()).unwrap_err();
    assert_eq!(error.class, Class::KeyMissing);
    assert!(error.text.contains("domains 3"), "{error}");
    let beyond = YubiHsmConfig { domains: 0b110, auth_key: 12, password: Some(secret("own")), ..config(&simulator) };
    refused(made(&here(beyond)), "makes no key in 2");

    simulator.authentication_key(14, "own", 0xffff, capability::ALL & !capability::GET_LOG_ENTRIES, 0);
    let folder = tempfile::tempdir().unwrap();
    let log_file = Some(folder.path().join("log").display().to_string());
    let blind = YubiHsmConfig { auth_key: 14, password: Some(secret("own")), log_file, ..config(&simulator) };
    refused(here(blind).random(1).map(|bytes| bytes.expose().clone()), "get-log-entries");
}

fn full(_: &Bench) {
    let simulator = Simulator::start();
    let device = here(config(&simulator));
    let key = signing_key(&device, "last");
    simulator.fill();
    let error = device.generate(&spec("more", KeyKind::EcP256, KeyUsage::Sign)).unwrap_err();
    assert_eq!(error.class, Class::Failed);
    assert!(error.text.contains("is full: of 256 places for objects 0 are free"), "{error}");
    device.sign(&key, ECDSA, &message()).expect("what is there works");
    assert_eq!(
        class(
            device
                .find(&KeyRef::label("x".repeat(41)))
                .map(|found| assert!(found.is_empty()))
                .and(device.generate(&spec(&"x".repeat(41), KeyKind::EcP256, KeyUsage::Sign)),)
        ),
        Class::Invalid
    );
}

/// EXPORT WRAPPED, by a session and under a wrap key that may export all there is.
pub fn asked_for_keys(simulator: &Simulator) -> Cell {
    const GENERATE_ASYMMETRIC_KEY: u8 = 0x46;
    const EXPORT_WRAPPED: u8 = 0x4a;
    const GENERATE_WRAP_KEY: u8 = 0x5b;
    const INSUFFICIENT_PERMISSIONS: u8 = 0x09;
    const OBJECT_NOT_FOUND: u8 = 0x0b;
    const EC_P256: u8 = 12;
    const AES256_CCM_WRAP: u8 = 42;
    let device = here(config(simulator));
    let header = |id: u16, label: &[u8], capabilities: u64, algorithm: u8| {
        let mut data = id.to_be_bytes().to_vec();
        data.extend_from_slice(label);
        data.resize(2 + 40, 0);
        data.extend_from_slice(&[0xff, 0xff]);
        data.extend_from_slice(&capabilities.to_be_bytes());
        data.push(algorithm);
        data
    };
    let exporting = header(0x77, b"exporting", capability::EXPORT_WRAPPED, AES256_CCM_WRAP);
    let delegated = capability::ALL.to_be_bytes();
    simulator.command(1, GENERATE_WRAP_KEY, &[&exporting[..], &delegated].concat()).unwrap();
    let export = |kind: u8, id: &[u8]| simulator.command(1, EXPORT_WRAPPED, &[&[0, 0x77, kind], id].concat());

    use KeyUsage::{Derive, Encrypt, Sign};
    let ours = [
        (KeyKind::Rsa(2048), Sign),
        (KeyKind::Rsa(2048), Encrypt),
        (KeyKind::EcP256, Sign),
        (KeyKind::EcP256, Derive),
        (KeyKind::EcP384, Sign),
        (KeyKind::EcP521, Sign),
        (KeyKind::Ed25519, Sign),
        (KeyKind::Hmac(Hash::Sha256), Sign),
        (KeyKind::AesCcm(256), Encrypt),
    ];
    for (at, (kind, usage)) in ours.into_iter().enumerate() {
        let made = device.generate(&spec(&format!("ours-{at}"), kind, usage)).unwrap();
        assert!(!made.extractable);
        let object_type = match kind {
            KeyKind::AesCcm(_) => 4,
            KeyKind::Hmac(_) => 5,
            _ => 3,
        };
        assert_eq!(export(object_type, &made.id), Err(INSUFFICIENT_PERMISSIONS), "{kind} for {usage:?}");
    }
    assert_eq!(export(3, &[0x12, 0x34]), Err(OBJECT_NOT_FOUND), "what is refused is there");

    // The attempt is a real one: a key that was made to be exported comes out, and is known for what it is.
    let may = capability::SIGN_ECDSA | capability::EXPORTABLE_UNDER_WRAP;
    simulator.command(1, GENERATE_ASYMMETRIC_KEY, &header(0x88, b"open", may, EC_P256)).unwrap();
    assert!(export(3, &[0, 0x88]).unwrap().len() > 32);
    assert!(device.find(&KeyRef::label("open")).unwrap()[0].extractable);
    Cell::WORKS
}

fn log(bench: &Bench) {
    let simulator = Simulator::start();
    let plain = here(config(&simulator));
    let key = signing_key(&plain, "logged");
    simulator.force_audit();
    let mut refused = None;
    for _ in 0..70 {
        refused = refused.or(plain.sign(&key, ECDSA, &message()).err());
    }
    let error = refused.expect("a device that must log everything stops when its log is full");
    assert!(
        error.class == Class::Busy && error.text.contains("log is full") && error.text.contains("log_file"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let keeps = YubiHsmConfig { log_file: Some(file.display().to_string()), ..config(&simulator) };
    let device = spawned(bench, keeps);
    for _ in 0..150 {
        device.sign(key.clone(), ECDSA, message()).unwrap();
    }
    assert!(simulator.log_used() < 62, "what is kept is forgotten");
    device.log_out();
    let text = std::fs::read_to_string(&file).unwrap();
    // Each says which key signed.
    let id = key.id.as_deref().and_then(|id| id.try_into().ok()).map(u16::from_be_bytes).expect("an id of two bytes");
    let target = format!("\"target_key\":{id},");
    let signed = text.lines().filter(|line| line.contains("\"command\":\"0x56\"") && line.contains(&target));
    assert!(signed.count() >= 150, "{target} {text}");
    assert!(!text.contains("broken") && !text.contains("\"gap\""), "{text}");
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.split("\"number\":").nth(1)?.split(',').next()?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "each once, none is missing: {numbers:?}");

    // What cannot be kept is not forgotten by the device.
    let lost = YubiHsmConfig { log_file: Some("/nowhere/log".to_owned()), ..config(&simulator) };
    let used = simulator.log_used();
    let error = here(lost).random(1).unwrap_err();
    assert!(error.class == Class::Failed && error.text.contains("/nowhere/log"), "{error}");
    assert!(simulator.log_used() >= used);
}

fn lost_entry(bench: &Bench) {
    let simulator = Simulator::start();
    simulator.force_audit();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let keeps = YubiHsmConfig { log_file: Some(file.display().to_string()), ..config(&simulator) };
    let device = spawned(bench, keeps);
    let key = device.generate(spec("logged", KeyKind::EcP256, KeyUsage::Sign)).unwrap().key_ref();
    let sign = || device.sign(key.clone(), ECDSA, message()).unwrap();
    (0..40).for_each(|_| drop(sign()));
    assert_eq!(device.info().unwrap().warnings, [] as [String; 0]);
    simulator.lose_log_entry();
    (0..40).for_each(|_| drop(sign()));
    let warnings = device.info().unwrap().warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    for word in ["does not hold together", "are missing", &simulator.serial().to_string(), &file.display().to_string()]
    {
        assert!(warning.contains(word), "{word}: {warning}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap().matches("\"chain\":\"gap\"").count(), 1);
}

fn tampered(_: &Bench) {
    let simulator = Simulator::start();
    let device = here(config(&simulator));
    let key = signing_key(&device, "key");
    simulator.tamper(true);
    let error = device.sign(&key, ECDSA, &message()).unwrap_err();
    assert_eq!(error.class, Class::Tampered);
    assert!(error.text.contains("MAC is wrong"), "{error}");
    simulator.tamper(false);
    device.sign(&key, ECDSA, &message()).unwrap();
}

fn further_kinds(_: &Bench) {
    let simulator = Simulator::start();
    let device = here(config(&simulator));
    let key = device.generate(&spec("p521", KeyKind::EcP521, KeyUsage::Sign)).unwrap();
    assert_eq!(key.kind, KeyKind::EcP521);
    let signature = device.sign(&key.key_ref(), SignMechanism::Ecdsa(Hash::Sha512), &message()).unwrap();
    let spki = device.public_key(&key.key_ref()).unwrap();
    super::suite::openssl_agrees(&spki, SignMechanism::Ecdsa(Hash::Sha512), b"to be signed", &signature);
    let pair = ["a", "b"].map(|label| {
        let key = device.generate(&spec(label, KeyKind::EcP521, KeyUsage::Derive)).unwrap().key_ref();
        let point = ec_point_of_spki(&device.public_key(&key).unwrap()).unwrap().to_vec();
        (key, point)
    });
    let shared = device.derive(&pair[0].0, &pair[1].1).unwrap();
    assert_eq!(shared.expose().len(), 66);
    assert!(shared.ct_eq(device.derive(&pair[1].0, &pair[0].1).unwrap().expose()));
    // A digest that is longer or shorter than the curve.
    for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
        for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::EcP521] {
            let key = device.generate(&spec("any", kind, KeyUsage::Sign)).unwrap().key_ref();
            let signature = device.sign(&key, SignMechanism::Ecdsa(hash), &message()).unwrap();
            let spki = device.public_key(&key).unwrap();
            super::suite::openssl_agrees(&spki, SignMechanism::Ecdsa(hash), b"to be signed", &signature);
            device.destroy(&key).unwrap();
        }
    }
    let ed = device.generate(&spec("ed", KeyKind::Ed25519, KeyUsage::Sign)).unwrap().key_ref();
    let sign = |bytes| device.sign(&ed, SignMechanism::Ed25519, &SignInput::Message(vec![1; bytes]));
    assert_eq!(sign(2019).unwrap().len(), 64);
    assert_eq!(class(sign(2020)), Class::Invalid);
    assert_eq!(class(device.sign(&ed, ECDSA, &message())), Class::Invalid);
    // Ids are numbers of two bytes, given or chosen.
    let id = Some(vec![0x12, 0x34]);
    let named = device.generate(&KeySpec { id: id.clone(), ..spec("named", KeyKind::EcP256, KeyUsage::Sign) }).unwrap();
    assert_eq!(Some(named.id), id);
    let twice = device.generate(&KeySpec { id, ..spec("twice", KeyKind::EcP256, KeyUsage::Sign) });
    assert_eq!(class(twice), Class::Invalid);
    let odd = device.generate(&KeySpec { id: Some(vec![1; 16]), ..spec("odd", KeyKind::EcP256, KeyUsage::Sign) });
    assert_eq!(class(odd), Class::Invalid);
}

fn confined(bench: &Bench) {
    let simulator = Simulator::start();
    let device = spawned(bench, config(&simulator));
    let by_name = WrapKeyConfig::from(&YubiHsmConfig {
        key_label: Some("root".into()),
        generate_key: true,
        ..config(&simulator)
    });
    let key = device.ensure_wrapping_key(&by_name).unwrap();
    assert_eq!(key.mechanism, CipherMechanism::YubiHsmWrap);
    let wrapped = device.wrap(&key, &[9; 100], b"cluster").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), [9; 100]);
    assert_eq!(class(device.unwrap(&key, &wrapped, b"another")), Class::Tampered);
    let status = std::fs::read_to_string(format!("/proc/{}/status", device.helper_pid().unwrap())).unwrap();
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", device.helper_pid().unwrap())).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(PASSWORD));
}
