//! The one work that writes, on a thread of its own: it takes what is queued, appends it to the log with one sync,
//! applies it, and publishes it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::changes::encode;
use crate::compaction::changes_of;
use crate::disk::{Disk, is_short};
use crate::log::{AppendError, Log, SEGMENT_BYTES};
use crate::pipeline::{Queued, lock};
use crate::redb_file::is_full;
use crate::replicated::Shared as Member;
use crate::state::{CACHE_BYTES, COPY_FILE, FILE, State, put_in_place};
use crate::store::Inner;
use crate::{CommitError, CompactError, Key, StoreError};

/// Bytes of one group at most.
const GROUP_BYTES: usize = 4 << 20;
/// A checkpoint is due when the log has grown by this much,
const CHECKPOINT_BYTES: u64 = 32 << 20;
/// or when it is this old and something was written.
const CHECKPOINT_AGE: Duration = Duration::from_secs(60);
/// Room for what a checkpoint writes beside entries.
const CHECKPOINT_SLACK_BYTES: u64 = 1 << 20;
/// How long the thread sleeps when nothing wakes it,
const IDLE: Duration = Duration::from_secs(5);
/// and how often it looks for room on a full disk.
pub(crate) const LOOK_FOR_ROOM: Duration = Duration::from_millis(200);

pub(crate) struct Writer {
    pub(crate) inner: Arc<Inner>,
    pub(crate) state: State,
    log: Option<Log>,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    /// Of a cluster's member: what is applied comes from there, and the log is not ours.
    member: Option<Arc<Member>>,
    term: u64,
    /// When, as the executor counts.
    last_checkpoint: Duration,
    /// Log bytes since the last checkpoint.
    pub(crate) unsaved: u64,
    /// The disk was full when something was last written.
    full: bool,
    broken: bool,
}

/// Why a group was not committed.
pub(crate) enum Failure {
    /// This member of a cluster does not lead: nothing of it was written.
    NotActive,
    /// This member may have lost the lead meanwhile; the group is applied by the next one, or never.
    Lost(String),
    /// Nothing of it was written.
    Nothing(io::Error),
    /// It may be there after a crash; the next write clears it away.
    Unknown(io::Error),
    /// Nothing more can be written. With `unknown`, the group may be there when the store is opened again.
    Broken { reason: String, unknown: bool },
}

impl From<AppendError> for Failure {
    fn from(e: AppendError) -> Failure {
        match e {
            AppendError::Nothing(e) => Failure::Nothing(e),
            AppendError::Unknown(e) => Failure::Unknown(e),
            AppendError::Broken { error, unknown } => Failure::Broken { reason: error.to_string(), unknown },
        }
    }
}

/// However the thread ends, nobody waits for it in vain.
struct Epitaph(Arc<Inner>);

impl Drop for Epitaph {
    fn drop(&mut self) {
        {
            let mut shared = self.0.pipeline.shared();
            shared.closed = true;
            shared.refuse_queued(|| CommitError::Closed);
            shared.waiters.clear();
        }
        self.0.to_keep.end();
        self.0.compaction.writer_is_gone();
    }
}

impl Writer {
    /// `unsaved`: bytes in the log that the last checkpoint does not hold.
    pub fn new(inner: Arc<Inner>, state: State, log: Option<Log>, disk: Option<Arc<dyn Disk>>, unsaved: u64) -> Writer {
        let now = inner.executor.now();
        Writer {
            inner,
            state,
            log,
            disk,
            member: None,
            term: 1,
            last_checkpoint: now,
            unsaved,
            full: false,
            broken: false,
        }
    }

    /// The log thread of a cluster's member.
    pub fn of_member(self, member: Arc<Member>) -> Writer {
        Writer { member: Some(member), ..self }
    }

    pub async fn run(mut self) {
        let _epitaph = Epitaph(self.inner.clone());
        loop {
            self.wait().await;
            let has_kept = self.keep_node_records();
            let did_something = match self.member.clone() {
                Some(member) => self.work(&member),
                None => {
                    let group = self.next_group();
                    let some = !group.is_empty();
                    if some {
                        self.commit(group);
                    }
                    some
                }
            };
            if !did_something && !has_kept && self.inner.pipeline.shared().closed {
                break;
            }
            self.look_for_room();
            self.checkpoint_if_due();
            if let Some(fresh) = self.inner.compaction.handed_over() {
                let outcome = self.swap(fresh);
                self.inner.compaction.swapped(outcome);
            }
        }
        if self.unsaved > 0 && !self.broken {
            self.checkpoint();
        }
    }

    /// Until there is something to do, or to look at.
    async fn wait(&self) {
        let most = if self.full { LOOK_FOR_ROOM } else { IDLE };
        self.inner.wake.rung_or(&*self.inner.executor, most).await;
    }

