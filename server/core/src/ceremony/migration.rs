//! Another seal for a store: its locks, and what hangs on them, in one commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_hsm::memory::Key;
use holdfast_sdk::{Place, Transaction, record};
use holdfast_seal::locks::{self, LockList, Recovery, RecoveryForm, Scope};
use holdfast_seal::{Barrier, Lock};

use super::authority::{self, VERIFIER, verifier};
use super::locks::{Change, Doubt};
use super::rotation::{Backup, Target};
use crate::failpoint::failpoint;
use crate::layout::{SETTINGS, STORE};
use crate::seal_migration::Migration;
use crate::seal_state::{Refusal, failed};
use crate::tx::Tx;
use crate::{Core, Open, clock};

impl Core {
    /// Change the seal, if the configuration asks for it and enough holders agreed. The caller holds the lock of acts,
    /// and nobody works with `open` yet.
    pub(crate) async fn migrate_if_agreed(
        self: &Arc<Self>,
        open: &Arc<Open>,
        list: LockList,
    ) -> Result<Option<Migration>, Refusal> {
        let Some(migration) = self.seal_migration(&list) else {
            if let Some(former) = &self.seals().former {
                tracing::warn!(seal = former.shown(), "the seal that is disabled is not needed: take its stanza away");
            }
            return Ok(None);
        };
        if !self.seal.migrating.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Migration { from, to, .. } = &migration;
        let migrated = crate::failpoint::of_a_request(self.migrate_seal(open, list)).await;
        migrated.map_err(|Refusal(status, text)| {
            Refusal(status, format!("the seal is not migrated from {from:?} to {to:?}: {text}"))
        })?;
        self.seal.migrating.store(false, Ordering::SeqCst);
        tracing::warn!(
            %from, %to,
            "the seal was migrated; take the stanza of the former one away, and make a new term of the keyring (operator \
             rotate) if the former keys may be in wrong hands"
        );
        Ok(Some(migration))
    }

    /// The lock that was opened gives way to one of the new seal, around a new root key. What stays are locks of other
    /// nodes' own devices, which these make anew, and one of escrowed shares. The shares stay what they are, and change
    /// what they are good for.
    async fn migrate_seal(self: &Arc<Self>, open: &Arc<Open>, mut list: LockList) -> Result<(), Refusal> {
        let barrier = Barrier::clone(&open.barrier.load());
        let view = self.store.view();
        let (index, mut tx) = (view.index(), Tx::new(view, barrier.clone()));
        tx.enter(STORE);
        let counts = authority::counts(&list);
        let Some(key) = open.shares_key.load_full() else { return Err(failed("nobody gave the shares' key")) };
        self.are_still_theirs(open, &list, &key)?;
        let key = || key.try_clone().map_err(failed);
        let former = list.device_lock_of(self.node_id()).cloned();
        let (now, root) = (clock::now(), self.entropy().await?.key(32).map_err(failed)?);
        failpoint!(self, "agreed");
        let scope = former.as_ref().map_or(Scope::Cluster, |lock| lock.scope.clone());
        let mut made = Vec::new();
        for seal in &self.seals().present {
            // Each is opened again before it counts.
            let lock = self.device_lock(seal, &root, list.cluster_id, now).await?;
            made.push(Lock { scope: scope.clone(), ..lock });
        }
        if let Some(lock) = made.iter().find(|lock| lock.needs_custodians())
            && !made.iter().any(|lock| lock.proved)
        {
            // Where one of their keys is a wrong one, nothing would open the store any more.
            return Err(Refusal(
                400,
                format!(
                    "custodians alone would open it by the seal {:?}, and it is not known that they can: they are not asked \
                     before the former way is gone. Move it to a device that asks nobody first, if shares open it; then put the \
                     seal with custodians beside that device, run operator seal rewrap, let them open the store, and take the \
                     other stanza away",
                    lock.shown()
                ),
            ));
        }
        failpoint!(self, "wrapped");
        match (made.is_empty(), &former) {
            // Shares are a lock no longer: they authorise.
            (false, None) => {
                list.locks.clear();
                list.recovery = Some(Recovery { form: RecoveryForm::Authorise, shares: counts.0, threshold: counts.1 });
                let check = verifier(&barrier, &key()?).map_err(failed)?;
                tx.put(Place::Ordered(SETTINGS, VERIFIER), check).map_err(failed)?;
                move_backup(&mut tx, Target::Root, Target::Recovery)?;
            }
            // All that this node's devices before could open.
            (false, Some(_)) => list.locks.retain(|lock| lock.backend().is_none() || lock.scope != scope),
            // Shares open the store, and no device does.
            (true, _) => {
                let lock = locks::lock_with_key(&root, &key()?, &list.cluster_id, counts, 0, now.secs());
                list.locks = vec![lock.map_err(failed)?];
                list.recovery = None;
                tx.delete(Place::Ordered(SETTINGS, VERIFIER)).map_err(failed)?;
                move_backup(&mut tx, Target::Recovery, Target::Root)?;
            }
        }
        let mut change = Change { target: Target::Root, fresh: None, known: Some(key()?), backup: None };
        let (wrapped, shares_key) = self.wrap_again(open, &list, &mut change, &root).await?;
        list.locks = wrapped.locks;
        list.locks.splice(0..0, made);
        assert!(!list.locks.is_empty(), "a store without a lock is lost");
        if let Some(Doubt(why)) = self.commit_locks(open, tx, index, &mut list, Some(root)).await? {
            return Err(Refusal(
                503,
                format!("the store has not confirmed it ({why}): look at the next start's log for which seal opens it"),
            ));
        }
        open.shares_key.store(shares_key.map(Arc::new));
        Ok(())
    }

    /// The holders may have agreed a while ago, at a node that stood by.
    fn are_still_theirs(&self, open: &Open, list: &LockList, key: &Key) -> Result<(), Refusal> {
        let same = match list.shares_lock() {
            Some(lock) => locks::open_with_key(lock, &list.cluster_id, key).map(drop),
            None => self.is_recovery_key(&open.barrier.load(), key)?,
        };
        same.map_err(|_| {
            Refusal(400, "the shares were made anew meanwhile: seal this node, and give the new ones".into())
        })
    }
}

/// Encrypted shares that the server keeps are those of another act now.
fn move_backup(tx: &mut Tx, from: Target, to: Target) -> Result<(), Refusal> {
    let [from, to] = [from, to].map(|t| Place::Ordered(SETTINGS, t.backup_place()));
    if let Some(backup) = record::get::<Backup>(tx, from).map_err(failed)? {
        record::put(tx, to, &backup).map_err(failed)?;
        tx.delete(from).map_err(failed)?;
    }
    Ok(())
}
