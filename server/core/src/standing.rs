//! Sealed, active or standing by: what this node is, and how it becomes another.
//!
//! The active node is the one that leads, is unsealed, and has applied an entry of its own term: it alone has
//! caches, jobs and loops ([`crate::Open`]). One that stands by has the root key and nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_hsm::memory::{Key, MemoryError};
use holdfast_sdk::Timestamp;
use holdfast_seal::locks::{LockList, ReadList};
use holdfast_storage::{Proposal, RESTORE_KEY, Write};

use crate::cluster::{COPY, Cluster, Forwarded, ForwardedAnswer, Lead, NotForwarded, ReadPoint};
use crate::layout::{LOCKS, RESTORED};
use crate::namespaces::own_keys::OwnKeys;
use crate::new_keys::Offered;
use crate::seal_state::{Refusal, failed, refuse};
use crate::{Answer, Core, Open, clock, random};

/// How long an unseal waits for this node to become active, or for another one to be.
const SETTLE: Duration = Duration::from_secs(8);
/// How often it is looked at who leads, where nobody says that it has changed.
const LOOK: Duration = Duration::from_millis(100);

/// What one is told who asks a node that was removed.
pub(crate) const REMOVED: &str = "this node was removed from its cluster and serves nothing any more: stop it; to let it \
    in again, run operator raft recover -rejoin on it while it is stopped, or give it an empty folder";

/// What a node does with requests.
#[derive(Debug)]
pub enum Standing {
    Sealed,
    Active,
    /// Another node is active, if one is known.
    Standby(Box<Lead>),
}

/// What an unsealed node keeps, active or not.
pub(crate) struct Held {
    pub root: Key,
    pub shares_key: Option<Key>,
    pub cluster_id: String,
    pub cluster_name: String,
    /// Why it was unsealed, until an audit log of this node says so.
    unsealed_because: Option<String>,
}

/// A member's state beside its cluster.
#[derive(Default)]
pub(crate) struct Standings {
    held: Mutex<Option<Held>>,
    /// Since when this node is active, and the term in which it became so.
    active: Mutex<Option<(Timestamp, u64)>>,
    /// The version in which the locks were changed by what was applied: the root key that is held may be an old one.
    /// 0: they were not, or it was looked at.
    locks_changed: AtomicU64,
    /// By a snapshot that took the store's place.
    restored: AtomicBool,
    /// This node had keys before that, and they do not open what was restored.
    waits_for_others_keys: AtomicBool,
    /// Keys that the active node has told.
    pub(crate) offered: Offered,
    /// Of namespaces that are unsealed and have a seal of their own.
    pub(crate) own_keys: OwnKeys,
}

impl Standings {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node is unsealed, is not the active one, and holds the present root key.
    pub fn stands_by(&self) -> bool {
        // One lock after the other: elsewhere the second is taken first.
        let is_unsealed = self.held().is_some();
        let is_active = self.active().is_some();
        is_unsealed && !is_active && self.locks_changed.load(Ordering::SeqCst) == 0
    }

    fn active(&self) -> MutexGuard<'_, Option<(Timestamp, u64)>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// What this node does with a request now.
    pub fn standing(&self) -> Standing {
        let Some(cluster) = &self.options.cluster else {
            return if self.open.load().is_some() { Standing::Active } else { Standing::Sealed };
        };
        if self.standings.held().is_none() {
            return Standing::Sealed;
        }
        let lead = cluster.lead();
        if lead.copy_of.is_some() {
            // It may have keys, and may be taken for the node when the other one is gone.
            return Standing::Sealed;
        }
        // One that lost the lead and has it again has yet to hear what others did meanwhile.
        let is_active = self.standings.active().is_some_and(|(_, term)| term == lead.term);
        if lead.sure && is_active && self.open.load().is_some() {
            return Standing::Active;
        }
        Standing::Standby(Box::new(lead))
    }

    pub fn is_unsealed(&self) -> bool {
        self.open.load().is_some() || self.standings.held().is_some()
    }

    /// Whether the members of its cluster know this node no longer.
    pub fn is_removed(&self) -> bool {
        self.options.cluster.as_ref().is_some_and(|cluster| cluster.lead().removed)
    }

