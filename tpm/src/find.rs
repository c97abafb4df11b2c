//! Finds keys: those of the folder, and the storage root key.

use crate::connection::{Connection, Loaded, Tpm};
use crate::fault::Fault;
use crate::root;
use crate::store::{Store, StoredKey};
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyRef};
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::KeyHandle;
use tss_esapi::structures::{Auth, Private, Public};
use tss_esapi::traits::UnMarshall;

/// All keys that match.
pub(crate) fn find(tpm: &Tpm, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
    tpm.run(&format!("look for {key}"), |connection| {
        let mut found = match &tpm.config.keys {
            Some(_) => Store::of(tpm.config.keys.as_ref())?.matching(key)?.iter().map(StoredKey::info).collect(),
            None => Vec::new(),
        };
        connection.root.is_there(&mut connection.context)?;
        let root = connection.root.info();
        if root::is_meant(key, &root) {
            found.push(root);
        }
        Ok(found)
    })
}

/// The key in the TPM, for use. It stays there until another one is asked for.
pub(crate) fn load(connection: &mut Connection, stored: &StoredKey) -> Result<KeyHandle, Fault> {
    if let Some(loaded) = &connection.loaded {
        if loaded.private == stored.private {
            return Ok(loaded.handle);
        }
        connection.forget_loaded()?;
    }
    if stored.root != connection.root.name {
        return Err(DeviceError::new(
            Class::KeyMissing,
            format!(
                "key '{}' was made below another storage root key: the TPM was cleared or replaced since, or 'hierarchy' or \
                 'root_handle' was changed",
                stored.label
            ),
        )
        .into());
    }
    let changed = |_| tampered(stored);
    let public = Public::unmarshall(&stored.public).map_err(changed)?;
    let private = Private::try_from(stored.private.clone()).map_err(changed)?;
    let root = connection.root.handle;
    let handle = connection.protected(|context| context.load(root, private, public)).map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::Integrity | Kind::Size | Kind::Value | Kind::Type | Kind::Attributes)
                if fault.is_of_a_parameter() =>
            {
                tampered(stored).into()
            }
            _ => fault,
        }
    })?;
    connection.loaded = Some(Loaded { handle, private: stored.private.clone() });
    connection.context.tr_set_auth(handle.into(), Auth::try_from(stored.naming().auth())?)?;
    Ok(handle)
}

/// Uses a key's private half. A name that is not the key's own is the one thing that its authorisation tells.
pub(crate) fn used<T>(stored: &StoredKey, result: tss_esapi::Result<T>) -> Result<T, Fault> {
    result.map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::BadAuth | Kind::AuthFail) => tampered(stored).into(),
            _ => fault,
        }
    })
}

fn tampered(stored: &StoredKey) -> DeviceError {
    DeviceError::new(
        Class::Tampered,
        format!(
            "the file of key '{}' (id 0x{}) was changed, or is another key's: restore it from a backup",
            stored.label,
            hex::encode(&stored.id)
        ),
    )
}
