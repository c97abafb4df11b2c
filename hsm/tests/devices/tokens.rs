//! Tokens that are elsewhere, named oddly, absent, or shared.

use super::softhsm::{self, MODULE, PIN};
use super::suite::class;
use super::{Bench, Test, stub};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::Ulong;
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{
    CipherMechanism, DeviceErrorClass as Class, KeyDevice, KeyKind, KeyRef, KeySpec, KeyUsage, parse_key_id,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::{Pkcs11Config, Pkcs11Device};
use std::sync::Arc;
use std::thread;

pub const TESTS: &[Test] = &[
    ("a_key_is_found_by_label_and_by_id_in_every_form", every_form),
    ("halves_with_different_labels_are_one_key", different_labels),
    ("a_token_that_comes_later_is_seen", comes_later),
    ("a_slot_with_another_token_is_refused_with_both_names", another_token),
    ("a_token_is_found_by_label_serial_and_slot", found_by_each),
    ("a_missing_module_is_named", missing_module),
    ("a_token_without_login_needs_no_pin_and_comes_back", no_login),
    ("a_token_that_wants_a_pin_says_so", wants_pin),
    ("two_tokens_of_one_module_work_side_by_side", two_tokens),
    ("devices_open_and_close_under_load", open_and_close),
    ("forty_calls_share_a_few_sessions", few_sessions),
];

fn aes(label: &str, id: &str) -> KeySpec {
    let id = Some(parse_key_id(id).unwrap());
    KeySpec { label: label.to_owned(), id, kind: KeyKind::Aes(256), usage: KeyUsage::Encrypt }
}

fn every_form(_: &Bench) {
    let device = Pkcs11Device::new(softhsm::token("forms"));
    let key = device.generate(&aes("root", "ab01cd")).unwrap();
    let other = device.generate(&aes("other", "0xEF")).unwrap();
    for id in ["ab01cd", "AB01CD", "0xab01cd", "0XAB01CD", "0xAb01cD"] {
        for label in [None, Some(""), Some("root")] {
            let name = KeyRef::from_config(label, Some(id)).unwrap();
            assert_eq!(device.find(&name).unwrap(), std::slice::from_ref(&key), "{id}");
        }
    }
    assert_eq!(device.find(&KeyRef::label("root")).unwrap(), [key]);

    let seal = |name: &KeyRef| device.encrypt(name, CipherMechanism::AesGcm, &Secret::new(vec![1]), b"");
    let mixed = KeyRef { label: Some("root".into()), id: Some(other.id) };
    let error = seal(&mixed).unwrap_err();
    assert_eq!(error.class, Class::KeyMissing);
    assert!(error.text.contains("that id belongs to key 'other'"), "{error}");
    let mixed = KeyRef { label: Some("root".into()), id: Some(vec![0x99]) };
    assert!(seal(&mixed).unwrap_err().text.contains("that label belongs to id 0xab01cd"));
}

fn different_labels(_: &Bench) {
    let config = softhsm::token("halves");
    let module = Pkcs11::new(MODULE).unwrap();
    // Another device of this process may have it initialised already.
    let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    {
        let slots = module.get_slots_with_initialized_token().unwrap();
        let slot = slots.into_iter().find(|s| module.get_token_info(*s).unwrap().label() == "halves").unwrap();
        let session = module.open_rw_session(slot).unwrap();
        session.login(UserType::User, Some(&PIN.to_owned().into())).unwrap();
        let named =
            |label: &str| vec![Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(vec![0xAB, 0x12])];
        let public = [
            named("public name"),
            vec![Attribute::ModulusBits(Ulong::from(2048_u64)), Attribute::Encrypt(true), Attribute::Verify(true)],
        ]
        .concat();
        let private = [
            named("private name"),
            vec![Attribute::Private(true), Attribute::Sensitive(true), Attribute::Decrypt(true), Attribute::Sign(true)],
        ]
        .concat();
        session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
        // A secret key of the same id, as the field log has it.
        let secret = [
            named("secret name"),
            vec![
                Attribute::ValueLen(Ulong::from(32_u64)),
                Attribute::Private(true),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
            ],
        ]
        .concat();
        session.generate_key(&Mechanism::AesKeyGen, &secret).unwrap();
    }
    module.finalize().unwrap();

    let device = Pkcs11Device::new(config);
    let id = Some(vec![0xAB, 0x12]);
    let names = [
        KeyRef { label: None, id: id.clone() },
        KeyRef::label("public name"),
        KeyRef::label("private name"),
        KeyRef { label: Some("private name".into()), id: id.clone() },
        KeyRef { label: Some("public name".into()), id: id.clone() },
    ];
    for name in &names {
        let keys = device.find(name).unwrap();
        let pair = keys.iter().find(|key| key.kind == KeyKind::Rsa(2048)).expect("the pair is found");
        assert!(pair.private && pair.public, "{name}: {pair:?}");
        let oaep = CipherMechanism::RsaOaepSha256;
        let sealed = device.encrypt(name, oaep, &Secret::new(vec![7; 32]), b"").unwrap();
        assert!(device.decrypt(name, sealed.mechanism, &sealed.bytes, b"").unwrap().ct_eq([7; 32]), "{name}");
        assert!(!device.public_key(name).unwrap().is_empty());
    }
    for name in [KeyRef { label: None, id }, KeyRef::label("secret name")] {
        let sealed = device.encrypt(&name, CipherMechanism::AesGcm, &Secret::new(vec![7]), b"a").unwrap();
        assert!(device.decrypt(&name, sealed.mechanism, &sealed.bytes, b"a").unwrap().ct_eq([7]), "{name}");
    }
}

fn comes_later(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::config("late"));
    let error = device.find(KeyRef::label("root")).unwrap_err();
    assert_eq!(error.class, Class::Gone);
    assert!(error.text.contains("token 'late'") && error.text.contains("is not there"), "{error}");
    // Its rules may not know the place where the token comes to: another helper looks for it.
    assert_eq!(device.helper_pid(), None);
    softhsm::token("late");
    assert_eq!(device.find(KeyRef::label("root")).unwrap(), []);
    assert!(device.helper_pid().is_some());
}

