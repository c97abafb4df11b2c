//! Keyrings of namespaces that have locks of their own: which entries rest under which, and which are open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{Keyring, SealError};

/// Where a namespace's UUID is in the keys of its entries: behind one byte.
const UUID_AT: std::ops::Range<usize> = 1..17;

/// Shared by all copies of a barrier. Where no namespace has locks of its own, it costs one look at a flag.
#[derive(Default)]
pub(crate) struct OwnRings {
    some: AtomicBool,
    rings: RwLock<Rings>,
}

#[derive(Default)]
struct Rings {
    /// Which keyring the entries of a namespace rest under.
    numbers: HashMap<[u8; 16], u32>,
    open: HashMap<u32, OwnRing>,
}

/// An open keyring of a namespace's own.
#[derive(Clone)]
pub struct OwnRing {
    pub number: u32,
    pub keyring: Arc<Keyring>,
    /// Entries that were sealed and not taken to be counted.
    pub(crate) sealed: Arc<AtomicU64>,
}

impl OwnRing {
    pub fn new(number: u32, keyring: Arc<Keyring>) -> OwnRing {
        OwnRing { number, keyring, sealed: Arc::default() }
    }

    /// Entries that were sealed and not counted yet.
    pub fn uncounted(&self) -> u64 {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Take them to be counted: nobody else counts the same ones.
    pub fn take_uncounted(&self) -> u64 {
        self.sealed.swap(0, Ordering::Relaxed)
    }

    /// So many of those that were taken could not be counted.
    pub fn give_back_uncounted(&self, n: u64) {
        self.sealed.fetch_add(n, Ordering::Relaxed);
    }
}

/// What the entries of a place rest under.
pub(crate) enum Under {
    Root,
    Own(OwnRing),
}

impl OwnRings {
    fn read(&self) -> RwLockReadGuard<'_, Rings> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rings> {
        self.rings.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of_namespace(&self, uuid: &[u8; 16]) -> Result<Under, SealError> {
        if !self.some.load(Ordering::Acquire) {
            return Ok(Under::Root);
        }
        let rings = self.read();
        match rings.numbers.get(uuid) {
            None => Ok(Under::Root),
            Some(number) => rings.open.get(number).cloned().map(Under::Own).ok_or(SealError::NamespaceSealed),
        }
    }

    /// What an entry at `key` rests under.
    pub fn of_key(&self, key: &[u8]) -> Result<Under, SealError> {
        match key.get(UUID_AT).and_then(|uuid| uuid.try_into().ok()) {
            Some(uuid) => self.of_namespace(uuid),
            None => Ok(Under::Root),
        }
    }

    pub fn number_of(&self, uuid: &[u8; 16]) -> Option<u32> {
        self.read().numbers.get(uuid).copied()
    }

    pub fn adopt(&self, uuid: [u8; 16], number: u32) {
        self.write().numbers.insert(uuid, number);
        self.some.store(true, Ordering::Release);
    }

    pub fn leave(&self, uuid: &[u8; 16]) {
        self.write().numbers.remove(uuid);
    }

    pub fn ring(&self, number: u32) -> Option<OwnRing> {
        self.read().open.get(&number).cloned()
    }

    pub fn open(&self, ring: OwnRing) {
        self.write().open.insert(ring.number, ring);
    }

    pub fn close(&self, number: u32) -> bool {
        self.write().open.remove(&number).is_some()
    }

    pub fn none_is_open(&self) -> bool {
        self.read().open.is_empty()
    }
}
