//! Keeps the replicated log small, by entries and by bytes. Nobody else forgets entries here, but an installed snapshot.
//!
//! `trailing_logs` counts entries; with entries of 1 MiB ten thousand of them are 10 GiB, which take room on the disk and
//! are read at each start. So bytes are bounded too. Members that were away for longer than what is kept get a snapshot.
//! While one is sent, what comes behind it is kept, within a bound: otherwise a member whose snapshot takes longer than
//! what is kept lasts would need the next one as soon as it has it, for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_storage::RaftLog;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use super::machine::Machine;
use super::types::Types;

const LOOK: Duration = Duration::from_secs(2);
/// Entries that are forgotten at a time at least, unless fewer are kept.
const BATCH: u64 = 256;
/// So many times as much as otherwise is kept for those who get a snapshot.
const FOR_SNAPSHOTS: u64 = 4;
/// Who has got a snapshot asks for what comes behind it within this.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    pub entries: u64,
    pub bytes: u64,
}

/// Snapshots on their way: where in the log each stands, and when it had arrived.
#[derive(Clone, Default)]
pub struct Sent(Arc<Mutex<Vec<OneSent>>>);

type OneSent = (u64, Option<InstantOf<Types>>);

impl Sent {
    fn all(&self) -> MutexGuard<'_, Vec<OneSent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that holds everything up to this is on its way for as long as what is returned is kept.
    pub fn begin(&self, index: u64) -> OnItsWay {
        self.all().push((index, None));
        OnItsWay { sent: self.clone(), index }
    }

    /// The first place from which on somebody will ask for entries.
    fn first(&self) -> Option<u64> {
        let mut all = self.all();
        let now = Types::now();
        all.retain(|(_, arrived)| arrived.is_none_or(|at| now - at < ASKED_WITHIN));
        all.iter().map(|(index, _)| *index).min()
    }
}

pub struct OnItsWay {
    sent: Sent,
    index: u64,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let now = Types::now();
        let mut all = self.sent.all();
        if let Some(one) = all.iter_mut().find(|one| **one == (self.index, None)) {
            one.1 = Some(now);
        }
    }
}

/// Look after the log of a member for as long as it takes part: with more than `kept.bytes` it is cut so that half of
/// that is left.
pub async fn keep_small(raft: Raft<Types, Machine>, log: RaftLog, kept: Kept, sent: Sent) {
    let mut metrics = raft.server_metrics();
    loop {
        // The store is somebody else's from the moment on that the member has stopped.
        let next = Types::now() + LOOK;
        while let Ok(changed) = Types::timeout_at(next, metrics.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        let (snapshot, purged) = {
            let metrics = raft.metrics();
            let m = metrics.borrow_watched();
            (m.snapshot.as_ref().map(|id| id.index), m.purged.as_ref().map(|id| id.index))
        };
        // openraft counts from 0.
        let surplus = log.surplus(kept.bytes, kept.bytes / 2).map(|last| last - 1);
        if surplus > snapshot {
            // Only what the state machine has on the disk may go.
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            continue;
        }
        let by_count = snapshot.and_then(|s| s.checked_sub(kept.entries));
        let Some(mut last) = surplus.max(by_count) else { continue };
        if let Some(needed) = sent.first()
            && log.surplus(kept.bytes.saturating_mul(FOR_SNAPSHOTS), 0).is_none()
        {
            last = last.min(needed);
        }
        let first = purged.map_or(0, |index| index + 1);
        let is_worth_it = (last + 1).saturating_sub(first) >= kept.entries.clamp(1, BATCH) || surplus.is_some();
        if is_worth_it && raft.trigger().purge_log(last).await.is_err() {
            return;
        }
    }
}
