//! ECDH on the token.

use super::abilities::Ability;
use super::fault::{Fault, Remedy, remedy};
use super::find::{Family, Half, handle};
use super::public_key::curve;
use super::quirks::Quirks;
use super::session::{Repeat, Sessions, Work};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyKind, KeyRef};
use crate::memory::Secret;
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::types::Ulong;

pub(super) fn derive(sessions: &Sessions, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let what = format!("derive (ECDH) with {key}");
    let peers = Point::Peers(peer_point);
    let first = sessions.try_to(Ability::Agree, &what, Repeat::Safe, |work| match shared(work, key, peers) {
        // Not yet an error of the device, nor a word on what it can do.
        Err(fault) if may_be_the_point(&fault, work.quirks) => {
            work.spoil();
            Ok(None)
        }
        other => other.map(Some),
    })?;
    if let Some(secret) = first {
        return Ok(secret);
    }
    let derive_with = |point| sessions.try_to(Ability::Agree, &what, Repeat::Safe, |work| shared(work, key, point));
    // If the key agrees with a point that is on its curve for certain, it was the peer's.
    match derive_with(Point::Base) {
        Ok(_) => Err(DeviceError::invalid(format!("the peer's point is not on the curve of {key}"))),
        Err(_) => derive_with(peers),
    }
}

#[derive(Clone, Copy)]
enum Point<'a> {
    Peers(&'a [u8]),
    /// The curve's generator, which gives what everybody knows.
    Base,
}

fn shared(work: &Work<'_>, key: &KeyRef, point: Point<'_>) -> Result<Secret<Vec<u8>>, Fault> {
    let private = handle(work, key, Half::Private, Family::Ec)?;
    let (kind, secret_bytes) = curve(work, private)?;
    let base;
    let point = match point {
        Point::Peers(point) => point,
        Point::Base => {
            base = generator(kind)?;
            &base
        }
    };
    if point.len() != 1 + 2 * secret_bytes || point[0] != 4 {
        return Err(DeviceError::invalid(format!(
            "the peer's point has {} bytes: give an uncompressed point of the same curve",
            point.len()
        ))
        .into());
    }
    // The standard wants the bare point; some tokens take only a DER OCTET STRING.
    let derived = match agree(work, private, point, secret_bytes) {
        Err(Error::Pkcs11(RvError::MechanismParamInvalid | RvError::GeneralError | RvError::ArgumentsBad, _)) => {
            // The longest has 133 bytes.
            let long: &[u8] = if point.len() > 0x7F { &[0x81] } else { &[] };
            let der = [&[4], long, &[point.len() as u8], point].concat();
            agree(work, private, &der, secret_bytes)?
        }
        other => other?,
    };
    let value = value_of(work, derived);
    // The object ends with its session in any case.
    let _ = work.session.destroy_object(derived);
    value
}

/// What modules say of a point that is on no curve has many names. Of what has certainly another cause a point is not suspected.
fn may_be_the_point(fault: &Fault, quirks: Quirks) -> bool {
    match fault {
        Fault::Module(Error::Pkcs11(RvError::DeviceError, Function::DeriveKey)) => true,
        Fault::Module(Error::Pkcs11(_, Function::DeriveKey)) => {
            matches!(remedy(fault, quirks), Remedy::None | Remedy::SessionsUnsure)
        }
        _ => false,
    }
}

/// SEC 2, version 2.0: the base points of secp256r1, secp384r1 and secp521r1.
fn generator(kind: KeyKind) -> Result<Vec<u8>, DeviceError> {
    let digits = match kind {
        KeyKind::EcP256 => {
            "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
             4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
        }
        KeyKind::EcP384 => {
            "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7\
             3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
        }
        _ => {
            "0400c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66\
             011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650"
        }
    };
    hex::decode(digits).map_err(|error| DeviceError::new(Class::Failed, error.to_string()))
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
