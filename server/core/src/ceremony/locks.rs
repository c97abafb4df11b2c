//! Changing the locks of a store, in one commit: a lock that is replaced gets a new root key with it, and all
//! others are wrapped anew, so that who kept an old share opens nothing that is written from now on.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_hsm::custodians_of;
use holdfast_hsm::memory::Key;
use holdfast_sdk::{Place, Transaction, record};
use holdfast_seal::locks::{self, LockKind, LockList, Recovery, RecoveryForm, Scope};
use holdfast_seal::{Barrier, Lock};
use holdfast_storage::{CommitError, Proposal, Write, level};

use super::authority::{VERIFIER, verifier};
use super::rotation::{Backup, Target};
use crate::failpoint::failpoint;
use crate::layout::{KEYRING, LOCKS, SETTINGS, STORE};
use crate::lock_owners::Owner;
use crate::seal_state::{Refusal, failed, refuse};
use crate::tx::Tx;
use crate::{Core, Open, clock};

/// What is to become of the locks.
pub struct Change {
    pub target: Target,
    /// The key that new shares make.
    pub fresh: Option<Fresh>,
    /// The key that the present shares make, if it is known.
    pub known: Option<Key>,
    /// Encrypted shares to keep.
    pub backup: Option<Backup>,
}

pub struct Fresh {
    pub key: Key,
    pub shares: u8,
    pub threshold: u8,
}

/// The store did not say whether the change is in it.
pub struct Doubt(pub String);

/// What came of a change of locks.
#[derive(Default)]
pub struct Changed {
    /// The store did not say whether the change is in it: why.
    pub doubt: Option<String>,
    /// What became of seals whose devices were away (their locks hold the root key of before), and of locks without a
    /// seal (they are gone).
    pub left: Vec<String>,
}

impl Changed {
    /// What holders are to know of it.
    pub fn warnings(self) -> Vec<String> {
        self.doubt.map(|why| super::doubt(&why)).into_iter().chain(self.left).collect()
    }
}

impl Core {
    /// Whoever calls holds the lock of acts, so that nothing else changes a lock or the keyring.
    pub(super) async fn change_locks(
        self: &Arc<Self>,
        open: &Arc<Open>,
        mut list: LockList,
        mut change: Change,
    ) -> Result<Changed, Refusal> {
        let barrier = Barrier::clone(&open.barrier.load());
        let view = self.store.view();
        let (index, mut tx) = (view.index(), Tx::new(view, barrier.clone()));
        tx.enter(STORE);
        let form = list.recovery.as_ref().map(|recovery| recovery.form).or_else(|| {
            // A store that was initialised without shares gets its first.
            (change.target == Target::Recovery && list.shares_lock().is_none()).then_some(RecoveryForm::Authorise)
        });
        let only_authorises = form == Some(RecoveryForm::Authorise);
        if let (Some(form), Some(fresh), Target::Recovery) = (form, &change.fresh, change.target) {
            list.recovery = Some(Recovery { shares: fresh.shares, threshold: fresh.threshold, form });
            if only_authorises {
                tx.put(Place::Ordered(SETTINGS, VERIFIER), verifier(&barrier, &fresh.key).map_err(failed)?)
                    .map_err(failed)?;
            }
        }
        if let Some(backup) = &change.backup {
            record::put(&mut tx, Place::Ordered(SETTINGS, change.target.backup_place()), backup).map_err(failed)?;
        }
        // Recovery shares that are no lock open nothing: the root key may stay.
        let new_root = !(change.target == Target::Recovery && only_authorises);
        let (mut root, mut shares_key, mut left) = (None, None, Vec::new());
        if new_root {
            let fresh_root = self.entropy().await?.key(32).map_err(failed)?;
            let (wrapped, kept) = self.wrap_again(open, &list, &mut change, &fresh_root).await?;
            list.locks = wrapped.locks;
            (root, shares_key, left) = (Some(fresh_root), kept, wrapped.left);
        }
        if let Some(Doubt(why)) = self.commit_locks(open, tx, index, &mut list, root).await? {
            return Ok(Changed { doubt: Some(why), left });
        }
        if let Some(key) = shares_key {
            open.shares_key.store(Some(Arc::new(key)));
        }
        tracing::info!(target = ?change.target, generation = list.generation, "the locks of the store were changed");
        for why in &left {
            tracing::warn!("{why}");
        }
        Ok(Changed { doubt: None, left })
    }

