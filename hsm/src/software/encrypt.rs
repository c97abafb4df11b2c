//! AES-GCM.

use super::store::Store;
use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class, KeyRef};
use crate::gcm;
use crate::memory::Secret;

pub(super) fn encrypt(
    store: &Store,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &Secret<Vec<u8>>,
    aad: &[u8],
) -> Result<Ciphertext, DeviceError> {
    let key = aes_key(store, key, mechanism, plaintext.expose())?;
    let mut iv = [0; gcm::IV_BYTES];
    getrandom::fill(&mut iv).map_err(|error| DeviceError::new(Class::Failed, format!("no random bytes: {error}")))?;
    let sealed = gcm::seal(key, iv, plaintext.expose(), aad);
    Ok(Ciphertext { mechanism, bytes: [&iv[..], &sealed].concat() })
}

pub(super) fn decrypt(
    store: &Store,
    key: &KeyRef,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    let aes_key = aes_key(store, key, mechanism, ciphertext)?;
    let opened = ciphertext.split_first_chunk().and_then(|(iv, sealed)| gcm::open(aes_key, *iv, sealed, aad));
    opened.map(Secret::new).ok_or_else(|| {
        DeviceError::new(
            Class::Tampered,
            format!("what was to be decrypted with {key} was changed, or belongs to another key or place: restore it from a backup"),
        )
    })
}

fn aes_key<'a>(
    store: &'a Store,
    key: &KeyRef,
    mechanism: CipherMechanism,
    input: &[u8],
) -> Result<&'a [u8; gcm::KEY_BYTES], DeviceError> {
    if mechanism != CipherMechanism::AesGcm {
        return Err(DeviceError::unsupported(format!("the software device does AES-GCM, not {mechanism}")));
    }
    if input.is_empty() {
        return Err(DeviceError::invalid("there is nothing to encrypt or decrypt"));
    }
    let stored = store.one(key)?;
    stored.key.expose().try_into().map_err(|_| DeviceError::invalid(format!("{key} is no AES-256 key")))
}
