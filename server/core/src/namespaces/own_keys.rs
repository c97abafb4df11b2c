//! The keys of namespaces with a seal of their own, as a node holds them: in memory alone, from an unsealing to the
//! commit that seals.
//!
//! The node that a namespace was unsealed on tells its key to all others, so that whoever takes the lead goes on with
//! it; what is told is closed with the root key. A key that comes later than the seal it is from before is not taken.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use holdfast_hsm::memory::{Key, MemoryError};
use holdfast_seal::{Lock, locks};
use minicbor::{Decode, Encode};

use crate::layout::{self, SEALINGS};
use crate::{Core, Open};

/// How often the active node tells the keys again: to those that were away, or sealed.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// What the message begins with: no other that goes the same way does.
const WORD: &str = "keys of namespaces";

/// By the number of the keyring.
#[derive(Default)]
pub(crate) struct OwnKeys(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    keys: HashMap<u32, Known>,
    /// The version of the store in which each was sealed last, since this node was started.
    sealed_at: HashMap<u32, u64>,
    /// When all were forgotten last.
    all_sealed_at: u64,
}

struct Known {
    key: Key,
    /// The one before: which of them opens the keyring is said by the store, where new shares may or may not be.
    former: Option<Key>,
}

impl OwnKeys {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep a key that was good at a version of the store. False: the namespace was sealed since.
    pub fn keep(&self, number: u32, key: Key, index: u64) -> bool {
        let mut kept = self.kept();
        if kept.was_sealed_since(number, index) {
            return false;
        }
        match kept.keys.get_mut(&number) {
            Some(known) if known.key.ct_eq(key.expose()) => {}
            Some(known) => known.former = Some(std::mem::replace(&mut known.key, key)),
            None => {
                kept.keys.insert(number, Known { key, former: None });
            }
        }
        true
    }

    pub fn was_sealed_since(&self, number: u32, index: u64) -> bool {
        self.kept().was_sealed_since(number, index)
    }

    /// The last that was kept, which is told to other nodes.
    fn key(&self, number: u32) -> Result<Option<Key>, MemoryError> {
        self.kept().keys.get(&number).map(|known| known.key.try_clone()).transpose()
    }

    /// All that may open a keyring.
    pub fn known(&self, number: u32) -> Result<Vec<Key>, MemoryError> {
        let kept = self.kept();
        let Some(known) = kept.keys.get(&number) else { return Ok(Vec::new()) };
        [Some(&known.key), known.former.as_ref()].into_iter().flatten().map(Key::try_clone).collect()
    }

    /// It was sealed in this version.
    pub fn forget(&self, number: u32, version: u64) {
        let mut kept = self.kept();
        kept.keys.remove(&number);
        let at = kept.sealed_at.entry(number).or_default();
        *at = version.max(*at);
    }

    /// The node is sealed, or its store is another since this version.
    pub fn forget_all(&self, version: u64) {
        let mut kept = self.kept();
        kept.keys.clear();
        kept.all_sealed_at = kept.all_sealed_at.max(version);
    }

    fn numbers(&self) -> Vec<u32> {
        self.kept().keys.keys().copied().collect()
    }
}

impl Kept {
    fn was_sealed_since(&self, number: u32, index: u64) -> bool {
        self.all_sealed_at > index || self.sealed_at.get(&number).is_some_and(|at| *at > index)
    }
}

/// The number of a keyring whose namespace a changed key says to be sealed.
pub(crate) fn sealed_by(key: &[u8]) -> Option<u32> {
    let place = key.strip_prefix(&layout::STORE.prefix()[..])?.strip_prefix(&[SEALINGS.0])?;
    place.try_into().ok().map(u32::from_be_bytes)
}

/// What the active node tells.
#[derive(Encode, Decode)]
struct Told {
    #[n(0)]
    word: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    cluster_id: [u8; 16],
    /// The version of the store at which they were good.
    #[n(2)]
    index: u64,
    #[n(3)]
    keys: Vec<ToldKey>,
}

#[derive(Encode, Decode)]
struct ToldKey {
    #[n(0)]
    number: u32,
    /// Closed with the root key.
    #[n(1)]
    key: Lock,
}

