//! Unsealing and sealing.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use holdfast_hsm::memory::{Key, Secret, scrub_stack, trim_heap};
use holdfast_sdk::{Error, Result};
use holdfast_seal::locks::{LockKind, LockList, ReadList, RecoveryForm, Scope};
use holdfast_seal::{Barrier, Keyring, Lock, SealError, locks, shares};
use holdfast_storage::{Proposal, Write, level};

use crate::audit::Act;
use crate::layout::{KEYRING, LOCKS};
use crate::namespaces;
use crate::router;
use crate::sys::host::note_version;
use crate::tx::Tx;
use crate::{Core, Open, audit, autopilot, background, backups, chores, clock, index, random, undo, usage};

/// How long the audit devices are given to take it that the server is sealed.
const TELL_WAIT: Duration = Duration::from_secs(2);
/// As the reference says it.
const NO_MIGRATION: &str = "can't perform a seal migration, no migration seal found";

/// Progress of an unseal with shares, and one act at a time.
#[derive(Default)]
pub struct SealState {
    progress: Mutex<Progress>,
    /// One initialisation, unseal or seal at a time.
    pub(crate) act: tokio::sync::Mutex<()>,
    /// Why the device does not open the store at present.
    pub(crate) device_trouble: Mutex<Option<String>>,
    /// The loop of devices was told to try again.
    pub(crate) retry: tokio::sync::Notify,
    /// Somebody sealed the server: the device waits until it is asked.
    pub(crate) sealed_by_hand: AtomicBool,
    /// Enough holders agreed to the change of seal that the configuration asks for.
    pub(crate) migrating: AtomicBool,
    /// The generation of the lock list that the device before has opened, where the present one is of its kind and
    /// does not.
    pub(crate) former_opened: AtomicU64,
    /// The custodians who are asked at present.
    pub(crate) custodians: Mutex<Option<crate::custodians::Asked>>,
    /// Wrapping anew that goes on, or went on last.
    pub(crate) rewrap: Mutex<crate::ceremony::Rewrap>,
}

#[derive(Default)]
struct Progress {
    nonce: String,
    shares: Vec<Secret<Vec<u8>>>,
}

/// An answer in the form of a status and a text.
#[derive(Debug)]
pub struct Refusal(pub u16, pub String);

pub(crate) fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(400, text.into()))
}

