//! Encryption and decryption, in the two ways of a TPM.

use crate::connection::Tpm;
use crate::{oaep, quorum, seal};
use holdfast_hsm::device::{Challenge, CipherMechanism, Ciphertext, CustodianSignature, DeviceError, KeyRef};
use holdfast_hsm::memory::Secret;

pub(crate) fn encrypt(
    tpm: &Tpm,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &Secret<Vec<u8>>,
    aad: &[u8],
) -> Result<Ciphertext, DeviceError> {
    check(plaintext.expose())?;
    let bytes = match mechanism {
        CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned => {
            if mechanism.needs_custodians() != tpm.config.custodians.is_some() {
                let who = if mechanism.needs_custodians() { "no custodians are" } else { "custodians are" };
                return Err(DeviceError::invalid(format!("{who} configured, and {mechanism} was asked for")));
            }
            seal::encrypt(tpm, key, plaintext.expose(), aad)
        }
        CipherMechanism::RsaOaepSha256 => oaep::encrypt(tpm, key, plaintext.expose(), aad),
        other => Err(unsupported(other)),
    }?;
    Ok(Ciphertext { mechanism, bytes })
}

pub(crate) fn decrypt(
    tpm: &Tpm,
    key: &KeyRef,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    check(ciphertext)?;
    match mechanism {
        CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned => seal::decrypt(tpm, key, ciphertext, aad),
        CipherMechanism::RsaOaepSha256 => oaep::decrypt(tpm, key, ciphertext, aad),
        other => Err(unsupported(other)),
    }
}

pub(crate) fn challenge(
    tpm: &Tpm,
    key: &KeyRef,
    mechanism: CipherMechanism,
    (ciphertext, aad): (&[u8], &[u8]),
    valid_secs: u32,
) -> Result<Challenge, DeviceError> {
    check(ciphertext)?;
    match mechanism {
        CipherMechanism::TpmSealSigned => quorum::challenge(tpm, key, ciphertext, aad, valid_secs),
        other => Err(unsupported(other)),
    }
}

pub(crate) fn decrypt_signed(
    tpm: &Tpm,
    key: &KeyRef,
    mechanism: CipherMechanism,
    sealed: (&[u8], &[u8]),
    message: &[u8],
    signatures: &[CustodianSignature],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    match mechanism {
        CipherMechanism::TpmSealSigned => quorum::decrypt(tpm, key, sealed, message, signatures),
        other => Err(unsupported(other)),
    }
}

fn check(input: &[u8]) -> Result<(), DeviceError> {
    match input.is_empty() {
        true => Err(DeviceError::invalid("there is nothing to encrypt or decrypt")),
        false => Ok(()),
    }
}

fn unsupported(mechanism: CipherMechanism) -> DeviceError {
    DeviceError::unsupported(format!("a TPM does not do {mechanism}: it seals, and decrypts RSA-OAEP with SHA-256"))
}
