//! What a node that stands by keeps to answer reads: an [`Open`] of its own, beside the one that only the active node
//! has. See docs/decisions/0009-standby-reads.md; the way of such a read is `handle/standing_by`.
//!
//! It has a barrier, caches and audit devices, and no jobs, loops or ceremonies. It is made anew whenever something
//! changes that it was made from: the locks, the keyring, the audit devices, the whole store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use holdfast_hsm::memory::Key;
use holdfast_seal::{Barrier, Keyring};
use holdfast_storage::{Key as StorageKey, RESTORE_KEY};

use crate::cluster::Cluster;
use crate::layout::{self, KEYRING};
use crate::seal_state::{Refusal, failed};
use crate::tx::Tx;
use crate::{Core, Open, audit, index, namespaces};

/// How long it is waited for that what is being applied can be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// A reader that could not be made is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The records of the store that audit devices are made from.
const OF_AUDIT: &[u8] = b"audit-";

/// The reader, while there is one.
#[derive(Default)]
pub(crate) struct Readers {
    current: ArcSwapOption<Reading>,
    /// The one before: its audit devices are closed before those of the next one are opened.
    before: Mutex<Option<Arc<Reading>>>,
    /// Raised by every change that voids what is being made.
    voided: AtomicU64,
    trouble: Mutex<Option<(String, Instant)>>,
}

/// A reader.
pub(crate) struct Reading {
    pub open: Arc<Open>,
    /// Everything that was applied before it heard of changes can be seen: nothing older gets into its caches.
    ready: AtomicBool,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a reader that knew another value of this key is good no longer.
fn voids(key: &[u8]) -> bool {
    if key.first() == Some(&0) || *key == *RESTORE_KEY {
        return true;
    }
    let settings = [&layout::STORE.prefix()[..], &[layout::SETTINGS.0]].concat();
    key.strip_prefix(&settings[..]).is_some_and(|place| place.starts_with(OF_AUDIT))
}

/// Whether what a reader is made from is changed, which one that is made follows.
fn is_followed(key: &[u8]) -> bool {
    let of = |table| layout::place_of(key).is_some_and(|(scope, t)| scope == layout::STORE && t == table);
    of(layout::OWN_RINGS) || of(layout::SEALINGS)
}

impl Readers {
    /// Changes that are about to be seen.
    pub fn hear(&self, keys: &[StorageKey], index: u64) {
        let is_void = keys.iter().any(|key| voids(key));
        if is_void || keys.iter().any(|key| is_followed(key)) {
            // First: who is making one looks here behind its making.
            self.voided.fetch_add(1, Ordering::SeqCst);
        }
        if is_void {
            return self.void();
        }
        if let Some(reading) = &*self.current.load() {
            reading.open.invalidate(keys, index);
        }
    }

    /// Nothing more is read from the present one.
    pub fn void(&self) {
        if let Some(reading) = self.current.swap(None) {
            reading.open.closing.store(true, Ordering::SeqCst);
            reading.open.closed.send_replace(true);
            *lock(&self.before) = Some(reading);
        }
    }

    /// The present one, if reads may be answered from it.
    pub fn ready(&self) -> Option<Arc<Reading>> {
        self.current.load_full().filter(|reading| reading.ready.load(Ordering::SeqCst))
    }

    /// Whether this is the present one still: what was read by now is of one store and one set of keys.
    pub fn is_current(&self, reading: &Arc<Reading>) -> bool {
        self.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, reading))
    }

    pub async fn reopen_audit(&self) {
        if let Some(reading) = self.current.load_full() {
            reading.open.audit.reopen().await;
        }
    }
}

impl Core {
    /// What requests are handled with here: of the active node, or of one that stands by and reads.
    pub(crate) fn open_to_read(&self) -> Option<Arc<Open>> {
        self.open().or_else(|| self.readers.ready().map(|reading| reading.open.clone()))
    }