impl Core {
    /// Tell all other nodes the keys of the namespaces that are unsealed. Who is away hears them later.
    pub(crate) async fn tell_namespace_keys(&self, open: &Open) {
        let Some(cluster) = &self.options.cluster else { return };
        match self.message(open) {
            Ok(Some(message)) => drop(cluster.offer_keys(message).await),
            Ok(None) => {}
            Err(e) => tracing::warn!(error = %e, "the keys of namespaces cannot be told to other nodes"),
        }
    }

    fn message(&self, open: &Open) -> Result<Option<Vec<u8>>, String> {
        // What is sealed from here on comes with a later version, and is not taken by who knows of that.
        let index = self.store.view().index();
        let (root, cluster_id) = (open.root.load_full(), open.barrier.load().keyring().cluster_id());
        let mut keys = Vec::new();
        for number in self.standings.own_keys.numbers() {
            let Some(key) = self.standings.own_keys.key(number).map_err(|e| e.to_string())? else { continue };
            let key = locks::lock_with_key(&key, &root, &cluster_id, (1, 1), 0, 0).map_err(|e| e.to_string())?;
            keys.push(ToldKey { number, key });
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let told = Told { word: WORD.into(), cluster_id, index, keys };
        minicbor::to_vec(&told).map(Some).map_err(|e| e.to_string())
    }

    /// Take such a message, if it is one. `None`: it is of another kind.
    pub(crate) fn take_namespace_keys(&self, message: &[u8]) -> Option<Result<(), String>> {
        let told: Told = minicbor::decode(message).ok().filter(|told: &Told| told.word == WORD)?;
        Some(self.take_told(told))
    }

    fn take_told(&self, told: Told) -> Result<(), String> {
        let Some(root) = self.present_root().map_err(|e| e.to_string())? else { return Err("it is sealed".into()) };
        for ToldKey { number, key } in told.keys {
            let key = locks::open_with_key(&key, &told.cluster_id, &root)
                .map_err(|_| "it holds another root key".to_owned())?;
            self.standings.own_keys.keep(number, key, told.index);
        }
        if !self.is_unsealed() {
            // It was sealed while they were taken.
            self.standings.own_keys.forget_all(0);
        }
        Ok(())
    }

    /// Changed keys were applied, on whatever node: whose namespace was sealed is known no longer.
    pub(crate) fn namespaces_may_be_sealed(&self, keys: &[holdfast_storage::Key], version: u64) {
        if keys.iter().any(|k| **k == *holdfast_storage::RESTORE_KEY) {
            // What was sealed by entries that this node did not see is not known.
            self.standings.own_keys.forget_all(version);
        }
        for number in keys.iter().filter_map(|key| sealed_by(key)) {
            self.standings.own_keys.forget(number, version);
        }
    }
}

/// Tell the keys again and again, while this node is active.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    if core.options.cluster.is_some() {
        core.while_open(open, tell);
    }
}

async fn tell(core: Weak<Core>, open: Weak<Open>) {
    loop {
        tokio::time::sleep(TELL_AGAIN).await;
        let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
        if open.closing.load(Ordering::SeqCst) {
            return;
        }
        core.tell_namespace_keys(&open).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_hsm::memory::allow_unlocked;

    #[test]
    fn a_key_from_before_a_seal_is_not_taken_after_it() {
        allow_unlocked();
        let keys = OwnKeys::default();
        let key = || Key::random(32).unwrap();
        assert!(keys.keep(7, key(), 10));
        keys.forget(7, 12);
        assert!(keys.key(7).unwrap().is_none());
        assert!(!keys.keep(7, key(), 11) && keys.key(7).unwrap().is_none());
        assert!(keys.keep(8, key(), 11) && keys.keep(7, key(), 12));
        // Another is kept beside the one before, and no third.
        let (next, last) = (key(), key());
        assert!(keys.keep(8, next.try_clone().unwrap(), 13) && keys.keep(8, last.try_clone().unwrap(), 13));
        assert!(keys.keep(8, last.try_clone().unwrap(), 13));
        let known = keys.known(8).unwrap();
        assert_eq!(known.len(), 2);
        assert!(known[0].ct_eq(last.expose()) && known[1].ct_eq(next.expose()));
        keys.forget_all(20);
        assert!(keys.numbers().is_empty());
        assert!(!keys.keep(8, key(), 19));
        assert!(keys.keep(8, key(), 20));
    }
}
