//! The public half of a pair, as SubjectPublicKeyInfo.

use super::fault::Fault;
use super::find::{Family, Half, Object, objects};
use super::session::{Repeat, Sessions, Work};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyKind, KeyRef, ec_spki, ed25519_spki, rsa_spki};
use crate::device::{OID_P256, OID_P384};
use cryptoki::object::{Attribute, AttributeType};

pub(super) fn public_key(sessions: &Sessions, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
    sessions.run(&format!("read the public half of {key}"), Repeat::Safe, |work| {
        let found = objects(work, key)?;
        // The public object, or else what the private one says of itself.
        let public = found.iter().filter(|o| o.half == Half::Public);
        for object in public.chain(found.iter().filter(|o| o.half == Half::Private)) {
            if let Some(spki) = spki(work, object)? {
                return Ok(spki);
            }
        }
        Err(DeviceError::new(
            Class::KeyMissing,
            format!(
                "no public half of {key} is on the token: check 'key_label' and 'key_id', or store the public key there"
            ),
        )
        .into())
    })
}

/// Kind and bare public point of an EC key that is `half` of `key`.
pub(super) fn ec_kind(work: &Work<'_>, handle: cryptoki::object::ObjectHandle) -> Result<KeyKind, Fault> {
    for attribute in work.session.get_attributes(handle, &[AttributeType::EcParams])? {
        match attribute {
            Attribute::EcParams(params) if params == OID_P256 => return Ok(KeyKind::EcP256),
            Attribute::EcParams(params) if params == OID_P384 => return Ok(KeyKind::EcP384),
            _ => {}
        }
    }
    Err(DeviceError::unsupported("the EC key is on neither P-256 nor P-384").into())
}

fn spki(work: &Work<'_>, object: &Object) -> Result<Option<Vec<u8>>, Fault> {
    let wanted = match object.family {
        Family::Rsa => vec![AttributeType::Modulus, AttributeType::PublicExponent],
        Family::Ec | Family::Edwards => vec![AttributeType::EcParams, AttributeType::EcPoint],
        _ => return Ok(None),
    };
    let (mut modulus, mut exponent, mut point, mut kind) = (None, None, None, None);
    for attribute in work.session.get_attributes(object.handle, &wanted)? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            Attribute::EcPoint(bytes) => point = Some(bytes),
            Attribute::EcParams(params) if params == OID_P256 => kind = Some(KeyKind::EcP256),
            Attribute::EcParams(params) if params == OID_P384 => kind = Some(KeyKind::EcP384),
            _ => {}
        }
    }
    Ok(match (object.family, modulus, exponent, kind, point) {
        (Family::Rsa, Some(modulus), Some(exponent), ..) if !modulus.is_empty() && !exponent.is_empty() => {
            Some(rsa_spki(&modulus, &exponent))
        }
        (Family::Ec, _, _, Some(KeyKind::EcP256), Some(point)) => Some(ec_spki(KeyKind::EcP256, bare(&point, 65))?),
        (Family::Ec, _, _, Some(KeyKind::EcP384), Some(point)) => Some(ec_spki(KeyKind::EcP384, bare(&point, 97))?),
        (Family::Edwards, _, _, _, Some(point)) => Some(ed25519_spki(bare(&point, 32))?),
        _ => None,
    })
}

/// CKA_EC_POINT without its OCTET STRING, which the standard wants and some tokens omit.
fn bare(point: &[u8], bytes: usize) -> &[u8] {
    match point {
        [4, len, inner @ ..] if usize::from(*len) == bytes && inner.len() == bytes => inner,
        _ => point,
    }
}