fn slot_of(config: Pkcs11Config) -> u64 {
    Pkcs11Device::new(config).info().unwrap().slot
}

fn another_token(_: &Bench) {
    let slot = slot_of(softhsm::token("first"));
    let mut config = softhsm::token("second");
    config.slot = Some(slot);
    let error = Pkcs11Device::new(config).info().unwrap_err();
    assert_eq!(error.class, Class::Gone);
    assert!(error.text.contains("'first'") && error.text.contains("'second'"), "{error}");

    let mut config = Pkcs11Config::new(MODULE);
    config.slot = Some(1);
    let error = Pkcs11Device::new(config).info().unwrap_err();
    assert!(error.text.contains("slot 1 ") && error.text.contains("'first'"), "{error}");
    let error = Pkcs11Device::new(Pkcs11Config::new(MODULE)).info().unwrap_err();
    assert!(error.text.contains("several tokens"), "{error}");
}

fn found_by_each(_: &Bench) {
    let by_label = Pkcs11Device::new(softhsm::token("each")).info().unwrap();
    assert!(by_label.login_required);
    let mut by_serial = Pkcs11Config::new(MODULE);
    by_serial.token_serial = Some(by_label.serial.clone());
    assert_eq!(Pkcs11Device::new(by_serial).info().unwrap().token_label, "each");
    let mut by_slot = Pkcs11Config::new(MODULE);
    by_slot.slot = Some(by_label.slot);
    assert_eq!(Pkcs11Device::new(by_slot).info().unwrap().token_label, "each");
}

fn missing_module(_: &Bench) {
    let error = Pkcs11Device::new(Pkcs11Config::new("/nowhere/module.so")).info().unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(error.text.contains("/nowhere/module.so"), "{error}");
    let error = Pkcs11Device::new(Pkcs11Config::new("/etc/passwd")).info().unwrap_err();
    assert_eq!(error.class, Class::Config);
}

/// The stub loses its session at the second call and its device at the fourth.
fn no_login(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let module = stub::build(directory.path(), "no_login", stub::NO_LOGIN);
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), Pkcs11Config::new(module));
    let initialised_and_sessions = || {
        let bytes = device.random(2).expect("neither a PIN nor a second try by the caller is needed");
        (bytes.expose()[0], bytes.expose()[1])
    };
    assert_eq!(initialised_and_sessions(), (1, 1));
    assert_eq!(initialised_and_sessions(), (1, 2), "a lost session is opened again");
    assert_eq!(initialised_and_sessions(), (2, 3), "a lost device is initialised again");
    assert_eq!(initialised_and_sessions(), (2, 3), "a session is used again");
}

fn wants_pin(_: &Bench) {
    let mut config = softhsm::token("no-pin");
    config.pin = None;
    let device = Pkcs11Device::new(config);
    device.info().expect("information needs no login");
    assert_eq!(class(device.find(&KeyRef::label("root"))), Class::NeedsLogin);
}

fn two_tokens(_: &Bench) {
    let left = Pkcs11Device::new(softhsm::token("left"));
    let right = Pkcs11Device::new(softhsm::token("right"));
    left.generate(&aes("root", "01")).unwrap();
    right.generate(&aes("root", "02")).unwrap();
    thread::scope(|scope| {
        for (device, id) in [(&left, 1), (&right, 2), (&left, 1), (&right, 2)] {
            scope.spawn(move || {
                for _ in 0..20 {
                    let found = device.find(&KeyRef::label("root")).unwrap();
                    assert_eq!(found.len(), 1);
                    assert_eq!(found[0].id, [id]);
                }
            });
        }
    });
    drop(left);
    assert_eq!(right.find(&KeyRef::label("root")).unwrap().len(), 1, "closing one leaves the other");
}

fn open_and_close(_: &Bench) {
    let steady = Pkcs11Device::new(softhsm::token("steady"));
    softhsm::token("fleeting");
    steady.generate(&aes("root", "01")).unwrap();
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            for _ in 0..200 {
                let sealed = steady
                    .encrypt(&KeyRef::label("root"), CipherMechanism::AesGcm, &Secret::new(vec![1]), b"")
                    .unwrap();
                steady.decrypt(&KeyRef::label("root"), sealed.mechanism, &sealed.bytes, b"").unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..50 {
                    // An absent token makes the module start anew, under the others' feet.
                    let label = if round % 5 == 0 { "absent" } else { "fleeting" };
                    let found = Pkcs11Device::new(softhsm::config(label)).find(&KeyRef::label("none"));
                    assert_eq!(found.is_ok(), label == "fleeting", "{found:?}");
                }
            });
        }
        load.join().unwrap();
    });
}

fn few_sessions(_: &Bench) {
    let device = Pkcs11Device::new(softhsm::token("few"));
    device.generate(&aes("root", "01")).unwrap();
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                device.encrypt(&KeyRef::id([1]), CipherMechanism::AesGcm, &Secret::new(vec![1]), b"").unwrap()
            });
        }
    });
    device.log_out();
    assert_eq!(device.find(&KeyRef::id([1])).unwrap().len(), 1, "the next call logs in again");
}