    /// The answer of a node that is sealed.
    pub fn sealed_answer(&self) -> Answer {
        if self.is_removed() {
            return Answer::error(503, REMOVED);
        }
        self.is_a_copy().map_or_else(Answer::sealed, |text| Answer::error(503, &text))
    }

    /// What is said of this node if the members count another process with its key.
    pub(crate) fn is_a_copy(&self) -> Option<String> {
        let other = self.options.cluster.as_ref()?.lead().copy_of?;
        Some(format!("{COPY} (the other one is at {other})"))
    }

    /// What a sealed node waits for if a snapshot took the place of what it had.
    pub(crate) fn awaited_after_a_restore(&self, list: &LockList) -> Option<String> {
        let is_marked = || self.store.snapshot().get(RESTORED).is_ok_and(|mark| mark.is_some());
        let waits = self.standings.waits_for_others_keys.load(Ordering::SeqCst) || is_marked();
        waits.then(|| {
            let id = random::uuid_text(&list.cluster_id);
            format!("restored, waiting for the keys of cluster {:?} ({id})", list.cluster_name)
        })
    }

    /// What was restored has been opened: nobody needs to be told any more what it waits for.
    pub(crate) async fn forget_restore(&self) {
        if !self.store.snapshot().get(RESTORED).is_ok_and(|mark| mark.is_some()) {
            return;
        }
        let view_index = self.store.view().index();
        let writes = vec![Write::Delete(RESTORED.into())];
        let forgotten =
            async { self.store.propose(Proposal { view_index, writes, ..Proposal::default() })?.committed().await };
        if let Err(e) = forgotten.await {
            tracing::warn!(error = %e, "the mark of a restore is still there; the next unseal takes it away");
        }
    }

    /// Cluster name and id while unsealed.
    pub fn cluster(&self) -> Option<(String, String)> {
        if let Some(open) = self.open() {
            return Some((open.cluster_name.clone(), open.cluster_id.clone()));
        }
        self.standings.held().as_ref().map(|h| (h.cluster_name.clone(), h.cluster_id.clone()))
    }

    /// Since when this node is active.
    pub(crate) fn active_since(&self) -> Option<Timestamp> {
        self.standings.active().map(|(since, _)| since)
    }

