//! HMAC, made and checked on the token.

use super::abilities::Ability;
use super::fault::Fault;
use super::find::{Family, Half, handle};
use super::session::{Repeat, Sessions, Work};
use crate::device::{DeviceError, DeviceErrorClass as Class, Hash, KeyRef};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;

pub(super) fn mac(sessions: &Sessions, key: &KeyRef, hash: Hash, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
    sessions.try_to(Ability::Mac(hash), &format!("make a tag with {key}"), Repeat::Safe, |work| {
        let secret = secret(work, key, hash)?;
        let tag = work.session.sign(&ck_mechanism(hash), secret, message)?;
        match tag.len() == hash.digest_bytes() {
            true => Ok(tag),
            false => Err(DeviceError::new(
                Class::Failed,
                format!("the token gave {} bytes as a tag of HMAC-{hash}: see its module's own log", tag.len()),
            )
            .into()),
        }
    })
}

pub(super) fn verify(
    sessions: &Sessions,
    key: &KeyRef,
    hash: Hash,
    message: &[u8],
    tag: &[u8],
) -> Result<bool, DeviceError> {
    sessions.try_to(Ability::Mac(hash), &format!("check a tag with {key}"), Repeat::Safe, |work| {
        let secret = secret(work, key, hash)?;
        // A part of a tag is none; modules have many names for that.
        if tag.len() != hash.digest_bytes() {
            return Ok(false);
        }
        match work.session.verify(&ck_mechanism(hash), secret, message, tag) {
            Ok(()) => Ok(true),
            Err(Error::Pkcs11(RvError::SignatureInvalid | RvError::SignatureLenRange, _)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

/// The key, if it is one for this hash.
fn secret(work: &Work<'_>, key: &KeyRef, hash: Hash) -> Result<ObjectHandle, Fault> {
    let missing = match handle(work, key, Half::Secret, Family::Hmac(hash)) {
        Err(Fault::Final(error)) if error.class == Class::KeyMissing => error,
        found => return found,
    };
    let others = [Hash::Sha256, Hash::Sha384, Hash::Sha512].into_iter().filter(|other| *other != hash);
    for other in others {
        if handle(work, key, Half::Secret, Family::Hmac(other)).is_ok() {
            return Err(DeviceError::invalid(format!("{key} is for HMAC-{other}, and does not do HMAC-{hash}")).into());
        }
    }
    Err(missing.into())
}

fn ck_mechanism(hash: Hash) -> Mechanism<'static> {
    match hash {
        Hash::Sha256 => Mechanism::Sha256Hmac,
        Hash::Sha384 => Mechanism::Sha384Hmac,
        Hash::Sha512 => Mechanism::Sha512Hmac,
    }
}
