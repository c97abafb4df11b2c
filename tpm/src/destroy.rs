//! Destroys a key: without its file there is nothing that the TPM could load.

use crate::connection::Tpm;
use crate::root;
use crate::store::Store;
use holdfast_hsm::device::{DeviceError, KeyRef};

pub(crate) fn destroy(tpm: &Tpm, key: &KeyRef) -> Result<(), DeviceError> {
    if key.label.is_none() && key.id.is_none() {
        return Err(DeviceError::invalid("a key to destroy must be named by label or id"));
    }
    let store = Store::of(tpm.config.keys.as_ref())?;
    tpm.run(&format!("destroy {key}"), |connection| {
        if root::is_meant(key, &connection.root.info()) {
            return Err(DeviceError::invalid(
                "the storage root key is not destroyed here: TPM2_Clear does that, with all that rests below it",
            )
            .into());
        }
        let stored = store.one(key)?;
        if let Some(loaded) = connection.loaded.take_if(|loaded| loaded.private == stored.private) {
            connection.flush(loaded.handle.into(), Ok(()))?;
        }
        store.destroy(&stored)?;
        Ok(())
    })
}
