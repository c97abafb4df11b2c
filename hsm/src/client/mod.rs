//! The server's side of a device: [`DeviceClient`].
//!
//! Calls block; from async code they go through `spawn_blocking`. With a helper, each
//! call has a time-out, a helper that hangs or dies is replaced, and a call that may be
//! repeated is repeated once. PIN errors are remembered here, so that a new helper does
//! not try the same PIN again.

mod link;
mod supervisor;
pub mod waits;
mod wrapping;

use crate::config::DeviceConfig;
use crate::device::{Answer, Call, CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class};
use crate::device::{CounterAct, Credential, Evidence, QuoteRequest};
use crate::device::{DeviceInfo, Hash, KeyDevice, KeyInfo, KeyRef, KeySpec, SignInput, SignMechanism, dispatch};
use crate::memory::Secret;
use crate::spawner::Spawner;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use supervisor::Supervisor;

pub use wrapping::{WrapKeyConfig, WrapKeyInfo, custodians_of};

/// How long a call may take, if not set otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A device, as the server uses it. Cheap to clone; all clones are one device.
#[derive(Clone)]
pub struct DeviceClient(Arc<Backend>);

enum Backend {
    InProcess(Box<dyn KeyDevice>),
    Helper(Supervisor),
}

impl DeviceClient {
    /// A device in this process: for benchmarks, and for the software device. No call
    /// has a time-out, and a library that crashes takes the process with it.
    pub fn in_process(device: Box<dyn KeyDevice>) -> Self {
        Self(Arc::new(Backend::InProcess(device)))
    }

    /// A device in a helper process of its own, which is started at the first call.
    pub fn spawned(spawner: Arc<Spawner>, config: impl Into<DeviceConfig>) -> Self {
        Self::spawned_with_timeout(spawner, config, DEFAULT_TIMEOUT)
    }

    /// The same with another time-out for each call. Making and importing keys may take
    /// twelve times as long.
    pub fn spawned_with_timeout(spawner: Arc<Spawner>, config: impl Into<DeviceConfig>, timeout: Duration) -> Self {
        Self(Arc::new(Backend::Helper(Supervisor::new(spawner, config.into(), timeout))))
    }

    /// Carries a call out. Blocks.
    ///
    /// # Errors
    /// What the device says; with a helper also `Busy` (too many calls wait), `Timeout`
    /// and `HelperDied`.
    pub fn call(&self, call: Call) -> Result<Answer, DeviceError> {
        match &*self.0 {
            Backend::InProcess(device) => dispatch(device.as_ref(), &call),
            Backend::Helper(supervisor) => supervisor.call(&call),
        }
    }

    /// Takes another configuration (a corrected PIN, another token); the helper starts
    /// anew and a refused PIN is forgotten. `Unsupported` for a device in this process.
    ///
    /// # Errors
    /// `Unsupported`, see above.
    pub fn reconfigure(&self, config: impl Into<DeviceConfig>) -> Result<(), DeviceError> {
        match &*self.0 {
            Backend::InProcess(_) => {
                Err(DeviceError::unsupported("a device in the server's own process changes with a restart"))
            }
            Backend::Helper(supervisor) => {
                supervisor.reconfigure(config.into());
                Ok(())
            }
        }
    }

    /// Takes another PIN, as [`DeviceClient::reconfigure`] does with a whole configuration. `false`: it is the one
    /// that is known, and if the token refused it, it is not tried again.
    pub fn take_pin(&self, pin: Secret<String>) -> bool {
        match &*self.0 {
            Backend::InProcess(_) => false,
            Backend::Helper(supervisor) => supervisor.take_pin(pin),
        }
    }

    /// Logs out and ends the helper, as sealing does. The next call starts it again.
    pub fn log_out(&self) {
        match &*self.0 {
            Backend::InProcess(device) => device.log_out(),
            Backend::Helper(supervisor) => supervisor.close(),
        }
    }

    /// Process id of the helper, if one runs.
    pub fn helper_pid(&self) -> Option<u32> {
        match &*self.0 {
            Backend::InProcess(_) => None,
            Backend::Helper(supervisor) => supervisor.helper_pid(),
        }
    }