    /// Commit a list, with the keyring under a new root key, and what else hangs on it. `index`: of the view that `tx`
    /// has read.
    pub(super) async fn commit_locks(
        &self,
        open: &Open,
        tx: Tx,
        index: u64,
        list: &mut LockList,
        root: Option<Key>,
    ) -> Result<Option<Doubt>, Refusal> {
        for lock in &list.locks {
            list.minimum.allows(lock).map_err(|why| Refusal(400, why))?;
        }
        list.generation += 1;
        let present = open.root.load_full();
        let signing = root.as_ref().unwrap_or(&present);
        let mut proposal: Proposal = tx.into_proposal().map_err(failed)?;
        proposal.view_index = index;
        proposal.reads.extend([(LOCKS.into(), index), (KEYRING.into(), index)]);
        proposal.writes.push(Write::Put(LOCKS.into(), list.encode(signing).map_err(failed)?.into()));
        if root.is_some() {
            let keyring = open.barrier.load().keyring().seal(signing).map_err(failed)?;
            proposal.writes.push(Write::Put(KEYRING.into(), keyring.into()));
        }
        let ticket = self.store.propose(proposal).map_err(failed)?;
        failpoint!(self, "proposed");
        match ticket.committed().await {
            Ok(_) => {}
            Err(CommitError::Unknown(why)) => return Ok(Some(Doubt(why.to_string()))),
            Err(e) => return Err(failed(e)),
        }
        failpoint!(self, "committed");
        // Who was given the former one is let in no longer.
        self.joins.forget_challenges();
        if let Some(root) = root {
            open.root.store(Arc::new(root));
        }
        Ok(None)
    }

    /// A lock's device has opened it for the first time: custodians are not there when it is made. The caller holds the lock of
    /// acts.
    pub(crate) async fn note_proved(&self, open: &Open, id: [u8; 16]) -> Result<(), Refusal> {
        let mut list = self.own_locks(open)?;
        let Some(lock) = list.locks.iter_mut().find(|lock| lock.id == id && !lock.proved) else { return Ok(()) };
        lock.proved = true;
        let view = self.store.view();
        let (index, mut tx) = (view.index(), Tx::new(view, Barrier::clone(&open.barrier.load())));
        tx.enter(STORE);
        match self.commit_locks(open, tx, index, &mut list, None).await? {
            Some(Doubt(why)) => Err(Refusal(503, why)),
            None => Ok(()),
        }
    }

