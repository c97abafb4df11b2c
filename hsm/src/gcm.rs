//! AES-256-GCM in software, for the development backend and for what a wrapping key of
//! RSA, or a TPM's sealed object, cannot hold itself.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an IV.
pub const IV_BYTES: usize = 12;

/// Ciphertext and tag.
pub fn seal(key: &[u8; KEY_BYTES], iv: [u8; IV_BYTES], plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(key.into());
    let Ok(sealed) = cipher.encrypt(&Nonce::from(iv), Payload { msg: plaintext, aad }) else {
        unreachable!("AES-GCM refuses only more than 64 GiB")
    };
    sealed
}

/// The plaintext; `None` if ciphertext, tag or associated data were changed.
pub fn open(key: &[u8; KEY_BYTES], iv: [u8; IV_BYTES], sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    Aes256Gcm::new(key.into()).decrypt(&Nonce::from(iv), Payload { msg: sealed, aad }).ok()
}
