//! Encryption and decryption, in the two ways of a TPM.

use crate::connection::Tpm;
use crate::{oaep, seal};
use holdfast_hsm::device::{CipherMechanism, Ciphertext, DeviceError, KeyRef};
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
        CipherMechanism::TpmSeal => seal::encrypt(tpm, key, plaintext.expose(), aad),
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
        CipherMechanism::TpmSeal => seal::decrypt(tpm, key, ciphertext, aad),
        CipherMechanism::RsaOaepSha256 => oaep::decrypt(tpm, key, ciphertext, aad),
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
