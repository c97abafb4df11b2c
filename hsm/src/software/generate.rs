//! Makes and takes in keys.

use super::keys;
use super::store::{Material, Store, StoredKey};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeySpec, KeyUsage};
use crate::memory::{Key, Secret};

pub(super) fn generate(store: &mut Store, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
    check(spec)?;
    let made = keys::generate(spec.kind)?;
    add(store, spec, Material::of(spec.kind, made.private, made.public)?)
}

pub(super) fn import(store: &mut Store, spec: &KeySpec, material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
    if (spec.kind, spec.usage) != (KeyKind::Aes(256), KeyUsage::Encrypt) {
        return Err(DeviceError::unsupported(format!("the software device takes in AES-256 keys, not {}", spec.kind)));
    }
    if material.expose().len() != 32 {
        return Err(DeviceError::invalid(format!("{} bytes are no AES-256 key", material.expose().len())));
    }
    add(store, spec, Material::of(spec.kind, Secret::new(material.expose().clone()), None)?)
}

/// A kind, with what such a key is for.
fn check(spec: &KeySpec) -> Result<(), DeviceError> {
    let makes = match spec.usage {
        KeyUsage::Encrypt => matches!(spec.kind, KeyKind::Aes(256) | KeyKind::Rsa(_)),
        KeyUsage::Sign => {
            matches!(spec.kind, KeyKind::Rsa(_) | KeyKind::Ed25519 | KeyKind::Hmac(_)) || is_ec(spec.kind)
        }
        KeyUsage::Derive => is_ec(spec.kind),
    };
    if makes {
        return Ok(());
    }
    Err(DeviceError::unsupported(format!("the software device makes no keys of {} for {:?}", spec.kind, spec.usage)))
}

fn is_ec(kind: KeyKind) -> bool {
    kind.coordinate_bytes().is_some()
}

fn add(store: &mut Store, spec: &KeySpec, material: Material) -> Result<KeyInfo, DeviceError> {
    if spec.label.is_empty() {
        return Err(DeviceError::invalid("a new key needs a label that names its owner"));
    }
    let id = match spec.id.clone().filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => {
            let id = Key::random(16).map_err(|error| DeviceError::new(Class::Failed, error.to_string()))?;
            id.expose().to_vec()
        }
    };
    store.add(StoredKey { label: spec.label.clone(), id, kind: spec.kind, usage: spec.usage, material })
}
