//! A store that is one of several: what its proposals change is agreed on before it is applied.
//!
//! ```text
//! Store::propose ─▶ queue ─▶ proposing thread ─▶ Agreement::commit ┄┄ log of a majority ┄┄▶ Replica::apply
//!                                                                        ▼
//!                                             log thread: redb ─▶ publish ─▶ the proposal is answered
//! ```
//!
//! A group of proposals is one entry of the replicated log. It carries the index that the pipeline gave to its
//! last proposal: indexes of the pipeline (*versions*) and of the log are different numbers, since the log holds
//! entries that are nobody's proposal. A member that becomes the active one begins behind every version that it
//! ever gave or saw ([`crate::Store::take_over`]).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::changes::{decode, decode_changes, encode_changes};
use crate::disk::{Disk, is_short};
use crate::executor::{Bell, Running};
use crate::log::SEGMENT_BYTES;
use crate::pipeline::{Queued, lock};
use crate::raft_log::RaftLog;
use crate::state::{Change, Mark, Snapshot, State, remove_made};
use crate::store::Inner;
use crate::writer::{Failure, LOOK_FOR_ROOM, fail};
use crate::{Key, StoreError, Value};

/// What an entry's payload is, as its first byte says.
pub mod payload {
    /// Changes whose version is the entry's index: a store that is no member's writes these.
    pub const CHANGES: u8 = 1;
    /// A version (u64, little-endian), then as [`CHANGES`].
    pub const VERSIONED: u8 = 2;
    /// Nothing; a new leader's first entry.
    pub const BLANK: u8 = 3;
    /// The members from here on, in the form of whoever agrees.
    pub const MEMBERS: u8 = 4;
}

/// Bytes of one group at most.
const GROUP_BYTES: usize = 4 << 20;
/// What the files of snapshots are called that are received, each with a number behind it, until one takes the place
/// of the state machine. Two leaders may send one at a time.
pub(crate) const RECEIVED_FILE: &str = "state.redb.received";
const IDLE: Duration = Duration::from_secs(5);

/// How the members of a cluster agree on a group.
pub trait Agreement: Send + Sync + 'static {
    /// Agree on an entry, and return when it was applied here. It stands on what was true while this member led in a
    /// term, and counts in no other. One is agreed on at a time.
    fn commit(&self, term: u64, payload: Vec<u8>) -> Agreeing;
}

/// What comes of an entry that is to be agreed on.
pub type Agreeing = Pin<Box<dyn Future<Output = Result<(), Disagreement>> + Send>>;

/// Why a group was not applied.
#[derive(Debug)]
pub enum Disagreement {
    /// This member does not lead: nothing of it was written.
    NotLeader,
    /// It may be applied yet, or never.
    Unknown(String),
}

/// A member's side of a replicated store.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
    log: RaftLog,
    shared: Arc<Shared>,
}

/// What the log thread of a member is to do.
pub(crate) enum Work {
    Apply(Vec<Committed>, oneshot::Sender<Result<(), StoreError>>),
    Checkpoint(oneshot::Sender<Result<Mark, StoreError>>),
    Snapshot(oneshot::Sender<Result<Frozen, StoreError>>),
    Install(Box<Received>, oneshot::Sender<Result<(), StoreError>>),
}

/// Shared by the log thread, the proposing thread and the replica.
#[derive(Default)]
pub(crate) struct Shared {
    pub work: Mutex<VecDeque<Work>>,
    /// Where the state machine is, and who the members are, as the log thread left it.
    pub state: Mutex<(Mark, Vec<u8>)>,
    /// Up to where readers see it, which is a moment later.
    pub published: Mutex<Mark>,
    /// Up to where it is on the disk.
    pub checkpointed: Mutex<Mark>,
    pub agreement: OnceLock<Arc<dyn Agreement>>,
    pub proposed: Bell,
    /// Snapshots from elsewhere that were begun.
    pub received: AtomicU64,
}

/// An entry that the members agreed on.
pub struct Committed {
    pub mark: Mark,
    /// As in the log; see [`payload`].
    pub payload: Value,
}

/// A state machine at one moment.
pub struct Frozen {
    pub snapshot: Arc<Snapshot>,
    pub mark: Mark,
    /// As [`crate::members_parts`] takes it apart.
    pub members: Vec<u8>,
}

/// A state machine that comes from elsewhere, in a file of its own.
pub struct Received {
    // Before its file: that is closed first.
    pub(crate) state: State,
    pub(crate) file: ReceivedFile,
    pub(crate) version: u64,
    pub(crate) mark: Mark,
    pub(crate) members: Vec<u8>,
}

