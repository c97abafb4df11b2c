//! Keys in software, for development only: in memory, or in a file of mode 0600. Whoever
//! reads the file has the keys. AES-256-GCM and nothing else.

mod encrypt;
mod generate;
mod store;

use crate::device::{Capabilities, CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class};
use crate::device::{DeviceInfo, KeyDevice, KeyInfo, KeyKind, KeyRef, KeySpec, PinTries};
use crate::memory::Secret;
use minicbor::{Decode, Encode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::{Store, StoredKey};

/// The `seal "software"` stanza.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SoftwareConfig {
    /// Where the keys are kept; in memory only if not set.
    #[n(0)]
    pub path: Option<String>,
}

/// A device that is none. Says so in the log at every start.
pub struct SoftwareDevice {
    store: Mutex<Store>,
}

impl SoftwareDevice {
    /// Reads the keys, if a file is configured and there.
    ///
    /// # Errors
    /// `Config` if the file cannot be read, is readable by others, or is no key file.
    pub fn new(config: &SoftwareConfig) -> Result<Self, DeviceError> {
        let store = Store::open(config)?;
        tracing::warn!(
            place = store.place(),
            "keys are in SOFTWARE, not in a device: for development only, never for real secrets"
        );
        Ok(Self { store: Mutex::new(store) })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyDevice for SoftwareDevice {
    fn info(&self) -> Result<DeviceInfo, DeviceError> {
        let place = self.store().place().to_owned();
        Ok(DeviceInfo {
            backend: "software".to_owned(),
            module: place,
            library: format!("holdfast {}", env!("CARGO_PKG_VERSION")),
            token_label: "software".to_owned(),
            serial: "none".to_owned(),
            model: "development only".to_owned(),
            slot: 0,
            login_required: false,
            mechanisms: vec!["CKM_AES_KEY_GEN".to_owned(), "CKM_AES_GCM".to_owned()],
            capabilities: Capabilities {
                generate: vec![KeyKind::Aes(256)],
                import: vec![KeyKind::Aes(256)],
                cipher: vec![CipherMechanism::AesGcm],
                random: true,
                ..Capabilities::default()
            },
            pin_tries: PinTries::All,
            warnings: Vec::new(),
        })
    }

    fn find(&self, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
        Ok(self.store().matching(key).map(StoredKey::info).collect())
    }

    fn generate(&self, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
        generate::generate(&mut self.store(), spec)
    }

    fn import(&self, spec: &KeySpec, material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
        generate::import(&mut self.store(), spec, material)
    }

    fn encrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        plaintext: &Secret<Vec<u8>>,
        aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        encrypt::encrypt(&self.store(), key, mechanism, plaintext, aad)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        encrypt::decrypt(&self.store(), key, mechanism, ciphertext, aad)
    }

    fn random(&self, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes)
            .map_err(|error| DeviceError::new(Class::Failed, format!("no random bytes: {error}")))?;
        Ok(Secret::new(bytes))
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), DeviceError> {
        self.store().destroy(key)
    }
}
