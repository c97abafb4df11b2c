//! SoftHSM behind a module that watches each call and misbehaves when it is told to: sessions and logins are counted, errors of
//! every kind come where they may come, and answers are garbage.

use super::suite::{class, openssl_agrees};
use super::{Bench, Test, softhsm};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use holdfast_hsm::device::{
    CipherMechanism, DeviceError, DeviceErrorClass as Class, Hash, KeyDevice, KeyKind, KeyRef, KeySpec, KeyUsage,
    SignInput, SignMechanism,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::{Pkcs11Config, Pkcs11Device};
use holdfast_hsm::{DeviceClient, HelperLimits, WrapKeyConfig};
use holdfast_tests::module::{Shim, shim};
use std::sync::Arc;
use std::thread;
use tempfile::TempDir;

pub const TESTS: &[Test] = &[
    ("the_last_tries_of_a_pin_are_not_risked", last_tries),
    ("a_token_that_has_seen_wrong_pins_is_tried_once", tried_once),
    ("what_went_away_in_the_middle_of_a_signature_is_found_anew", found_anew),
    ("what_went_away_in_the_middle_of_anything_else_is_found_anew", found_anew_elsewhere),
    ("a_key_is_never_made_twice", made_once),
    ("a_token_without_room_says_that_it_is_full", full),
    ("sessions_are_few_and_none_is_left_behind", few_sessions),
    ("a_wrong_pin_at_one_token_leaves_the_other_at_work", two_tokens),
    ("a_module_is_initialised_once_in_a_thousand_rounds", thousand_rounds),
    ("garbage_of_a_module_harms_one_call_at_most", garbage),
    ("tags_are_those_of_openssl", tags),
];

const USER_PIN_COUNT_LOW: u64 = 0x10000;
const USER_PIN_FINAL_TRY: u64 = 0x20000;
const USER_PIN_LOCKED: u64 = 0x40000;

const DEVICE_MEMORY: u64 = 0x31;
const DEVICE_REMOVED: u64 = 0x32;
const FUNCTION_FAILED: u64 = 0x06;
const SESSION_HANDLE_INVALID: u64 = 0xB3;
const TOKEN_NOT_PRESENT: u64 = 0xE0;

const ECDSA: SignMechanism = SignMechanism::Ecdsa(Hash::Sha256);

fn watched() -> (TempDir, Shim) {
    let folder = tempfile::tempdir().unwrap();
    let shim = shim(folder.path());
    (folder, shim)
}

/// The token of SoftHSM through the module that watches.
fn through(shim: &Shim, token: Pkcs11Config) -> Pkcs11Config {
    let folder = shim.folder().display().to_string();
    let limits = HelperLimits { write_paths: vec![folder], ..HelperLimits::default() };
    Pkcs11Config { lib: shim.module.display().to_string(), limits, ..token }
}

fn wrong(config: Pkcs11Config) -> Pkcs11Config {
    Pkcs11Config { pin: Some(Secret::new("wrong-pin".into())), ..config }
}

fn spec(label: &str, kind: KeyKind, usage: KeyUsage) -> KeySpec {
    KeySpec { label: label.to_owned(), id: None, kind, usage }
}

fn pair(device: &Pkcs11Device, label: &str) -> KeyRef {
    device.generate(&spec(label, KeyKind::EcP256, KeyUsage::Sign)).unwrap().key_ref()
}

fn sign(device: &Pkcs11Device, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
    device.sign(key, ECDSA, &SignInput::Message(b"m".to_vec()))
}

fn last_tries(_: &Bench) {
    softhsm::token("tries");
    for (flag, said) in [(USER_PIN_FINAL_TRY, "one PIN try left"), (USER_PIN_LOCKED, "PIN is locked")] {
        let (_folder, shim) = watched();
        shim.flags(flag);
        // The PIN is right: that is not known before it is tried.
        let device = Pkcs11Device::new(through(&shim, softhsm::config("tries")));
        for _ in 0..3 {
            let error = device.find(&KeyRef::label("root")).unwrap_err();
            assert!(error.class == Class::PinLocked && error.text.contains(said), "{error}");
        }
        assert_eq!(shim.logins(), 0, "{said}");
        device.info().expect("what needs no login is told");
    }
}

fn tried_once(_: &Bench) {
    softhsm::token("count-low");
    let (_folder, shim) = watched();
    shim.flags(USER_PIN_COUNT_LOW);
    let config = || through(&shim, softhsm::config("count-low"));
    let device = Pkcs11Device::new(wrong(config()));
    for _ in 0..5 {
        assert_eq!(class(device.find(&KeyRef::label("root"))), Class::PinWrong);
    }
    assert_eq!(shim.logins(), 1);
    drop(device);
    let right = Pkcs11Device::new(config());
    assert_eq!(right.find(&KeyRef::label("root")).unwrap(), []);
    assert_eq!(shim.logins(), 2);
}

fn found_anew(_: &Bench) {
    softhsm::token("away");
    let (_folder, shim) = watched();
    let device = Pkcs11Device::new(through(&shim, softhsm::config("away")));
    let key = pair(&device, "key");
    let spki = device.public_key(&key).unwrap();
    sign(&device, &key).unwrap();
    let (logins, searches) = (shim.logins(), shim.count("C_FindObjectsInit"));
    sign(&device, &key).unwrap();
    assert_eq!((shim.logins(), shim.count("C_FindObjectsInit")), (logins, searches), "login and handle are kept");
    for fault in [SESSION_HANDLE_INVALID, DEVICE_REMOVED, TOKEN_NOT_PRESENT] {
        for function in ["C_SignInit", "C_Sign"] {
            let (logins, searches) = (shim.logins(), shim.count("C_FindObjectsInit"));
            shim.answer(function, fault);
            let signature = sign(&device, &key).expect("the caller does not see it");
            assert!(!shim.is_to_disturb(function), "it came");
            openssl_agrees(&spki, ECDSA, b"m", &signature);
            assert_eq!(shim.logins(), logins + 1, "one new login after {fault:#x} in {function}");
            assert!(shim.count("C_FindObjectsInit") > searches, "the handle is looked up again");
        }
    }
    let (made, ended) = (shim.count("C_Initialize"), shim.count("C_Finalize"));
    assert_eq!((made, ended), (5, 4), "a device that was away, and no lost session, makes the module start anew");
}

/// The seal's unwrap and wrap, a search, a login, and random bytes.
fn found_anew_elsewhere(_: &Bench) {
    softhsm::token("away-elsewhere");
    let (_folder, shim) = watched();
    let device = Pkcs11Device::new(through(&shim, softhsm::config("away-elsewhere")));
    let key = device.generate(&spec("root", KeyKind::Aes(256), KeyUsage::Encrypt)).unwrap().key_ref();
    let with = CipherMechanism::AesGcm;
    let encrypt = || device.encrypt(&key, with, &Secret::new(b"root key".to_vec()), b"cluster");
    let sealed = encrypt().unwrap();
    let decrypts = |sealed: &[u8]| {
        let opened = device.decrypt(&key, with, sealed, b"cluster").expect("the caller does not see it");
        assert!(opened.ct_eq(b"root key"));
    };
    for fault in [SESSION_HANDLE_INVALID, DEVICE_REMOVED, TOKEN_NOT_PRESENT] {
        for function in
            ["C_DecryptInit", "C_Decrypt", "C_EncryptInit", "C_Encrypt", "C_FindObjectsInit", "C_GenerateRandom"]
        {
            let logins = shim.logins();
            shim.answer(function, fault);
            match function {
                "C_DecryptInit" | "C_Decrypt" => decrypts(&sealed.bytes),
                "C_EncryptInit" | "C_Encrypt" => decrypts(&encrypt().expect("the caller does not see it").bytes),
                "C_FindObjectsInit" => assert_eq!(device.find(&KeyRef::label("root")).unwrap().len(), 1),
                _ => assert_eq!(device.random(32).unwrap().expose().len(), 32),
            }
            assert!(!shim.is_to_disturb(function), "{fault:#x} came in {function}");
            assert_eq!(shim.logins(), logins + 1, "one new login after {fault:#x} in {function}");
        }
    }
}

fn made_once(_: &Bench) {
    softhsm::token("once");
    let (_folder, shim) = watched();
    let device = Pkcs11Device::new(through(&shim, softhsm::config("once")));
    pair(&device, "first");
    for (fault, kind, function) in [
        (FUNCTION_FAILED, KeyKind::EcP256, "C_GenerateKeyPair"),
        (DEVICE_REMOVED, KeyKind::EcP256, "C_GenerateKeyPair"),
        (TOKEN_NOT_PRESENT, KeyKind::Aes(256), "C_GenerateKey"),
    ] {
        let usage = if kind == KeyKind::EcP256 { KeyUsage::Sign } else { KeyUsage::Encrypt };
        let before = shim.count(function);
        shim.answer_after(function, fault);
        let error = device.generate(&spec("unsure", kind, usage)).unwrap_err();
        assert!(!error.text.is_empty());
        assert_eq!(shim.count(function), before + 1, "nobody knows whether it was made: {error}");
        assert_eq!(device.find(&KeyRef::label("unsure")).unwrap(), [], "what came of it is taken away: {error}");
    }
    // A session that is gone did nothing: that is asked again.
    let before = shim.count("C_GenerateKeyPair");
    shim.answer("C_GenerateKeyPair", SESSION_HANDLE_INVALID);
    pair(&device, "again");
    assert_eq!(shim.count("C_GenerateKeyPair"), before + 2);
}

fn full(_: &Bench) {
    softhsm::token("full");
    let (_folder, shim) = watched();
    let device = Pkcs11Device::new(through(&shim, softhsm::config("full")));
    let key = pair(&device, "first");
    shim.answer("C_GenerateKeyPair", DEVICE_MEMORY);
    let error = device.generate(&spec("more", KeyKind::EcP256, KeyUsage::Sign)).unwrap_err();
    assert!(error.class == Class::Failed && !error.is_transient(), "{error:?}");
    assert!(error.text.contains("the token is full") && !error.text.contains("later"), "{error}");
    sign(&device, &key).expect("what is there works");
    // In a signature it is a matter of the moment.
    shim.answer("C_SignInit", DEVICE_MEMORY);
    assert_eq!(class(sign(&device, &key)), Class::Busy);
}

/// The most sessions that were open at once, and how many are open at the end.
fn sessions(calls: &[String]) -> (usize, usize) {
    calls.iter().fold((0, 0), |(most, open): (usize, usize), call| match call.as_str() {
        "C_OpenSession" => (most.max(open + 1), open + 1),
        "C_CloseSession" => (most, open - 1),
        // All of them end with it.
        "C_Finalize" => (most, 0),
        _ => (most, open),
    })
}

fn few_sessions(_: &Bench) {
    softhsm::token("counted");
    let (_folder, shim) = watched();
    let device = Pkcs11Device::new(through(&shim, softhsm::config("counted")));
    let key = pair(&device, "key");
    let forty = || {
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..5).for_each(|_| drop(sign(&device, &key).unwrap())));
            }
        });
    };
    forty();
    let (most, open) = sessions(&shim.calls());
    assert!((1..=4).contains(&most) && open > 0, "{most} at once, {open} open");
    assert_eq!(shim.logins(), 1, "one login for all of them");
    device.log_out();
    assert_eq!(sessions(&shim.calls()).1, 0, "none is left after the logout");
    forty();
    assert!(sessions(&shim.calls()).0 <= 4);
    assert_eq!(shim.logins(), 2, "another login, for another forty");
    drop(device);
    let calls = shim.calls();
    assert_eq!(calls.last().map(String::as_str), Some("C_Finalize"));
    assert_eq!(sessions(&calls[..calls.len() - 1]).1, 0, "all are closed before the module is finalised");
}