    /// End the reader that is void, and what is left of one that was before.
    pub(crate) async fn end_reader(&self) {
        self.readers.void();
        let Some(reading) = lock(&self.readers.before).take() else { return };
        let open = reading.open.clone();
        drop(reading);
        // Whoever still reads with it waits for nothing.
        for _ in 0..200 {
            if Arc::strong_count(&open) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.sign_the_last(&open.audit).await;
        open.audit.seal().await;
        // What remote devices have been given is sent meanwhile; nobody gives them more. The keys go at once.
        let devices = open.audit.devices();
        drop(open);
        tokio::spawn(audit::drain(devices));
    }

    /// Whether this node should read and does not, or the other way.
    pub(crate) fn reader_is_out_of_step(&self, cluster: &dyn Cluster) -> bool {
        if lock(&self.readers.before).is_some() {
            return true;
        }
        let should = cluster.answers_reads()
            && self.standings.stands_by()
            && self.open.load().is_none()
            && !cluster.lead().here
            && cluster.lead().leader.is_some();
        let has = self.readers.current.load().is_some();
        match (should, has) {
            (true, false) => lock(&self.readers.trouble).as_ref().is_none_or(|(_, at)| at.elapsed() >= TRY_AGAIN),
            // One that leads for a moment only goes on when it stands by again.
            (false, true) => !self.standings.stands_by() || self.open.load().is_some(),
            _ => false,
        }
    }

    /// Make a reader, or end the one there is. The caller holds the lock of acts.
    pub(crate) async fn match_reader(self: &Arc<Self>, cluster: &dyn Cluster) {
        if !self.reader_is_out_of_step(cluster) {
            return;
        }
        self.end_reader().await;
        if !self.standings.stands_by() || self.open.load().is_some() || !cluster.answers_reads() {
            return;
        }
        let trouble = match self.make_reader(cluster).await {
            Ok(()) => None,
            Err(Refusal(_, text)) => Some(text),
        };
        let mut before = lock(&self.readers.trouble);
        match &trouble {
            None => tracing::info!("this node answers reads while it stands by"),
            Some(text) if before.as_ref().is_none_or(|(said, _)| said != text) => {
                tracing::warn!("this node passes on all reads to the active one for now: {text}");
            }
            Some(_) => {}
        }
        *before = trouble.map(|text| (text, Instant::now()));
    }

    async fn make_reader(self: &Arc<Self>, cluster: &dyn Cluster) -> Result<(), Refusal> {
        let begun = self.readers.voided.load(Ordering::SeqCst);
        let changes = || failed("the keys or the audit devices are being changed");
        let Some(root) = self.present_root().map_err(failed)? else { return Err(failed("it is sealed")) };
        let open = self.opened_to_read(root).await?;
        let reading = Arc::new(Reading { open: Arc::new(open), ready: AtomicBool::new(false) });
        self.readers.current.store(Some(reading.clone()));
        if self.readers.voided.load(Ordering::SeqCst) != begun {
            self.end_reader().await;
            return Err(changes());
        }
        // Of what is being applied at this moment it has not heard: that must be seen before anything is kept of what
        // is read.
        let (heard_from, _) = cluster.applied();
        let since = Instant::now();
        while cluster.applied().1 < heard_from {
            if since.elapsed() > SEEN_WITHIN {
                self.end_reader().await;
                return Err(failed("what is applied is not seen in time"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        reading.ready.store(true, Ordering::SeqCst);
        self.tell_unsealing(&reading.open);
        audit::watch::start(self, &reading.open);
        audit::signing::start(self, &reading.open);
        Ok(())
    }

    async fn opened_to_read(&self, root: Key) -> Result<Open, Refusal> {
        let Some(read) = self.lock_list().map_err(failed)? else { return Err(failed("it is not initialised")) };
        read.verify(&root).map_err(failed)?;
        let record = self.store.snapshot().get(KEYRING).map_err(failed)?;
        let record = record.ok_or_else(|| failed("the keyring is missing"))?;
        let keyring = Keyring::open(&record, &root, read.list.cluster_id).map_err(failed)?;
        let barrier = Barrier::new(Arc::new(keyring));
        let restores = index::restores(&self.store.snapshot()).map_err(failed)?;
        let mut tx = Tx::read_only(self.store.view(), barrier.clone());
        namespaces::seal::resume(self, &mut tx, &barrier).map_err(failed)?;
        drop(tx);
        let audit = self.open_audit(&barrier).await.map_err(|e| failed(format!("its audit devices: {e}")))?;
        Ok(Open::new(&read.list, barrier, (root, None), restores, audit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_was_made_from_voids_it() {
        let settings = |place: &[u8]| [&layout::STORE.prefix()[..], &[layout::SETTINGS.0], place].concat();
        for key in [layout::LOCKS, KEYRING, layout::RESTORES, RESTORE_KEY] {
            assert!(voids(key));
        }
        for place in ["audit-devices", "audit-salt/file/", "audit-signing"] {
            assert!(voids(&settings(place.as_bytes())), "{place}");
        }
        assert!(!voids(&settings(b"quotas")));
        assert!(!voids(&[&layout::SYSTEM.of([9; 16]).prefix()[..], &[layout::SETTINGS.0], b"audit-x"].concat()));
        let ring = [&layout::STORE.prefix()[..], &[layout::OWN_RINGS.0], &[7; 20]].concat();
        assert!(is_followed(&ring) && !voids(&ring));
    }
}
