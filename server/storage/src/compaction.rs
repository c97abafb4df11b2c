//! Online compaction: the state machine's file shrinks while the store serves.
//!
//! A thread of its own copies everything, chunk by chunk in the order of keys, each from a fresh snapshot,
//! into a new file. The log thread tells it which keys have changed since; those behind the cursor are
//! copied again. When little is left to do the log thread copies that, makes the new file durable, gives
//! it the old one's name, and goes on with it. Whenever the power goes, there is the old file or the new
//! one under that name, both whole, and the log has what either lacks.
//!
//! The copy takes memory for a chunk and for the keys that change meanwhile, and leaves [`KEEP_FREE_BYTES`]
//! of the disk to the store.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::pipeline::lock;
use crate::state::{COPY_FILE, Change, FILE, Snapshot, State, remove_made};
use crate::store::Inner;
use crate::{Key, StoreError};

/// Bytes that are copied at a time; one larger value alone may be more.
const CHUNK_BYTES: usize = 256 << 10;
/// What was copied is made durable after so much, which lets redb use again what it has replaced.
const DURABLE_BYTES: usize = 32 << 20;
/// A copy for which the disk would get fuller than this is given up.
pub const KEEP_FREE_BYTES: u64 = 48 << 20;
/// Changed keys that are remembered; a copy that cannot keep up is given up.
const CHANGED: usize = 100_000;
/// Changed keys that the log thread copies itself.
const LAST: usize = 256;
/// Rounds in which the changed keys must have become so few.
const ROUNDS: usize = 1000;
/// After each chunk the thread rests as long as that took, and so long at most.
const REST: Duration = Duration::from_millis(20);
/// Looks for readers of the old file that are left.
const LOOK: Duration = Duration::from_millis(20);

/// Why a compaction was not begun or did not end.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error("a store in memory has no file to compact")]
    InMemory,
    #[error("a compaction is under way already")]
    Running,
    #[error("the store is being closed")]
    Closed,
    #[error(
        "the disk has no room for the copy: {free_bytes} bytes are free, and {KEEP_FREE_BYTES} of them stay so; free some \
         space and start it again, or compact the stopped server's store"
    )]
    NoRoom { free_bytes: u64 },
    #[error("more is written than can be copied meanwhile; try again when less is")]
    TooBusy,
    #[error("the copy has {copied} entries and the store {stored}: the copy was thrown away, nothing was changed")]
    Differs { copied: u64, stored: u64 },
    #[error("{0}; the copy was thrown away, nothing was changed")]
    Store(#[from] StoreError),
    #[error("{0}; which file the disk holds is not known: look at the disk, then restart the server")]
    Unknown(StoreError),
}

/// How far a compaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// None was begun since the store was opened.
    #[default]
    None,
    Copying,
    /// The last changes are copied, and the files change places.
    Finishing,
    Done,
    Failed,
}

/// The present compaction, or the last one.
#[derive(Debug, Clone, Default)]
pub struct CompactionInfo {
    pub phase: Phase,
    pub entries_copied: u64,
    /// In the store when it was begun.
    pub entries: u64,
    /// The size of the file before, and after if it is done.
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub took: Duration,
    pub error: Option<String>,
    /// How many ended well, and how many did not, since the store was opened.
    pub times_done: u64,
    pub times_failed: u64,
}

/// What the compacting thread and the log thread tell each other.
#[derive(Default)]
pub(crate) struct Compaction {
    work: Mutex<Work>,
    told: Condvar,
    done: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    /// Nobody takes what is handed over any more.
    writer_is_gone: AtomicBool,
}

#[derive(Default)]
struct Work {
    info: CompactionInfo,
    recorded: Recorded,
    changed: BTreeSet<Key>,
    /// More keys changed than are remembered.
    too_many: bool,
    handed_over: Option<State>,
    /// The old state, or why it is still in service.
    swapped: Option<Result<State, CompactError>>,
}

/// Which changed keys are remembered.
#[derive(Default)]
enum Recorded {
    #[default]
    None,
    All,
    Through(Key),
}

impl Compaction {
    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    pub fn info(&self) -> CompactionInfo {
        CompactionInfo {
            times_done: self.done.load(Ordering::Relaxed),
            times_failed: self.failed.load(Ordering::Relaxed),
            ..self.work().info.clone()
        }
    }

