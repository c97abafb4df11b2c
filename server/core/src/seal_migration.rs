//! From one seal to another, without touching what it protects.
//!
//! The configuration names the seal that is to open the store from now on; where a device opened it before, its stanza
//! stands beside with `disabled = "true"`. As long as the store is locked the old way, the server stays sealed and says
//! what it waits for. Holders of the old seal's shares agree by `sys/unseal` with `migrate`; then the locks are made
//! anew ([`Core::migrate_seal`]), in one commit. Before that commit the old way opens, after it the new one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_hsm::memory::Secret;
use holdfast_seal::Lock;
use holdfast_seal::locks::{LockKind, LockList, ReadList};

use crate::Core;
use crate::ceremony::authority;
use crate::seal_state::{Refusal, refuse};

/// What shares are called beside the devices' types.
pub(crate) const SHARES: &str = "shamir";

/// A change of seal that the configuration asks for and that is not done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Migration {
    /// What opens the store.
    pub from: String,
    /// What is to open it.
    pub to: String,
    /// Its device opens it for custodians alone, and nothing else does.
    pub asks_custodians: bool,
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Migration { from, to, asks_custodians } = self;
        if *asks_custodians {
            return write!(
                f,
                "the store opens by seal {from:?} for its custodians alone, who cannot be asked while it is to be moved to \
                 {to:?}: start the server with the seals of before, let them sign, and move it by several seals (the new one \
                 beside the old one, operator seal rewrap, then without the old one)"
            );
        }
        let (from, holders) = match from == SHARES {
            true => (format!("shares (seal {from:?})"), "unseal keys"),
            false => (format!("seal {from:?}"), "recovery keys"),
        };
        let to = if to == SHARES { format!("shares (seal {to:?})") } else { format!("seal {to:?}") };
        write!(
            f,
            "the store opens by {from}, and the configuration is to have it moved to {to}: give the {holders} by operator \
             unseal -migrate, or correct the seal stanza"
        )
    }
}

impl Core {
    /// The change of seal that the configuration asks for, if it is not done yet.
    pub(crate) fn seal_migration(&self, list: &LockList) -> Option<Migration> {
        let (seals, node) = (self.seals(), self.node_id());
        let from = match list.device_locks_of(node)[..] {
            [] if list.device_lock().is_some() => return None,
            [] => seals.have_a_device().then_some(SHARES),
            ref locks => {
                let former = seals.former.as_ref()?;
                let of_former = locks.iter().find(|lock| lock.backend() == Some(former.device.backend()))?;
                let former_opened = self.seal.former_opened.load(Ordering::SeqCst) == list.generation;
                let is_of_new = |lock: &&&Lock| {
                    seals.present.iter().any(|seal| {
                        if let Some(name) = &lock.name
                            && (former.name.is_some() || seals.present.len() > 1)
                        {
                            return seal.name.as_ref() == Some(name) && seals.may_open(seal, lock, node);
                        }
                        // Where both name its key, only trying them tells whose it is.
                        let is_named = seal.device.names(lock) || !former.device.names(lock);
                        seals.may_open(seal, lock, node) && is_named && !former_opened
                    })
                };
                let opens_by_new = locks.iter().filter(|lock| lock.stale_since.is_none()).any(|lock| is_of_new(&lock));
                (!opens_by_new).then(|| of_former.backend().unwrap_or_default())
            }
        }?;
        let to = if seals.have_a_device() { self.seal_type() } else { SHARES.to_owned() };
        let locks = list.device_locks_of(node);
        let asks_custodians =
            list.shares_lock().is_none() && !locks.is_empty() && locks.iter().all(|lock| lock.needs_custodians());
        Some(Migration { from: from.to_owned(), to, asks_custodians })
    }

    /// The devices of the configuration do not open the store: whether the one before them does.
    pub(crate) async fn former_opens_one(&self, list: &LockList) -> bool {
        let Some(former) = self.seals().former.clone() else { return false };
        for lock in list.device_locks_of(self.node_id()) {
            if lock.backend() == Some(former.device.backend()) && former.open(lock, &list.cluster_id).await.is_ok() {
                self.seal.former_opened.store(list.generation, Ordering::SeqCst);
                return true;
            }
        }
        false
    }

    /// Take a share of the old seal's holders. When enough of them agree, the node opens, and the one that is active
    /// changes the locks. The caller holds the lock of acts.
    pub(crate) async fn take_migration_share(
        self: &Arc<Self>,
        read: &ReadList,
        migration: &Migration,
        share: Secret<Vec<u8>>,
    ) -> Result<(), Refusal> {
        if migration.asks_custodians {
            return refuse(migration.to_string());
        }
        let minimum = read.list.minimum;
        let to = self.seals().present.iter().map(|seal| seal.device.backend().to_owned()).collect::<Vec<_>>();
        let mut to = if to.is_empty() { vec![SHARES.to_owned()] } else { to }.into_iter();
        to.try_for_each(|backend| minimum.allows_backend(&backend)).map_err(|why| Refusal(400, why))?;
        let (count, threshold) = authority::counts(&read.list);
        if threshold == 0 {
            return refuse(format!(
                "the store has no recovery keys that could authorise its migration to {:?}: it was initialised without",
                migration.to
            ));
        }
        let Some(given) = self.gather(share, (count, threshold))? else { return Ok(()) };
        let (root, key) = self.open_by_holders(read, &given).await?;
        self.seal.migrating.store(true, Ordering::SeqCst);
        let unlocked = self.unlock(root, Some(key), "enough shares of the seal before were given").await;
        if unlocked.is_err() {
            self.seal.migrating.store(false, Ordering::SeqCst);
            self.forget_held();
        }
        unlocked
    }

    /// Say at a start what opens the store, so that after a migration that was broken off it is known which way does.
    pub fn tell_seal(&self) {
        let list = match self.lock_list() {
            Ok(Some(read)) => read.list,
            Ok(None) | Err(_) => return,
        };
        match (&list.device_locks_of(self.node_id())[..], list.shares_lock().map(|l| &l.kind)) {
            ([Lock { kind: LockKind::Device { backend }, key_label, name: None, .. }], _) => {
                tracing::info!(seal = %backend, key = %key_label, generation = list.generation, "a device opens the store");
            }
            (locks @ [_, ..], _) => {
                for lock in locks {
                    let is_stale = lock.stale_since.is_some();
                    tracing::info!(seal = %lock.shown(), generation = list.generation, is_stale, "a device opens the store");
                }
            }
            (_, Some(LockKind::Shares { shares, threshold })) => {
                tracing::info!(seal = SHARES, shares, threshold, generation = list.generation, "shares open the store")
            }
            _ => {}
        }
    }
}
