//! What the token is and can do.

use super::session::Sessions;
use crate::device::{Capabilities, CipherMechanism, DeviceError, DeviceInfo, Hash, KeyKind, PinTries, SignMechanism};
use cryptoki::mechanism::{MechanismInfo, MechanismType};

pub(super) fn info(sessions: &Sessions) -> Result<DeviceInfo, DeviceError> {
    sessions.look(&"ask for information", |context, slot| {
        let library = context.get_library_info()?;
        let token = context.get_token_info(slot)?;
        let mut mechanisms = Vec::new();
        for mechanism in context.get_mechanism_list(slot)? {
            // A mechanism that is listed but cannot be described is not used.
            if let Ok(info) = context.get_mechanism_info(slot, mechanism) {
                mechanisms.push((mechanism, info));
            }
        }
        Ok(DeviceInfo {
            backend: "pkcs11".to_owned(),
            module: sessions.config.lib.clone(),
            library: format!("{} {}", library.library_description().trim(), library.library_version()),
            token_label: token.label().to_owned(),
            serial: token.serial_number().to_owned(),
            model: format!("{} {}", token.manufacturer_id(), token.model()),
            slot: slot.id(),
            login_required: token.login_required(),
            capabilities: capabilities(&mechanisms, token.rng()),
            mechanisms: mechanisms.iter().map(|(mechanism, _)| mechanism.to_string()).collect(),
            pin_tries: match (token.user_pin_locked(), token.user_pin_final_try(), token.user_pin_count_low()) {
                (true, ..) => PinTries::Locked,
                (_, true, _) => PinTries::Last,
                (.., true) => PinTries::Fewer,
                _ => PinTries::All,
            },
        })
    })
}

fn capabilities(mechanisms: &[(MechanismType, MechanismInfo)], random: bool) -> Capabilities {
    let of = |mechanism| mechanisms.iter().find(|(m, _)| *m == mechanism).map(|(_, info)| info);
    let makes = |mechanism| of(mechanism).is_some_and(|i| i.generate() || i.generate_key_pair());
    let signs = |mechanism| of(mechanism).is_some_and(MechanismInfo::sign);
    let decrypts = |mechanism| of(mechanism).is_some_and(MechanismInfo::decrypt);

    let mut can = Capabilities { random, ..Capabilities::default() };
    if makes(MechanismType::AES_KEY_GEN) {
        can.generate.push(KeyKind::Aes(256));
        can.import.push(KeyKind::Aes(256));
    }
    if makes(MechanismType::RSA_PKCS_KEY_PAIR_GEN) {
        let largest = of(MechanismType::RSA_PKCS_KEY_PAIR_GEN).map_or(0, MechanismInfo::max_key_size);
        can.generate.extend([2048, 3072, 4096].into_iter().filter(|b| *b as usize <= largest).map(KeyKind::Rsa));
    }
    if makes(MechanismType::ECC_KEY_PAIR_GEN) {
        can.generate.extend([KeyKind::EcP256, KeyKind::EcP384]);
    }
    if makes(MechanismType::ECC_EDWARDS_KEY_PAIR_GEN) {
        can.generate.push(KeyKind::Ed25519);
    }
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
    if signs(MechanismType::ECDSA) {
        can.sign.extend(hashes.map(SignMechanism::Ecdsa));
    }
    if signs(MechanismType::RSA_PKCS) {
        can.sign.extend(hashes.map(SignMechanism::RsaPkcs1));
    }
    if signs(MechanismType::RSA_PKCS_PSS) {
        can.sign.extend(hashes.map(SignMechanism::RsaPss));
    }
    if signs(MechanismType::EDDSA) {
        can.sign.push(SignMechanism::Ed25519);
    }
    if decrypts(MechanismType::AES_GCM) {
        can.cipher.push(CipherMechanism::AesGcm);
    }
    if decrypts(MechanismType::RSA_PKCS_OAEP) {
        can.cipher.push(CipherMechanism::RsaOaepSha256);
    }
    can.derive = of(MechanismType::ECDH1_DERIVE).is_some_and(MechanismInfo::derive);
    can
}
