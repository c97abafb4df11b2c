//! What a server has while it is unsealed: keys, and what was read with them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use holdfast_hsm::memory::Key;
use holdfast_seal::Barrier;

use crate::cache::Cache;
use crate::policies::PolicyCache;
use crate::tokens::TokenEntry;
use crate::{
    audit, ceremony, identity, last_use, layout, mfa, namespaces, quotas, random, settings, tokens, tx, usage,
};

/// Kept in memory at most.
const CACHED_TOKENS: usize = 20_000;
const CACHED_ENTRIES: usize = 4096;

/// What exists while the server is unsealed. Dropping it wipes keys and caches.
pub(crate) struct Open {
    pub barrier: ArcSwap<Barrier>,
    pub root: ArcSwap<Key>,
    /// The key that the shares make, where shares opened the store.
    pub shares_key: ArcSwapOption<Key>,
    pub ceremonies: ceremony::Ceremonies,
    pub cluster_id: String,
    pub cluster_name: String,
    /// See [`index`].
    pub restores: u64,
    pub spaces: namespaces::Spaces,
    pub tokens: Cache<TokenEntry>,
    pub sessions: Cache<tokens::Session>,
    pub opened: Arc<tx::Opened>,
    pub policies: PolicyCache,
    pub identities: identity::Resolutions,
    pub audit: audit::Broker,
    pub quotas: quotas::Quotas,
    /// What there was at the last count.
    pub usage: ArcSwapOption<usage::Usage>,
    /// Uses of tokens, roles and keys that are still to be written down.
    pub last_uses: last_use::LastUses,
    /// Shares that were given of sealed namespaces.
    pub unseals: namespaces::seal::Unseals,
    pub second_factors: Arc<mfa::SecondFactors>,
    pub settings: settings::SettingsCache,
    pub closing: AtomicBool,
    /// Becomes true when the server is sealed, for those who wait outside.
    pub closed: tokio::sync::watch::Sender<bool>,
}

impl Open {
    /// With keys, and nothing read yet.
    pub fn new(
        locks: &holdfast_seal::locks::LockList,
        barrier: Barrier,
        (root, shares_key): (Key, Option<Key>),
        restores: u64,
        audit: audit::Broker,
    ) -> Open {
        Open {
            barrier: ArcSwap::from_pointee(barrier),
            root: ArcSwap::from_pointee(root),
            shares_key: ArcSwapOption::from_pointee(shares_key),
            ceremonies: ceremony::Ceremonies::default(),
            cluster_id: random::uuid_text(&locks.cluster_id),
            cluster_name: locks.cluster_name.clone(),
            restores,
            spaces: namespaces::Spaces::new(),
            tokens: Cache::new(CACHED_TOKENS),
            sessions: Cache::new(CACHED_TOKENS),
            opened: Arc::new(Cache::new(CACHED_ENTRIES)),
            policies: PolicyCache::default(),
            identities: identity::Resolutions::default(),
            audit,
            quotas: quotas::Quotas::default(),
            usage: ArcSwapOption::empty(),
            last_uses: last_use::LastUses::default(),
            unseals: namespaces::seal::Unseals::default(),
            second_factors: Arc::default(),
            settings: settings::SettingsCache::default(),
            closing: AtomicBool::new(false),
            closed: tokio::sync::watch::Sender::new(false),
        }
    }

    /// A namespace was sealed by the batch of `index`: all that was read goes, of other namespaces too.
    pub fn forget_what_was_read(&self, index: u64) {
        self.opened.forget_before(index);
        self.tokens.forget_before(index);
        self.sessions.forget_before(index);
        self.identities.forget_before(index);
        self.policies.forget_others();
        self.spaces.forget_all(index);
        self.usage.store(None);
        let barrier = self.barrier.load();
        self.second_factors.waiting.forget_of(|namespace| barrier.is_sealed(namespace));
    }

    /// A batch is about to be published: forget what it changes.
    pub fn invalidate(&self, keys: &[holdfast_storage::Key], index: u64) {
        for key in keys {
            self.opened.invalidate(key, index);
            let Some((scope, table)) = layout::place_of(key) else { continue };
            let of = |part: layout::Part| part.of(scope.namespace) == scope;
            match table {
                layout::TOKEN if of(layout::TOKENS) => {
                    self.tokens.invalidate(key, index);
                    self.sessions.invalidate(key, index);
                }
                layout::POLICIES if of(layout::SYSTEM) => self.policies.invalidate(scope.namespace, index),
                layout::MOUNTS if of(layout::SYSTEM) => self.spaces.mounts_changed(scope.namespace, index),
                layout::SETTINGS if scope == layout::STORE => {
                    self.settings.invalidate(index);
                    self.quotas.changed(index);
                }
                layout::QUOTAS | layout::LEASE_QUOTAS if scope == layout::STORE => self.quotas.changed(index),
                layout::NAMESPACES if scope == layout::STORE => self.spaces.changed(index),
                layout::OWN_RINGS if scope == layout::STORE => {
                    if let Some((namespace, number)) = key.get(34..).and_then(namespaces::seal::read_ring_place) {
                        self.barrier.load().adopt(namespace, number);
                    }
                }
                layout::SEALINGS if scope == layout::STORE => {
                    if let Some(number) = namespaces::own_keys::sealed_by(key)
                        && self.barrier.load().close_ring(number)
                    {
                        self.forget_what_was_read(index);
                    }
                }
                layout::identity::ENTITY if of(layout::IDENTITY) => self.identities.entity_changed(key, index),
                layout::identity::GROUPS if of(layout::IDENTITY) => self.identities.groups_changed(index),
                _ => {}
            }
        }
    }
}
