//! The seal's key: found, made, proved, and what it wraps.

use super::suite::class;
use super::{Bench, Test, softhsm, stub};
use holdfast_hsm::device::{CipherMechanism, DeviceErrorClass as Class};
use holdfast_hsm::pkcs11::{Pkcs11Config, Pkcs11Device};
use holdfast_hsm::software::{SoftwareConfig, SoftwareDevice};
use holdfast_hsm::{DeviceClient, WrapKeyConfig};
use std::sync::Arc;

pub const TESTS: &[Test] = &[
    ("a_wrapping_key_is_made_once_and_found_again", made_once),
    ("an_rsa_key_wraps_anything_with_associated_data", rsa),
    ("a_mechanism_that_the_token_lacks_is_refused", lacking),
    ("a_token_that_cannot_wrap_is_refused_with_what_it_would_take", cannot_wrap),
    ("what_is_wrapped_opens_only_unchanged_and_in_its_place", only_unchanged),
];

fn config(mechanism: Option<&str>, generate_key: bool) -> WrapKeyConfig {
    WrapKeyConfig {
        key_label: Some("root".into()),
        key_id: None,
        mechanism: mechanism.map(str::to_owned),
        generate_key,
    }
}

fn made_once(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("wrap-aes"));
    assert_eq!(class(device.ensure_wrapping_key(&config(None, false))), Class::KeyMissing);
    assert_eq!(class(device.ensure_wrapping_key(&WrapKeyConfig::default())), Class::Config);
    let nameless = WrapKeyConfig { key_id: Some("0x01".into()), generate_key: true, ..WrapKeyConfig::default() };
    assert_eq!(class(device.ensure_wrapping_key(&nameless)), Class::Config);

    let key = device.ensure_wrapping_key(&config(None, true)).unwrap();
    assert_eq!((key.mechanism, key.key_label.as_str()), (CipherMechanism::AesGcm, "root"));
    assert_eq!(key.public_part, None);
    assert_eq!(device.ensure_wrapping_key(&config(Some("0x1087"), true)).unwrap(), key);
    let by_id =
        WrapKeyConfig { key_id: Some(format!("0x{}", hex::encode_upper(&key.key_id))), ..WrapKeyConfig::default() };
    assert_eq!(device.ensure_wrapping_key(&by_id).unwrap(), key);

    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
}

fn rsa(_: &Bench) {
    let device = DeviceClient::in_process(Box::new(Pkcs11Device::new(softhsm::token("wrap-rsa"))));
    let key = device.ensure_wrapping_key(&config(Some("CKM_RSA_PKCS_OAEP"), true)).unwrap();
    assert_eq!(key.mechanism, CipherMechanism::RsaOaepSha1, "SoftHSM does no other, and the name says so");
    assert!(key.public_part.is_some());
    assert_eq!(device.ensure_wrapping_key(&config(None, false)).unwrap().key_id, key.key_id);
    let secret = vec![0x5A; 3000];
    let wrapped = device.wrap(&key, &secret, b"cluster").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), secret);
    assert_eq!(class(device.unwrap(&key, &wrapped, b"another")), Class::Tampered);
    for place in 1..wrapped.len() {
        if place % 29 == 0 || place < 5 {
            let mut changed = wrapped.clone();
            changed[place] ^= 1;
            assert!(device.unwrap(&key, &changed, b"cluster").is_err(), "byte {place}");
        }
    }
}

fn lacking(_: &Bench) {
    let device = DeviceClient::in_process(Box::new(SoftwareDevice::new(&SoftwareConfig::default()).unwrap()));
    // A YubiHSM alone does it.
    let of_another = CipherMechanism::YubiHsmWrap.name();
    let error = device.ensure_wrapping_key(&config(Some(of_another), true)).unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(error.text.contains("CKM_AES_GCM"), "{error}");
    assert_eq!(class(device.ensure_wrapping_key(&config(Some("CKM_DES3_CBC"), true))), Class::Config);
}

/// The stub lists no mechanism at all.
fn cannot_wrap(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let module = stub::build(directory.path(), "no_login", stub::NO_LOGIN);
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), Pkcs11Config::new(module));
    let error = device.ensure_wrapping_key(&config(None, true)).unwrap_err();
    assert_eq!(error.class, Class::Config);
    for word in ["'stub'", "CKM_AES_GCM", "CKM_RSA_PKCS_OAEP", "lists none"] {
        assert!(error.text.contains(word), "{error}");
    }
}

fn only_unchanged(_: &Bench) {
    let device = DeviceClient::in_process(Box::new(SoftwareDevice::new(&SoftwareConfig::default()).unwrap()));
    let key = device.ensure_wrapping_key(&config(None, true)).unwrap();
    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    assert_ne!(wrapped, device.wrap(&key, b"root key", b"cluster").unwrap());
    assert_eq!(class(device.unwrap(&key, &wrapped, b"another")), Class::Tampered);
    assert_eq!(class(device.unwrap(&key, b"", b"cluster")), Class::Tampered);
    for place in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[place] ^= 1;
        assert!(device.unwrap(&key, &changed, b"cluster").is_err(), "byte {place}");
        assert!(device.unwrap(&key, &wrapped[..place], b"cluster").is_err(), "cut at {place}");
    }
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
}
