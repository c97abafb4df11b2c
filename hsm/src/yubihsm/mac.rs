//! HMAC, made and checked in the device.

use super::fault::Fault;
use super::find::using;
use super::object::Object;
use super::protocol::{Capabilities, Command, ObjectType, kind_of};
use super::session::{Repeat, YubiHsm};
use crate::device::{DeviceError, Hash, KeyKind, KeyRef};

/// The longest message that fits beside a tag into a command of every firmware.
const MAX_MESSAGE_BYTES: usize = 1952;

pub(super) fn mac(hsm: &YubiHsm, key: &KeyRef, hash: Hash, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
    check(message)?;
    hsm.run(&format!("make a tag with {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Hmac, |session, object| {
            fits(object, key, hash)?;
            session.may(Capabilities::SIGN_HMAC, Some(object))?;
            let data = [&object.id.to_be_bytes()[..], message].concat();
            Ok(session.command(Command::SignHmac, &data)?.to_vec())
        })
    })
}

pub(super) fn verify(hsm: &YubiHsm, key: &KeyRef, hash: Hash, message: &[u8], tag: &[u8]) -> Result<bool, DeviceError> {
    check(message)?;
    hsm.run(&format!("check a tag with {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Hmac, |session, object| {
            fits(object, key, hash)?;
            session.may(Capabilities::VERIFY_HMAC, Some(object))?;
            // The device takes message and tag in one: where the one ends is known by the hash alone.
            if tag.len() != hash.digest_bytes() {
                return Ok(false);
            }
            let data = [&object.id.to_be_bytes()[..], tag, message].concat();
            match session.command(Command::VerifyHmac, &data)?.as_slice() {
                [1] => Ok(true),
                [0] => Ok(false),
                _ => Err(Fault::Garbled),
            }
        })
    })
}

fn check(message: &[u8]) -> Result<(), DeviceError> {
    match message.len() > MAX_MESSAGE_BYTES {
        true => Err(DeviceError::invalid(format!(
            "a YubiHSM does HMAC over at most {MAX_MESSAGE_BYTES} bytes, not {}",
            message.len()
        ))),
        false => Ok(()),
    }
}

fn fits(object: &Object, key: &KeyRef, hash: Hash) -> Result<(), DeviceError> {
    match kind_of(object.algorithm) {
        KeyKind::Hmac(own) if own == hash => Ok(()),
        kind => Err(DeviceError::invalid(format!("{key} is {kind}, and does not do HMAC-{hash}"))),
    }
}
