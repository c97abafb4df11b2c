//! RSA-OAEP with SHA-256, by the TPM's own key pairs.

use crate::connection::{Connection, Tpm};
use crate::fault::Fault;
use crate::find::{load, used};
use crate::store::{Store, StoredKey};
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyKind, KeyRef, KeyUsage};
use holdfast_hsm::memory::Secret;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{Data, HashScheme, PublicKeyRsa, RsaDecryptionScheme};

/// Two digests and two bytes (RFC 8017, 7.1.1).
const OVERHEAD: usize = 2 * 32 + 2;

pub(crate) fn encrypt(tpm: &Tpm, key: &KeyRef, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, DeviceError> {
    let (stored, modulus) = encrypting_key(tpm, key, aad)?;
    if plaintext.len() + OVERHEAD > modulus {
        return Err(DeviceError::invalid(format!(
            "{} bytes are more than {key} encrypts at once ({})",
            plaintext.len(),
            modulus - OVERHEAD
        )));
    }
    tpm.run(&format!("encrypt (RSA-OAEP) with {key}"), |connection| {
        let handle = load(connection, &stored)?;
        let message = PublicKeyRsa::try_from(plaintext.to_vec())?;
        let given = connection.protected(|context| context.rsa_encrypt(handle, message, scheme(), Data::default()))?;
        Ok(given.value().to_vec())
    })
}

pub(crate) fn decrypt(tpm: &Tpm, key: &KeyRef, bytes: &[u8], aad: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let (stored, modulus) = encrypting_key(tpm, key, aad)?;
    let tampered = || {
        DeviceError::new(
            Class::Tampered,
            format!(
                "what was to be decrypted with {key} was changed, or belongs to another key: restore it from a backup"
            ),
        )
    };
    if bytes.len() != modulus {
        return Err(tampered());
    }
    tpm.run(&format!("decrypt (RSA-OAEP) with {key}"), |connection| {
        let handle = load(connection, &stored)?;
        let ciphertext = PublicKeyRsa::try_from(bytes.to_vec())?;
        let opened = connection.protected(|context| context.rsa_decrypt(handle, ciphertext, scheme(), Data::default()));
        let opened = used(&stored, opened).map_err(|fault| match fault.kind() {
            Some(Kind::Value | Kind::Size) => Fault::from(tampered()),
            // Some say failure for bad padding. If they still answer, they have not failed.
            Some(Kind::Failure) if answers(connection) => Fault::from(tampered()),
            _ => fault,
        })?;
        Ok(Secret::new(opened.value().to_vec()))
    })
}

fn answers(connection: &mut Connection) -> bool {
    connection.context.execute_without_session(|context| context.get_random(1)).is_ok()
}

/// The key, and bytes of its modulus.
fn encrypting_key(tpm: &Tpm, key: &KeyRef, aad: &[u8]) -> Result<(StoredKey, usize), DeviceError> {
    if !aad.is_empty() {
        return Err(DeviceError::unsupported("RSA-OAEP carries no associated data"));
    }
    let stored = Store::of(tpm.config.keys.as_ref())?.one(key)?;
    match (stored.kind, stored.usage) {
        (KeyKind::Rsa(bits), KeyUsage::Encrypt) => Ok((stored, bits as usize / 8)),
        (kind, usage) => Err(DeviceError::invalid(format!("{key} is {kind} for {usage:?}, and does not encrypt"))),
    }
}

fn scheme() -> RsaDecryptionScheme {
    RsaDecryptionScheme::Oaep(HashScheme::new(HashingAlgorithm::Sha256))
}
