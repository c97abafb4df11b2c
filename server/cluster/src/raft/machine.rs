//! The store's state machine as openraft calls it.

use std::io;
use std::ops::Bound;

use futures_util::{Stream, StreamExt};
use holdfast_core::cluster::Peer;
use holdfast_storage::{Committed, Frozen, Key, Received, Replica};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};

use super::types::{self, CommittedLeader, LogId, NodeId, Stored, Types};

/// Bytes of entries that are applied in one step.
const STEP_BYTES: usize = 4 << 20;
/// Bytes that are copied at a time.
pub const CHUNK_BYTES: usize = 256 << 10;

pub type Meta = SnapshotMeta<CommittedLeader, NodeId, Peer>;
pub type WholeSnapshot = Snapshot<CommittedLeader, NodeId, Peer, Data>;

/// A whole state machine on its way from one member to another.
pub enum Data {
    /// Here, as it was at one moment.
    Frozen(Box<Frozen>),
    /// From elsewhere, in a file of its own.
    Received(Box<Received>),
}

#[derive(Clone)]
pub struct Machine {
    replica: Replica,
}

impl Machine {
    pub fn new(replica: Replica) -> Machine {
        Machine { replica }
    }

    async fn frozen(&self) -> io::Result<WholeSnapshot> {
        let frozen = self.replica.freeze().await.map_err(io::Error::other)?;
        let meta = Meta {
            last_log_id: (frozen.mark.index > 0).then(|| types::log_id(frozen.mark)),
            last_membership: types::stored_members(&frozen.members)?,
        };
        Ok(Snapshot { meta, snapshot: Data::Frozen(Box::new(frozen)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Data;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Stored)> {
        match self.replica.state() {
            None => Ok((None, Stored::default())),
            Some((mark, members)) => Ok((Some(types::log_id(mark)), types::stored_members(&members)?)),
        }
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let mut ended = false;
        while !ended {
            let (mut step, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < STEP_BYTES {
                let Some(next) = entries.next().await else {
                    ended = true;
                    break;
                };
                let (entry, responder) = next?;
                let record = types::record(&entry);
                bytes += record.payload.len();
                step.push(Committed { mark: record.mark, payload: record.payload });
                waiting.extend(responder);
            }
            if !step.is_empty() {
                self.replica.apply(step).await.map_err(io::Error::other)?;
            }
            for responder in waiting {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, data: Data) -> io::Result<()> {
        let mut received = match data {
            Data::Received(received) => *received,
            Data::Frozen(frozen) => copy(&self.replica, &frozen)?,
        };
        let mark = meta.last_log_id.as_ref().map(types::mark).unwrap_or_default();
        received.place(mark, types::keep_members(&meta.last_membership));
        self.replica.install(received).await.map_err(io::Error::other)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<WholeSnapshot>> {
        match self.replica.state() {
            None => Ok(None),
            Some(_) => self.frozen().await.map(Some),
        }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Data;

    /// The state machine is its own snapshot; what it holds on the disk the log need not.
    async fn build_snapshot(&mut self) -> io::Result<WholeSnapshot> {
        self.replica.checkpoint().await.map_err(io::Error::other)?;
        self.frozen().await
    }
}

fn copy(replica: &Replica, frozen: &Frozen) -> io::Result<Received> {
    let mut received = replica.receive().map_err(io::Error::other)?;
    let mut last: Option<Key> = None;
    loop {
        let start = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let chunk = frozen.snapshot.chunk(start, CHUNK_BYTES).map_err(io::Error::other)?;
        let Some((key, _)) = chunk.last() else { break };
        last = Some(key.clone());
        received.put(chunk).map_err(io::Error::other)?;
    }
    received.is_version(frozen.snapshot.index());
    Ok(received)
}
