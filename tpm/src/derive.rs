//! ECDH.

use crate::connection::Tpm;
use crate::fault::Fault;
use crate::find::{load, used};
use crate::public_key::{coordinate_bytes, padded};
use crate::store::Store;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyRef, KeyUsage};
use holdfast_hsm::memory::Secret;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::structures::{EccParameter, EccPoint};

pub(crate) fn derive(tpm: &Tpm, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let stored = Store::of(tpm.config.keys.as_ref())?.one(key)?;
    if stored.usage != KeyUsage::Derive {
        return Err(DeviceError::invalid(format!("{key} is for {:?}, and does not derive", stored.usage)));
    }
    let bytes = coordinate_bytes(&stored);
    let odd = || DeviceError::invalid(format!("the peer's public point is none of {}", stored.kind));
    let (x, y) = match peer_point {
        [4, coordinates @ ..] if coordinates.len() == 2 * bytes => coordinates.split_at(bytes),
        _ => return Err(odd()),
    };
    tpm.run(&format!("derive (ECDH) with {key}"), |connection| {
        let handle = load(connection, &stored)?;
        let point = EccPoint::new(EccParameter::try_from(x.to_vec())?, EccParameter::try_from(y.to_vec())?);
        let shared = connection.protected(|context| context.ecdh_z_gen(handle, point));
        let shared = used(&stored, shared).map_err(|fault| match fault.kind() {
            Some(Kind::EccPoint | Kind::Curve | Kind::Value) if fault.is_of_a_parameter() => Fault::from(odd()),
            _ => fault,
        })?;
        let x = padded(shared.x().value(), bytes)
            .ok_or_else(|| DeviceError::new(Class::Failed, "the TPM gave a point of another curve"))?;
        Ok(Secret::new(x))
    })
}
