//! The public half of a key, as SubjectPublicKeyInfo.

use crate::connection::Tpm;
use crate::store::{Store, StoredKey};
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyRef, ec_spki, rsa_spki};
use tss_esapi::structures::Public;
use tss_esapi::traits::UnMarshall;

/// 65537, which the TPM writes as none.
const EXPONENT: &[u8] = &[1, 0, 1];

pub(crate) fn public_key(tpm: &Tpm, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
    let stored = Store::of(tpm.config.keys.as_ref())?.one(key)?;
    let unusable = || {
        DeviceError::new(
            Class::Tampered,
            format!("the public half of {key} cannot be read: restore its file from a backup"),
        )
    };
    match Public::unmarshall(&stored.public).map_err(|_| unusable())? {
        Public::Rsa { unique, .. } => Ok(rsa_spki(unique.value(), EXPONENT)),
        Public::Ecc { unique, .. } => {
            let bytes = coordinate_bytes(&stored);
            let x = padded(unique.x().value(), bytes).ok_or_else(unusable)?;
            let y = padded(unique.y().value(), bytes).ok_or_else(unusable)?;
            ec_spki(stored.kind, &[&[4][..], &x, &y].concat())
        }
        _ => Err(unusable()),
    }
}

/// Bytes of a coordinate, and of half an ECDSA signature.
pub(crate) fn coordinate_bytes(stored: &StoredKey) -> usize {
    stored.kind.coordinate_bytes().unwrap_or_default()
}

/// A number with zeros before it, which a TPM may leave out.
pub(crate) fn padded(number: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let missing = bytes.checked_sub(number.len())?;
    Some([&vec![0; missing][..], number].concat())
}