    /// Take what is queued.
    fn next_group(&self) -> Vec<Queued> {
        let mut shared = self.inner.pipeline.shared();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = shared.queue.front() {
            if !group.is_empty() && bytes + next.bytes > GROUP_BYTES {
                self.inner.wake_writer();
                break;
            }
            bytes += next.bytes;
            group.extend(shared.queue.pop_front());
        }
        group
    }

    fn commit(&mut self, group: Vec<Queued>) {
        let Some(last) = group.last().map(|q| q.index) else { return };
        if let Err(failure) = self.append(&group) {
            return self.fail(group, failure);
        }
        // It is durable now. If it cannot be shown, it will be when the store is opened again.
        let applied = self.state.apply(group.iter().flat_map(|q| q.changes.iter()), last);
        let snapshot = match applied.and_then(|()| self.state.snapshot()) {
            Ok(snapshot) => snapshot,
            Err(e) => return self.fail(group, Failure::Broken { reason: e.to_string(), unknown: true }),
        };
        let keys: Vec<Key> = group.iter().flat_map(|q| q.changes.iter().map(|(k, _)| k.clone())).collect();
        if let Some(hook) = self.inner.applied.get() {
            hook(&keys, last);
        }
        {
            let mut shared = self.inner.pipeline.shared();
            shared.in_flight = shared.in_flight.saturating_sub(group.len());
            self.inner.publish(&mut shared, snapshot, &keys);
        }
        self.inner.compaction.note(keys.iter());
        for q in group {
            let _nobody_waits = q.done.send(Ok(()));
        }
    }

    fn append(&mut self, group: &[Queued]) -> Result<(), Failure> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if let Some(disk) = &self.disk
            && is_short(&**disk, 0).map_err(Failure::Nothing)?
        {
            return Err(Failure::Nothing(io::ErrorKind::StorageFull.into()));
        }
        let Some(first) = group.first().map(|q| q.index) else { return Ok(()) };
        // Indexes of what failed before are filled with entries that change nothing.
        let mut payloads: Vec<Vec<u8>> = (log.next_index()..first).map(|_| encode(&[])).collect();
        payloads.extend(group.iter().map(|q| encode(&q.changes)));
        log.append(self.term, &payloads)?;
        self.unsaved += payloads.iter().map(|p| p.len() as u64 + 40).sum::<u64>();
        self.inner.log_bytes.store(log.size_bytes(), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn fail(&mut self, group: Vec<Queued>, failure: Failure) {
        let failed = fail(&self.inner, group, failure);
        self.full |= failed.full;
        self.broken |= failed.broken;
    }

    /// Accept writes again when the disk has room for them and for a new log segment.
    fn look_for_room(&mut self) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.full) else { return };
        if is_short(&**disk, SEGMENT_BYTES).is_ok_and(|short| !short) {
            self.full = false;
            self.inner.pipeline.shared().refusing = None;
            tracing::info!("the disk that holds the store has room again; writes go on");
        }
    }

    fn checkpoint_if_due(&mut self) {
        let aged = self.unsaved > 0 && self.inner.executor.now() - self.last_checkpoint > CHECKPOINT_AGE;
        if !self.broken && (self.unsaved >= CHECKPOINT_BYTES || aged) && self.has_room_for_checkpoint() {
            self.checkpoint();
        }
    }

    /// A checkpoint that runs out of room halts reading until there is some; the log keeps everything meanwhile.
    fn has_room_for_checkpoint(&self) -> bool {
        // What redb keeps back at most, and what so much log can have made of it.
        let most = (CACHE_BYTES as u64 / 2).min(self.unsaved.saturating_mul(4)) + CHECKPOINT_SLACK_BYTES;
        self.disk.as_ref().is_none_or(|d| d.free_bytes().is_ok_and(|free| free >= most))
    }

    /// For who has to have something on the disk now.
    pub(crate) fn require_checkpoints(&self) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::StateIo(io::Error::other("an earlier write failed")));
        }
        match self.has_room_for_checkpoint() {
            true => Ok(()),
            false => Err(StoreError::StateIo(io::ErrorKind::StorageFull.into())),
        }
    }

    /// Put a compacted copy into service. Returns the state that it replaces.
    fn swap(&mut self, fresh: State) -> Result<State, CompactError> {
        let Some(disk) = self.disk.clone().filter(|_| !self.broken) else { return Err(CompactError::Closed) };
        if !self.has_room_for_checkpoint() {
            return Err(CompactError::NoRoom { free_bytes: disk.free_bytes().unwrap_or(0) });
        }
        let current = self.inner.current.load_full();
        let changes = changes_of(&current, self.inner.compaction.take_changed()?)?;
        match self.state.replicated()? {
            Some((mark, members)) => {
                fresh.apply_replicated(changes.iter(), current.index(), Some(mark), Some(&members))?;
            }
            None => fresh.apply(changes.iter(), current.index())?,
        }
        fresh.take_node_records_of(&self.state)?;
        let snapshot = fresh.snapshot()?;
        let (copied, stored) = (snapshot.len()?, current.len()?);
        if copied != stored {
            return Err(CompactError::Differs { copied, stored });
        }
        fresh.checkpoint()?;
        let path = disk.path(FILE);
        if let Err(e) = put_in_place(&*disk, COPY_FILE) {
            if disk.list().is_ok_and(|names| names.iter().any(|n| n == COPY_FILE)) {
                return Err(StoreError::io("cannot replace", &path)(e).into());
            }
            // Which of both files a crash leaves is not known; the log has what either lacks.
            self.fail(Vec::new(), Failure::Broken { reason: e.to_string(), unknown: false });
            return Err(CompactError::Unknown(StoreError::io("cannot replace", &path)(e)));
        }
        let old = std::mem::replace(&mut self.state, fresh);
        self.inner.publish(&mut self.inner.pipeline.shared(), snapshot, &[]);
        self.is_durable(current.index());
        Ok(old)
    }

    pub(crate) fn checkpoint(&mut self) {
        let applied = self.inner.current.load().index();
        if self.log.is_none() && self.member.is_none() {
            return;
        }
        self.last_checkpoint = self.inner.executor.now();
        if let Err(e) = self.state.checkpoint() {
            return self.fail(Vec::new(), Failure::Broken { reason: e.to_string(), unknown: false });
        }
        self.is_durable(applied);
    }

    /// The state machine holds everything up to here: the log need not.
    pub(crate) fn is_durable(&mut self, applied: u64) {
        self.last_checkpoint = self.inner.executor.now();
        self.unsaved = 0;
        if let Some(member) = &self.member {
            let mark = lock(&member.state).0;
            *lock(&member.checkpointed) = mark;
        }
        let Some(log) = &mut self.log else { return };
        if let Err(e) = log.forget_through(applied) {
            tracing::error!(error = %e, "log segments that a checkpoint holds cannot be removed; they are tried again");
        }
        self.inner.log_bytes.store(log.size_bytes(), Ordering::Relaxed);
    }
}

