//! Encryption and decryption: AES-GCM and RSA-OAEP.

use super::abilities::Ability;
use super::fault::Fault;
use super::find::{Family, Half, handle};
use super::session::{Repeat, Sessions, Work};
use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class, KeyRef};
use crate::memory::Secret;
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::types::Ulong;
use std::sync::atomic::{AtomicBool, Ordering};

const IV: usize = CipherMechanism::GCM_IV_BYTES;
const TAG: usize = CipherMechanism::GCM_TAG_BYTES;

pub(super) fn encrypt(
    sessions: &Sessions,
    oaep_is_sha1_only: &AtomicBool,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &Secret<Vec<u8>>,
    aad: &[u8],
) -> Result<Ciphertext, DeviceError> {
    check(plaintext.expose(), mechanism, aad)?;
    sessions.try_to(Ability::Cipher(mechanism), &format!("encrypt ({mechanism}) with {key}"), Repeat::Safe, |work| {
        match mechanism {
            CipherMechanism::RsaOaepSha256 if oaep_is_sha1_only.load(Ordering::Relaxed) => {
                oaep_encrypt(work, key, CipherMechanism::RsaOaepSha1, plaintext.expose())
            }
            CipherMechanism::RsaOaepSha256 => match oaep_encrypt(work, key, mechanism, plaintext.expose()) {
                Err(Fault::Module(Error::Pkcs11(RvError::MechanismParamInvalid | RvError::ArgumentsBad, _))) => {
                    let encrypted = oaep_encrypt(work, key, CipherMechanism::RsaOaepSha1, plaintext.expose())?;
                    oaep_is_sha1_only.store(true, Ordering::Relaxed);
                    tracing::info!("{} does RSA-OAEP with SHA-1 only", sessions.config.token_name());
                    Ok(encrypted)
                }
                other => other,
            },
            _ => seal(work, key, mechanism, plaintext.expose(), aad),
        }
    })
}

pub(super) fn decrypt(
    sessions: &Sessions,
    key: &KeyRef,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    check(ciphertext, mechanism, aad)?;
    let what = format!("decrypt ({mechanism}) with {key}");
    let first = sessions.run(&what, Repeat::Safe, |work| match open(work, key, mechanism, ciphertext, aad) {
        Err(fault) if may_be_the_ciphertext(&fault) => {
            work.spoil();
            Ok(None)
        }
        Err(fault) if is_the_ciphertext(&fault) => {
            work.spoil();
            Err(tampered(key).into())
        }
        opened => opened.map(Some),
    })?;
    if let Some(opened) = first {
        return Ok(opened);
    }
    // If the key still opens what it has just sealed, it was the ciphertext; if not, it is the device. In a session of its
    // own: some modules leave the one in which something failed in the middle of it.
    let probe = sessions.run(&what, Repeat::Safe, |work| {
        let Ciphertext { mechanism, bytes } = seal(work, key, mechanism, b"probe", b"")?;
        open(work, key, mechanism, &bytes, b"")
    });
    match probe {
        Ok(opened) if opened.ct_eq(b"probe") => Err(tampered(key)),
        _ => sessions.run(&what, Repeat::Safe, |work| open(work, key, mechanism, ciphertext, aad)),
    }
}

fn seal(
    work: &Work<'_>,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Ciphertext, Fault> {
    match mechanism {
        CipherMechanism::AesGcm => {
            let secret = handle(work, key, Half::Secret, Family::Aes)?;
            Ok(Ciphertext { mechanism, bytes: gcm_encrypt(work, secret, plaintext, aad)? })
        }
        CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1 => oaep_encrypt(work, key, mechanism, plaintext),
        CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned | CipherMechanism::YubiHsmWrap => {
            Err(only_its_own(mechanism).into())
        }
    }
}

