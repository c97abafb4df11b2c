#![forbid(unsafe_code)]
//! Locks, root key, keyring, barrier.
//!
//! ```text
//! lock: a device, shares, … ─ wraps the root key ─ wraps the keyring (terms) ─ seals each entry
//! ```
//!
//! * [`locks`]: the versioned, authenticated list of ways to the root key.
//! * [`shares`]: Shamir's secret sharing, as Vault shows shares.
//! * [`keyring`]: the data keys by term, and the keys for names and ids.
//! * [`barrier`]: entries, names and ids as they rest in storage.
//! * [`xaes`]: XAES-256-GCM (C2SP).

pub mod barrier;
pub mod device;
mod entropy;
pub mod keyring;
pub mod locks;
mod own;
pub mod shares;
mod siv;
pub mod xaes;

pub use barrier::Barrier;
pub use device::{DeviceRefusal, RollbackCounter, SealDevice, Step, Wrapped};
pub use entropy::{Entropy, SEED_BYTES};
pub use keyring::Keyring;
pub use locks::{Lock, LockKind, LockList, Recovery, RecoveryForm, Scope};
pub use own::OwnRing;

use holdfast_hsm::memory::MemoryError;

/// Why something sealed could not be opened, or could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key is another one, or the bytes were changed.
    #[error("{0} cannot be opened: it was changed, moved, or sealed with another key")]
    Tampered(&'static str),
    #[error("{what} has format {found}, this program reads up to {known}")]
    Format { what: &'static str, found: u8, known: u8 },
    #[error("{0} cannot be read: its encoding is broken")]
    Encoding(&'static str),
    /// A key term that the keyring does not have.
    #[error("the entry was sealed with key term {0}, which the keyring does not hold")]
    Term(u32),
    #[error("the shares do not open the store: they are of another cluster, of another set, or too few")]
    WrongShares,
    /// The entry is of a namespace with locks of its own, and nobody has opened them.
    #[error("namespace is sealed")]
    NamespaceSealed,
    #[error("the device's generator gives no random bytes, but all the same ones, or another number of them")]
    NoRandomness,
    #[error("{0}")]
    Share(String),
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// HMAC-SHA-256 of the parts, each preceded by its length, so that no two lists of parts agree.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    use hmac::{KeyInit, Mac};
    let mut mac = match hmac::Hmac::<sha2::Sha256>::new_from_slice(key) {
        Ok(m) => m,
        // HMAC takes keys of every length.
        Err(_) => unreachable!(),
    };
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