pub(crate) fn failed(e: impl std::fmt::Display) -> Refusal {
    Refusal(500, e.to_string())
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the lock list says without being opened.
pub struct SealFacts {
    pub initialised: bool,
    /// Shares and threshold: of the shares lock, or of recovery.
    pub shares: u8,
    pub threshold: u8,
    pub progress: usize,
    pub nonce: String,
    pub recovery: Option<RecoveryForm>,
    pub device_trouble: Option<String>,
    /// The seal is to change: from what.
    pub migrates_from: Option<String>,
}

impl Core {
    pub(crate) fn lock_list(&self) -> Result<Option<ReadList>, String> {
        let found = self.store.snapshot().get(LOCKS).map_err(|e| e.to_string())?;
        found.map(|b| LockList::decode(&b)).transpose().map_err(|e| e.to_string())
    }

    pub fn is_initialised(&self) -> Result<bool, String> {
        Ok(self.lock_list()?.is_some() || self.joining().is_some())
    }

    pub fn seal_facts(&self) -> Result<SealFacts, String> {
        let read = self.lock_list()?;
        let progress = lock(&self.seal.progress);
        let (mut shares, mut threshold, mut recovery) = (0, 0, None);
        if let Some(read) = &read {
            if let Some(r) = &read.list.recovery {
                (shares, threshold, recovery) = (r.shares, r.threshold, Some(r.form));
            } else if let Some(Lock { kind: LockKind::Shares { shares: n, threshold: t }, .. }) =
                read.list.shares_lock()
            {
                (shares, threshold) = (*n, *t);
            }
        }
        let joining = self.joining();
        if let (None, Some(LockKind::Shares { shares: n, threshold: t })) = (&read, joining.as_ref().map(|j| &j.kind)) {
            (shares, threshold) = (*n, *t);
        }
        let migration = read.as_ref().and_then(|read| self.seal_migration(&read.list));
        Ok(SealFacts {
            initialised: read.is_some() || joining.is_some(),
            shares,
            threshold,
            progress: progress.shares.len(),
            nonce: progress.nonce.clone(),
            recovery,
            device_trouble: match (&read, lock(&self.seal.device_trouble).clone()) {
                _ if self.is_unsealed() => None,
                (Some(read), trouble) => {
                    let known = migration.as_ref().map(ToString::to_string).or(trouble);
                    let known = known.or_else(|| self.foreign_device(&read.list));
                    let all: Vec<String> = self.awaited_after_a_restore(&read.list).into_iter().chain(known).collect();
                    (!all.is_empty()).then(|| all.join("; "))
                }
                (None, trouble) => trouble,
            },
            migrates_from: migration.map(|m| m.from),
        })
    }

    /// What is wrong if the store has a device's lock and the configuration no device.
    fn foreign_device(&self, list: &LockList) -> Option<String> {
        let LockKind::Device { backend } = &list.device_lock()?.kind else { return None };
        (!self.has_device()).then(|| {
            format!(
                "the store is sealed by {backend:?}, and the configuration has no such seal: correct the seal stanza (to \
                 move the store away from it, keep its stanza with disabled = \"true\")"
            )
        })
    }

    /// The name of this node, where it is one of several.
    pub(crate) fn node_id(&self) -> Option<&str> {
        self.options.cluster.as_ref().map(|c| c.node_id())
    }

    /// Whether no other node's device can open locks of this scope: of a store that is no cluster's, and of one whose only
    /// member this node is, that is so of all.
    pub(crate) fn is_surely_own(&self, scope: &Scope) -> bool {
        let Some(cluster) = &self.options.cluster else { return true };
        match scope {
            Scope::Node(id) => id == cluster.node_id(),
            Scope::Cluster => matches!(&cluster.members().0[..], [only] if only.id == cluster.node_id()),
        }
    }

    /// The type that seal-status shows; of several seals the reference's word for that.
    pub fn seal_type(&self) -> String {
        match &self.seals().present[..] {
            [] => "shamir".into(),
            [only] => only.device.backend().to_owned(),
            _ => "multiseal".into(),
        }
    }

    /// `sys/unseal`: take one share.
    pub async fn unseal_share(self: &Arc<Self>, share: Secret<Vec<u8>>) -> Result<(), Refusal> {
        self.take_share(share, false).await
    }

    /// `sys/unseal` with `migrate`: take one share of the seal that the store is moved away from.
    pub async fn migrate_with_share(self: &Arc<Self>, share: Secret<Vec<u8>>) -> Result<(), Refusal> {
        self.take_share(share, true).await
    }

    async fn take_share(self: &Arc<Self>, share: Secret<Vec<u8>>, migrate: bool) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        let migration = match self.lock_list().map_err(failed)? {
            Some(read) => self.seal_migration(&read.list).map(|m| (read, m)),
            None => None,
        };
        match migration {
            None if migrate => return Err(Refusal(500, NO_MIGRATION.into())),
            Some(_) if self.is_unsealed() => return Ok(()),
            Some((read, migration)) if migrate => return self.take_migration_share(&read, &migration, share).await,
            Some((_, migration)) => {
                return refuse(format!("migrate option not provided and seal migration is pending: {migration}"));
            }
            None => {}
        }
        let Some(read) = self.lock_list().map_err(failed)? else {
            let Some(LockKind::Shares { shares, threshold }) = self.joining().map(|j| j.kind) else {
                return refuse("Vault is not initialized");
            };
            return match self.gather(share, (shares, threshold))? {
                Some(given) => self.unseal_joining(&given, threshold).await,
                None => Ok(()),
            };
        };
        if self.is_unsealed() {
            return Ok(());
        }
        let Some(wanted) = read.list.shares_lock().cloned() else {
            let backend = match read.list.device_lock().map(|l| &l.kind) {
                Some(LockKind::Device { backend }) => backend.as_str(),
                _ => "one that is gone",
            };
            return refuse(format!(
                "this store is sealed by a device ({backend}), and its recovery shares approve acts only (recovery_form is authorise): \
                 bring the device back, or restore the store where it is"
            ));
        };
        if self.has_device()
            && lock(&self.seal.device_trouble).is_none()
            && !self.seal.sealed_by_hand.load(Ordering::SeqCst)
        {
            return refuse("the device answers: it unseals the store, recovery shares are for when it does not");
        }
        let LockKind::Shares { shares, threshold } = wanted.kind else {
            return Err(failed("the lock is not one of shares"));
        };
        let Some(given) = self.gather(share, (shares, threshold))? else { return Ok(()) };
        let opened = shares::join(&given, threshold).and_then(|key| {
            let root = locks::open_with_key(&wanted, &read.list.cluster_id, &key)?;
            Ok((root, key))
        });
        let (root, key) = opened.map_err(|e| match e {
            SealError::WrongShares => Refusal(400, format!("unable to retrieve stored keys: invalid key: {e}")),
            other => failed(other),
        })?;
        self.unlock(root, Some(key), "enough shares were given").await?;
        self.note_opened(&wanted);
        Ok(())
    }

    /// Take one share; those that were given, if they are enough.
    pub(crate) fn gather(
        &self,
        share: Secret<Vec<u8>>,
        (shares, threshold): (u8, u8),
    ) -> Result<Option<Vec<Secret<Vec<u8>>>>, Refusal> {
        let longest = holdfast_seal::shares::share_bytes(32, shares);
        if share.expose().len() > longest {
            return refuse(format!("invalid key: key is longer than maximum {longest} bytes"));
        }
        if share.expose().len() < longest {
            return refuse(format!("invalid key: key is shorter than {longest} bytes"));
        }
        let mut progress = lock(&self.seal.progress);
        if progress.shares.iter().any(|s| s.ct_eq(share.expose())) {
            return Ok(None);
        }
        if progress.shares.is_empty() {
            progress.nonce = random::uuid_text(&random::uuid().map_err(failed)?);
        }
        progress.shares.push(share);
        if progress.shares.len() < threshold as usize {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut *progress).shares))
    }

    /// Forget the shares given so far.
    pub fn reset_unseal(&self) -> Result<(), Refusal> {
        if self.is_unsealed() {
            return refuse("vault is unsealed");
        }
        *lock(&self.seal.progress) = Progress::default();
        Ok(())
    }

    /// Bring the store into service with its root key. `cause` says why, to the audit log.
    pub(crate) async fn activate(
        self: &Arc<Self>,
        root: Key,
        shares_key: Option<Key>,
        cause: &str,
    ) -> Result<(), Refusal> {
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        read.verify(&root).map_err(failed)?;
        let record = self.store.snapshot().get(KEYRING).map_err(failed)?;
        let record = record.ok_or_else(|| failed("the keyring is missing: restore the store from a backup"))?;
        let keyring = Keyring::open(&record, &root, read.list.cluster_id).map_err(failed)?;
        let barrier = Barrier::new(Arc::new(keyring));
        let restores = index::restores(&self.store.snapshot()).map_err(failed)?;
        let audit = self.open_audit(&barrier).await.map_err(failed)?;
        let open = Arc::new(Open::new(&read.list, barrier.clone(), (root, shares_key), restores, audit));
        // Before anything is committed, and the time with it.
        if let Some(stored) =
            crate::stored_time(&mut Tx::read_only(self.store.view(), barrier.clone())).map_err(failed)?
        {
            self.clock.resume(stored);
        }
        let migrated = self.migrate_if_agreed(&open, read.list).await?;
        let mut tx = Tx::read_only(self.store.view(), barrier.clone());
        namespaces::seal::resume(self, &mut tx, &barrier).map_err(failed)?;
        drop(tx);
        let mut acts = vec![self.about_node("sys/unseal", cause)];
        if let Some(migration) = migrated {
            let cause = format!("the seal was migrated from {} to {}", migration.from, migration.to);
            acts.push(self.about_node("sys/unseal", &cause));
        }
        let prepare = |tx: &mut Tx| {
            add_missing_mounts(tx)?;
            crate::last_use::begin(tx, self.clock.now())?;
            note_version(tx)
        };
        let kept = self.transact(&open, |tx| {
            prepare(tx)?;
            open.audit.keep(tx, acts.clone())
        });
        let unsealed = match kept.await {
            Ok(unsealed) => unsealed,
            // On a full disk nothing can be kept, and the server is to answer reads: the act is told by this process or not at all.
            Err(_) => {
                self.transact(&open, prepare).await.map_err(failed)?;
                audit::Batch::from(acts)
            }
        };
        self.router(&open).map_err(failed)?;
        self.forget_restore().await;
        if self.options.cluster.is_none() {
            self.raise_level(level::known()).await;
        }
        self.open.store(Some(open.clone()));
        self.is_unlocked();
        self.metrics.activations.add(1);
        self.did(&open, unsealed);
        self.tell_acceptance(&open);
        background::start(self, &open);
        namespaces::own_keys::start(self, &open);
        audit::watch::start(self, &open);
        audit::untold::start(self, &open);
        audit::signing::start(self, &open);
        undo::start(self, &open);
        chores::start(self, &open);
        crate::identity::rotation::start(self, &open);
        autopilot::start(self, &open);
        backups::start(self, &open);
        usage::start(self, &open);
        crate::last_use::start(self, &open);
        tracing::info!(cluster = %open.cluster_name, "the server is unsealed");
        Ok(())
    }

    /// The node changes its standing.
    pub(crate) fn about_node(&self, path: &str, cause: &str) -> Act {
        Act::new("update", path, cause).plain("node", self.node_id().unwrap_or("node"))
    }

    /// What was needed to get the root key is needed no longer.
    pub(crate) fn is_unlocked(&self) {
        self.seal.sealed_by_hand.store(false, Ordering::SeqCst);
        *lock(&self.seal.progress) = Progress::default();
        *lock(&self.seal.device_trouble) = None;
        *lock(&self.seal.custodians) = None;
    }

    /// Forget every key and cache. Requests in flight end first, for a moment.
    pub async fn seal_now(self: &Arc<Self>) {
        self.seal_because("sys/seal was asked for").await;
    }

    /// The same because the process ends.
    pub async fn seal_to_stop(self: &Arc<Self>) {
        self.seal_because("the server stops").await;
    }

    pub(crate) async fn seal_because(self: &Arc<Self>, cause: &str) {
        let _one = self.seal.act.lock().await;
        if self.is_unsealed() {
            self.outdate_copies_to_seal().await;
        }
        if let Some(open) = self.open() {
            let told = self.did(&open, vec![self.about_node("sys/seal", cause)]);
            let told = async {
                if let Some(told) = told {
                    let _it_only_tells = told.await;
                }
                self.forget_told(&open).await;
            };
            // A peer that is away, or a cluster, does not keep the server from being sealed.
            let (_late_is_late, ()) = tokio::join!(tokio::time::timeout(TELL_WAIT, told), self.seal_audit(&open));
        } else if let Some(reading) = self.readers.ready() {
            self.did(&reading.open, vec![self.about_node("sys/seal", cause)]);
        }
        let open = self.open.swap(None);
        if !self.forget_held() && open.is_none() {
            return;
        }
        self.end_reader().await;
        self.seal.sealed_by_hand.store(true, Ordering::SeqCst);
        self.seal.migrating.store(false, Ordering::SeqCst);
        self.seal_count.fetch_add(1, Ordering::SeqCst);
        self.metrics.seals.add(1);

        self.sealed.notify_waiters();
        self.log.end_watches();
        if let Some(open) = open {
            self.end(open).await;
        }
        self.devices.log_out();
        trim_heap();
        scrub_workers().await;
        tracing::info!("the server is sealed");
        // Whoever takes the lead has the keys.
        self.step_down().await;
    }

    /// End the loops and wait for a moment for those who still work with what was open.
    pub(crate) async fn end(&self, open: Arc<Open>) {
        open.closing.store(true, Ordering::SeqCst);
        open.closed.send_replace(true);
        self.job_stored.notify_waiters();
        for _ in 0..200 {
            if Arc::strong_count(&open) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.lose_late(&open);
        self.sign_the_last(&open.audit).await;
        open.audit.seal().await;
        open.audit.drain().await;
    }

    /// A new keyring term seals from now on.
    pub(crate) async fn rotate_keyring(self: &Arc<Self>, open: &Arc<Open>) -> Result<()> {
        let _one = self.seal.act.lock().await;
        let old = open.barrier.load_full();
        let fresh = old.keyring().rotated(&self.entropy().await?, clock::now().secs()).map_err(Error::internal)?;
        let fresh = Arc::new(fresh);
        let record = fresh.seal(&open.root.load()).map_err(Error::internal)?;
        let view = self.store.view();
        let proposal = Proposal {
            view_index: view.index(),
            reads: vec![(KEYRING.into(), view.index())],
            ranges: Vec::new(),
            writes: vec![Write::Put(KEYRING.into(), record.into())],
        };
        let ticket = self.store.propose(proposal).map_err(crate::commit_failure)?;
        ticket.committed().await.map_err(crate::commit_failure)?;
        open.barrier.store(Arc::new(old.with_keyring(fresh)));
        Ok(())
    }
}

