//! A device as the seal uses it: it wraps the root key, and gives it back.

use holdfast_hsm::memory::{Key, Secret};

use crate::Lock;

/// What a device made of the root key.
pub struct Wrapped {
    pub ciphertext: Vec<u8>,
    /// The wrapping key as the device names it.
    pub key_label: String,
    pub key_id: String,
    pub mechanism: String,
    /// SubjectPublicKeyInfo of the wrapping key, where it has one.
    pub public_part: Option<Vec<u8>>,
}

/// Why a device does not do what is asked; `text` is one line with the next step in it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct DeviceRefusal {
    pub text: String,
    /// Asking again by itself may help; a wrong PIN must not be tried again.
    pub retry: bool,
}

/// A device that holds a wrapping key. Calls block: they belong on a thread of their own.
pub trait SealDevice: Send + Sync {
    /// The seal stanza's type: `pkcs11`, `software`.
    fn backend(&self) -> &str;
    fn wrap(&self, root: &Key, context: &[u8]) -> Result<Wrapped, DeviceRefusal>;
    fn unwrap(&self, lock: &Lock, context: &[u8]) -> Result<Key, DeviceRefusal>;
    /// Whether this lock's key is the one that the configuration names. A device may open others, too.
    fn names(&self, _lock: &Lock) -> bool {
        true
    }
    /// So many bytes of the device's own generator. None: it has none.
    fn random(&self, _bytes: u32) -> Option<Result<Secret<Vec<u8>>, DeviceRefusal>> {
        None
    }
}