    /// Take the root key: the node is unsealed, and active if it leads or belongs to no cluster. The caller holds
    /// the lock of acts.
    pub(crate) async fn unlock(
        self: &Arc<Self>,
        root: Key,
        shares_key: Option<Key>,
        cause: &str,
    ) -> Result<(), Refusal> {
        if self.is_removed() {
            return refuse(REMOVED);
        }
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        read.verify(&root).map_err(failed)?;
        self.refuse_old_copies(&root).await?;
        let Some(cluster) = self.options.cluster.clone() else { return self.activate(root, shares_key, cause).await };
        *self.standings.held() = Some(Held {
            root,
            shares_key,
            cluster_id: random::uuid_text(&read.list.cluster_id),
            cluster_name: read.list.cluster_name.clone(),
            unsealed_because: Some(cause.to_owned()),
        });
        self.is_unlocked();
        self.standings.waits_for_others_keys.store(false, Ordering::SeqCst);
        cluster.may_lead(true);
        tracing::info!("the node is unsealed");
        let settled = async {
            loop {
                self.match_lead().await?;
                if self.open().is_some() || cluster.lead().leader.is_some_and(|(id, _)| id != cluster.node_id()) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Nobody leads yet: it will be said by the standing.
        tokio::time::timeout(SETTLE, settled).await.unwrap_or(Ok(()))
    }

    /// These keys were applied, and can be seen in a moment. Where a snapshot takes the store's place, nothing that
    /// was open is good any more.
    pub(crate) fn locks_may_have_changed(&self, keys: &[holdfast_storage::Key], version: u64) {
        if self.options.cluster.is_none() {
            return;
        }
        let restored = keys.iter().any(|k| **k == *RESTORE_KEY);
        if restored && let Some(open) = self.open.swap(None) {
            open.closing.store(true, Ordering::SeqCst);
            open.closed.send_replace(true);
        }
        if restored {
            self.standings.restored.store(true, Ordering::SeqCst);
        }
        if restored || keys.iter().any(|k| **k == *LOCKS) {
            self.standings.locks_changed.fetch_max(version, Ordering::SeqCst);
        }
    }

    /// The root key that this node has, sealed or not as a member.
    pub(crate) fn present_root(&self) -> Result<Option<Key>, MemoryError> {
        match self.open() {
            Some(open) => open.root.load().try_clone().map(Some),
            None => self.standings.held().as_ref().map(|held| held.root.try_clone()).transpose(),
        }
    }

    /// Take the root key that the active node has told, or forget one that opens the store no longer. The caller holds
    /// the lock of acts.
    fn check_root(&self) -> Result<(), Refusal> {
        let changed = self.standings.locks_changed.load(Ordering::SeqCst);
        if changed == 0 || self.store.snapshot().index() < changed {
            return Ok(());
        }
        let Some(read) = self.lock_list().map_err(failed)? else { return Ok(()) };
        let present = self.present_root().map_err(failed)?;
        let opens = present.as_ref().is_none_or(|root| read.verify(root).is_ok());
        if !opens && !self.takes_offered_keys(&read)? {
            if self.open().is_some() {
                // It is looked at again when this node stands by.
                return Ok(());
            }
            self.forget_held();
            let by_restore = self.standings.restored.load(Ordering::SeqCst);
            self.standings.waits_for_others_keys.store(by_restore, Ordering::SeqCst);
            self.retry_device();
            tracing::warn!(
                cluster = %read.list.cluster_name,
                "the keys of this node open the store no longer: it is sealed until those of the cluster are given"
            );
        }
        self.standings.restored.store(false, Ordering::SeqCst);
        // Unless they were changed again.
        let _changed_again =
            self.standings.locks_changed.compare_exchange(changed, 0, Ordering::SeqCst, Ordering::SeqCst);
        Ok(())
    }

    /// Whether the keys that were told open the store now.
    fn takes_offered_keys(&self, read: &ReadList) -> Result<bool, Refusal> {
        let Some((root, shares_key)) = self.standings.offered.take(read) else { return Ok(false) };
        if let Some(open) = self.open() {
            // This node changed them, and was not told whether it had.
            open.root.store(Arc::new(root));
            if let Some(key) = shares_key {
                open.shares_key.store(Some(Arc::new(key)));
            }
        } else if let Some(held) = &mut *self.standings.held() {
            held.root = root;
            held.shares_key = shares_key.or(held.shares_key.take());
        }
        tracing::info!("the keys of the store were changed, and this node has the new ones");
        Ok(true)
    }

    /// Follow who leads, for as long as the process runs.
    pub async fn follow_lead(self: Arc<Self>) {
        let Some(cluster) = self.options.cluster.clone() else { return };
        let (mut said, mut is_removed) = (None, false);
        loop {
            tokio::select! {
                () = cluster.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let broken = cluster.lead().broken;
            if broken != said {
                if let Some(reason) = &broken {
                    tracing::error!(%reason, "this node takes part in the cluster no longer: look at its disk, then restart it");
                }
                said = broken;
            }
            if cluster.lead().removed && !is_removed {
                is_removed = true;
                tracing::error!("{REMOVED}");
                // The keys were given to a member.
                self.seal_because("this node was removed from its cluster").await;
            }
            let is_in_step =
                !self.is_out_of_step(&*cluster) && self.standings.locks_changed.load(Ordering::SeqCst) == 0;
            if is_in_step && !self.reader_is_out_of_step(&*cluster) {
                continue;
            }
            let _one = self.seal.act.lock().await;
            if is_in_step {
                self.match_reader(&*cluster).await;
                continue;
            }
            if let Err(Refusal(_, text)) = self.match_lead().await {
                tracing::error!("this node leads and cannot become active: {text}");
                cluster.hand_over().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Whether the node is active and does not lead as it did, or leads and is not active.
    fn is_out_of_step(&self, cluster: &dyn Cluster) -> bool {
        let lead = cluster.lead();
        match *self.standings.active() {
            Some((_, term)) => !lead.here || lead.term != term || self.store.is_standing_by(),
            None => lead.here && self.standings.held().is_some(),
        }
    }

    /// Become active or stand by, as the lead is. The caller holds the lock of acts.
    async fn match_lead(self: &Arc<Self>) -> Result<(), Refusal> {
        let Some(cluster) = self.options.cluster.clone() else { return Ok(()) };
        self.check_root()?;
        if !self.is_out_of_step(&*cluster) {
            return Ok(());
        }
        if self.standings.active().is_some() {
            self.stand_by().await?;
        }
        let lead = cluster.lead();
        if !lead.here {
            return Ok(());
        }
        if let Err(e) = self.store.take_over(lead.term).await {
            // The lead was lost at once; whoever follows it looks again.
            tracing::debug!(error = %e, "this node led for a moment");
            return Ok(());
        }
        // The last thing that the leader before has done may have been to change the locks.
        self.check_root()?;
        let keys = match &*self.standings.held() {
            Some(held) => {
                let shares_key = held.shares_key.as_ref().map(Key::try_clone).transpose().map_err(failed)?;
                Some((held.root.try_clone().map_err(failed)?, shares_key))
            }
            None => None,
        };
        let Some((root, shares_key)) = keys else {
            self.store.stand_by();
            return Ok(());
        };
        self.end_reader().await;
        let cause = format!("this node leads the cluster, in term {}", lead.term);
        if let Err(e) = self.activate(root, shares_key, &cause).await {
            self.store.stand_by();
            return Err(e);
        }
        *self.standings.active() = Some((clock::now(), lead.term));
        if let Some(open) = self.open() {
            self.tell_unsealing(&open);
        }
        tracing::info!(term = lead.term, "this node is the active one");
        Ok(())
    }

    /// Tell the audit log of this node that it was unsealed, as soon as there is one.
    pub(crate) fn tell_unsealing(self: &Arc<Self>, open: &Arc<Open>) {
        let cause = self.standings.held().as_mut().and_then(|held| held.unsealed_because.take());
        if let Some(cause) = cause {
            self.did(open, vec![self.about_node("sys/unseal", &cause)]);
        }
        self.tell_acceptance(open);
    }

    /// No longer active: caches, loops and watches end, the root key stays.
    async fn stand_by(self: &Arc<Self>) -> Result<(), Refusal> {
        self.store.stand_by();
        *self.standings.active() = None;
        let Some(open) = self.open.swap(None) else { return Ok(()) };
        if let Some(held) = &mut *self.standings.held() {
            // It may have been changed while this node was active.
            held.root = open.root.load().try_clone().map_err(failed)?;
            held.shares_key = open.shares_key.load().as_ref().map(|k| k.try_clone()).transpose().map_err(failed)?;
        }
        self.did(&open, vec![self.about_node("sys/step-down", "this node leads the cluster no longer")]);
        self.end(open).await;
        tracing::info!("this node stands by");
        Ok(())
    }

    /// Forget the keys that a member keeps. True: there were some.
    pub(crate) fn forget_held(&self) -> bool {
        if let Some(cluster) = &self.options.cluster {
            cluster.may_lead(false);
        }
        *self.standings.active() = None;
        self.readers.void();
        self.standings.offered.forget();
        self.standings.own_keys.forget_all(0);
        self.store.stand_by();
        self.standings.held().take().is_some()
    }

    /// The clocks of this node, if it is the active one: reads of others are judged by them.
    pub fn point_of_read(&self) -> Option<ReadPoint> {
        let is_active = matches!(self.standing(), Standing::Active);
        is_active.then(|| ReadPoint { now: self.clock.now(), cluster: self.clock.cluster() })
    }

    /// Let the node that leads answer a request.
    pub async fn forward(&self, request: Forwarded, body: Vec<u8>) -> Result<ForwardedAnswer, NotForwarded> {
        match &self.options.cluster {
            Some(cluster) => cluster.forward(request, body).await,
            None => Err(NotForwarded::NotSent("there is no cluster".into())),
        }
    }

    /// Where a listener may put the archive of a restore; `None`: this server takes none.
    pub fn archive_folder(&self) -> Option<PathBuf> {
        self.options.cluster.as_ref().map(|c| c.folder().to_owned())
    }

    /// Hand leadership over, if somebody can take it.
    pub async fn step_down(&self) -> bool {
        match &self.options.cluster {
            Some(cluster) => cluster.hand_over().await,
            None => false,
        }
    }
}

/// Bytes that are free on the disk of a path.
pub fn free_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let s = rustix::fs::statvfs(path)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}
