//! AES-GCM, RSA-OAEP.

use super::keys;
use super::store::Store;
use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class, KeyRef, KeyUsage};
use crate::memory::Secret;

pub(super) fn encrypt(
    store: &Store,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &Secret<Vec<u8>>,
    aad: &[u8],
) -> Result<Ciphertext, DeviceError> {
    check(mechanism, plaintext.expose())?;
    let stored = store.one_for(key, KeyUsage::Encrypt)?;
    keys::encrypt(stored.kind, stored.material.expose(), mechanism, plaintext, aad)
}

pub(super) fn decrypt(
    store: &Store,
    key: &KeyRef,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    check(mechanism, ciphertext)?;
    let stored = store.one_for(key, KeyUsage::Encrypt)?;
    keys::decrypt(stored.kind, stored.material.expose(), mechanism, ciphertext, aad).map_err(|error| match error.class {
        Class::Tampered => DeviceError::new(
            Class::Tampered,
            format!("what was to be decrypted with {key} was changed, or belongs to another key or place: restore it from a backup"),
        ),
        _ => error,
    })
}

fn check(mechanism: CipherMechanism, input: &[u8]) -> Result<(), DeviceError> {
    if !super::CIPHERS.contains(&mechanism) {
        return Err(DeviceError::unsupported(format!("the software device does not do {mechanism}")));
    }
    if input.is_empty() {
        return Err(DeviceError::invalid("there is nothing to encrypt or decrypt"));
    }
    Ok(())
}
