//! Signatures. What is hashed is hashed here; the token gets the digest.

use super::abilities::Ability;
use super::fault::Fault;
use super::find::{Family, Half, handle};
use super::public_key::curve;
use super::session::{Repeat, Sessions, Work};
use crate::device::{DeviceError, Hash, KeyRef, SignInput, SignMechanism};
use crate::device::{signature_from_der, signature_to_der};
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::types::Ulong;

pub(super) fn sign(
    sessions: &Sessions,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
) -> Result<Vec<u8>, DeviceError> {
    let data = to_token(mechanism, input.prepared(mechanism)?);
    sessions.try_to(Ability::Sign(mechanism), &format!("sign ({mechanism}) with {key}"), Repeat::Safe, |work| {
        let private = handle(work, key, Half::Private, family(mechanism))?;
        let signature = work.session.sign(&ck_mechanism(mechanism), private, &data)?;
        Ok(match mechanism {
            SignMechanism::Ecdsa(_) => signature_to_der(&signature),
            _ => signature,
        })
    })
}

pub(super) fn verify(
    sessions: &Sessions,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
    signature: &[u8],
) -> Result<bool, DeviceError> {
    let data = to_token(mechanism, input.prepared(mechanism)?);
    sessions.try_to(Ability::Sign(mechanism), &format!("verify ({mechanism}) with {key}"), Repeat::Safe, |work| {
        let public = handle(work, key, Half::Public, family(mechanism))?;
        let signature = match mechanism {
            SignMechanism::Ecdsa(_) => {
                let (_, half_bytes) = curve(work, public)?;
                let Some(raw) = signature_from_der(signature, half_bytes) else {
                    return Ok(false);
                };
                raw
            }
            _ => signature.to_vec(),
        };
        // RFC 8017, 8.2.2: one byte less is no signature. Modules have many names for it, and one takes it if that byte was 0.
        if !has_length_of(work, mechanism, public, &signature)? {
            return Ok(false);
        }
        match work.session.verify(&ck_mechanism(mechanism), public, &data, &signature) {
            Ok(()) => Ok(true),
            Err(Error::Pkcs11(RvError::SignatureInvalid | RvError::SignatureLenRange, _)) => Ok(false),
            Err(Error::Pkcs11(_, Function::Verify))
                if work.quirks.bad_signatures_have_any_name && work.session.get_session_info().is_ok() =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    })
}

/// Whether a signature has as many bytes as the key's signatures have.
fn has_length_of(
    work: &Work<'_>,
    mechanism: SignMechanism,
    public: ObjectHandle,
    signature: &[u8],
) -> Result<bool, Fault> {
    if family(mechanism) != Family::Rsa {
        return Ok(mechanism != SignMechanism::Ed25519 || signature.len() == 64);
    }
    for attribute in work.session.get_attributes(public, &[AttributeType::Modulus])? {
        if let Attribute::Modulus(modulus) = attribute {
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            return Ok(signature.len() == modulus.len() - zeros);
        }
    }
    Ok(true)
}

fn family(mechanism: SignMechanism) -> Family {
    match mechanism {
        SignMechanism::Ecdsa(_) => Family::Ec,
        SignMechanism::RsaPkcs1(_) | SignMechanism::RsaPss(_) => Family::Rsa,
        SignMechanism::Ed25519 => Family::Edwards,
    }
}

/// The digest as the mechanism wants it: PKCS#1 v1.5 signs a DigestInfo (RFC 8017, 9.2).
fn to_token(mechanism: SignMechanism, digest: Vec<u8>) -> Vec<u8> {
    let SignMechanism::RsaPkcs1(hash) = mechanism else {
        return digest;
    };
    let (algorithm, len) = match hash {
        Hash::Sha256 => (1, 32),
        Hash::Sha384 => (2, 48),
        Hash::Sha512 => (3, 64),
    };
    let prefix = [0x30, 17 + len, 0x30, 13, 0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, algorithm, 0x05, 0, 0x04, len];
    [&prefix[..], &digest].concat()
}

fn ck_mechanism(mechanism: SignMechanism) -> Mechanism<'static> {
    match mechanism {
        SignMechanism::Ecdsa(_) => Mechanism::Ecdsa,
        SignMechanism::RsaPkcs1(_) => Mechanism::RsaPkcs,
        SignMechanism::RsaPss(hash) => {
            let (hash_alg, mgf) = match hash {
                Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
                Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
                Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
            };
            let s_len = Ulong::from(hash.digest_bytes() as u64);
            Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len })
        }
        SignMechanism::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
    }
}