fn two_tokens(_: &Bench) {
    let (good, bad) = (softhsm::token("good"), softhsm::token("bad"));
    let (_folder, shim) = watched();
    let good = Pkcs11Device::new(through(&shim, good));
    let bad = Pkcs11Device::new(wrong(through(&shim, bad)));
    let key = pair(&good, "key");
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                assert_eq!(class(bad.find(&KeyRef::label("key"))), Class::PinWrong);
            }
        });
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| drop(sign(&good, &key).unwrap())));
        }
    });
    assert_eq!(shim.logins(), 2, "one try at each");
    assert!(sessions(&shim.calls()).0 <= 8);
    assert!(softhsm::has_seen_a_wrong_pin("bad") && !softhsm::has_seen_a_wrong_pin("good"));
}

/// The report F081: a module of two tokens that are opened and closed all the time, while one of them is in use.
fn thousand_rounds(_: &Bench) {
    let (steady, fleeting) = (softhsm::token("kept-open"), softhsm::token("opened-often"));
    let (_folder, shim) = watched();
    let lib = shim.module.display().to_string();
    let steady = Pkcs11Device::new(through(&shim, steady));
    let key = pair(&steady, "key");
    thread::scope(|scope| {
        scope.spawn(|| (0..1000).for_each(|_| drop(sign(&steady, &key).unwrap())));
        scope.spawn(|| {
            for _ in 0..1000 {
                let config = Pkcs11Config { token_label: fleeting.token_label.clone(), ..softhsm::config("") };
                let device = Pkcs11Device::new(Pkcs11Config { lib: lib.clone(), ..config });
                assert_eq!(device.find(&KeyRef::label("none")).unwrap(), []);
            }
        });
    });
    assert_eq!((shim.count("C_Initialize"), shim.count("C_Finalize")), (1, 0), "one token is in use");
    assert!(shim.logins() >= 1001, "each round logs in");
    drop(steady);
    let calls = shim.calls();
    assert_eq!((shim.count("C_Initialize"), shim.count("C_Finalize")), (1, 1));
    assert_eq!(calls.last().map(String::as_str), Some("C_Finalize"));
    assert_eq!(sessions(&calls[..calls.len() - 1]).1, 0, "finalised after the last session");
}

