//! The store: opening and recovery, and the thread that logs, applies and publishes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::disk::{Disk, RealDisk};
use crate::log::Log;
use crate::pipeline::{Latch, Pipeline, Proposal, Queued, Ticket, View, decode, encode, lock};
use crate::state::{Snapshot, State};
use crate::{CommitError, Key, StoreError};

/// The format of the files in the folder.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const VOTE_FILE: &str = "vote";
/// Bytes of one group at most.
const GROUP_BYTES: usize = 4 << 20;
/// A checkpoint is due when the log has grown by this much,
const CHECKPOINT_BYTES: u64 = 48 << 20;
/// or when it is this old and something was written.
const CHECKPOINT_AGE: Duration = Duration::from_secs(60);
/// Writes are refused while less than this is free, so that what is accepted can be applied.
const RESERVE_BYTES: u64 = 8 << 20;

/// Tells caches what an applied group touched, before the group can be seen.
pub type Applied = Box<dyn Fn(&[Key], u64) + Send + Sync>;

/// How to open a store.
pub struct Options {
    /// The folder; `None`: in memory, gone with the process.
    pub folder: Option<PathBuf>,
    /// One log entry's bytes at most.
    pub max_entry_bytes: usize,
}

/// Figures for metrics and diagnosis.
#[derive(Debug, Clone)]
pub struct StoreInfo {
    pub applied_index: u64,
    pub in_flight: usize,
    pub log_bytes: u64,
}

/// An open store. Dropping it writes a checkpoint.
pub struct Store {
    inner: Arc<Inner>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

struct Inner {
    pipeline: Arc<Pipeline>,
    /// The last published snapshot, for readers that take no lock.
    current: ArcSwap<Snapshot>,
    wake: Condvar,
    wake_lock: Mutex<bool>,
    applied: OnceLock<Applied>,
    log_bytes: std::sync::atomic::AtomicU64,
}

impl Store {
    /// Open a store in a folder or in memory.
    pub fn open(options: &Options) -> Result<Store, StoreError> {
        let disk: Option<Arc<dyn Disk>> = match &options.folder {
            None => None,
            Some(folder) => Some(Arc::new(RealDisk::open(folder)?)),
        };
        Store::open_on(disk, options.max_entry_bytes)
    }

    /// Open a store on any disk.
    pub fn open_on(disk: Option<Arc<dyn Disk>>, max_entry_bytes: usize) -> Result<Store, StoreError> {
        let identity = disk.as_deref().map(identify).transpose()?;
        let (state, applied) = State::open(disk.as_deref())?;
        let log = match (&disk, identity) {
            (Some(disk), Some(identity)) => Some(recover(disk.clone(), identity, &state, applied)?),
            _ => None,
        };
        let snapshot = state.snapshot()?;
        let pipeline = Arc::new(Pipeline::new(snapshot.clone(), max_entry_bytes));
        let inner = Arc::new(Inner {
            pipeline,
            current: ArcSwap::new(snapshot),
            wake: Condvar::new(),
            wake_lock: Mutex::new(false),
            applied: OnceLock::new(),
            log_bytes: log.as_ref().map_or(0, Log::size_bytes).into(),
        });
        let mut writer = Writer { inner: inner.clone(), state, log, disk, term: 1, last_checkpoint: Instant::now(), unsaved: 0 };
        let thread = thread::Builder::new()
            .name("store-log".into())
            .stack_size(512 << 10)
            .spawn(move || writer.run())
            .map_err(StoreError::io("cannot start the log thread", Path::new("")))?;
        Ok(Store { inner, thread: Mutex::new(Some(thread)) })
    }

    /// Called with the keys of every applied group before it becomes visible. May be set once.
    pub fn on_applied(&self, hook: Applied) {
        let _set_once = self.inner.applied.set(hook);
    }

    /// Everything applied so far.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.current.load_full()
    }

    /// A transaction's view of applied state.
    pub fn view(&self) -> View {
        let snapshot = self.inner.current.load_full();
        View { index: snapshot.index(), snapshot, overlay: None }
    }

    /// A view for a run that holds a latch: it reads through what is in flight.
    pub fn view_in_flight(&self) -> View {
        self.inner.pipeline.view_in_flight()
    }

    pub async fn latch(&self, keys: &[Key]) -> Latch {
        self.inner.pipeline.latch(keys).await
    }

