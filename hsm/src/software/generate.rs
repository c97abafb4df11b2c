//! Makes and takes in keys.

use super::store::{Store, StoredKey};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeySpec, KeyUsage};
use crate::memory::{Key, MemoryError, Secret};

pub(super) fn generate(store: &mut Store, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
    add(store, spec, || Key::random(32))
}

pub(super) fn import(store: &mut Store, spec: &KeySpec, material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
    if material.expose().len() != 32 {
        return Err(DeviceError::invalid(format!("{} bytes are no AES-256 key", material.expose().len())));
    }
    add(store, spec, || Key::from_slice(&mut material.expose().clone()))
}

fn add(
    store: &mut Store,
    spec: &KeySpec,
    key: impl FnOnce() -> Result<Key, MemoryError>,
) -> Result<KeyInfo, DeviceError> {
    if (spec.kind, spec.usage) != (KeyKind::Aes(256), KeyUsage::Encrypt) {
        return Err(DeviceError::unsupported(format!(
            "the software device holds AES-256 keys for encryption, not {} for {:?}",
            spec.kind, spec.usage
        )));
    }
    if spec.label.is_empty() {
        return Err(DeviceError::invalid("a new key needs a label that names its owner"));
    }
    let failed = |error: MemoryError| DeviceError::new(Class::Failed, error.to_string());
    let id = match spec.id.clone().filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => Key::random(16).map_err(failed)?.expose().to_vec(),
    };
    store.add(StoredKey { label: spec.label.clone(), id, key: key().map_err(failed)? })
}