fn garbage(bench: &Bench) {
    softhsm::token("garbage");
    let (_folder, shim) = watched();
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), through(&shim, softhsm::config("garbage")));
    let key = device.generate(spec("pair", KeyKind::EcP256, KeyUsage::Sign)).unwrap().key_ref();
    let spki = device.public_key(key.clone()).unwrap();
    let sign = || device.sign(key.clone(), ECDSA, SignInput::Message(b"m".to_vec()));
    let good = |signature: Vec<u8>| {
        let message = SignInput::Message(b"m".to_vec());
        device.verify(key.clone(), ECDSA, message, signature).unwrap()
    };
    let wrapping = WrapKeyConfig { key_label: Some("root".into()), generate_key: true, ..WrapKeyConfig::default() };
    let root = device.ensure_wrapping_key(&wrapping).unwrap();
    let wrapped = device.wrap(&root, b"root key", b"").unwrap();

    // A wrong signature looks like any: who has the public half sees it, as the server's keys do before they give it out.
    shim.disturb("garbage-sign");
    let wrong = sign().unwrap();
    assert!(!good(wrong) && !shim.is_to_disturb("garbage-sign"));
    assert!(good(sign().unwrap()));
    // A TiB for a signature: the helper ends, another one signs.
    let helper = device.helper_pid();
    shim.disturb("garbage-length");
    assert!(good(sign().unwrap()) && !shim.is_to_disturb("garbage-length"));
    assert_ne!(device.helper_pid(), helper, "the one that was told of it is gone");
    // More than there was place for is not read.
    shim.disturb("garbage-longer");
    assert!(good(sign().unwrap()) && !shim.is_to_disturb("garbage-longer"));
    // Lists of absurd length.
    for list in ["garbage-list", "garbage-mechanisms"] {
        device.log_out();
        shim.disturb(list);
        assert_eq!(device.find(key.clone()).unwrap().len(), 1, "{list}");
        assert!(!shim.is_to_disturb(list), "{list} came");
    }
    // What is opened is not what was closed.
    shim.disturb("garbage-decrypt");
    let opened = device.unwrap(&root, &wrapped, b"").map(|key| key.expose().to_vec());
    assert_ne!(opened.ok().as_deref(), Some(&b"root key"[..]));
    assert_eq!(device.unwrap(&root, &wrapped, b"").unwrap().expose(), b"root key");
    shim.disturb("garbage-decrypt");
    let error = device.ensure_wrapping_key(&wrapping).unwrap_err();
    assert!(error.class == Class::Failed && error.text.contains("does not open what it closed"), "{error}");
    device.ensure_wrapping_key(&wrapping).expect("the next try is good");
    openssl_agrees(&spki, ECDSA, b"m", &sign().unwrap());
}

