//! A device as the seal uses it: it wraps the root key, and gives it back.

use std::time::Duration;

use holdfast_hsm::device::{Challenge, CounterAct, CustodianSignature};
use holdfast_hsm::memory::{Key, Secret};

use crate::{Lock, LockKind, Scope};

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

impl Wrapped {
    /// As a lock of no store, by which the device opens it again.
    pub fn into_lock(self, backend: &str) -> Lock {
        Lock {
            id: [0; 16],
            kind: LockKind::Device { backend: backend.to_owned() },
            scope: Scope::Cluster,
            priority: 0,
            key_label: self.key_label,
            key_id: self.key_id,
            mechanism: self.mechanism,
            public_part: self.public_part,
            ciphertext: self.ciphertext,
            proved: false,
            created: 0,
            name: None,
            stale_since: None,
        }
    }
}

/// What binds a secret that is wrapped for trial: it can stand in for no root key.
pub const TRIAL: &[u8] = b"holdfast seal trial";

/// One step of a trial.
#[derive(Debug, Clone)]
pub struct Step {
    pub what: &'static str,
    pub said: Result<String, String>,
}

/// What came of opening again what was wrapped.
pub fn unwrap_step(opened: Result<Key, DeviceRefusal>, key: &Key) -> Step {
    let said = match opened {
        Ok(again) if again.ct_eq(key.expose()) => Ok("opens what it has wrapped".to_owned()),
        Ok(_) => Err("the device does not give back what it wrapped; it cannot be used".to_owned()),
        Err(e) => Err(e.text),
    };
    Step { what: "unwrap", said }
}

/// Why a device does not do what is asked; `text` is one line with the next step in it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct DeviceRefusal {
    pub text: String,
    /// Asking again by itself may help; a wrong PIN must not be tried again.
    pub retry: bool,
    /// The device is well: it waits for custodians to sign.
    pub custodians: bool,
    /// The device, or the way to it, is not there. It may be back in a moment.
    pub away: bool,
}

impl DeviceRefusal {
    pub fn new(text: impl Into<String>, retry: bool) -> DeviceRefusal {
        DeviceRefusal { text: text.into(), retry, custodians: false, away: false }
    }
}

/// A counter of a device that tells old copies of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollbackCounter {
    /// Where it has to be for a store to be accepted once that its record does not fit.
    pub accepted: Option<u64>,
}

/// A device that holds a wrapping key. Calls block: they belong on a thread of their own.
pub trait SealDevice: Send + Sync {
    /// The seal stanza's type: `pkcs11`, `software`.
    fn backend(&self) -> &str;
    fn wrap(&self, root: &Key, context: &[u8]) -> Result<Wrapped, DeviceRefusal>;
    fn unwrap(&self, lock: &Lock, context: &[u8]) -> Result<Key, DeviceRefusal>;
    /// What custodians have to sign before it opens a lock that needs them. There is one challenge at a time.
    fn challenge(&self, _lock: &Lock, _context: &[u8], _valid: Duration) -> Result<Challenge, DeviceRefusal> {
        Err(DeviceRefusal::new("this kind of device asks no custodians", false))
    }
    /// Open a lock that they have signed for. The challenge ends with it.
    fn unwrap_signed(
        &self,
        _lock: &Lock,
        _context: &[u8],
        _message: &[u8],
        _signatures: Vec<CustodianSignature>,
    ) -> Result<Key, DeviceRefusal> {
        Err(DeviceRefusal::new("this kind of device asks no custodians", false))
    }
    /// Whether this lock's key is the one that the configuration names. A device may open others, too.
    fn names(&self, _lock: &Lock) -> bool {
        true
    }
    /// Where it is, in a few words, without secrets: `token "main" of /usr/lib/…`.
    fn place(&self) -> String {
        String::new()
    }
    /// Try what an unseal and a new root key need of it, without making anything in it: what it did, in order. The last
    /// step may have failed.
    fn trial(&self) -> Vec<Step> {
        let wrapping = || {
            let key = Key::random(32).map_err(|e| e.to_string())?;
            self.wrap(&key, TRIAL).map(|wrapped| (key, wrapped)).map_err(|e| e.text)
        };
        let (key, wrapped) = match wrapping() {
            Ok(made) => made,
            Err(why) => return vec![Step { what: "wrap", said: Err(why) }],
        };
        let wraps = Step { what: "wrap", said: Ok(format!("with {}", wrapped.mechanism)) };
        vec![wraps, unwrap_step(self.unwrap(&wrapped.into_lock(self.backend()), TRIAL), &key)]
    }
    /// Whether it counts, so that old copies of the store are told.
    fn rollback_counter(&self) -> Option<RollbackCounter> {
        None
    }
    /// What is done with that counter; its value, if it is there.
    fn counter(&self, _act: CounterAct) -> Result<Option<u64>, DeviceRefusal> {
        Err(DeviceRefusal::new("this kind of device does not count", false))
    }
    /// It is not wanted for a while.
    fn log_out(&self) {}
    /// So many bytes of the device's own generator. None: it has none.
    fn random(&self, _bytes: u32) -> Option<Result<Secret<Vec<u8>>, DeviceRefusal>> {
        None
    }
}