fn open(
    work: &Work<'_>,
    key: &KeyRef,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>, Fault> {
    match mechanism {
        CipherMechanism::AesGcm if ciphertext.len() < IV + TAG => Err(tampered(key).into()),
        CipherMechanism::AesGcm => {
            let secret = handle(work, key, Half::Secret, Family::Aes)?;
            gcm_decrypt(work, secret, ciphertext, aad)
        }
        CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1 => {
            let private = handle(work, key, Half::Private, Family::Rsa)?;
            oaep_decrypt(work, private, mechanism, ciphertext)
        }
        CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned | CipherMechanism::YubiHsmWrap => {
            Err(only_its_own(mechanism).into())
        }
    }
}

fn only_its_own(mechanism: CipherMechanism) -> DeviceError {
    DeviceError::unsupported(format!("a PKCS#11 token does not do {mechanism}: that is another kind of device's own"))
}

fn check(input: &[u8], mechanism: CipherMechanism, aad: &[u8]) -> Result<(), DeviceError> {
    if input.is_empty() {
        return Err(DeviceError::invalid("there is nothing to encrypt or decrypt"));
    }
    if mechanism != CipherMechanism::AesGcm && !aad.is_empty() {
        return Err(DeviceError::unsupported("RSA-OAEP carries no associated data"));
    }
    Ok(())
}

fn gcm_encrypt(work: &Work<'_>, key: ObjectHandle, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut iv = [0; IV];
    getrandom::fill(&mut iv).map_err(|error| {
        DeviceError::new(Class::Failed, format!("the operating system gave no random bytes: {error}"))
    })?;
    let encrypted = {
        let params = GcmParams::new(&mut iv, aad, Ulong::from(TAG as u64 * 8))?;
        work.session.encrypt(&Mechanism::AesGcm(params), key, plaintext)?
    };
    // The IV is read back after the call: tokens that insist on their own write it there.
    Ok([&iv[..], &encrypted].concat())
}

fn gcm_decrypt(work: &Work<'_>, key: ObjectHandle, ciphertext: &[u8], aad: &[u8]) -> Result<Secret<Vec<u8>>, Fault> {
    let (iv, encrypted) = ciphertext.split_at(IV);
    let mut iv = iv.to_vec();
    let params = GcmParams::new(&mut iv, aad, Ulong::from(TAG as u64 * 8))?;
    Ok(Secret::new(work.session.decrypt(&Mechanism::AesGcm(params), key, encrypted)?))
}

fn oaep_encrypt(
    work: &Work<'_>,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &[u8],
) -> Result<Ciphertext, Fault> {
    let public = handle(work, key, Half::Public, Family::Rsa)?;
    match work.session.encrypt(&oaep(mechanism), public, plaintext) {
        Ok(bytes) => Ok(Ciphertext { mechanism, bytes }),
        Err(error) => {
            // Tokens call this many things, a general error among them.
            let longest = longest_oaep_plaintext(work, public, mechanism)?;
            if plaintext.len() > longest {
                return Err(DeviceError::invalid(format!(
                    "{} bytes are more than {key} encrypts at once ({longest})",
                    plaintext.len()
                ))
                .into());
            }
            Err(error.into())
        }
    }
}

/// Length of the modulus less two digests and two bytes (RFC 8017, 7.1.1).
fn longest_oaep_plaintext(work: &Work<'_>, public: ObjectHandle, mechanism: CipherMechanism) -> Result<usize, Fault> {
    let digest_bytes = if mechanism == CipherMechanism::RsaOaepSha1 { 20 } else { 32 };
    for attribute in work.session.get_attributes(public, &[AttributeType::Modulus])? {
        if let Attribute::Modulus(modulus) = attribute {
            return Ok(modulus.len().saturating_sub(2 * digest_bytes + 2));
        }
    }
    Ok(usize::MAX)
}

fn oaep_decrypt(
    work: &Work<'_>,
    private: ObjectHandle,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
) -> Result<Secret<Vec<u8>>, Fault> {
    Ok(Secret::new(work.session.decrypt(&oaep(mechanism), private, ciphertext)?))
}

fn oaep(mechanism: CipherMechanism) -> Mechanism<'static> {
    let (hash, mgf) = match mechanism {
        CipherMechanism::RsaOaepSha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        _ => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()))
}

/// What tokens say of a bad tag or padding.
fn is_the_ciphertext(fault: &Fault) -> bool {
    /// CKR_AEAD_DECRYPT_FAILED, which `cryptoki` does not know.
    const AEAD_DECRYPT_FAILED: u64 = 0x42;
    let Fault::Module(Error::Pkcs11(rv, _)) = fault else { return false };
    match rv {
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange => true,
        RvError::UnknownErrorCode(code) => *code == AEAD_DECRYPT_FAILED,
        _ => false,
    }
}

/// What some say of it that others say of a device in trouble.
fn may_be_the_ciphertext(fault: &Fault) -> bool {
    let Fault::Module(Error::Pkcs11(rv, Function::Decrypt)) = fault else { return false };
    matches!(
        rv,
        RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::DeviceError
            | RvError::ArgumentsBad
    )
}

fn tampered(key: &KeyRef) -> DeviceError {
    DeviceError::new(
        Class::Tampered,
        format!(
            "what was to be decrypted with {key} was changed, or belongs to another key or place: restore it from a backup"
        ),
    )
}
