//! The public half of a pair, as SubjectPublicKeyInfo.

use super::fault::Fault;
use super::find::{Family, Half, Object, objects};
use super::session::{Repeat, Sessions, Work};
use crate::device::kind_of_curve;
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyKind, KeyRef, ec_spki, ed25519_spki, rsa_spki};
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

/// The kind of an EC key, and the bytes of a coordinate on its curve.
pub(super) fn curve(work: &Work<'_>, handle: cryptoki::object::ObjectHandle) -> Result<(KeyKind, usize), Fault> {
    for attribute in work.session.get_attributes(handle, &[AttributeType::EcParams])? {
        if let Attribute::EcParams(params) = attribute
            && let Some(kind) = kind_of_curve(&params)
            && let Some(bytes) = kind.coordinate_bytes()
        {
            return Ok((kind, bytes));
        }
    }
    Err(DeviceError::unsupported("the EC key is on none of P-256, P-384 and P-521").into())
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
            Attribute::EcParams(params) => kind = kind_of_curve(&params),
            _ => {}
        }
    }
    Ok(match (object.family, modulus, exponent, kind, point) {
        (Family::Rsa, Some(modulus), Some(exponent), ..) if !modulus.is_empty() && !exponent.is_empty() => {
            Some(rsa_spki(&modulus, &exponent))
        }
        (Family::Ec, _, _, Some(kind), Some(point)) => {
            let bytes = kind.coordinate_bytes().map_or(0, |bytes| 1 + 2 * bytes);
            Some(ec_spki(kind, bare(&point, bytes))?)
        }
        (Family::Edwards, _, _, _, Some(point)) => Some(ed25519_spki(bare(&point, 32))?),
        _ => None,
    })
}

/// CKA_EC_POINT without its OCTET STRING, which the standard wants and some tokens omit.
fn bare(point: &[u8], bytes: usize) -> &[u8] {
    match point {
        [4, 0x81, len, inner @ ..] if usize::from(*len) == bytes && inner.len() == bytes => inner,
        [4, len, inner @ ..] if usize::from(*len) == bytes && inner.len() == bytes => inner,
        _ => point,
    }
}