/// Take back what is in flight, and tell each what became of it.
pub(crate) fn fail(inner: &Inner, group: Vec<Queued>, failure: Failure) -> Failed {
    let full = match &failure {
        Failure::Nothing(e) | Failure::Unknown(e) if is_full(e) => Some(e.to_string()),
        _ => None,
    };
    let broken = match &failure {
        Failure::Broken { reason, .. } => Some(refusal(reason)),
        _ => None,
    };
    let rolled_back = {
        let mut shared = inner.pipeline.shared();
        let rolled_back = shared.roll_back();
        if let Some(text) = &full {
            shared.refusing = Some(text.clone());
        }
        shared.standby |= matches!(failure, Failure::NotActive | Failure::Lost(_));
        if let Some(text) = &broken {
            tracing::error!("{text}");
            shared.broken.get_or_insert_with(|| text.clone());
        }
        // Before anybody can read what is true now, caches forget what was not.
        if let Some(hook) = inner.applied.get() {
            hook(&rolled_back.keys, rolled_back.index);
        }
        rolled_back
    };
    for (i, q) in group.into_iter().enumerate() {
        let error = match &failure {
            Failure::Unknown(e) => CommitError::Unknown(e.to_string()),
            Failure::Broken { reason, unknown: true } => CommitError::Unknown(refusal(reason)),
            Failure::Broken { reason, unknown: false } => CommitError::Failed(refusal(reason)),
            Failure::Nothing(e) if is_full(e) => CommitError::Full(e.to_string()),
            Failure::Nothing(e) if i == 0 => CommitError::Failed(e.to_string()),
            Failure::Nothing(_) => CommitError::Retry,
            Failure::NotActive => CommitError::NotActive,
            Failure::Lost(text) => CommitError::Unknown(text.clone()),
        };
        let _nobody_waits = q.done.send(Err(error));
    }
    let lost = matches!(failure, Failure::NotActive | Failure::Lost(_));
    let behind = || match (&broken, &full) {
        _ if lost => CommitError::NotActive,
        (Some(text), _) => CommitError::Failed(text.clone()),
        (None, Some(text)) => CommitError::Full(text.clone()),
        (None, None) => CommitError::Retry,
    };
    for q in rolled_back.queued {
        let _nobody_waits = q.done.send(Err(behind()));
    }
    for reader in rolled_back.readers {
        // What it wrote is nothing, and it can read again.
        let _nobody_waits = reader.send(Err(CommitError::Retry));
    }
    Failed { full: full.is_some(), broken: broken.is_some() }
}

/// What a failure means for what comes.
pub(crate) struct Failed {
    pub full: bool,
    pub broken: bool,
}

fn refusal(reason: &str) -> String {
    format!(
        "{reason}; what the disk holds is not known, so nothing more is written until the store is opened again: \
         look at the disk, then restart the server"
    )
}
