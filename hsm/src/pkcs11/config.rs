//! The `seal "pkcs11"` stanza, as far as the device is concerned.

use crate::confinement::HelperLimits;
use crate::device::{DeviceError, KeyRef, secret_text};
use crate::memory::Secret;
use minicbor::{Decode, Encode};
use std::ffi::OsString;

/// Which token of which module, and which key on it.
///
/// A token is best named by label or serial: slot ids change when tokens are made and
/// between hosts. `slot` is the slot id (CK_SLOT_ID), not a position in a list.
#[derive(Debug, Encode, Decode)]
pub struct Pkcs11Config {
    /// Path of the vendor's library.
    #[n(0)]
    pub lib: String,
    /// Slot id. With a label or serial too, the slot must hold that token.
    #[n(1)]
    pub slot: Option<u64>,
    /// Label of the token.
    #[n(2)]
    pub token_label: Option<String>,
    /// Serial number of the token.
    #[n(3)]
    pub token_serial: Option<String>,
    /// User PIN; not needed where the token requires no login.
    #[cbor(n(4), with = "secret_text")]
    pub pin: Option<Secret<String>>,
    /// CKA_LABEL of the key.
    #[n(5)]
    pub key_label: Option<String>,
    /// CKA_ID of the key in hex, with or without `0x`.
    #[n(6)]
    pub key_id: Option<String>,
    /// How the root key is wrapped (`CKM_AES_GCM`, `CKM_RSA_PKCS_OAEP`); chosen by what
    /// the token can do if not set.
    #[n(7)]
    pub mechanism: Option<String>,
    /// Whether to make the key if it is missing.
    #[n(8)]
    pub generate_key: bool,
    /// What its helper may do.
    #[n(9)]
    pub limits: HelperLimits,
    /// Text for C_Initialize, for a library that wants its configuration there (NSS softokn).
    #[n(10)]
    pub parameters: Option<String>,
    /// Variables by which the library is told its configuration, by name: set in the helper alone, so that two devices
    /// of one library can differ. Of no effect for a device in this process.
    #[n(11)]
    pub environment: Vec<(String, String)>,
}

impl Pkcs11Config {
    /// For a module, with nothing else set.
    pub fn new(lib: impl Into<String>) -> Self {
        Self {
            lib: lib.into(),
            slot: None,
            token_label: None,
            token_serial: None,
            pin: None,
            key_label: None,
            key_id: None,
            mechanism: None,
            generate_key: false,
            limits: HelperLimits::default(),
            parameters: None,
            environment: Vec::new(),
        }
    }

    /// The key that is configured.
    ///
    /// # Errors
    /// `Config` if none is named or the id is no hex.
    pub fn key_ref(&self) -> Result<KeyRef, DeviceError> {
        KeyRef::from_config(self.key_label.as_deref(), self.key_id.as_deref())
    }

    /// A variable as the library will see it: its own, or the server's.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        let own = self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.into());
        own.or_else(|| std::env::var_os(name))
    }

    /// The token as the operator named it, for error texts.
    pub(crate) fn token_name(&self) -> String {
        match (&self.token_label, &self.token_serial, self.slot) {
            (Some(label), _, _) => format!("token '{label}' (module {})", self.lib),
            (None, Some(serial), _) => {
                format!("token with serial '{serial}' (module {})", self.lib)
            }
            (None, None, Some(slot)) => format!("the token in slot {slot} (module {})", self.lib),
            (None, None, None) => format!("the only token (module {})", self.lib),
        }
    }
}
