//! openraft's messages to other members, over whatever carries them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use holdfast_core::cluster::Peer;
use holdfast_storage::{Frozen, Mark, Record, Replica};
use openraft::async_runtime::Select2;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use serde::{Deserialize, Serialize};

use super::confirmed::Confirmed;
use super::machine::{Data, WholeSnapshot};
use super::trim;
use super::types::{self, Entry, LogId, NodeId, Types, Vote};

/// What is on its way.
pub type Sent<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Carries messages to members.
pub trait Peers: Send + Sync + 'static {
    /// Ask a member: a head (JSON) and the payloads of entries. Returns the head of its answer.
    fn ask(&self, peer: &Peer, head: Vec<u8>, payloads: Vec<holdfast_storage::Value>) -> Sent<Vec<u8>>;
    /// Send a whole state machine, with a head before it.
    fn send_snapshot(&self, peer: &Peer, head: Vec<u8>, frozen: Box<Frozen>) -> Sent<Vec<u8>>;
}

/// A question of one member to another, without the payloads of entries.
#[derive(Serialize, Deserialize)]
pub enum Question {
    Append { vote: WrittenVote, previous: Option<WrittenId>, entries: Vec<WrittenId>, committed: Option<WrittenId> },
    Vote { vote: WrittenVote, last: Option<WrittenId>, transfer: bool, before: bool },
    Transfer { from: WrittenVote, to: NodeId, last: Option<WrittenId> },
    Snapshot { vote: WrittenVote, last: Option<WrittenId>, members_at: Option<WrittenId>, members: serde_json::Value },
}

/// The answer.
#[derive(Serialize, Deserialize)]
pub enum Reply {
    Appended,
    AppendedUpTo(Option<WrittenId>),
    Conflict,
    HigherVote(WrittenVote),
    Voted { vote: WrittenVote, granted: bool, last: Option<WrittenId> },
    Transferred,
    NotTransferred,
    Installed(WrittenVote),
    Failed(String),
}

/// Term and index, counted as openraft does.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct WrittenId(u64, u64);

#[derive(Clone, Serialize, Deserialize)]
pub struct WrittenVote(u64, NodeId, bool);

impl From<&LogId> for WrittenId {
    fn from(id: &LogId) -> WrittenId {
        WrittenId(id.leader_id.term, id.index)
    }
}

impl WrittenId {
    pub fn id(self) -> LogId {
        LogId::new(types::CommittedLeader { term: self.0 }, self.1)
    }

    pub fn mark(self) -> Mark {
        types::mark(&self.id())
    }
}

impl From<&Vote> for WrittenVote {
    fn from(vote: &Vote) -> WrittenVote {
        WrittenVote(vote.leader_id.term, vote.leader_id.voted_for.clone(), vote.committed)
    }
}

impl WrittenVote {
    pub fn vote(self) -> Vote {
        match self.2 {
            true => Vote::new_committed(self.0, self.1),
            false => Vote::new(self.0, self.1),
        }
    }
}

fn id(id: &Option<LogId>) -> Option<WrittenId> {
    id.as_ref().map(WrittenId::from)
}

impl Question {
    /// Entries of an append, of the heads here and payloads that came beside.
    pub fn entries(heads: Vec<WrittenId>, payloads: Vec<holdfast_storage::Value>) -> io::Result<Vec<Entry>> {
        if heads.len() != payloads.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "entries and payloads differ in number"));
        }
        let records = heads.into_iter().zip(payloads).map(|(h, payload)| Record { mark: h.mark(), payload });
        records.map(types::entry).collect()
    }
}

/// Makes the way to each member.
#[derive(Clone)]
pub struct Network {
    pub peers: Arc<dyn Peers>,
    pub replica: Replica,
    /// Snapshots on their way.
    pub sent: trim::Sent,
    pub confirmed: Confirmed,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, _target: NodeId, node: &Peer) -> Link {
        let (peers, replica) = (self.peers.clone(), self.replica.clone());
        Link { peers, replica, member: node.clone(), sent: self.sent.clone(), confirmed: self.confirmed.clone() }
    }
}

/// The way to one member.
pub struct Link {
    peers: Arc<dyn Peers>,
    replica: Replica,
    member: Peer,
    sent: trim::Sent,
    confirmed: Confirmed,
}

/// Up to where others are told that they may apply: not further than readers see it here. Reads of nodes that stand by
/// would otherwise show for a moment what the active node's do not show yet.
fn shown_here(committed: Option<LogId>, published: Mark) -> Option<LogId> {
    match committed {
        Some(committed) if types::mark(&committed).index > published.index => {
            (published.index > 0).then(|| types::log_id(published))
        }
        other => other,
    }
}

fn failed(e: &io::Error) -> RPCError<Types> {
    match e.kind() {
        // openraft waits before it tries an unreachable one again.
        io::ErrorKind::InvalidData => RPCError::Network(NetworkError::new(e)),
        _ => RPCError::Unreachable(Unreachable::new(e)),
    }
}

