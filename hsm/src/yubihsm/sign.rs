//! Signatures. What is hashed is hashed here; the device gets the digest.

use super::find::using;
use super::protocol::{Capabilities, Command, MGF1_SHA256, ObjectType, kind_of, with_hash};
use super::session::{Repeat, YubiHsm};
use crate::device::{DeviceError, KeyKind, KeyRef, SignInput, SignMechanism};

/// The longest message that fits into a command of every firmware, for Ed25519, which signs messages whole.
const MAX_MESSAGE_BYTES: usize = 2019;

pub(super) fn sign(
    hsm: &YubiHsm,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
) -> Result<Vec<u8>, DeviceError> {
    let input = input.prepared(mechanism)?;
    if input.len() > MAX_MESSAGE_BYTES {
        return Err(DeviceError::invalid(format!(
            "a YubiHSM signs messages of at most {MAX_MESSAGE_BYTES} bytes with {mechanism}, not {}",
            input.len()
        )));
    }
    let (command, right) = match mechanism {
        SignMechanism::Ecdsa(_) => (Command::SignEcdsa, Capabilities::SIGN_ECDSA),
        SignMechanism::RsaPkcs1(_) => (Command::SignPkcs1, Capabilities::SIGN_PKCS),
        SignMechanism::RsaPss(_) => (Command::SignPss, Capabilities::SIGN_PSS),
        SignMechanism::Ed25519 => (Command::SignEddsa, Capabilities::SIGN_EDDSA),
    };
    hsm.run(&format!("sign ({mechanism}) with {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Asymmetric, |session, object| {
            let kind = kind_of(object.algorithm);
            if !fits(kind, mechanism) {
                return Err(DeviceError::invalid(format!("{key} is {kind}, and does not sign with {mechanism}")).into());
            }
            session.may(right, Some(object))?;
            let mut data = object.id.to_be_bytes().to_vec();
            if let SignMechanism::RsaPss(hash) = mechanism {
                data.push(with_hash(MGF1_SHA256, hash));
                data.extend_from_slice(&(hash.digest_bytes() as u16).to_be_bytes());
            }
            data.extend_from_slice(&input);
            // ECDSA signatures come as DER, as they travel here.
            Ok(session.command(command, &data)?.to_vec())
        })
    })
}

fn fits(kind: KeyKind, mechanism: SignMechanism) -> bool {
    match mechanism {
        SignMechanism::Ecdsa(_) => matches!(kind, KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521),
        SignMechanism::RsaPkcs1(_) | SignMechanism::RsaPss(_) => matches!(kind, KeyKind::Rsa(_)),
        SignMechanism::Ed25519 => kind == KeyKind::Ed25519,
    }
}