    /// A group that wrote these keys is published.
    pub fn note(&self, keys: impl Iterator<Item = impl AsRef<[u8]>>) {
        let work = &mut *self.work();
        if matches!(work.recorded, Recorded::None) {
            return;
        }
        for key in keys {
            let key = key.as_ref();
            let recorded = match &work.recorded {
                Recorded::Through(last) => key <= &**last,
                _ => true,
            };
            if recorded && work.changed.len() < CHANGED {
                work.changed.insert(key.into());
            } else if recorded {
                work.too_many = true;
            }
        }
    }

    /// What the log thread shall put into service, if there is something.
    pub fn handed_over(&self) -> Option<State> {
        self.work().handed_over.take()
    }

    /// The keys that changed since they were copied, in order.
    pub fn take_changed(&self) -> Result<Vec<Key>, CompactError> {
        let mut work = self.work();
        match work.too_many {
            true => Err(CompactError::TooBusy),
            false => Ok(std::mem::take(&mut work.changed).into_iter().collect()),
        }
    }

    /// The log thread has done it, or not.
    pub fn swapped(&self, outcome: Result<State, CompactError>) {
        self.work().swapped = Some(outcome);
        self.told.notify_all();
    }

    /// The store is being closed: a copy under way is thrown away.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Whoever waits does so under the lock.
        drop(self.work());
        self.told.notify_all();
    }

    /// The log thread ends.
    pub fn writer_is_gone(&self) {
        self.writer_is_gone.store(true, Ordering::SeqCst);
        self.stop();
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// One is begun; there is at most one.
    pub fn begin(&self) -> Result<(), CompactError> {
        let mut work = self.work();
        if self.is_stopped() {
            return Err(CompactError::Closed);
        }
        if matches!(work.info.phase, Phase::Copying | Phase::Finishing) {
            return Err(CompactError::Running);
        }
        *work = Work { info: CompactionInfo { phase: Phase::Copying, ..CompactionInfo::default() }, ..Work::default() };
        Ok(())
    }

    /// The copy under way, if there is one, does not end.
    pub fn give_up(&self) {
        self.work().too_many = true;
    }

    /// It could not be begun after all.
    pub fn failed(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut work = self.work();
        work.info.phase = Phase::Failed;
        work.info.error = Some(error);
    }
}

/// The values that these keys have in a snapshot.
pub(crate) fn changes_of(snapshot: &Snapshot, keys: Vec<Key>) -> Result<Vec<Change>, StoreError> {
    keys.into_iter().map(|key| snapshot.get(&key).map(|value| (key, value))).collect()
}

/// Do it, from the beginning to the end.
pub(crate) fn run(inner: &Inner, disk: &dyn Disk) {
    let begin = Instant::now();
    let compaction = &inner.compaction;
    tracing::info!(bytes = length(disk, FILE), "the store is being compacted, while it serves");
    let outcome = Copy { inner, disk, unsynced: 0 }.run();
    let mut work = compaction.work();
    work.recorded = Recorded::None;
    work.changed.clear();
    let left_over = work.handed_over.take();
    work.info.took = begin.elapsed();
    match outcome {
        Ok(old) => {
            compaction.done.fetch_add(1, Ordering::Relaxed);
            work.info.phase = Phase::Done;
            work.info.bytes_after = length(disk, FILE);
            let info = work.info.clone();
            drop(work);
            tracing::info!(
                bytes_before = info.bytes_before,
                bytes_after = info.bytes_after,
                entries = info.entries_copied,
                took_ms = info.took.as_millis(),
                "the store was compacted"
            );
            dismiss(old, compaction);
        }
        Err(e) => {
            drop(left_over);
            let _tried_again_at_the_next_start = remove_made(disk, COPY_FILE);
            tracing::warn!(error = %e, "a compaction was given up");
            compaction.failed.fetch_add(1, Ordering::Relaxed);
            work.info.phase = Phase::Failed;
            work.info.error = Some(e.to_string());
        }
    }
}

/// The size of a file; 0 if it cannot be told.
pub(crate) fn length(disk: &dyn Disk, name: &str) -> u64 {
    disk.open(name, false).and_then(|f| f.len()).unwrap_or(0)
}

/// Readers of the old file end by themselves; closing it, which writes and syncs, is not for one of them.
fn dismiss(old: State, compaction: &Compaction) {
    while old.readers() > 0 && !compaction.is_stopped() {
        let work = compaction.work();
        drop(compaction.told.wait_timeout(work, LOOK));
    }
}

