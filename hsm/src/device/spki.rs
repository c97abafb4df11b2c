//! Public keys as SubjectPublicKeyInfo (RFC 5280, 3279, 5480, 8410), DER.

use super::{DeviceError, KeyKind};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// `rsaEncryption`, with its NULL parameters.
const RSA_ALGORITHM: &[u8] = &[0x06, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 0x05, 0];
/// `id-ecPublicKey`.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1];
/// `secp256r1`.
const OID_P256: &[u8] = &[0x06, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
/// `secp384r1`.
const OID_P384: &[u8] = &[0x06, 5, 0x2B, 0x81, 0x04, 0, 0x22];
/// `secp521r1`.
const OID_P521: &[u8] = &[0x06, 5, 0x2B, 0x81, 0x04, 0, 0x23];
/// `id-Ed25519`.
pub(crate) const OID_ED25519: &[u8] = &[0x06, 3, 0x2B, 0x65, 0x70];

/// An RSA public key, from modulus and public exponent (big endian).
pub fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let numbers = [unsigned(modulus), unsigned(exponent)].concat();
    spki(RSA_ALGORITHM, &tagged(SEQUENCE, &numbers))
}

/// An EC public key on P-256, P-384 or P-521, from its uncompressed point.
///
/// # Errors
/// `Invalid` for another kind, or a point that does not fit the curve.
pub fn ec_spki(kind: KeyKind, point: &[u8]) -> Result<Vec<u8>, DeviceError> {
    let (Some(curve), Some(bytes)) = (curve_oid(kind), kind.coordinate_bytes()) else {
        return Err(DeviceError::invalid(format!("{kind} is no EC key")));
    };
    let point_bytes = 1 + 2 * bytes;
    if point.len() != point_bytes || point[0] != 4 {
        return Err(DeviceError::invalid(format!("a public point of {} bytes is none of {kind}", point.len())));
    }
    Ok(spki(&[EC_PUBLIC_KEY, curve].concat(), point))
}

/// The object identifier of a NIST curve, DER: also the CKA_EC_PARAMS of its keys.
pub(crate) fn curve_oid(kind: KeyKind) -> Option<&'static [u8]> {
    match kind {
        KeyKind::EcP256 => Some(OID_P256),
        KeyKind::EcP384 => Some(OID_P384),
        KeyKind::EcP521 => Some(OID_P521),
        _ => None,
    }
}

/// The kind of the keys on a curve, by its object identifier in DER.
pub(crate) fn kind_of_curve(oid: &[u8]) -> Option<KeyKind> {
    [KeyKind::EcP256, KeyKind::EcP384, KeyKind::EcP521].into_iter().find(|kind| curve_oid(*kind) == Some(oid))
}

/// An Ed25519 public key, from its 32 bytes.
///
/// # Errors
/// `Invalid` for another length.
pub fn ed25519_spki(public: &[u8]) -> Result<Vec<u8>, DeviceError> {
    if public.len() != 32 {
        return Err(DeviceError::invalid(format!("{} bytes are no Ed25519 public key", public.len())));
    }
    Ok(spki(OID_ED25519, public))
}

/// The uncompressed point at the end of an EC SubjectPublicKeyInfo made by [`ec_spki`].
pub fn ec_point_of_spki(spki: &[u8]) -> Option<&[u8]> {
    let point_bytes = match spki.len() {
        91 => 65,
        120 => 97,
        158 => 133,
        _ => return None,
    };
    let point = &spki[spki.len() - point_bytes..];
    (point[0] == 4).then_some(point)
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = [&[0][..], key].concat();
    tagged(SEQUENCE, &[tagged(SEQUENCE, algorithm), tagged(BIT_STRING, &bits)].concat())
}

/// A non-negative INTEGER, in the shortest form.
pub(super) fn unsigned(big_endian: &[u8]) -> Vec<u8> {
    let start = big_endian.iter().position(|byte| *byte != 0).unwrap_or(big_endian.len());
    let digits = &big_endian[start..];
    match digits.first() {
        None => tagged(INTEGER, &[0]),
        Some(first) if *first >= 0x80 => tagged(INTEGER, &[&[0][..], digits].concat()),
        Some(_) => tagged(INTEGER, digits),
    }
}

pub(super) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ 0..=0x7F => out.push(len as u8),
        len => {
            let length = len.to_be_bytes();
            let start = length.iter().position(|byte| *byte != 0).unwrap_or(0);
            out.push(0x80 | (length.len() - start) as u8);
            out.extend_from_slice(&length[start..]);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_shortest_and_never_negative() {
        assert_eq!(unsigned(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(&tagged(SEQUENCE, &[0; 300])[..4], [0x30, 0x82, 1, 44]);
    }

    #[test]
    fn an_ec_key_gives_its_point_back() {
        let mut point = vec![7; 65];
        point[0] = 4;
        let der = ec_spki(KeyKind::EcP256, &point).unwrap();
        assert_eq!(ec_point_of_spki(&der), Some(&point[..]));
        let mut point = vec![7; 97];
        point[0] = 4;
        assert_eq!(ec_point_of_spki(&ec_spki(KeyKind::EcP384, &point).unwrap()), Some(&point[..]));
        let mut longest = vec![7; 133];
        longest[0] = 4;
        assert_eq!(ec_point_of_spki(&ec_spki(KeyKind::EcP521, &longest).unwrap()), Some(&longest[..]));
        assert!(ec_spki(KeyKind::EcP256, &point).is_err());
    }
}