/// The file of what is received, which goes with it unless it takes its place.
pub(crate) struct ReceivedFile {
    pub disk: Option<Arc<dyn Disk>>,
    pub name: String,
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        if let Some(disk) = self.disk.take() {
            let _tried_again_at_the_next_start = remove_made(&*disk, &self.name);
        }
    }
}

impl Received {
    /// Add entries, in order.
    pub fn put(&self, entries: Vec<(Key, Value)>) -> Result<(), StoreError> {
        let changes: Vec<Change> = entries.into_iter().map(|(k, v)| (k, Some(v))).collect();
        self.state.apply(changes.iter(), 0)
    }

    /// The version that it holds.
    pub fn is_version(&mut self, version: u64) {
        self.version = version;
    }

    /// Where it is in the log, and who the members are.
    pub fn place(&mut self, mark: Mark, members: Vec<u8>) {
        (self.mark, self.members) = (mark, members);
    }
}

impl Replica {
    pub(crate) fn new(inner: Arc<Inner>, log: RaftLog, shared: Arc<Shared>) -> Replica {
        Replica { inner, log, shared }
    }

    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// Where the state machine is in the log, and who the members are. `None`: it belongs to no cluster yet.
    pub fn state(&self) -> Option<(Mark, Vec<u8>)> {
        let state = lock(&self.shared.state).clone();
        (state.0 != Mark::default()).then_some(state)
    }

    /// Up to where readers of this store see what was applied.
    pub fn published(&self) -> Mark {
        *lock(&self.shared.published)
    }

    /// Whether there is anything in it.
    pub fn is_empty(&self) -> bool {
        self.inner.current.load().index() == 0
    }

    /// Whether writes stop for want of room, or soon will. What cannot be measured is no reason.
    pub fn is_short_of_room(&self) -> bool {
        self.inner.disk().is_some_and(|disk| is_short(&**disk, SEGMENT_BYTES).unwrap_or(false))
    }

    /// From now on proposals are agreed on in this way. The first word counts.
    pub fn agree(&self, agreement: Arc<dyn Agreement>) {
        let _first_counts = self.shared.agreement.set(agreement);
    }

    fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work) -> Answer<T> {
        let (sender, answer) = oneshot::channel();
        lock(&self.shared.work).push_back(work(sender));
        self.inner.wake_writer();
        Answer(answer)
    }

    /// Apply entries in order.
    pub fn apply(&self, entries: Vec<Committed>) -> Answer<()> {
        self.ask(|answer| Work::Apply(entries, answer))
    }

    /// Make what was applied durable. Returns up to where.
    pub fn checkpoint(&self) -> Answer<Mark> {
        self.ask(Work::Checkpoint)
    }

    /// Up to where the state machine is on the disk.
    pub fn checkpointed(&self) -> Mark {
        *lock(&self.shared.checkpointed)
    }

    /// The state machine as it is.
    pub fn freeze(&self) -> Answer<Frozen> {
        self.ask(Work::Snapshot)
    }

    /// An empty state machine beside the present one, for a snapshot from elsewhere.
    pub fn receive(&self) -> Result<Received, StoreError> {
        let number = self.shared.received.fetch_add(1, Ordering::Relaxed);
        let file = ReceivedFile { disk: self.inner.disk().cloned(), name: format!("{RECEIVED_FILE}-{number}") };
        let state = match &file.disk {
            Some(disk) => State::create(&**disk, &file.name, self.inner.patience())?,
            None => State::open(None)?.0,
        };
        Ok(Received { state, file, version: 0, mark: Mark::default(), members: Vec::new() })
    }

    /// Put a snapshot in the place of the state machine.
    pub fn install(&self, received: Received) -> Answer<()> {
        self.ask(|answer| Work::Install(Box::new(received), answer))
    }

    /// Make this store, which belongs to no cluster, the first member of one.
    pub async fn found(&self, members: Vec<u8>) -> Result<(), StoreError> {
        let mark = Mark { term: 1, index: self.inner.current.load().index().max(1) };
        let payload: Value = [&[payload::MEMBERS][..], &members].concat().into();
        self.apply(vec![Committed { mark, payload }]).await?;
        self.checkpoint().await?;
        Ok(())
    }
}

/// What the log thread will say.
pub struct Answer<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> std::future::Future for Answer<T> {
    type Output = Result<T, StoreError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<T, StoreError>> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|a| a.unwrap_or(Err(StoreError::Closed)))
    }
}

