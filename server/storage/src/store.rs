//! The store: opening, recovery, closing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use arc_swap::ArcSwap;

use crate::changes::decode;
use crate::compaction::Compaction;
use crate::disk::{Disk, KeepFree, RealDisk};
use crate::executor::{Bell, Executor, Running, Threads};
use crate::log::{Log, MAX_ENTRY_BYTES};
use crate::node_records::ToKeep;
use crate::pipeline::{Latch, Pipeline, Proposal, Shared, Ticket, View, lock};
use crate::raft_log::{self, RaftLog};
use crate::redb_file::Patience;
use crate::replicated::{self, Proposer, Replica};
use crate::scrub::{self, Scrub};
use crate::state::{Snapshot, State};
use crate::writer::Writer;
use crate::{CommitError, CompactError, CompactionInfo, Key, StoreError, Value, compaction, member_writer};

/// The format of the files in the folder.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const VOTE_FILE: &str = "vote";

/// Tells caches what an applied group touched, before the group can be seen; also what a group
/// touched that was seen in flight and then failed. It may not call the store.
pub type Applied = Box<dyn Fn(&[Key], u64) + Send + Sync>;

/// How to open a store.
pub struct Options {
    /// The folder; `None`: in memory, gone with the process.
    pub folder: Option<PathBuf>,
    /// One log entry's bytes at most; more than [`MAX_ENTRY_BYTES`] is taken for that.
    pub max_entry_bytes: usize,
    /// What stays free of the folder's disk.
    pub keep_free: KeepFree,
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
    writer: Mutex<Option<Box<dyn Running>>>,
    /// Of a cluster's member.
    member: Option<Member>,
    compacting: Mutex<Option<thread::JoinHandle<()>>>,
    scrub: Mutex<Option<thread::JoinHandle<()>>>,
    was_checked: bool,
}

struct Member {
    shared: Arc<replicated::Shared>,
    log: RaftLog,
    proposer: Mutex<Option<Box<dyn Running>>>,
}

pub(crate) struct Inner {
    pub pipeline: Arc<Pipeline>,
    /// The last published snapshot, for readers that take no lock.
    pub current: ArcSwap<Snapshot>,
    pub wake: Bell,
    pub executor: Arc<dyn Executor>,
    pub applied: OnceLock<Applied>,
    pub log_bytes: std::sync::atomic::AtomicU64,
    pub compaction: Compaction,
    pub scrub: Scrub,
    pub to_keep: ToKeep,
    patience: Arc<Patience>,
    disk: Option<Arc<dyn Disk>>,
}

impl Inner {
    fn new(
        state: &State,
        disk: Option<Arc<dyn Disk>>,
        max_entry_bytes: usize,
        log_bytes: u64,
        executor: Arc<dyn Executor>,
    ) -> Result<Arc<Inner>, StoreError> {
        let snapshot = state.snapshot()?;
        let pipeline = Arc::new(Pipeline::new(snapshot.clone(), max_entry_bytes.min(MAX_ENTRY_BYTES)));
        let inner = Arc::new(Inner {
            pipeline,
            current: ArcSwap::new(snapshot),
            wake: Bell::default(),
            executor,
            applied: OnceLock::new(),
            log_bytes: log_bytes.into(),
            compaction: Compaction::default(),
            scrub: Scrub::default(),
            to_keep: ToKeep::default(),
            patience: state.patience().clone(),
            disk,
        });
        let told = Arc::downgrade(&inner);
        inner.patience.begin(Box::new(move |reason| {
            if let Some(inner) = told.upgrade() {
                inner.pipeline.shared().refusing = reason;
            }
        }));
        Ok(inner)
    }

    pub fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }

    pub fn disk(&self) -> Option<&Arc<dyn Disk>> {
        self.disk.as_ref()
    }

    /// Show what was applied. Who waits for it is told when everybody can see it.
    pub fn publish(&self, shared: &mut Shared, snapshot: Arc<Snapshot>, keys: &[Key]) {
        self.current.store(snapshot.clone());
        shared.publish(snapshot, keys);
    }

    pub fn wake_writer(&self) {
        self.wake.ring();
    }
}