    /// Every lock around a new root key; and the key of the shares. The other nodes know both when it returns.
    pub(super) async fn wrap_again(
        &self,
        open: &Open,
        list: &LockList,
        change: &mut Change,
        root: &Key,
    ) -> Result<(Wrapped, Option<Key>), Refusal> {
        let (now, seals) = (clock::now(), self.seals());
        let (mut locks, mut shares_key) = (Vec::with_capacity(list.locks.len()), None);
        let (mut of_others, mut away, mut own) = (Vec::new(), Away::new(), 0);
        let mut left = Vec::new();
        for lock in &list.locks {
            let made = match &lock.kind {
                LockKind::Device { .. } => {
                    let made = match self.owner_of(&seals, list, lock).await {
                        Owner::Here(seal) => self.device_lock(&seal, root, list.cluster_id, now).await,
                        Owner::Away(why) => Err(Refusal(500, why)),
                        Owner::Elsewhere => {
                            of_others.push(lock.clone());
                            locks.push(lock.clone());
                            continue;
                        }
                        // The device is gone for good, and its stanza with it. `rewrap` takes such a lock away, for which it
                        // needs escrowed shares that it knows: these are the ones.
                        Owner::Nobody if change.target == Target::Recovery => {
                            left.push(format!(
                                "the lock {}, which no seal stanza names, was taken away: it opens nothing any more",
                                lock.shown()
                            ));
                            continue;
                        }
                        Owner::Nobody => {
                            return refuse(format!(
                                "no seal stanza names the lock {}, so it cannot be made anew: operator seal rewrap takes it \
                                 away; or give its stanza back",
                                lock.shown()
                            ));
                        }
                    };
                    match made {
                        Ok(made) => {
                            own += 1;
                            Lock { scope: lock.scope.clone(), proved: made.proved || proves(lock, &made), ..made }
                        }
                        Err(Refusal(_, why)) => {
                            away.insert(lock.id, why);
                            if lock.scope == Scope::Cluster && self.options.cluster.is_some() {
                                // Another node may have it.
                                of_others.push(lock.clone());
                            }
                            lock.clone()
                        }
                    }
                }
                LockKind::Shares { shares, threshold } => {
                    let replaced = list.recovery.is_none() || change.target == Target::Recovery;
                    let (key, shares, threshold) = match change.fresh.take_if(|_| replaced) {
                        Some(fresh) => (fresh.key, fresh.shares, fresh.threshold),
                        None => (present_key(open, change)?, *shares, *threshold),
                    };
                    let made = locks::lock_with_key(
                        root,
                        &key,
                        &list.cluster_id,
                        (shares, threshold),
                        lock.priority,
                        now.secs(),
                    )
                    .map_err(failed)?;
                    let opened = locks::open_with_key(&made, &list.cluster_id, &key).map_err(failed)?;
                    if !opened.ct_eq(root.expose()) {
                        return Err(failed("the new lock does not open"));
                    }
                    shares_key = Some(key);
                    made
                }
            };
            locks.push(made);
        }
        if let (0, Some(why)) = (own, away.values().next()) {
            // What is left would open nothing.
            return Err(Refusal(500, why.clone()));
        }
        custodians_are_known(list, &locks, &away)?;
        for (of, made) in self.tell_new_keys(open, list, (root, shares_key.as_ref()), of_others, &mut away).await? {
            // Those that were wanted still have their former names.
            if let Some(lock) = locks.iter_mut().find(|l| l.id == of) {
                *lock = Lock { proved: made.proved || proves(lock, &made), ..made };
            }
        }
        custodians_are_known(list, &locks, &away)?;
        if !away.is_empty() {
            self.knows_several_seals()?;
        }
        for lock in &mut locks {
            let Some(why) = away.get(&lock.id) else { continue };
            lock.stale_since.get_or_insert(now.secs());
            left.push(format!(
                "the seal {} has not wrapped the new root key and opens nothing until operator seal rewrap: {why}",
                lock.shown()
            ));
        }
        Ok((Wrapped { locks, left }, shares_key))
    }

    /// Refuse to write what a member's earlier program would not understand.
    pub(crate) fn knows_several_seals(&self) -> Result<(), Refusal> {
        match self.feature_level() >= level::SEVERAL_SEALS {
            true => Ok(()),
            false => Err(Refusal(
                503,
                "several seals are possible when all nodes of the cluster run a version that knows them".into(),
            )),
        }
    }
}

/// Locks that could not be made anew, and why.
pub(crate) type Away = BTreeMap<[u8; 16], String>;

pub(super) struct Wrapped {
    pub locks: Vec<Lock>,
    /// Seals that have not wrapped the key, in words for operators.
    pub left: Vec<String>,
}

/// Whether the custodians that a new lock asks for have opened the one that it replaces: nothing else is unknown of it.
fn proves(former: &Lock, made: &Lock) -> bool {
    former.proved && asks_the_same(former, made)
}

fn asks_the_same(former: &Lock, made: &Lock) -> bool {
    let asked = custodians_of(&made.ciphertext);
    asked.is_some() && asked == custodians_of(&former.ciphertext)
}