fn unexpected() -> RPCError<Types> {
    failed(&io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"))
}

impl Link {
    async fn ask(
        &self,
        question: &Question,
        payloads: Vec<holdfast_storage::Value>,
        option: &RPCOption,
    ) -> Result<Reply, RPCError<Types>> {
        let head = serde_json::to_vec(question).map_err(|e| failed(&io::Error::other(e)))?;
        let asked = self.peers.ask(&self.member, head, payloads);
        let answer = match Types::timeout(option.hard_ttl(), asked).await {
            Ok(answer) => answer.map_err(|e| failed(&e))?,
            Err(_) => return Err(failed(&io::ErrorKind::TimedOut.into())),
        };
        match serde_json::from_slice(&answer) {
            Ok(Reply::Failed(text)) => Err(failed(&io::Error::other(text))),
            Ok(reply) => Ok(reply),
            Err(e) => Err(failed(&io::Error::new(io::ErrorKind::InvalidData, e))),
        }
    }

    async fn ask_vote(
        &self,
        r: VoteRequest<Types>,
        before: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let question = Question::Vote {
            vote: (&r.vote).into(),
            last: id(&r.last_log_id),
            transfer: r.leadership_transfer,
            before,
        };
        match self.ask(&question, Vec::new(), option).await? {
            Reply::Voted { vote, granted, last } => {
                Ok(VoteResponse { vote: vote.vote(), vote_granted: granted, last_log_id: last.map(WrittenId::id) })
            }
            _ => Err(unexpected()),
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Data;

    async fn append_entries(
        &mut self,
        r: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (key_hash, term) = (&self.member.key_hash, r.vote.leader_id.term);
        let index = |id: Option<&LogId>| id.map_or(0, |id| types::mark(id).index);
        let previous = index(r.prev_log_id.as_ref());
        let last = r.entries.last().map_or(previous, |e| index(Some(&e.log_id)));
        let question = Question::Append {
            vote: (&r.vote).into(),
            previous: id(&r.prev_log_id),
            entries: r.entries.iter().map(|e| (&e.log_id).into()).collect(),
            committed: id(&shown_here(r.leader_commit, self.replica.published())),
        };
        let payloads = r.entries.iter().map(|e| types::encode(&e.payload)).collect();
        match self.ask(&question, payloads, &option).await? {
            Reply::Appended => {
                self.confirmed.has(key_hash, term, last);
                Ok(AppendEntriesResponse::Success)
            }
            Reply::AppendedUpTo(at) => {
                let at = at.map(WrittenId::id);
                self.confirmed.has(key_hash, term, index(at.as_ref()));
                Ok(AppendEntriesResponse::PartialSuccess(at))
            }
            Reply::Conflict if self.confirmed.lacks(key_hash, term, previous) => Err(failed(&io::Error::other(
                "it lacks what it has confirmed: it runs on an earlier copy of its store",
            ))),
            Reply::Conflict => Ok(AppendEntriesResponse::Conflict),
            Reply::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote.vote())),
            _ => Err(unexpected()),
        }
    }

    async fn vote(&mut self, r: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(r, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        r: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(r, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: WholeSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Data::Frozen(frozen) = snapshot.snapshot else {
            return Err(StreamingError::from(unexpected()));
        };
        let members = &snapshot.meta.last_membership;
        let question = Question::Snapshot {
            vote: (&vote).into(),
            last: id(&snapshot.meta.last_log_id),
            members_at: id(members.log_id()),
            members: serde_json::from_slice(&types::encode_config(members.membership())).unwrap_or_default(),
        };
        let head = serde_json::to_vec(&question).map_err(|e| StreamingError::from(failed(&io::Error::other(e))))?;
        let _kept_meanwhile = self.sent.begin(snapshot.meta.last_log_id.as_ref().map_or(0, |id| id.index));
        let sending = self.peers.send_snapshot(&self.member, head, frozen);
        let answer = match Types::select2(cancel, sending).await {
            Select2::First(closed) => return Err(StreamingError::Closed(closed)),
            Select2::Second(answer) => answer.map_err(|e| StreamingError::from(failed(&e)))?,
        };
        match serde_json::from_slice(&answer) {
            Ok(Reply::Installed(installed)) => Ok(SnapshotResponse { vote: installed.vote() }),
            Ok(Reply::Failed(text)) => Err(StreamingError::from(failed(&io::Error::other(text)))),
            _ => Err(StreamingError::from(unexpected())),
        }
    }

    async fn transfer_leader(
        &mut self,
        r: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let question = Question::Transfer {
            from: r.from_leader().into(),
            to: r.to_node_id().clone(),
            last: r.last_log_id().map(WrittenId::from),
        };
        match self.ask(&question, Vec::new(), &option).await? {
            Reply::Transferred => Ok(Ok(())),
            Reply::NotTransferred => Err(failed(&io::Error::other("leadership was not taken"))),
            _ => Err(unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_apply_what_is_not_shown_here() {
        let at = |index| Mark { term: 3, index };
        let id = |index| Some(types::log_id(at(index)));
        assert_eq!(shown_here(None, at(5)), None);
        assert_eq!(shown_here(id(4), at(5)), id(4));
        assert_eq!(shown_here(id(5), at(5)), id(5));
        assert_eq!(shown_here(id(9), at(5)), id(5));
        assert_eq!(shown_here(id(9), Mark::default()), None);
    }
}