/// Puts a secret on the token 'tags', as other programs do.
fn given(secret: &[u8], id: &str) {
    let module = Pkcs11::new(softhsm::MODULE).unwrap();
    // The device of this process may have it initialised already.
    let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slots = module.get_slots_with_initialized_token().unwrap();
    let slot = slots.into_iter().find(|slot| module.get_token_info(*slot).unwrap().label() == "tags").unwrap();
    let session = module.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&softhsm::PIN.to_owned().into()));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(true),
        Attribute::Label(b"given".to_vec()),
        Attribute::Id(hex::decode(id).unwrap()),
        Attribute::Value(secret.to_vec()),
        Attribute::Sign(true),
        Attribute::Verify(true),
    ];
    session.create_object(&template).unwrap();
}

/// A second opinion on HMAC, with keys that others put on the token.
fn tags(_: &Bench) {
    let device = Pkcs11Device::new(softhsm::token("tags"));
    let folder = tempfile::tempdir().unwrap();
    let message = folder.path().join("message");
    std::fs::write(&message, b"to be tagged").unwrap();
    for (hash, bytes, id) in [(Hash::Sha256, 32, "01"), (Hash::Sha384, 48, "02"), (Hash::Sha512, 64, "03")] {
        let secret: Vec<u8> = (0..bytes).collect();
        given(&secret, id);
        let key = KeyRef::id(hex::decode(id).unwrap());
        assert_eq!(device.find(&key).unwrap()[0].kind, KeyKind::Hmac(hash));
        let tag = device.mac(&key, hash, b"to be tagged").unwrap();
        let (digest, key_of) =
            (format!("-{}", hash.to_string().to_lowercase()), format!("hexkey:{}", hex::encode(&secret)));
        let message = message.display().to_string();
        let said = softhsm::run("openssl", &["dgst", &digest, "-mac", "HMAC", "-macopt", &key_of, &message]);
        assert!(said.trim_end().ends_with(&hex::encode(tag)), "{said}");
    }
    let sealed = device.encrypt(&KeyRef::label("given"), CipherMechanism::AesGcm, &Secret::new(vec![1]), b"");
    assert_eq!(class(sealed), Class::KeyMissing, "they encrypt nothing");
}
