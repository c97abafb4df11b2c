//! What the device is and can do, as far as the authentication key may.

use super::protocol::{
    Capabilities as Rights, ECDH, ECDSA_SHA256, MGF1_SHA256, OAEP_SHA256, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    algorithm_name, algorithm_of, with_hash,
};
use super::session::{Repeat, YubiHsm};
use crate::device::{Capabilities, CipherMechanism, DeviceError, DeviceInfo, Hash, KeyKind, PinTries, SignMechanism};

const ASYMMETRIC: [KeyKind; 7] = [
    KeyKind::Rsa(2048),
    KeyKind::Rsa(3072),
    KeyKind::Rsa(4096),
    KeyKind::EcP256,
    KeyKind::EcP384,
    KeyKind::EcP521,
    KeyKind::Ed25519,
];
const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

pub(super) fn info(hsm: &YubiHsm) -> Result<DeviceInfo, DeviceError> {
    let device = hsm.device()?;
    // Who may not log in sees what the device does for others.
    let rights = hsm
        .run("ask for information", Repeat::Safe, |session| Ok(session.authority.capabilities))
        .unwrap_or(Rights(u64::MAX));
    let [major, minor, patch] = device.version;
    Ok(DeviceInfo {
        backend: "yubihsm".to_owned(),
        module: hsm.config.connector.clone(),
        library: format!("firmware {major}.{minor}.{patch}, log {} of {}", device.log_used, device.log_size),
        token_label: "YubiHSM".to_owned(),
        serial: device.serial.to_string(),
        model: format!("Yubico YubiHSM 2, seen by {} in the domains {}", hsm.config.who(), hsm.config.domains_text()),
        slot: 0,
        login_required: true,
        mechanisms: device.algorithms.iter().filter_map(|code| algorithm_name(*code)).map(str::to_owned).collect(),
        capabilities: capabilities(&device.algorithms, rights),
        pin_tries: PinTries::All,
        warnings: hsm.doubts.said().into_iter().collect(),
    })
}

fn capabilities(algorithms: &[u8], rights: Rights) -> Capabilities {
    let has = |code: u8| algorithms.contains(&code);
    let does = |kind: KeyKind| algorithm_of(kind).is_ok_and(has);
    let mut can = Capabilities {
        random: rights.has(Rights::GET_PSEUDO_RANDOM),
        derive: has(ECDH) && rights.has(Rights::DERIVE_ECDH),
        // What is public is left to whoever has the public key.
        never_verifies: true,
        ..Capabilities::default()
    };
    if rights.has(Rights::GENERATE_ASYMMETRIC_KEY) {
        can.generate.extend(ASYMMETRIC.into_iter().filter(|kind| does(*kind)));
    }
    if rights.has(Rights::GENERATE_WRAP_KEY) && does(KeyKind::AesCcm(256)) {
        can.generate.push(KeyKind::AesCcm(256));
    }
    type Way = fn(Hash) -> SignMechanism;
    let ways: [(Rights, u8, Way); 3] = [
        (Rights::SIGN_ECDSA, ECDSA_SHA256, SignMechanism::Ecdsa),
        (Rights::SIGN_PKCS, RSA_PKCS1_SHA256, SignMechanism::RsaPkcs1),
        (Rights::SIGN_PSS, RSA_PSS_SHA256, SignMechanism::RsaPss),
    ];
    for (_, first, way) in ways.into_iter().filter(|(right, ..)| rights.has(*right)) {
        can.sign.extend(HASHES.into_iter().filter(|hash| has(with_hash(first, *hash))).map(way));
    }
    if rights.has(Rights::SIGN_EDDSA) && does(KeyKind::Ed25519) {
        can.sign.push(SignMechanism::Ed25519);
    }
    if rights.has(Rights::SIGN_HMAC.and(Rights::VERIFY_HMAC)) {
        can.mac.extend(HASHES.into_iter().filter(|hash| does(KeyKind::Hmac(*hash))));
    }
    if rights.has(Rights::GENERATE_HMAC_KEY) {
        can.generate.extend(can.mac.iter().map(|hash| KeyKind::Hmac(*hash)));
    }
    if !rights.has(Rights::DELETE_WRAP_KEY) {
        can.never_destroys.push(KeyKind::AesCcm(256));
    }
    if !rights.has(Rights::DELETE_ASYMMETRIC_KEY) {
        can.never_destroys.extend(ASYMMETRIC);
    }
    if rights.has(Rights::WRAP_DATA.and(Rights::UNWRAP_DATA)) {
        can.cipher.push(CipherMechanism::YubiHsmWrap);
    }
    if rights.has(Rights::DECRYPT_OAEP) && has(OAEP_SHA256) && has(MGF1_SHA256) {
        can.decrypt_only.push(CipherMechanism::RsaOaepSha256);
    }
    can
}
