//! ECDH on the token.

use super::abilities::Ability;
use super::fault::Fault;
use super::find::{Family, Half, handle};
use super::public_key::ec_kind;
use super::session::{Repeat, Sessions, Work};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyKind, KeyRef};
use crate::memory::Secret;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::types::Ulong;

pub(super) fn derive(sessions: &Sessions, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    sessions.try_to(Ability::Agree, &format!("derive (ECDH) with {key}"), Repeat::Safe, |work| {
        let private = handle(work, key, Half::Private, Family::Ec)?;
        let secret_bytes = if ec_kind(work, private)? == KeyKind::EcP256 { 32 } else { 48 };
        if peer_point.len() != 1 + 2 * secret_bytes || peer_point[0] != 4 {
            return Err(DeviceError::invalid(format!(
                "the peer's point has {} bytes: give an uncompressed point of the same curve",
                peer_point.len()
            ))
            .into());
        }
        // The standard wants the bare point; some tokens take only a DER OCTET STRING.
        let derived = match agree(work, private, peer_point, secret_bytes) {
            Err(Error::Pkcs11(RvError::MechanismParamInvalid | RvError::GeneralError | RvError::ArgumentsBad, _)) => {
                let der = [&[4, peer_point.len() as u8], peer_point].concat();
                agree(work, private, &der, secret_bytes)?
            }
            other => other?,
        };
        let value = value_of(work, derived);
        // The object ends with its session in any case.
        let _ = work.session.destroy_object(derived);
        value
    })
}

/// The shared secret as an object of this session, which alone may be read.
fn agree(work: &Work<'_>, private: ObjectHandle, point: &[u8], bytes: usize) -> Result<ObjectHandle, Error> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::ValueLen(Ulong::from(bytes as u64)),
    ];
    let params = Ecdh1DeriveParams::new(EcKdf::null(), point);
    work.session.derive_key(&Mechanism::Ecdh1Derive(params), private, &template)
}

fn value_of(work: &Work<'_>, derived: ObjectHandle) -> Result<Secret<Vec<u8>>, Fault> {
    for attribute in work.session.get_attributes(derived, &[AttributeType::Value])? {
        if let Attribute::Value(value) = attribute {
            return Ok(Secret::new(value));
        }
    }
    Err(DeviceError::new(Class::Unsupported, "the token does not give the derived secret out").into())
}