    /// Validate, number and queue a proposal.
    pub fn propose(&self, proposal: Proposal) -> Result<Ticket, CommitError> {
        let ticket = self.inner.pipeline.propose(proposal)?;
        *lock(&self.inner.wake_lock) = true;
        self.inner.wake.notify_one();
        Ok(ticket)
    }

    pub fn info(&self) -> StoreInfo {
        let in_flight = self.inner.pipeline.shared().in_flight;
        StoreInfo {
            applied_index: self.inner.current.load().index(),
            in_flight,
            log_bytes: self.inner.log_bytes.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// Finish what is in flight, write a checkpoint and close the files.
    pub fn close(&self) {
        self.inner.pipeline.shared().closed = true;
        *lock(&self.inner.wake_lock) = true;
        self.inner.wake.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// The store's random id, made at first use; refuses formats of later programs.
fn identify(disk: &dyn Disk) -> Result<[u8; 16], StoreError> {
    let path = disk.path(FORMAT_FILE);
    let fail = |what| StoreError::io(what, &path);
    let damaged = |detail: &str| StoreError::Damaged { path: path.clone(), detail: detail.into() };
    let names = disk.list().map_err(fail("cannot list the folder of"))?;
    if !names.iter().any(|n| n == FORMAT_FILE) {
        if names.iter().any(|n| n.starts_with("log-") || n == "state.redb") {
            return Err(damaged("it is missing, though a store is beside it"));
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| fail("no randomness for")(io::Error::other(e.to_string())))?;
        let mut bytes = b"HFSTORE\0".to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        write_new(disk, VOTE_FILE, &vote(1)).map_err(fail("cannot write beside"))?;
        write_new(disk, FORMAT_FILE, &bytes).map_err(fail("cannot write"))?;
        return Ok(id);
    }
    let file = disk.open(FORMAT_FILE, false).map_err(fail("cannot open"))?;
    let mut bytes = vec![0; file.len().map_err(fail("cannot read"))?.min(64) as usize];
    file.read_at(0, &mut bytes).map_err(fail("cannot read"))?;
    if bytes.len() != 32 || &bytes[..8] != b"HFSTORE\0" || bytes[28..32] != crc32fast::hash(&bytes[..28]).to_le_bytes() {
        return Err(damaged("it is not a Holdfast store's"));
    }
    let found = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if found > FORMAT {
        return Err(StoreError::Format { path, found, known: FORMAT });
    }
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[12..28]);
    Ok(id)
}

/// The vote record as raft keeps it: the term, and that we voted for ourselves in it.
fn vote(term: u64) -> Vec<u8> {
    let mut bytes = b"HFVOTE1\0".to_vec();
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes.push(1);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Write a small file so that it is there whole or not at all.
fn write_new(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let file = disk.open(&temporary, true)?;
    file.set_len(0)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync_folder()
}

fn recover(disk: Arc<dyn Disk>, id: [u8; 16], state: &State, applied: u64) -> Result<Log, StoreError> {
    let path = disk.path("log");
    let mut pending = Vec::new();
    let mut bytes = 0;
    let mut last = applied;
    let flush = |pending: &mut Vec<_>, last: u64| -> Result<(), StoreError> {
        state.apply(pending.iter(), last)?;
        pending.clear();
        Ok(())
    };
    let log = Log::open(disk, id, applied, |entry| {
        let changes = decode(&entry.payload).ok_or_else(|| StoreError::Damaged {
            path: path.clone(),
            detail: format!("entry {} is not one of this version's", entry.index),
        })?;
        bytes += entry.payload.len();
        pending.extend(changes);
        last = entry.index;
        if bytes > GROUP_BYTES {
            bytes = 0;
            flush(&mut pending, last)?;
        }
        Ok(())
    })?;
    if last > applied {
        flush(&mut pending, last)?;
    }
    Ok(log)
}

/// The one thread that writes.
struct Writer {
    inner: Arc<Inner>,
    state: State,
    log: Option<Log>,
    disk: Option<Arc<dyn Disk>>,
    term: u64,
    last_checkpoint: Instant,
    /// Log bytes since the last checkpoint.
    unsaved: u64,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let group = self.next_group();
            if !group.is_empty() {
                self.commit(group);
            } else if self.inner.pipeline.shared().closed {
                break;
            }
            self.checkpoint_if_due();
        }
        if self.unsaved > 0 {
            self.checkpoint();
        }
    }

    /// Take what is queued, waiting for it if there is nothing.
    fn next_group(&self) -> Vec<Queued> {
        let mut woken = lock(&self.inner.wake_lock);
        if !*woken {
            let waited = self.inner.wake.wait_timeout(woken, Duration::from_secs(5));
            woken = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        *woken = false;
        drop(woken);
        let mut shared = self.inner.pipeline.shared();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = shared.queue.front() {
            if !group.is_empty() && bytes + next.bytes > GROUP_BYTES {
                *lock(&self.inner.wake_lock) = true;
                break;
            }
            bytes += next.bytes;
            group.extend(shared.queue.pop_front());
        }
        group
    }

    fn commit(&mut self, group: Vec<Queued>) {
        if let Err(e) = self.append(&group) {
            let queued = self.inner.pipeline.shared().roll_back();
            tracing::error!(error = %e, "the store refused a write");
            for (i, q) in group.into_iter().chain(queued).enumerate() {
                let error = match i {
                    _ if e.kind() == io::ErrorKind::StorageFull => CommitError::Full(e.to_string()),
                    0 => CommitError::Failed(e.to_string()),
                    _ => CommitError::Retry,
                };
                let _nobody_waits = q.done.send(Err(error));
            }
            return;
        }
        let Some(last) = group.last().map(|q| q.index) else { return };
        self.apply(&group, last);
        let keys: Vec<Key> = group.iter().flat_map(|q| q.changes.iter().map(|(k, _)| k.clone())).collect();
        let snapshot = self.snapshot();
        if let Some(hook) = self.inner.applied.get() {
            hook(&keys, last);
        }
        {
            let mut shared = self.inner.pipeline.shared();
            shared.in_flight = shared.in_flight.saturating_sub(group.len());
            shared.publish(snapshot.clone(), keys.into_iter());
            self.inner.current.store(snapshot);
        }
        for q in group {
            let _nobody_waits = q.done.send(Ok(()));
        }
    }

    fn append(&mut self, group: &[Queued]) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if let Some(disk) = &self.disk
            && disk.free_bytes()? < RESERVE_BYTES
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let payloads: Vec<Vec<u8>> = group.iter().map(|q| encode(&q.changes)).collect();
        let before = log.next_index();
        debug_assert_eq!(group.first().map(|q| q.index), Some(before));
        log.append(self.term, &payloads)?;
        self.unsaved += payloads.iter().map(|p| p.len() as u64 + 40).sum::<u64>();
        self.inner.log_bytes.store(log.size_bytes(), std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Apply a durable group. It cannot be taken back, so a failure is retried until it succeeds.
    fn apply(&mut self, group: &[Queued], last: u64) {
        let mut told = false;
        loop {
            match self.state.apply(group.iter().flat_map(|q| q.changes.iter()), last) {
                Ok(()) => break,
                Err(e) => {
                    if !told {
                        tracing::error!(error = %e, "a durable write cannot be applied; trying again every second");
                        self.inner.pipeline.shared().refusing = Some(e.to_string());
                    }
                    told = true;
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
        if told {
            self.inner.pipeline.shared().refusing = None;
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        loop {
            match self.state.snapshot() {
                Ok(s) => return s,
                Err(e) => {
                    tracing::error!(error = %e, "the state machine cannot be read; trying again every second");
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn checkpoint_if_due(&mut self) {
        let aged = self.unsaved > 0 && self.last_checkpoint.elapsed() > CHECKPOINT_AGE;
        if self.unsaved >= CHECKPOINT_BYTES || aged {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        let applied = self.inner.current.load().index();
        let Some(log) = &mut self.log else { return };
        let done = self.state.checkpoint().map_err(|e| e.to_string()).and_then(|()| {
            log.forget_through(applied).map_err(|e| e.to_string())
        });
        self.last_checkpoint = Instant::now();
        match done {
            Ok(()) => {
                self.unsaved = 0;
                self.inner.log_bytes.store(log.size_bytes(), std::sync::atomic::Ordering::Relaxed);
            }
            Err(e) => tracing::error!(error = %e, "a checkpoint failed; the log keeps everything"),
        }
    }
}