/// Refuse a change that leaves some node nothing but the word of custodians who were not there before: a wrong key among
/// theirs would lose the store.
fn custodians_are_known(list: &LockList, locks: &[Lock], away: &Away) -> Result<(), Refusal> {
    let is_of = |lock: &Lock, place: &Scope| lock.scope == Scope::Cluster || lock.scope == *place;
    let is_new = |lock: &&Lock| {
        let was_asked = list.locks.iter().any(|former| is_of(former, &lock.scope) && asks_the_same(former, lock));
        lock.needs_custodians() && !lock.proved && !was_asked
    };
    let opens = |place: &Scope| {
        let is_good = |lock: &&Lock| lock.proved && lock.stale_since.is_none() && !away.contains_key(&lock.id);
        locks.iter().filter(is_good).any(|lock| is_of(lock, place))
    };
    match locks.iter().filter(is_new).find(|lock| !opens(&lock.scope)) {
        None => Ok(()),
        Some(lock) => refuse(format!(
            "the seal {} names other custodians than its present lock, and nobody knows yet that their keys open the store: \
             put another seal beside it, run operator seal rewrap, do this again, let them open the store once, and take the \
             other seal away. Nothing was changed",
            lock.shown()
        )),
    }
}

fn present_key(open: &Open, change: &mut Change) -> Result<Key, Refusal> {
    if let Some(key) = change.known.take() {
        return Ok(key);
    }
    match &*open.shares_key.load() {
        Some(key) => key.try_clone().map_err(failed),
        None => refuse(
            "the store has a lock of escrowed shares, which cannot be made anew without them: rotate the recovery shares, \
             which makes a new root key too",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_seal::locks::Minimum;

    /// As a TPM's driver wraps for custodians, by what tells them apart.
    fn asks(id: u8, who: u8, scope: Scope, proved: bool) -> Lock {
        let header = [0x87, 0xf6, 0xf6, 0xf6, 0xf6, 0xf6, 0xf6, 0x41, who];
        let ciphertext = [&[1, 6, 0, header.len() as u8][..], &header, &[id; 16]].concat();
        let kind = LockKind::Device { backend: "tpm".into() };
        let mechanism = "TPM2_SEAL+POLICY_SIGNED/AES-256-GCM".to_owned();
        Lock { kind, scope, mechanism, ciphertext, proved, ..token(id, proved) }
    }

    fn token(id: u8, proved: bool) -> Lock {
        Lock {
            id: [id; 16],
            kind: LockKind::Device { backend: "pkcs11".into() },
            scope: Scope::Cluster,
            priority: 0,
            key_label: "k".into(),
            key_id: "01".into(),
            mechanism: "CKM_AES_GCM".into(),
            public_part: None,
            ciphertext: vec![1],
            proved,
            created: 1,
            name: None,
            stale_since: None,
        }
    }

    #[test]
    fn custodians_who_have_opened_the_former_lock_are_known_to_open_the_new_one() {
        let former = asks(1, 7, Scope::Cluster, true);
        assert!(proves(&former, &asks(2, 7, Scope::Cluster, false)));
        assert!(!proves(&former, &asks(2, 8, Scope::Cluster, false)), "others");
        assert!(!proves(&asks(1, 7, Scope::Cluster, false), &asks(2, 7, Scope::Cluster, false)), "they never have");
        assert!(!proves(&token(1, true), &token(2, false)));
    }

    #[test]
    fn other_custodians_alone_are_refused_and_beside_another_seal_they_are_not() {
        let list = |locks: Vec<Lock>| LockList {
            cluster_id: [7; 16],
            cluster_name: "c".into(),
            generation: 1,
            minimum: Minimum::Any,
            locks,
            recovery: None,
        };
        let before = list(vec![asks(1, 7, Scope::Cluster, true), token(2, true)]);
        let is_good = |locks: &[Lock], away: &Away| custodians_are_known(&before, locks, away).is_ok();
        let others = || asks(3, 8, Scope::Cluster, false);
        assert!(is_good(&[asks(3, 7, Scope::Cluster, false)], &Away::new()), "no less is known than before");
        assert!(!is_good(&[others()], &Away::new()));
        assert!(is_good(&[others(), token(4, true)], &Away::new()));
        // Its device has not wrapped the new key.
        assert!(!is_good(&[others(), token(2, true)], &Away::from([([2; 16], "away".to_owned())])));
        // Another node's is no way into this one.
        let (a, b) = (Scope::Node("a".into()), Scope::Node("b".into()));
        let of = |lock: Lock, scope: &Scope| Lock { scope: scope.clone(), ..lock };
        assert!(!is_good(&[of(others(), &a), of(token(4, true), &b)], &Away::new()));
        assert!(is_good(&[of(others(), &a), of(token(4, true), &a)], &Away::new()));
    }
}
