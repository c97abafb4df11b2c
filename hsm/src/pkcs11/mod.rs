//! PKCS#11: a token behind a vendor's library.
//!
//! One file for each capability, the same names as in the other backends; beside them
//! `module` (load, initialise once, finalise), `token` (which slot), `session`
//! (pool, login, recovery) and `fault` (return values as errors).

mod abilities;
mod config;
mod derive;
mod destroy;
mod encrypt;
mod fault;
mod find;
mod functions;
mod generate;
mod import;
mod info;
mod mac;
mod module;
mod parameters;
mod public_key;
mod quirks;
mod random;
mod session;
mod sign;
mod token;

use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceInfo, Hash, KeyDevice};
use crate::device::{KeyInfo, KeyRef, KeySpec, SignInput, SignMechanism};
use crate::memory::Secret;
use session::Sessions;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

pub use config::Pkcs11Config;

/// A token. Opened at the first call, and opened again whenever it was away; a call
/// never makes the caller wait for a token that is absent.
pub struct Pkcs11Device {
    sessions: Sessions,
    /// One at a time, so that two callers do not make the same key.
    making: Mutex<()>,
    /// Set once the token has refused OAEP with SHA-256.
    oaep_is_sha1_only: AtomicBool,
}

impl Pkcs11Device {
    /// For a configuration. Nothing is loaded before the first call.
    pub fn new(config: Pkcs11Config) -> Self {
        Self { sessions: Sessions::new(config), making: Mutex::new(()), oaep_is_sha1_only: AtomicBool::new(false) }
    }
}

impl KeyDevice for Pkcs11Device {
    fn info(&self) -> Result<DeviceInfo, DeviceError> {
        info::info(&self.sessions)
    }

    fn find(&self, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
        find::find(&self.sessions, key)
    }

    fn generate(&self, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
        let _one_at_a_time = self.making.lock();
        generate::generate(&self.sessions, spec)
    }

    fn import(&self, spec: &KeySpec, material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
        let _one_at_a_time = self.making.lock();
        import::import(&self.sessions, spec, material)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
        public_key::public_key(&self.sessions, key)
    }

    fn sign(&self, key: &KeyRef, mechanism: SignMechanism, input: &SignInput) -> Result<Vec<u8>, DeviceError> {
        sign::sign(&self.sessions, key, mechanism, input)
    }

    fn verify(
        &self,
        key: &KeyRef,
        mechanism: SignMechanism,
        input: &SignInput,
        signature: &[u8],
    ) -> Result<bool, DeviceError> {
        sign::verify(&self.sessions, key, mechanism, input, signature)
    }

    fn encrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        plaintext: &Secret<Vec<u8>>,
        aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        encrypt::encrypt(&self.sessions, &self.oaep_is_sha1_only, key, mechanism, plaintext, aad)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        encrypt::decrypt(&self.sessions, key, mechanism, ciphertext, aad)
    }

    fn derive(&self, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
        derive::derive(&self.sessions, key, peer_point)
    }

    fn mac(&self, key: &KeyRef, hash: Hash, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
        mac::mac(&self.sessions, key, hash, message)
    }

    fn verify_mac(&self, key: &KeyRef, hash: Hash, message: &[u8], tag: &[u8]) -> Result<bool, DeviceError> {
        mac::verify(&self.sessions, key, hash, message, tag)
    }

    fn random(&self, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
        random::random(&self.sessions, len)
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), DeviceError> {
        let _one_at_a_time = self.making.lock();
        destroy::destroy(&self.sessions, key)
    }

    fn log_out(&self) {
        self.sessions.close();
    }
}