/// Log bytes that are replayed in one step of the state machine.
const REPLAY_BYTES: usize = 16 << 20;

impl Store {
    /// Open a store in a folder or in memory.
    pub fn open(options: &Options) -> Result<Store, StoreError> {
        let disk: Option<Arc<dyn Disk>> = match &options.folder {
            None => None,
            Some(folder) => Some(Arc::new(RealDisk::open_keeping(folder, options.keep_free)?)),
        };
        Store::open_on(disk, options.max_entry_bytes)
    }

    /// Give the room that a closed store does not use back to the file system. Returns the bytes of its
    /// files before and after.
    pub fn compact(folder: &Path) -> Result<(u64, u64), StoreError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder)?);
        let size = |disk: &dyn Disk| -> Result<u64, StoreError> {
            let names = disk.list().map_err(StoreError::io("cannot list", folder))?;
            let bytes = |n: &String| disk.open(n, false).and_then(|f| f.len()).unwrap_or(0);
            Ok(names.iter().map(bytes).sum())
        };
        let before = size(&*disk)?;
        let id = identify(&*disk)?;
        let (mut state, applied) = State::open(Some(&*disk))?;
        if state.replicated()?.is_none() {
            let mut log = recover(disk.clone(), id, &state, applied)?;
            state.checkpoint()?;
            let held = state.snapshot()?.index();
            log.forget_through(held).map_err(StoreError::io("cannot remove old segments in", folder))?;
        }
        while state.compact()? {}
        drop(state);
        Ok((before, size(&*disk)?))
    }

    /// Open a store on any disk.
    pub fn open_on(disk: Option<Arc<dyn Disk>>, max_entry_bytes: usize) -> Result<Store, StoreError> {
        let folder = disk.as_ref().map(|d| d.path("")).unwrap_or_default();
        Store::opened(disk, max_entry_bytes).map_err(|e| e.while_opening(&folder))
    }

    /// Open a store that is a member's of a cluster, or shall be. Nothing can be written before this member is the
    /// active one.
    pub fn open_member(options: &Options) -> Result<(Store, Replica), StoreError> {
        let disk: Option<Arc<dyn Disk>> = match &options.folder {
            None => None,
            Some(folder) => Some(Arc::new(RealDisk::open_keeping(folder, options.keep_free)?)),
        };
        Store::open_member_on(disk, options.max_entry_bytes)
    }

    /// As [`Store::open_member`], on any disk.
    pub fn open_member_on(disk: Option<Arc<dyn Disk>>, max_entry_bytes: usize) -> Result<(Store, Replica), StoreError> {
        let folder = disk.as_ref().map(|d| d.path("")).unwrap_or_default();
        let threads = Arc::new(Threads::default());
        Store::opened_member(disk, max_entry_bytes, threads).map_err(|e| e.while_opening(&folder))
    }

    /// As [`Store::open_member_on`], where something else than threads runs what the store does by itself.
    pub fn open_member_run_by(
        disk: Option<Arc<dyn Disk>>,
        max_entry_bytes: usize,
        executor: Arc<dyn Executor>,
    ) -> Result<(Store, Replica), StoreError> {
        let folder = disk.as_ref().map(|d| d.path("")).unwrap_or_default();
        Store::opened_member(disk, max_entry_bytes, executor).map_err(|e| e.while_opening(&folder))
    }

    fn opened_member(
        disk: Option<Arc<dyn Disk>>,
        max_entry_bytes: usize,
        executor: Arc<dyn Executor>,
    ) -> Result<(Store, Replica), StoreError> {
        let identity = disk.as_deref().map(identify).transpose()?.unwrap_or_default();
        let (state, applied) = State::open(disk.as_deref())?;
        let was_checked = state.was_checked();
        let found = state.replicated()?;
        let was_member = disk.as_deref().map(raft_log::is_members).transpose()?.unwrap_or(false);
        // One that was let in and lost power before it had anything has a log of others', and no state yet.
        if let (None, Some(disk)) = (&found, disk.as_ref().filter(|_| !was_member)) {
            // Nobody's member until now: all that its log holds was agreed on.
            drop(recover(disk.clone(), identity, &state, applied)?);
            state.checkpoint()?;
        }
        let log = RaftLog::open(disk.clone(), identity, &executor)?;
        if let Some(disk) = &disk {
            disk.recovered().map_err(StoreError::io("cannot settle", disk.path("")))?;
        }
        let inner = Inner::new(&state, disk.clone(), max_entry_bytes, 0, executor)?;
        inner.pipeline.shared().standby = true;
        let shared = Arc::<replicated::Shared>::default();
        member_writer::opened(&shared, found);
        let writer = Writer::new(inner.clone(), state, None, disk.clone(), 0).of_member(shared.clone());
        let writer = start(writer)?;
        let scrub = start_scrub(&inner)?;
        let proposer = Proposer { inner: inner.clone(), shared: shared.clone(), disk, full: false }.start()?;
        let replica = Replica::new(inner.clone(), log.clone(), shared.clone());
        let member = Some(Member { shared, log, proposer: Mutex::new(Some(proposer)) });
        let store =
            Store { inner, writer: Mutex::new(Some(writer)), member, compacting: Mutex::default(), scrub, was_checked };
        Ok((store, replica))
    }

    fn opened(disk: Option<Arc<dyn Disk>>, max_entry_bytes: usize) -> Result<Store, StoreError> {
        let identity = disk.as_deref().map(identify).transpose()?;
        let (state, applied) = State::open(disk.as_deref())?;
        let was_checked = state.was_checked();
        if let Some(disk) = &disk
            && (state.replicated()?.is_some() || raft_log::is_members(&**disk)?)
        {
            return Err(StoreError::Member { path: disk.path("") });
        }
        let log = match (&disk, identity) {
            (Some(disk), Some(identity)) => Some(recover(disk.clone(), identity, &state, applied)?),
            _ => None,
        };
        if let Some(disk) = &disk {
            disk.recovered().map_err(StoreError::io("cannot settle", disk.path("")))?;
        }
        // What was replayed is in the log only.
        let unsaved = log.as_ref().filter(|l| l.next_index() > applied + 1).map_or(0, Log::size_bytes);
        let log_bytes = log.as_ref().map_or(0, Log::size_bytes);
        let inner = Inner::new(&state, disk.clone(), max_entry_bytes, log_bytes, Arc::new(Threads::default()))?;
        let writer = start(Writer::new(inner.clone(), state, log, disk, unsaved))?;
        let scrub = start_scrub(&inner)?;
        Ok(Store {
            inner,
            writer: Mutex::new(Some(writer)),
            member: None,
            compacting: Mutex::default(),
            scrub,
            was_checked,
        })
    }

    /// This member leads in a term and shall be the active one: whatever was read of the store until now is void.
    /// Returns when an entry of its own was applied, so that everything before it is too. What is proposed from then
    /// on is agreed on in this term or not at all.
    pub async fn take_over(&self, term: u64) -> Result<(), CommitError> {
        loop {
            let (index, applied) = self.inner.pipeline.shared().take_over(term);
            self.wake();
            applied.await.unwrap_or(Err(CommitError::Closed))?;
            if self.inner.pipeline.shared().has_taken_over(index) {
                return Ok(());
            }
        }
    }

    /// This member is no longer the active one: nothing is proposed until it takes over again.
    pub fn stand_by(&self) {
        if self.member.is_some() {
            self.inner.pipeline.shared().standby = true;
        }
    }

    /// Whether nothing can be proposed here.
    pub fn is_standing_by(&self) -> bool {
        self.inner.pipeline.shared().standby
    }

    fn wake(&self) {
        match &self.member {
            None => self.inner.wake_writer(),
            Some(member) => member.shared.proposed.ring(),
        }
    }

    /// Called with the keys of every applied group before it becomes visible. May be set once.
    pub fn on_applied(&self, hook: Applied) {
        let _set_once = self.inner.applied.set(hook);
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
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
        self.wake();
        Ok(ticket)
    }

    /// As [`Store::propose`], of a member: nothing is proposed behind it until this member takes over anew.
    pub fn propose_last(&self, proposal: Proposal) -> Result<Ticket, CommitError> {
        let ticket = self.inner.pipeline.propose_and(proposal, |shared| shared.standby = true)?;
        self.wake();
        Ok(ticket)
    }

    /// The folder that it is in; `None`: it is in memory.
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        self.inner.disk.as_ref().map(|disk| disk.path(""))
    }

    /// The last entry that was applied or, of a cluster's member, is in its log. It does not fall below what was applied
    /// once, unless something is taken away from the disk.
    pub fn last_index(&self) -> u64 {
        let applied = self.inner.current.load().index();
        let logged = self.member.as_ref().and_then(|member| member.log.ends().1).map_or(0, |mark| mark.index);
        applied.max(logged)
    }

    pub fn info(&self) -> StoreInfo {
        let in_flight = self.inner.pipeline.shared().in_flight;
        StoreInfo {
            applied_index: self.inner.current.load().index(),
            in_flight,
            log_bytes: self.inner.log_bytes.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// Begin to give the room that the store does not use back to the file system, while it serves.
    pub fn start_compaction(&self) -> Result<(), CompactError> {
        let Some(disk) = self.inner.disk.clone() else { return Err(CompactError::InMemory) };
        let mut compacting = lock(&self.compacting);
        self.inner.compaction.begin()?;
        let inner = self.inner.clone();
        let builder = thread::Builder::new().name("store-compact".into()).stack_size(512 << 10);
        match builder.spawn(move || compaction::run(&inner, &*disk)) {
            Ok(thread) => {
                // The one before has ended, or waits for its last readers, which it can do alone.
                *compacting = Some(thread);
                Ok(())
            }
            Err(e) => {
                self.inner.compaction.failed(e.to_string());
                Err(StoreError::io("cannot start a thread for", Path::new("the compaction"))(e).into())
            }
        }
    }

    /// The size of the state machine's file, of which a part may be free; 0 in memory.
    pub fn file_bytes(&self) -> u64 {
        self.inner.disk.as_ref().map_or(0, |disk| compaction::length(&**disk, crate::state::FILE))
    }

    /// How far the present compaction is, or what became of the last one.
    pub fn compaction(&self) -> CompactionInfo {
        self.inner.compaction.info()
    }

    /// Whether everything was read and checked when it was opened, because no checksums fitted it.
    pub fn was_checked(&self) -> bool {
        self.was_checked
    }

    /// Begin at once to read the whole state machine, which is done once a day otherwise.
    pub fn scrub_now(&self) {
        self.inner.scrub.begin_now();
    }

    /// Why the last reading of the whole state machine broke off: its file is damaged.
    pub fn unreadable(&self) -> Option<&str> {
        self.inner.scrub.unreadable()
    }

    /// How often the whole state machine was read since it was opened.
    pub fn scrubs(&self) -> u64 {
        self.inner.scrub.rounds()
    }

    /// Finish what is in flight, write a checkpoint and close the files.
    pub fn close(&self) {
        self.inner.pipeline.shared().closed = true;
        self.inner.compaction.stop();
        self.inner.scrub.stop();
        self.inner.patience.end();
        self.wake();
        if let Some(proposer) = self.member.as_ref().and_then(|m| lock(&m.proposer).take()) {
            proposer.join();
        }
        self.inner.wake_writer();
        for thread in [&self.compacting, &self.scrub] {
            if let Some(thread) = lock(thread).take() {
                let _panicked = thread.join();
            }
        }
        if let Some(writer) = lock(&self.writer).take() {
            writer.join();
        }
        if let Some(member) = &self.member {
            member.log.close();
        }
    }
}

/// Start the log thread.
fn start(writer: Writer) -> Result<Box<dyn Running>, StoreError> {
    let executor = writer.inner.executor.clone();
    let work = Box::pin(writer.run());
    executor.start(crate::redb_file::WRITER, work).map_err(StoreError::io("cannot start the log thread", Path::new("")))
}

/// Start the thread that reads everything from time to time.
fn start_scrub(inner: &Arc<Inner>) -> Result<Mutex<Option<thread::JoinHandle<()>>>, StoreError> {
    if inner.disk.is_none() || !inner.executor.has_threads() {
        return Ok(Mutex::default());
    }
    let inner = inner.clone();
    let thread = thread::Builder::new()
        .name("store-scrub".into())
        .stack_size(512 << 10)
        .spawn(move || scrub::run(&inner))
        .map_err(StoreError::io("cannot start the scrubbing thread", Path::new("")))?;
    Ok(Mutex::new(Some(thread)))
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// The store's random id, made at first use; refuses formats of later programs.
pub(crate) fn identify(disk: &dyn Disk) -> Result<[u8; 16], StoreError> {
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
    let sound = bytes.len() >= 32
        && &bytes[..8] == b"HFSTORE\0"
        && bytes[28..32] == crc32fast::hash(&bytes[..28]).to_le_bytes();
    if !sound {
        return Err(damaged("it is not a Holdfast store's"));
    }
    let found = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if found > FORMAT {
        // A later program's may go on behind what is known here.
        return Err(StoreError::Format { path, found, known: FORMAT });
    }
    if bytes.len() > 32 {
        return Err(damaged("it is not a Holdfast store's"));
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
pub(crate) fn write_new(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let file = disk.open(&temporary, true)?;
    file.set_len(0)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync_folder()
}

/// What a small file's former bytes are called, whose room the next ones take.
fn spare_of(name: &str) -> String {
    format!("{name}.new")
}

/// As [`write_new`], for a file that has to be written on a full disk too: what it held before stays beside it as a
/// spare, and that is written over, which takes no room, before the two change their names.
pub(crate) fn write_over(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let spare = spare_of(name);
    let file = disk.open(&spare, true)?;
    // It is not made empty first: its room would be anybody's.
    file.write_at(0, bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync()?;
    match disk.exchange(&spare, name) {
        Ok(()) => disk.sync_folder(),
        // The first one, or a file system that cannot.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) => {
            disk.rename(&spare, name)?;
            disk.sync_folder()?;
            let _room_is_needed_for_the_next_one = make_spare(disk, name, bytes);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// See to it that [`write_over`] finds room, if there is some now. What the spare holds is never read.
pub(crate) fn make_spare(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(&spare_of(name), true)?;
    if file.is_empty()? { file.write_at(0, bytes) } else { Ok(()) }
}

fn recover(disk: Arc<dyn Disk>, id: [u8; 16], state: &State, applied: u64) -> Result<Log, StoreError> {
    let path = disk.path("log");
    // The newest change of each key, in order of keys: what is written once is written fast.
    let mut pending: BTreeMap<Key, Option<Value>> = BTreeMap::new();
    let mut bytes = 0;
    let mut last = applied;
    let flush = |pending: &mut BTreeMap<Key, Option<Value>>, last: u64| -> Result<(), StoreError> {
        let changes: Vec<_> = std::mem::take(pending).into_iter().collect();
        state.apply(changes.iter(), last)
    };
    let log = Log::open(disk, id, applied, |entry| {
        let changes = decode(entry.payload).ok_or_else(|| StoreError::Damaged {
            path: path.clone(),
            detail: format!("entry {} is not one of this version's", entry.index),
        })?;
        bytes += entry.payload.len();
        pending.extend(changes);
        last = entry.index;
        if bytes > REPLAY_BYTES {
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
