//! A YubiHSM 2 as a device that holds keys: [`YubiHsmDevice`], behind its connector.
//!
//! One file for each capability, the same names as in the other backends; beside them `connector` (HTTP), `channel` (the
//! secure channel), `session` (a session opened and kept), `object` (what is on the device), `log` (its audit log),
//! `protocol` (numbers and names of Yubico's command reference) and `fault` (what goes wrong, as errors).
//!
//! Why not a crate: docs/decisions/, the page of the YubiHSM.

mod channel;
mod config;
mod connector;
mod derive;
mod destroy;
mod encrypt;
mod fault;
mod find;
mod generate;
mod info;
mod log;
mod mac;
mod object;
mod protocol;
mod public_key;
mod random;
mod session;
mod sign;

use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceInfo, Hash, KeyDevice};
use crate::device::{KeyInfo, KeyRef, KeySpec, SignInput, SignMechanism};
use crate::memory::Secret;
use session::YubiHsm;

pub use config::YubiHsmConfig;

/// A YubiHSM. A session is opened at the first call, and another one whenever it has ended.
pub struct YubiHsmDevice {
    hsm: YubiHsm,
}

impl YubiHsmDevice {
    /// For a configuration. Nothing is asked before the first call.
    ///
    /// # Errors
    /// `Config` if the connector's address is none.
    pub fn new(config: YubiHsmConfig) -> Result<Self, DeviceError> {
        Ok(Self { hsm: YubiHsm::new(config)? })
    }
}

impl KeyDevice for YubiHsmDevice {
    fn info(&self) -> Result<DeviceInfo, DeviceError> {
        info::info(&self.hsm)
    }

    fn find(&self, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
        find::find(&self.hsm, key)
    }

    fn generate(&self, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
        generate::generate(&self.hsm, spec)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
        public_key::public_key(&self.hsm, key)
    }

    fn sign(&self, key: &KeyRef, mechanism: SignMechanism, input: &SignInput) -> Result<Vec<u8>, DeviceError> {
        sign::sign(&self.hsm, key, mechanism, input)
    }

    fn encrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        plaintext: &Secret<Vec<u8>>,
        aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        encrypt::encrypt(&self.hsm, key, mechanism, plaintext, aad)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        encrypt::decrypt(&self.hsm, key, mechanism, ciphertext, aad)
    }

    fn derive(&self, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
        derive::derive(&self.hsm, key, peer_point)
    }

    fn mac(&self, key: &KeyRef, hash: Hash, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
        mac::mac(&self.hsm, key, hash, message)
    }

    fn verify_mac(&self, key: &KeyRef, hash: Hash, message: &[u8], tag: &[u8]) -> Result<bool, DeviceError> {
        mac::verify(&self.hsm, key, hash, message, tag)
    }

    fn random(&self, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
        random::random(&self.hsm, len)
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), DeviceError> {
        destroy::destroy(&self.hsm, key)
    }

    fn log_out(&self) {
        self.hsm.close();
    }
}
