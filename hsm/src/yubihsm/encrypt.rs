//! Encryption: Wrap Data and Unwrap Data with a wrap key, and decryption of RSA-OAEP.
//!
//! What is wrapped carries the serial number of the device that wrapped it, outside, so that an error can tell that
//! another one is asked, and inside, so that it cannot be changed. A device with a copy of the wrap key opens it all the same.

use super::fault::Fault;
use super::find::using;
use super::protocol::{Capabilities, Command, MGF1_SHA256, ObjectType, Refusal};
use super::session::{Repeat, YubiHsm};
use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class, Hash, KeyRef};
use crate::memory::Secret;
use zeroize::Zeroizing;

/// A key, and what else is small.
const MAX_WRAPPED_BYTES: usize = 1024;
const SERIAL_BYTES: usize = 4;

pub(super) fn encrypt(
    hsm: &YubiHsm,
    key: &KeyRef,
    mechanism: CipherMechanism,
    plaintext: &Secret<Vec<u8>>,
    aad: &[u8],
) -> Result<Ciphertext, DeviceError> {
    match mechanism {
        CipherMechanism::YubiHsmWrap => {}
        CipherMechanism::RsaOaepSha256 => {
            return Err(DeviceError::unsupported(
                "a YubiHSM decrypts RSA-OAEP and does not encrypt it: encrypt with the public key, outside",
            ));
        }
        other => return Err(unsupported(other)),
    }
    let plaintext = plaintext.expose();
    check(plaintext, aad)?;
    if plaintext.len() > MAX_WRAPPED_BYTES {
        return Err(DeviceError::invalid(format!(
            "a YubiHSM wraps at most {MAX_WRAPPED_BYTES} bytes at once, not {}",
            plaintext.len()
        )));
    }
    hsm.run(&format!("wrap data with {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Wrap, |session, object| {
            session.may(Capabilities::WRAP_DATA, Some(object))?;
            let serial = session.device.serial.to_be_bytes();
            let data = Zeroizing::new([&object.id.to_be_bytes()[..], &serial, plaintext].concat());
            let wrapped = session.command(Command::WrapData, &data)?;
            Ok(Ciphertext { mechanism, bytes: [&serial[..], &wrapped].concat() })
        })
    })
}

pub(super) fn decrypt(
    hsm: &YubiHsm,
    key: &KeyRef,
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    match mechanism {
        CipherMechanism::YubiHsmWrap => {
            check(ciphertext, aad)?;
            unwrap(hsm, key, ciphertext)
        }
        CipherMechanism::RsaOaepSha256 => {
            check(ciphertext, aad)?;
            oaep(hsm, key, ciphertext)
        }
        other => Err(unsupported(other)),
    }
}

fn unwrap(hsm: &YubiHsm, key: &KeyRef, ciphertext: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let (serial, wrapped) = ciphertext.split_first_chunk::<SERIAL_BYTES>().ok_or_else(|| tampered(key))?;
    let mut now = None;
    let opened = hsm.run(&format!("unwrap data with {key}"), Repeat::Safe, |session| {
        now = Some(session.device.serial);
        using(session, key, ObjectType::Wrap, |session, object| {
            session.may(Capabilities::UNWRAP_DATA, Some(object))?;
            let data = [&object.id.to_be_bytes()[..], wrapped].concat();
            let opened = session.command(Command::UnwrapData, &data).map_err(|fault| refused(fault, key))?;
            match opened.split_first_chunk::<SERIAL_BYTES>() {
                Some((inside, secret)) if inside == serial => Ok(Secret::new(secret.to_vec())),
                _ => Err(tampered(key).into()),
            }
        })
    });
    let wrapped_by = u32::from_be_bytes(*serial);
    opened.map_err(|error| match (error.class, now) {
        (Class::KeyMissing | Class::Tampered, Some(now)) if now != wrapped_by => DeviceError::new(
            error.class,
            format!(
                "it was wrapped by the YubiHSM {wrapped_by}, and the one at {} is {now}: plug in the other one, or one that has a copy \
                 of its wrap key ({})",
                hsm.config.connector, error.text
            ),
        ),
        _ => error,
    })
}

fn oaep(hsm: &YubiHsm, key: &KeyRef, ciphertext: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let hash = Hash::Sha256;
    hsm.run(&format!("decrypt (RSA-OAEP) with {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Asymmetric, |session, object| {
            session.may(Capabilities::DECRYPT_OAEP, Some(object))?;
            let data = [&object.id.to_be_bytes()[..], &[MGF1_SHA256], ciphertext, &hash.digest(b"")].concat();
            let opened = session.command(Command::DecryptOaep, &data).map_err(|fault| refused(fault, key))?;
            Ok(Secret::new(opened.to_vec()))
        })
    })
}

fn refused(fault: Fault, key: &KeyRef) -> Fault {
    match fault {
        Fault::Refused(Refusal::InvalidData | Refusal::WrongLength) => tampered(key).into(),
        other => other,
    }
}

fn tampered(key: &KeyRef) -> DeviceError {
    DeviceError::new(
        Class::Tampered,
        format!("what was to be opened with {key} was changed, or belongs to another key: restore it from a backup"),
    )
}

fn check(input: &[u8], aad: &[u8]) -> Result<(), DeviceError> {
    match (input.is_empty(), aad.is_empty()) {
        (true, _) => Err(DeviceError::invalid("there is nothing to encrypt or decrypt")),
        (_, false) => Err(DeviceError::invalid("a YubiHSM takes no associated data")),
        _ => Ok(()),
    }
}

fn unsupported(mechanism: CipherMechanism) -> DeviceError {
    DeviceError::unsupported(format!(
        "a YubiHSM does not do {mechanism} for use here: it wraps data, and decrypts RSA-OAEP with SHA-256"
    ))
}
