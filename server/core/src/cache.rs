//! Decoded records by storage key, invalidated by applied batches.
//!
//! An entry carries the index of the snapshot it was read from; one that is older than its shard's
//! last invalidation is not inserted, so that a slow reader cannot bring back what was changed.

use std::collections::HashMap;
use std::hash::BuildHasher;

use crate::sync::{Arc, PoisonError, RandomState, RwLock};

const SHARDS: usize = 16;

pub struct Cache<T> {
    shards: Vec<RwLock<Shard<T>>>,
    hasher: RandomState,
    per_shard: usize,
}

struct Shard<T> {
    /// With the index of the snapshot that each was read from.
    entries: HashMap<Box<[u8]>, (Arc<T>, u64)>,
    invalidated_at: u64,
}

impl<T> Cache<T> {
    /// A cache of at most about `capacity` entries; a full shard starts over.
    pub fn new(capacity: usize) -> Cache<T> {
        let shard = || RwLock::new(Shard { entries: HashMap::new(), invalidated_at: 0 });
        Cache {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: RandomState::default(),
            per_shard: capacity / SHARDS,
        }
    }

    fn shard(&self, key: &[u8]) -> &RwLock<Shard<T>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<T>> {
        self.shard(key).read().unwrap_or_else(PoisonError::into_inner).entries.get(key).map(|(v, _)| v.clone())
    }

    /// The entry as a snapshot of `index` sees it: what was read earlier and not changed since is true there too.
    pub fn get_at(&self, key: &[u8], index: u64) -> Option<Arc<T>> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        shard.entries.get(key).filter(|(_, read_at)| *read_at <= index).map(|(v, _)| v.clone())
    }

    /// Keep what was read in a snapshot of `index`.
    pub fn insert(&self, key: &[u8], value: Arc<T>, index: u64) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        if index < shard.invalidated_at {
            return;
        }
        if shard.entries.len() >= self.per_shard.max(1) {
            shard.entries.clear();
        }
        shard.entries.insert(key.into(), (value, index));
    }

    /// Forget all.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).entries.clear();
        }
    }

    /// Forget all that was read in older snapshots than that of `index`, and keep nothing more that is.
    pub fn forget_before(&self, index: u64) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.entries.clear();
            shard.invalidated_at = shard.invalidated_at.max(index);
        }
    }

    /// The batch of `index` changed the key.
    pub fn invalidate(&self, key: &[u8], index: u64) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        shard.entries.remove(key);
        shard.invalidated_at = shard.invalidated_at.max(index);
    }
}
