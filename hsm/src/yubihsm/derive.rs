//! ECDH.

use super::fault::Fault;
use super::find::using;
use super::protocol::{Capabilities, Command, ObjectType, Refusal, kind_of};
use super::session::{Repeat, YubiHsm};
use crate::device::{DeviceError, KeyKind, KeyRef};
use crate::memory::Secret;

pub(super) fn derive(hsm: &YubiHsm, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    hsm.run(&format!("derive (ECDH) with {key}"), Repeat::Safe, |session| {
        using(session, key, ObjectType::Asymmetric, |session, object| {
            let kind = kind_of(object.algorithm);
            let odd = || DeviceError::invalid(format!("the peer's public point is none of {kind}"));
            let point_bytes = match kind {
                KeyKind::EcP256 => 65,
                KeyKind::EcP384 => 97,
                KeyKind::EcP521 => 133,
                _ => return Err(DeviceError::invalid(format!("{key} is {kind}, and does not derive")).into()),
            };
            if peer_point.len() != point_bytes || peer_point[0] != 4 {
                return Err(odd().into());
            }
            session.may(Capabilities::DERIVE_ECDH, Some(object))?;
            let data = [&object.id.to_be_bytes()[..], peer_point].concat();
            let shared = session.command(Command::DeriveEcdh, &data).map_err(|fault| match fault {
                Fault::Refused(Refusal::InvalidData) => odd().into(),
                other => other,
            })?;
            Ok(Secret::new(shared.to_vec()))
        })
    })
}
