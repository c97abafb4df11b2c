//! Signatures and tags.

use super::keys;
use super::store::{Store, StoredKey};
use crate::device::{DeviceError, Hash, KeyKind, KeyRef, KeyUsage, SignInput, SignMechanism};
use crate::verify;
use subtle::ConstantTimeEq;

pub(super) fn sign(
    store: &Store,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
) -> Result<Vec<u8>, DeviceError> {
    check(mechanism)?;
    let stored = store.one_for(key, KeyUsage::Sign)?;
    keys::sign(stored.kind, stored.material.expose(), mechanism, input)
}

pub(super) fn verify(
    store: &Store,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
    signature: &[u8],
) -> Result<bool, DeviceError> {
    check(mechanism)?;
    let stored = store.one_for(key, KeyUsage::Sign)?;
    verify::verify(stored.kind, stored.public_key(key)?, mechanism, input, signature)
}

pub(super) fn mac(store: &Store, key: &KeyRef, hash: Hash, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
    let stored = mac_key(store, key, hash)?;
    keys::mac(stored.kind, stored.material.expose(), hash, message)
}

pub(super) fn verify_mac(
    store: &Store,
    key: &KeyRef,
    hash: Hash,
    message: &[u8],
    tag: &[u8],
) -> Result<bool, DeviceError> {
    Ok(mac(store, key, hash, message)?.ct_eq(tag).into())
}

fn mac_key<'s>(store: &'s Store, key: &KeyRef, hash: Hash) -> Result<&'s StoredKey, DeviceError> {
    let stored = store.one_for(key, KeyUsage::Sign)?;
    match stored.kind {
        KeyKind::Hmac(of) if of == hash => Ok(stored),
        kind => Err(DeviceError::invalid(format!("{key} is a key of {kind}, not one for HMAC-{hash}"))),
    }
}

fn check(mechanism: SignMechanism) -> Result<(), DeviceError> {
    if super::signs_with().contains(&mechanism) {
        return Ok(());
    }
    Err(DeviceError::unsupported(format!("the software device does not sign with {mechanism}")))
}