/// The changes of an entry and its version; `None` of one that changes nothing here.
pub(crate) fn changes_of_entry(
    entry: &Committed,
    path: &std::path::Path,
) -> Result<Option<(u64, Vec<Change>)>, StoreError> {
    let damaged = || StoreError::Damaged {
        path: path.to_owned(),
        detail: format!("entry {} is not one of this version's", entry.mark.index),
    };
    let (kind, rest) = entry.payload.split_first().ok_or_else(damaged)?;
    match *kind {
        payload::CHANGES => Ok(Some((entry.mark.index, decode(&entry.payload).ok_or_else(damaged)?))),
        payload::VERSIONED => {
            let (version, changes) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            let changes = decode_changes(changes).ok_or_else(damaged)?;
            Ok(Some((u64::from_le_bytes(*version), changes)))
        }
        payload::BLANK | payload::MEMBERS => Ok(None),
        _ => Err(damaged()),
    }
}

/// The work that hands groups of proposals to the members.
pub(crate) struct Proposer {
    pub inner: Arc<Inner>,
    pub shared: Arc<Shared>,
    pub disk: Option<Arc<dyn Disk>>,
    /// The disk was full when something was last proposed.
    pub full: bool,
}

impl Proposer {
    pub fn start(self) -> Result<Box<dyn Running>, StoreError> {
        let executor = self.inner.executor.clone();
        let work = Box::pin(self.run());
        executor.start("store-propose", work).map_err(StoreError::io("cannot start the proposing thread", ""))
    }

    async fn run(mut self) {
        loop {
            self.look_for_room();
            let (term, group) = self.next_group().await;
            if !group.is_empty() {
                self.commit(term, group).await;
            } else if self.inner.pipeline.shared().closed {
                return;
            }
        }
    }

    /// What is queued, and the term that it was judged in.
    async fn next_group(&self) -> (u64, Vec<Queued>) {
        let patience = if self.full { LOOK_FOR_ROOM } else { IDLE };
        self.shared.proposed.rung_or(&*self.inner.executor, patience).await;
        let mut shared = self.inner.pipeline.shared();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = shared.queue.front() {
            if !group.is_empty() && bytes + next.bytes > GROUP_BYTES {
                self.shared.proposed.ring();
                break;
            }
            bytes += next.bytes;
            group.extend(shared.queue.pop_front());
        }
        (shared.term, group)
    }

    fn look_for_room(&mut self) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.full) else { return };
        if is_short(&**disk, SEGMENT_BYTES).is_ok_and(|short| !short) {
            self.full = false;
            self.inner.pipeline.shared().refusing = None;
            tracing::info!("the disk that holds the store has room again; writes go on");
        }
    }

    async fn commit(&mut self, term: u64, group: Vec<Queued>) {
        let Some(version) = group.last().map(|q| q.index) else { return };
        // What changes nothing takes no room: a node becomes active by it, and answers reads on a full disk too.
        let takes_room = group.iter().any(|q| !q.changes.is_empty());
        let full = self.disk.as_ref().filter(|_| takes_room).map(|d| is_short(&**d, 0));
        let outcome = match full {
            Some(Err(e)) => Err(Failure::Nothing(e)),
            Some(Ok(true)) => Err(Failure::Nothing(std::io::ErrorKind::StorageFull.into())),
            _ => self.agree(term, version, &group).await,
        };
        match outcome {
            Ok(()) => {
                {
                    let mut shared = self.inner.pipeline.shared();
                    shared.in_flight = shared.in_flight.saturating_sub(group.len());
                }
                for q in group {
                    let _nobody_waits = q.done.send(Ok(()));
                }
            }
            Err(failure) => {
                self.full |= fail(&self.inner, group, failure).full;
            }
        }
    }

    async fn agree(&self, term: u64, version: u64, group: &[Queued]) -> Result<(), Failure> {
        let agreement = self.shared.agreement.get().ok_or(Failure::NotActive)?;
        let mut out = vec![payload::VERSIONED];
        out.extend_from_slice(&version.to_le_bytes());
        let count = group.iter().map(|q| q.changes.len()).sum();
        encode_changes(&mut out, count, group.iter().flat_map(|q| q.changes.iter()));
        match agreement.commit(term, out).await {
            Ok(()) => Ok(()),
            Err(Disagreement::NotLeader) => Err(Failure::NotActive),
            Err(Disagreement::Unknown(text)) => Err(Failure::Lost(text)),
        }
    }
}
