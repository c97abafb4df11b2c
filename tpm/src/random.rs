//! Random bytes from the TPM.

use crate::connection::Tpm;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::memory::Secret;

/// A TPM gives as many at once as its largest digest has bytes; each has SHA-256.
const AT_ONCE: usize = 32;

pub(crate) fn random(tpm: &Tpm, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
    tpm.run(&format!("give {len} random bytes"), |connection| {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let wanted = AT_ONCE.min(len - bytes.len());
            let given = connection.protected(|context| context.get_random(wanted))?;
            if given.is_empty() {
                return Err(DeviceError::new(Class::Failed, "the TPM gives no random bytes").into());
            }
            bytes.extend_from_slice(&given);
        }
        Ok(Secret::new(bytes))
    })
}
