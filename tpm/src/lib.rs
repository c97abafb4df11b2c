//! A TPM 2.0 as a device that holds keys: [`TpmDevice`], beside the backends of `holdfast-hsm`.
//!
//! One file for each capability, the same names as in the other backends; beside them `connection` (the TPM opened, its
//! storage root key, the session that protects what passes the bus), `seal` and `oaep` (the two ways to encrypt), `policy`,
//! `pcr` and `measured` (what the TPM looks at before it gives a secret back), `approval` (who may change that), `quorum`, `trial`
//! and `nonce` (custodians who have to sign), `store` (where keys
//! rest), `attest` and `endorsement` (what the TPM says of itself), `counter` (old copies of a store), and `fault` (its answers as errors).
//!
//! A TPM keeps few keys inside. Its keys and sealed secrets rest outside, encrypted by its storage root key: a sealed
//! root key in the lock that it opens, key pairs in files of a folder.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod approval;
mod attest;
mod connection;
mod counter;
mod derive;
mod destroy;
mod encrypt;
mod endorsement;
mod fault;
mod find;
mod generate;
mod info;
mod measured;
#[allow(unsafe_code)]
mod nonce;
mod oaep;
mod pcr;
mod policy;
mod public_key;
mod quorum;
mod random;
mod root;
mod seal;
mod sealed;
mod sign;
mod signer;
mod store;
mod trial;

use connection::Tpm;
use holdfast_hsm::DeviceConfig;
use holdfast_hsm::device::{Challenge, CipherMechanism, Ciphertext, CounterAct, Credential, CustodianSignature};
use holdfast_hsm::device::{DeviceError, DeviceInfo, Evidence, KeyDevice, QuoteRequest};
use holdfast_hsm::device::{KeyInfo, KeyRef, KeySpec, SignInput, SignMechanism};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::TpmConfig;

/// Makes the device of a configuration: a [`TpmDevice`], or what `holdfast-hsm` has. For
/// [`helper::main`](holdfast_hsm::helper::main).
///
/// # Errors
/// As [`DeviceConfig::open`].
pub fn open(config: DeviceConfig) -> Result<Box<dyn KeyDevice>, DeviceError> {
    match config {
        DeviceConfig::Tpm(config) => Ok(Box::new(TpmDevice::new(*config))),
        other => other.open(),
    }
}

/// A TPM. Opened at the first call, and opened again whenever it was away.
pub struct TpmDevice {
    tpm: Tpm,
}

impl TpmDevice {
    /// For a configuration. Nothing is opened before the first call.
    pub fn new(config: TpmConfig) -> Self {
        Self { tpm: Tpm::new(config) }
    }
}

impl KeyDevice for TpmDevice {
    fn info(&self) -> Result<DeviceInfo, DeviceError> {
        info::info(&self.tpm)
    }

    fn find(&self, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
        find::find(&self.tpm, key)
    }

    fn generate(&self, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
        generate::generate(&self.tpm, spec)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
        public_key::public_key(&self.tpm, key)
    }

    fn sign(&self, key: &KeyRef, mechanism: SignMechanism, input: &SignInput) -> Result<Vec<u8>, DeviceError> {
        sign::sign(&self.tpm, key, mechanism, input)
    }

    fn verify(
        &self,
        key: &KeyRef,
        mechanism: SignMechanism,
        input: &SignInput,
        signature: &[u8],
    ) -> Result<bool, DeviceError> {
        sign::verify(&self.tpm, key, mechanism, input, signature)
    }

    fn encrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        plaintext: &Secret<Vec<u8>>,
        aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        encrypt::encrypt(&self.tpm, key, mechanism, plaintext, aad)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        encrypt::decrypt(&self.tpm, key, mechanism, ciphertext, aad)
    }

    fn challenge(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
        valid_secs: u32,
    ) -> Result<Challenge, DeviceError> {
        encrypt::challenge(&self.tpm, key, mechanism, (ciphertext, aad), valid_secs)
    }

    fn decrypt_signed(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        sealed: (&[u8], &[u8]),
        message: &[u8],
        signatures: &[CustodianSignature],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        encrypt::decrypt_signed(&self.tpm, key, mechanism, sealed, message, signatures)
    }

    fn derive(&self, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
        derive::derive(&self.tpm, key, peer_point)
    }

    fn attest(&self, request: &QuoteRequest) -> Result<Evidence, DeviceError> {
        attest::attest(&self.tpm, request)
    }

    fn activate(&self, credential: &Credential) -> Result<Secret<Vec<u8>>, DeviceError> {
        attest::activate(&self.tpm, credential)
    }

    fn counter(&self, act: CounterAct) -> Result<Option<u64>, DeviceError> {
        counter::counter(&self.tpm, act)
    }

    fn random(&self, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
        random::random(&self.tpm, len)
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), DeviceError> {
        destroy::destroy(&self.tpm, key)
    }

    fn log_out(&self) {
        self.tpm.close();
    }
}