/// How long workers are held at a time until others have come too: nothing else runs on them meanwhile.
const SCRUB_HOLD: Duration = Duration::from_millis(50);
/// When those that never came are given up.
const SCRUB_LIMIT: Duration = Duration::from_secs(10);

impl Core {
    /// A namespace was sealed: what is left of its keys and values on stacks and in freed memory goes.
    pub(crate) async fn scrub(&self) {
        // What connections have read and written lies in their buffers until they end.
        self.sealed.notify_waiters();
        trim_heap();
        scrub_workers().await;
    }
}

/// Ciphers leave key schedules on the stacks of the threads that ran them: wipe every worker's. On a machine that is
/// busy with something else a worker may not run for long: it is waited for, while the others go on.
async fn scrub_workers() {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let scrubbed = Arc::new(Mutex::new(HashSet::new()));
    let begin = Instant::now();
    loop {
        scrub_round(workers, &scrubbed).await;
        let done = scrubbed.lock().unwrap_or_else(PoisonError::into_inner).len();
        if done >= workers {
            break;
        }
        if begin.elapsed() > SCRUB_LIMIT {
            tracing::warn!(
                workers,
                done,
                "some threads did not run in time: what ciphers left on their stacks is not wiped"
            );
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scrub_deep();
}

/// As many tasks as there are workers hold on to a worker each for a moment, so that they come to different ones.
async fn scrub_round(workers: usize, scrubbed: &Arc<Mutex<HashSet<ThreadId>>>) {
    let arrived = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (arrived, scrubbed) = (arrived.clone(), scrubbed.clone());
        tasks.spawn(async move {
            arrived.fetch_add(1, Ordering::SeqCst);
            let begin = Instant::now();
            while arrived.load(Ordering::SeqCst) < workers && begin.elapsed() < SCRUB_HOLD {
                thread::sleep(Duration::from_micros(200));
            }
            scrub_deep();
            scrubbed.lock().unwrap_or_else(PoisonError::into_inner).insert(thread::current().id());
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Wipe more than 100 KiB of the stack below.
#[inline(never)]
fn scrub_deep() {
    let room = [0u8; 48 << 10];
    std::hint::black_box(&room);
    scrub_stack();
}

/// Mounts that every store has, and that one made by an earlier version lacks.
pub(crate) fn add_missing_mounts(tx: &mut Tx) -> Result<()> {
    let present = router::load(tx)?;
    for entry in router::later_mounts()? {
        let (kind, path) = (&entry.kind, &entry.path);
        if present.iter().any(|e| !e.auth && e.kind == *kind) {
            continue;
        }
        if let Some(other) = present.iter().find(|e| !e.auth && e.path == *path) {
            tracing::error!(kind = %other.kind, "{path} belongs to an engine: move it away and unseal again, or the server misses what it needs there");
            continue;
        }
        router::save(tx, &entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InitRequest;
    use crate::testing::new_core;

    #[tokio::test]
    async fn a_store_of_an_earlier_version_gets_its_cubbyhole_when_it_is_unsealed() {
        let core = new_core();
        let request = InitRequest { secret_shares: 1, secret_threshold: 1, ..InitRequest::default() };
        let key = core.initialise(&request).await.unwrap().keys.pop().unwrap();
        let share = || Secret::new(key.expose().clone());
        core.unseal_share(share()).await.unwrap();
        let open = core.open().unwrap();
        let forget = |tx: &mut Tx| {
            let cubbyhole = router::load(tx)?.into_iter().find(|e| e.kind == "cubbyhole").unwrap();
            router::forget(tx, &cubbyhole)
        };
        core.transact(&open, forget).await.unwrap();
        assert!(core.router(&open).unwrap().find("cubbyhole/x").is_none());
        drop(open);
        core.seal_now().await;
        core.unseal_share(share()).await.unwrap();
        let open = core.open().unwrap();
        let router = core.router(&open).unwrap();
        let (mount, _) = router.find("cubbyhole/x").unwrap();
        assert_eq!(
            (mount.entry.kind.as_str(), mount.scope),
            ("cubbyhole", crate::layout::CUBBYHOLE.of(crate::layout::ROOT))
        );
    }
}