    /// [`Call::Info`].
    pub fn info(&self) -> Result<DeviceInfo, DeviceError> {
        match self.call(Call::Info)? {
            Answer::Info(info) => Ok(*info),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Generate`].
    pub fn generate(&self, spec: KeySpec) -> Result<KeyInfo, DeviceError> {
        match self.call(Call::Generate(spec))? {
            Answer::Key(key) => Ok(key),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Find`].
    pub fn find(&self, key: KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
        match self.call(Call::Find(key))? {
            Answer::Keys(keys) => Ok(keys),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Import`].
    pub fn import(&self, spec: KeySpec, material: Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
        match self.call(Call::Import { spec, material })? {
            Answer::Key(key) => Ok(key),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::PublicKey`].
    pub fn public_key(&self, key: KeyRef) -> Result<Vec<u8>, DeviceError> {
        match self.call(Call::PublicKey(key))? {
            Answer::Bytes(spki) => Ok(spki),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Sign`].
    pub fn sign(&self, key: KeyRef, mechanism: SignMechanism, input: SignInput) -> Result<Vec<u8>, DeviceError> {
        match self.call(Call::Sign { key, mechanism, input })? {
            Answer::Bytes(signature) => Ok(signature),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Verify`].
    pub fn verify(
        &self,
        key: KeyRef,
        mechanism: SignMechanism,
        input: SignInput,
        signature: Vec<u8>,
    ) -> Result<bool, DeviceError> {
        match self.call(Call::Verify { key, mechanism, input, signature })? {
            Answer::Verified(good) => Ok(good),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Encrypt`].
    pub fn encrypt(
        &self,
        key: KeyRef,
        mechanism: CipherMechanism,
        plaintext: Secret<Vec<u8>>,
        aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        match self.call(Call::Encrypt { key, mechanism, plaintext, aad: aad.to_vec() })? {
            Answer::Ciphertext { mechanism, bytes } => Ok(Ciphertext { mechanism, bytes }),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Decrypt`].
    pub fn decrypt(
        &self,
        key: KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        self.secret(Call::Decrypt { key, mechanism, ciphertext: ciphertext.to_vec(), aad: aad.to_vec() })
    }

    /// [`Call::Derive`].
    pub fn derive(&self, key: KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
        self.secret(Call::Derive { key, peer_point: peer_point.to_vec() })
    }

    /// [`Call::Mac`].
    pub fn mac(&self, key: KeyRef, hash: Hash, message: Vec<u8>) -> Result<Vec<u8>, DeviceError> {
        match self.call(Call::Mac { key, hash, message })? {
            Answer::Bytes(tag) => Ok(tag),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::VerifyMac`].
    pub fn verify_mac(&self, key: KeyRef, hash: Hash, message: Vec<u8>, tag: Vec<u8>) -> Result<bool, DeviceError> {
        match self.call(Call::VerifyMac { key, hash, message, tag })? {
            Answer::Verified(good) => Ok(good),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Attest`].
    pub fn attest(&self, request: QuoteRequest) -> Result<Evidence, DeviceError> {
        match self.call(Call::Attest(request))? {
            Answer::Evidence(evidence) => Ok(*evidence),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Activate`].
    pub fn activate(&self, credential: Credential) -> Result<Secret<Vec<u8>>, DeviceError> {
        self.secret(Call::Activate(credential))
    }

    /// [`Call::Counter`].
    pub fn counter(&self, act: CounterAct) -> Result<Option<u64>, DeviceError> {
        match self.call(Call::Counter(act))? {
            Answer::Counter(value) => Ok(value),
            other => Err(mismatch(&other)),
        }
    }

    /// [`Call::Random`].
    pub fn random(&self, len: u32) -> Result<Secret<Vec<u8>>, DeviceError> {
        self.secret(Call::Random(len))
    }

    /// [`Call::Destroy`].
    pub fn destroy(&self, key: KeyRef) -> Result<(), DeviceError> {
        match self.call(Call::Destroy(key))? {
            Answer::Done => Ok(()),
            other => Err(mismatch(&other)),
        }
    }

    fn secret(&self, call: Call) -> Result<Secret<Vec<u8>>, DeviceError> {
        match self.call(call)? {
            Answer::Secret(secret) => Ok(secret),
            other => Err(mismatch(&other)),
        }
    }
}

impl fmt::Debug for DeviceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0 {
            Backend::InProcess(_) => "DeviceClient(in process)",
            Backend::Helper(_) => "DeviceClient(helper)",
        })
    }
}

fn mismatch(answer: &Answer) -> DeviceError {
    let kind = match answer {
        Answer::Info(_) => "info",
        Answer::Key(_) => "key",
        Answer::Keys(_) => "keys",
        Answer::Bytes(_) => "bytes",
        Answer::Verified(_) => "verified",
        Answer::Ciphertext { .. } => "ciphertext",
        Answer::Secret(_) => "secret",
        Answer::Done => "done",
        Answer::Challenge(_) => "challenge",
        Answer::Evidence(_) => "evidence",
        Answer::Counter(_) => "counter",
    };
    DeviceError::new(Class::Failed, format!("the device gave an answer of another kind ({kind}): this is a defect"))
}
