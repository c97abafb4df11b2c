//! Signatures checked by the public key alone: the second opinion on what a device signed.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use crate::device::{DeviceError, Hash, KeyKind, SignInput, SignMechanism};

/// Whether a signature is one of the key (SubjectPublicKeyInfo) over the input.
///
/// # Errors
/// `Invalid` for a digest of another length, `Unsupported` for what keys of the kind do not sign with.
pub fn verify(
    kind: KeyKind,
    public_key: &[u8],
    mechanism: SignMechanism,
    input: &SignInput,
    signed: &[u8],
) -> Result<bool, DeviceError> {
    let key = UnparsedPublicKey::new(algorithm(kind, mechanism)?, public_key);
    Ok(match (input, mechanism.hash()) {
        (SignInput::Message(message), _) => key.verify(message, signed).is_ok(),
        (SignInput::Digest(given), Some(hash)) => key.verify_digest(&imported(hash, given)?, signed).is_ok(),
        (SignInput::Digest(_), None) => return Err(DeviceError::unsupported("Ed25519 signs messages, not digests")),
    })
}

/// A digest that was made elsewhere.
pub(crate) fn imported(hash: Hash, given: &[u8]) -> Result<Digest, DeviceError> {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    let wrong = |_| DeviceError::invalid(format!("a digest of {} bytes is none of {hash}", given.len()));
    Digest::import_less_safe(given, algorithm).map_err(wrong)
}

fn algorithm(kind: KeyKind, mechanism: SignMechanism) -> Result<&'static dyn VerificationAlgorithm, DeviceError> {
    use SignMechanism as M;
    Ok(match (kind, mechanism) {
        (KeyKind::Rsa(_), M::RsaPkcs1(Hash::Sha256)) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa(_), M::RsaPkcs1(Hash::Sha384)) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa(_), M::RsaPkcs1(Hash::Sha512)) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa(_), M::RsaPss(Hash::Sha256)) => &signature::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa(_), M::RsaPss(Hash::Sha384)) => &signature::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa(_), M::RsaPss(Hash::Sha512)) => &signature::RSA_PSS_2048_8192_SHA512,
        (KeyKind::EcP256, M::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyKind::EcP256, M::Ecdsa(Hash::Sha384)) => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyKind::EcP256, M::Ecdsa(Hash::Sha512)) => &signature::ECDSA_P256_SHA512_ASN1,
        (KeyKind::EcP384, M::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyKind::EcP384, M::Ecdsa(Hash::Sha384)) => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyKind::EcP384, M::Ecdsa(Hash::Sha512)) => &signature::ECDSA_P384_SHA512_ASN1,
        (KeyKind::EcP521, M::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P521_SHA256_ASN1,
        (KeyKind::EcP521, M::Ecdsa(Hash::Sha384)) => &signature::ECDSA_P521_SHA384_ASN1,
        (KeyKind::EcP521, M::Ecdsa(Hash::Sha512)) => &signature::ECDSA_P521_SHA512_ASN1,
        (KeyKind::Ed25519, M::Ed25519) => &signature::ED25519,
        _ => return Err(DeviceError::unsupported(format!("a key of {kind} does not sign with {mechanism}"))),
    })
}
