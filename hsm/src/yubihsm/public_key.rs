//! The public half of a key, as SubjectPublicKeyInfo.

use super::fault::Fault;
use super::find::using;
use super::protocol::{Command, ObjectType, kind_of};
use super::session::{Repeat, YubiHsm};
use crate::device::{DeviceError, KeyKind, KeyRef, ec_spki, ed25519_spki, rsa_spki};

/// 65537: a YubiHSM has RSA keys with no other.
const EXPONENT: &[u8] = &[1, 0, 1];

pub(super) fn public_key(hsm: &YubiHsm, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
    hsm.run(&format!("give the public half of {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Asymmetric, |session, object| {
            let answer = session.command(Command::GetPublicKey, &object.id.to_be_bytes())?;
            let (algorithm, public) = answer.split_first().ok_or(Fault::Garbled)?;
            match kind_of(*algorithm) {
                KeyKind::Rsa(_) => Ok(rsa_spki(public, EXPONENT)),
                KeyKind::Ed25519 => Ok(ed25519_spki(public)?),
                kind => Ok(ec_spki(kind, &[&[4], public].concat())?),
            }
        })
    })
}
