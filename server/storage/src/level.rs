//! The feature level: what whoever reads a store must know.
//!
//! It is an entry of the store like any other, so that it changes at one place of the log, for all members at once,
//! and goes with every snapshot and copy. It rises when all members can follow: until then each of them may go
//! back to an earlier program. A program that does not know a level neither opens such a store nor applies the entry
//! that says so.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::state::Snapshot;
use crate::{StoreError, Value};

/// Where it is kept: a number (u64, little-endian).
pub const LEVEL_KEY: &[u8] = b"\0level";
/// That of a store that says nothing.
pub const FIRST: u64 = 1;
/// Namespaces with a seal of their own, whose shares may change.
pub const OWN_SEALS: u64 = 3;
/// Mounts that are moved to another namespace.
pub const MOVES: u64 = 4;
/// Managed keys, and mounts that may use them.
pub const MANAGED_KEYS: u64 = 5;
/// Locks of several seals, of which one may hold a former root key.
pub const SEVERAL_SEALS: u64 = 6;
/// Managed keys on P-521. It came with several seals.
pub const P521: u64 = SEVERAL_SEALS;
/// What this program knows. 2: the level itself.
const KNOWN: u64 = SEVERAL_SEALS;

static HELD_BACK: AtomicU64 = AtomicU64::new(KNOWN);

/// Know no more than this from now on: who may have to go back to an earlier program holds the level back.
pub fn hold_back(level: u64) {
    HELD_BACK.store(level.clamp(FIRST, KNOWN), Ordering::SeqCst);
}

/// The highest level that this program can follow.
pub fn known() -> u64 {
    HELD_BACK.load(Ordering::SeqCst)
}

/// The value of [`LEVEL_KEY`].
pub fn value(level: u64) -> Value {
    level.to_le_bytes()[..].into()
}

/// The level of a store.
pub fn of(snapshot: &Snapshot) -> Result<u64, StoreError> {
    snapshot.with(LEVEL_KEY, |value| value.map_or(FIRST, read))
}

/// The level that a value says.
pub fn read(value: &[u8]) -> u64 {
    // A form that is not known is of a level that is not.
    value.try_into().map_or(u64::MAX, u64::from_le_bytes)
}

/// Refuse what this program does not know.
pub(crate) fn check(value: Option<&[u8]>) -> Result<(), StoreError> {
    let (found, known) = (value.map_or(FIRST, read), known());
    if found > known { Err(StoreError::Level { found, known }) } else { Ok(()) }
}