struct Copy<'a> {
    inner: &'a Inner,
    disk: &'a dyn Disk,
    /// Bytes copied since they were last made durable.
    unsynced: usize,
}

impl Copy<'_> {
    fn run(mut self) -> Result<State, CompactError> {
        let compaction = &self.inner.compaction;
        self.require_room()?;
        let mut fresh = State::create(self.disk, COPY_FILE, self.inner.patience())?;
        {
            let mut work = compaction.work();
            work.info.bytes_before = length(self.disk, FILE);
            work.info.entries = self.inner.current.load().len()?;
        }
        let mut after = None;
        while let Some(last) = self.copy_chunk(&fresh, after.as_ref())? {
            after = Some(last);
        }
        compaction.work().info.phase = Phase::Finishing;
        fresh.checkpoint()?;
        while fresh.compact()? {}
        for _ in 0..ROUNDS {
            self.copy_changed(&fresh)?;
            fresh.checkpoint()?;
            if compaction.work().changed.len() <= LAST {
                return self.hand_over(fresh);
            }
        }
        Err(CompactError::TooBusy)
    }

    fn require_room(&self) -> Result<(), CompactError> {
        if self.inner.compaction.is_stopped() {
            return Err(CompactError::Closed);
        }
        let free_bytes = self.disk.free_bytes().map_err(StoreError::io("cannot measure", self.disk.path("")))?;
        if free_bytes < KEEP_FREE_BYTES { Err(CompactError::NoRoom { free_bytes }) } else { Ok(()) }
    }

    /// Copy what comes next. Returns the last key of it; `None`: that was all.
    fn copy_chunk(&mut self, fresh: &State, after: Option<&Key>) -> Result<Option<Key>, CompactError> {
        let begin = Instant::now();
        self.require_room()?;
        let compaction = &self.inner.compaction;
        // Whatever changes from here on may be missing in the snapshot that is read.
        compaction.work().recorded = Recorded::All;
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(&**key));
        let chunk = self.inner.current.load().chunk(start, CHUNK_BYTES)?;
        let Some(last) = chunk.last().map(|(key, _)| key.clone()) else { return Ok(None) };
        let count = chunk.len() as u64;
        let chunk: Vec<Change> = chunk.into_iter().map(|(key, value)| (key, Some(value))).collect();
        self.apply(fresh, &chunk)?;
        {
            let mut work = compaction.work();
            // What lies ahead is copied as it is then.
            work.changed.split_off(&last);
            work.changed.insert(last.clone());
            work.recorded = Recorded::Through(last.clone());
            work.info.entries_copied += count;
        }
        self.copy_changed(fresh)?;
        std::thread::sleep(begin.elapsed().min(REST));
        Ok(Some(last))
    }

    /// Copy again what has changed since it was copied.
    fn copy_changed(&mut self, fresh: &State) -> Result<(), CompactError> {
        let changed = self.inner.compaction.take_changed()?;
        // Taken before the snapshot, which therefore has all that they stand for.
        let snapshot = self.inner.current.load_full();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for key in changed {
            let value = snapshot.get(&key)?;
            bytes += key.len() + value.as_ref().map_or(0, |v| v.len());
            batch.push((key, value));
            if bytes > CHUNK_BYTES {
                self.require_room()?;
                self.apply(fresh, &std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.apply(fresh, &batch)?;
        }
        Ok(())
    }

    fn apply(&mut self, fresh: &State, changes: &[Change]) -> Result<(), CompactError> {
        fresh.apply(changes.iter(), 0)?;
        self.unsynced += changes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, |v| v.len())).sum::<usize>();
        if self.unsynced > DURABLE_BYTES {
            fresh.checkpoint()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Let the log thread put the copy into service.
    fn hand_over(&self, fresh: State) -> Result<State, CompactError> {
        let compaction = &self.inner.compaction;
        let mut work = compaction.work();
        work.handed_over = Some(fresh);
        drop(work);
        self.inner.wake_writer();
        let mut work = compaction.work();
        loop {
            if let Some(outcome) = work.swapped.take() {
                return outcome;
            }
            let waits_in_vain = compaction.is_stopped() && work.handed_over.is_some();
            if waits_in_vain || compaction.writer_is_gone.load(Ordering::SeqCst) {
                return Err(CompactError::Closed);
            }
            work = compaction.told.wait(work).unwrap_or_else(|e| e.into_inner());
        }
    }
}
