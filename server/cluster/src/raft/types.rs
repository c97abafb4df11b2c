//! The types that openraft is made with, and entries as the log holds them.
//!
//! openraft counts entries from 0, the log from 1.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use holdfast_core::cluster::{Member, Peer};
use holdfast_storage::{Mark, Record, Value, payload};
use openraft::{EntryPayload, Membership, StoredMembership};
use serde::{Deserialize, Serialize};

/// What runs openraft. Tests of this crate run it in a simulation.
#[cfg(not(test))]
pub type Runtime = openraft::TokioRuntime;
#[cfg(test)]
pub type Runtime = super::sim::Runtime;

openraft::declare_raft_types!(
    /// openraft's parameters.
    pub Types:
        D = Changes,
        R = (),
        NodeId = NodeId,
        Node = Peer,
        LeaderId = openraft::vote::leader_id_std::LeaderId<u64, NodeId>,
        AsyncRuntime = Runtime,
);

pub type CommittedLeader = openraft::vote::leader_id_std::CommittedLeaderId<u64>;
pub type LogId = openraft::LogId<CommittedLeader>;
pub type Vote = openraft::Vote<openraft::vote::leader_id_std::LeaderId<u64, NodeId>>;
pub type Payload = EntryPayload<Changes, NodeId, Peer>;
pub type Entry = openraft::Entry<CommittedLeader, Payload>;
pub type Stored = StoredMembership<CommittedLeader, NodeId, Peer>;
pub type Config = Membership<NodeId, Peer>;

/// The name of a member, as `node_id` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// openraft's own suite numbers its members.
impl From<u64> for NodeId {
    fn from(n: u64) -> NodeId {
        NodeId(n.to_string())
    }
}

/// A group of proposals: an entry's payload as the log holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Changes(pub Value);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub fn mark(id: &LogId) -> Mark {
    Mark { term: id.leader_id.term, index: id.index + 1 }
}

pub fn log_id(mark: Mark) -> LogId {
    LogId::new(CommittedLeader { term: mark.term }, mark.index.saturating_sub(1))
}

/// Members as they are written: sets of voters (two while they change), and everybody.
#[derive(Serialize, Deserialize)]
struct Written {
    voters: Vec<BTreeSet<NodeId>>,
    members: BTreeMap<NodeId, Peer>,
}

pub fn encode_members(voters: Vec<BTreeSet<NodeId>>, members: BTreeMap<NodeId, Peer>) -> Vec<u8> {
    // Texts and sets of them: that cannot fail.
    serde_json::to_vec(&Written { voters, members }).unwrap_or_default()
}

pub fn encode_config(config: &Config) -> Vec<u8> {
    let members = config.nodes().map(|(id, m)| (id.clone(), m.clone())).collect();
    encode_members(config.get_joint_config().clone(), members)
}

pub fn decode_members(bytes: &[u8]) -> io::Result<Config> {
    let written: Written = serde_json::from_slice(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Config::new(written.voters, written.members).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// The members as they are written. One that is about to get a vote, or to lose it, has one.
pub fn members_of(bytes: &[u8]) -> io::Result<Vec<Member>> {
    let config = decode_members(bytes)?;
    let voters: BTreeSet<&NodeId> = config.get_joint_config().iter().flatten().collect();
    let member =
        |(id, peer): (&NodeId, &Peer)| Member { id: id.0.clone(), peer: peer.clone(), votes: voters.contains(id) };
    Ok(config.nodes().map(member).collect())
}

/// As the state machine keeps them.
pub fn stored_members(kept: &[u8]) -> io::Result<Stored> {
    match holdfast_storage::members_parts(kept) {
        None => Ok(Stored::default()),
        Some((at, members)) => Ok(Stored::new(Some(log_id(at)), decode_members(members)?)),
    }
}

/// The bytes that [`stored_members`] reads.
pub fn keep_members(members: &Stored) -> Vec<u8> {
    let Some(at) = members.log_id().as_ref().map(mark) else { return Vec::new() };
    [&at.term.to_le_bytes()[..], &at.index.to_le_bytes(), &encode_config(members.membership())].concat()
}

pub fn encode(payload: &Payload) -> Value {
    match payload {
        EntryPayload::Blank => [payload::BLANK][..].into(),
        EntryPayload::Normal(changes) => changes.0.clone(),
        EntryPayload::Membership(members) => [&[payload::MEMBERS][..], &encode_config(members)].concat().into(),
    }
}

pub fn record(entry: &Entry) -> Record {
    Record { mark: mark(&entry.log_id), payload: encode(&entry.payload) }
}

pub fn entry(record: Record) -> io::Result<Entry> {
    let payload = match record.payload.split_first() {
        Some((&payload::BLANK, _)) => EntryPayload::Blank,
        Some((&payload::MEMBERS, members)) => EntryPayload::Membership(decode_members(members)?),
        Some(_) => EntryPayload::Normal(Changes(record.payload)),
        None => return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry without a payload")),
    };
    Ok(Entry { log_id: log_id(record.mark), payload })
}

pub fn vote(kept: holdfast_storage::Vote) -> Vote {
    match kept.committed {
        true => Vote::new_committed(kept.term, NodeId(kept.node)),
        false => Vote::new(kept.term, NodeId(kept.node)),
    }
}

pub fn keep_vote(vote: &Vote) -> holdfast_storage::Vote {
    holdfast_storage::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for.0.clone(),
        committed: vote.committed,
    }
}
