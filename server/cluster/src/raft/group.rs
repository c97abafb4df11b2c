//! The running member: openraft with our log, state machine and messages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::clock::Clocks;
use holdfast_core::cluster::{Change, ChangeError, Lead, Member, Peer, Progress};
use holdfast_storage::{Agreeing, Agreement, Disagreement, Mark, Received, Replica, Value};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Instant, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::runtime::Handle;

use super::confirmed::Confirmed;
use super::heirs::Heirs;
use super::log::LogStore;
use super::machine::{Data, Machine, Meta};
use super::network::{Network, Peers, Question, Reply, WrittenId};
use super::rest::Rest;
use super::sleep::{Sleep, Unsure};
use super::trim::{self, Kept};
use super::types::{self, Changes, CommittedLeader, NodeId, Stored, Types};

/// Milliseconds, for a `performance_multiplier` of 1.
const HEARTBEAT_MS: u64 = 24;
const ELECTION_MS: (u64, u64) = (70, 115);
/// A proposal on which no majority agrees within this is given up: it may be agreed on later.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// openraft's start may take so long on a busy machine.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// Who is alone waits no longer for its own log.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);
/// What is answered by a member whose part has ended.
const STOPPED: &str = "this member takes part no longer";
/// A member that has not answered for the time of so many elections gets no lead.
const ELECTIONS_MISSED: u32 = 4;
/// How long the one to which leadership is handed may take.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);

/// How a member runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node_id: String,
    /// Its key, where it has joined others: lists of members from before name another one's. Who never joined is who its store
    /// says, whatever became of its key since.
    pub joined_with: Option<String>,
    pub performance_multiplier: u64,
    pub snapshot_threshold: u64,
    pub trailing_logs: u64,
    pub trailing_log_bytes: u64,
}

/// A running member.
#[derive(Clone)]
pub struct Group {
    raft: Raft<Types, Machine>,
    id: NodeId,
    oneself: Oneself,
    replica: Replica,
    lease: Duration,
    /// Who has not answered for so long is not asked whether it could lead.
    answers_within: Duration,
    sleep: Arc<Sleep>,
    /// The lead is being handed over: another member may have it already.
    handing_over: Arc<AtomicBool>,
    /// What a member promised before it was started is over, and whether it may lead.
    rest: Arc<Rest>,
    /// This member has led since it was started.
    led: Arc<AtomicBool>,
    heirs: Arc<Heirs>,
    confirmed: Confirmed,
    /// Who votes by the last list of members that was seen agreed on.
    settled: Arc<Mutex<BTreeSet<NodeId>>>,
    /// What was seen of openraft. A new receiver has seen nothing: whoever waited on a new one each time never waited.
    seen: Arc<tokio::sync::Mutex<Seen>>,
}

pub(super) type Seen = WatchReceiverOf<Types, RaftServerMetrics<Types>>;

impl Group {
    /// Start taking part.
    pub async fn start(
        settings: &Settings,
        replica: Replica,
        peers: Arc<dyn Peers>,
        clocks: Arc<dyn Clocks>,
    ) -> Result<Group, String> {
        let m = settings.performance_multiplier.max(1);
        let config = openraft::Config {
            cluster_name: "holdfast".into(),
            heartbeat_interval: HEARTBEAT_MS * m,
            election_timeout_min: ELECTION_MS.0 * m,
            election_timeout_max: ELECTION_MS.1 * m,
            install_snapshot_timeout: 600_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_threshold.max(1)),
            // See [`trim`].
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_pre_vote: Some(true),
            // What others hold is agreed on, though the leader itself may not have written it yet: one that was killed and
            // comes back must be elected by a log that is as long, in a term of its own, before it leads again. (A lone voter
            // is elected at once.)
            enable_leader_restore: Some(false),
            // See [`Rest`].
            enable_elect: false,
            ..openraft::Config::default()
        };
        // Those who follow give nobody else a vote for so long after they heard of the leader; some of it is kept back
        // for clocks that do not run alike.
        let lease = Duration::from_millis(config.election_timeout_max * 9 / 10);
        let promised = Duration::from_millis(config.election_timeout_max);
        let config = Arc::new(config.validate().map_err(|e| e.to_string())?);
        let id = NodeId(settings.node_id.clone());
        let machine = Machine::new(replica.clone());
        let log = LogStore::new(&replica);
        let sent = trim::Sent::default();
        let confirmed = Confirmed::default();
        let network = Network { peers, replica: replica.clone(), sent: sent.clone(), confirmed: confirmed.clone() };
        let raft = Raft::new(id.clone(), config, network, log, machine).await.map_err(|e| e.to_string())?;
        let kept = Kept { entries: settings.trailing_logs, bytes: settings.trailing_log_bytes };
        Types::spawn(trim::keep_small(raft.clone(), replica.log().clone(), kept, sent));
        let sleep = Arc::new(Sleep::new(clocks));
        let oneself = Oneself { id: id.clone(), key_hash: settings.joined_with.clone() };
        let rest = Arc::new(Rest::new(raft.clone(), oneself.clone()));
        Types::spawn(rest.clone().end_after(promised));
        Types::spawn(rest.clone().follow(raft.server_metrics()));
        let seen = Arc::new(tokio::sync::Mutex::new(raft.server_metrics()));
        Ok(Group {
            raft,
            id,
            oneself,
            replica,
            lease,
            answers_within: promised * ELECTIONS_MISSED,
            sleep,
            handing_over: Arc::default(),
            rest,
            led: Arc::default(),
            heirs: Arc::default(),
            confirmed,
            settled: Arc::default(),
            seen,
        })
    }

    /// Bytes by which a store that belongs to no cluster becomes the first member of one.
    pub fn first_members(id: &str, peer: Peer) -> Vec<u8> {
        let id = NodeId(id.to_owned());
        let nodes = BTreeMap::from([(id.clone(), peer)]);
        types::encode_members(vec![BTreeSet::from([id])], nodes)
    }

    /// Wait until openraft says who votes, as the store has it: it does so a moment after its start.
    pub async fn knows_its_members(&self) -> Result<(), String> {
        let known = async {
            while self.raft.voter_ids().next().is_none() {
                Types::sleep(Duration::from_millis(2)).await;
            }
        };
        let late = |_| "openraft does not say who the members are".to_owned();
        Types::timeout(KNOWN_WITHIN, known).await.map_err(late)
    }

    /// Where there is nobody else to wait for: take the lead at once, and apply what the log has before anybody asks. What
    /// was stored last may be how the store is to be opened.
    pub async fn lead_if_alone(&self) {
        if !self.is_alone() {
            return;
        }
        let _it_is_said_by_the_metrics = self.raft.trigger().elect(false).await;
        let _it_is_applied_later = Types::timeout(APPLIED_WITHIN, self.is_applied(self.lead().last)).await;
    }

    pub fn lead(&self) -> Lead {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        // One that has stopped says for ever that it leads, if it did.
        let runs = m.running_state.is_ok();
        let leads = runs && m.state == ServerState::Leader;
        // One that is removed gives the lead to another one at once, which need not wait until nobody hears this one.
        let belongs = m.membership_config.get_node(&self.id).is_some();
        if leads && belongs {
            self.led.store(true, Ordering::SeqCst);
        }
        let alone = m.membership_config.voter_ids().count() == 1;
        // What was sent before the machine slept is older than it looks.
        let heard = m.last_quorum_acked.as_ref().is_some_and(|at| match self.sleep.woke() {
            Ok(None) => at.elapsed() < self.lease,
            Ok(Some(woke)) => {
                let awake = woke.elapsed();
                at.elapsed() < self.lease.min(awake)
            }
            Err(Unsure) => false,
        });
        let leader = m.current_leader.as_ref().filter(|id| runs || **id != self.id);
        if let Some(id) = leader {
            self.heirs.leads(id, m.current_term);
        }
        let leader = leader.and_then(|id| Some((id.0.clone(), m.membership_config.get_node(id)?.clone())));
        let index = |id: &Option<types::LogId>| id.as_ref().map_or(0, |id| types::mark(id).index);
        Lead {
            here: leads,
            sure: leads && belongs && (alone || heard) && !self.handing_over.load(Ordering::SeqCst),
            term: m.current_term,
            leader,
            committed: index(&m.cluster_committed),
            applied: index(&m.last_applied),
            last: m.last_log_index.map_or(0, |i| i + 1),
            removed: false,
            copy_of: None,
            broken: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// As the leader: an index of the log at or behind everything that was answered before this was asked for. Readers of
    /// this store see it, and who asks, and has seen the log up to `has`, is told that he may apply it.
    ///
    /// While this member is sure of its lead, which is what its own reads need too, it knows the index itself. Otherwise a
    /// majority is asked whether it leads.
    pub async fn read_index(&self, has: Option<u64>) -> Option<u64> {
        let (index, is_told) = match self.index_while_sure() {
            Some(index) => (index, false),
            // The round tells others what readers here see already.
            None => (self.index_by_a_round().await?, true),
        };
        let is_shown = self.replica.published().index >= index;
        if !is_shown {
            self.is_applied(index).await.then_some(())?;
        }
        let needs_to_be_told = !is_told || !is_shown;
        if needs_to_be_told && has.is_none_or(|has| has < index) {
            self.raft.trigger().heartbeat().await.ok()?;
        }
        Some(index)
    }

    /// What is applied holds all that was answered until now, and some that nobody has seen yet: whatever readers of this
    /// store see was noted as applied before. What others have answered before this member led is below the first entry of
    /// its own term. It is asked last whether this member was sure of its lead, in that term, all the time.
    fn index_while_sure(&self) -> Option<u64> {
        let (applied, _) = self.replica.state()?;
        let lead = self.lead();
        (lead.sure && lead.term == applied.term).then_some(applied.index)
    }

    async fn index_by_a_round(&self) -> Option<u64> {
        if has_stopped(&self.raft) {
            return None;
        }
        let (read, _) = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await.ok()?;
        Some(types::mark(read.log_id()).index)
    }

    /// Wait until an index of the log was applied, and readers of this store see it.
    pub async fn is_applied(&self, index: u64) -> bool {
        let is_there = |at: &Option<types::LogId>| at.as_ref().is_some_and(|id| types::mark(id).index >= index);
        self.raft.watch_apply_progress().wait_until(is_there).await.is_ok()
    }

    /// How far the log is being applied, and how far readers of this store see it.
    pub fn applied(&self) -> (u64, u64) {
        let published = self.replica.published().index;
        (self.replica.state().map_or(0, |(mark, _)| mark.index), published)
    }

    /// Wait until something of [`Group::lead`] may have changed since this returned last. One waits at a time.
    pub async fn changed(&self) {
        let mut seen = self.seen.lock().await;
        if seen.changed().await.is_err() {
            // openraft has stopped: nothing changes any more.
            std::future::pending::<()>().await;
        }
    }

    /// The members, and the log index from which on they are.
    ///
    /// A vote counts from when the members have agreed on it. Before, a change stands on a majority of the former
    /// voters too: to call a newcomer a voter then would promise that one of two may be lost.
    pub fn members(&self) -> (Vec<Member>, u64) {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let list = &m.membership_config;
        let stages = list.membership().get_joint_config();
        let voters: BTreeSet<NodeId> = list.voter_ids().filter(|id| stages.iter().all(|s| s.contains(id))).collect();
        let agreed = list.log_id() <= &m.cluster_committed && stages.len() == 1;
        let voters = {
            let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            if agreed {
                settled.clone_from(&voters);
            }
            if settled.is_empty() { voters } else { settled.clone() }
        };
        let member =
            |(id, peer): (&NodeId, &Peer)| Member { id: id.0.clone(), peer: peer.clone(), votes: voters.contains(id) };
        let since = list.log_id().as_ref().map_or(0, |id| types::mark(id).index);
        (list.nodes().map(member).collect(), since)
    }

    /// The log index of the list of members, if they have agreed on it.
    pub fn agreed_since(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let list = &m.membership_config;
        let agreed = list.log_id() <= &m.cluster_committed && list.membership().get_joint_config().len() == 1;
        list.log_id().as_ref().filter(|_| agreed).map(|id| types::mark(id).index)
    }

    /// Whether this member has led, and the members have agreed on a list in which it is none. (One that never led may
    /// read an old list, from before it came.)
    pub fn was_removed_while_it_led(&self) -> bool {
        let is_listed = || self.raft.metrics().borrow_watched().membership_config.get_node(&self.id).is_some();
        self.led.load(Ordering::SeqCst) && self.agreed_since().is_some() && !is_listed()
    }

    /// Whether this member may try to lead. One that is the only one that votes always may.
    pub fn may_lead(&self, may: bool) {
        self.rest.may_lead(may);
    }

    fn is_alone(&self) -> bool {
        self.oneself.is_alone(&self.raft)
    }

    /// How those who follow are, where this member leads.
    pub fn progress(&self) -> BTreeMap<String, Progress> {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let mut all = BTreeMap::new();
        for (id, matched) in m.replication.iter().flatten() {
            let silent = m.heartbeat.as_ref().and_then(|h| h.get(id)).and_then(|at| Some(at.as_ref()?.elapsed()));
            let Mark { term, index: matched } = matched.as_ref().map(types::mark).unwrap_or_default();
            all.insert(id.0.clone(), Progress { matched, term, silent });
        }
        all
    }

    /// As the leader: the members that run on an earlier copy of their store.
    pub fn earlier_copies(&self) -> Vec<String> {
        let lead = self.lead();
        let members = if lead.here { self.members().0 } else { Vec::new() };
        let is_one = |m: &Member| self.confirmed.is_earlier_copy(&m.peer.key_hash, lead.term);
        members.into_iter().filter(is_one).map(|m| m.id).collect()
    }

    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        if has_stopped(&self.raft) {
            return Err(ChangeError::NotLeader);
        }
        if let Change::Add(id, _) | Change::Remove(id) = &change {
            let members = self.members().0.into_iter().filter(|m| m.id == *id);
            members.for_each(|m| self.confirmed.forget(&m.peer.key_hash));
        }
        let one = |id: String| BTreeSet::from([NodeId(id)]);
        let (changes, retain) = match change {
            Change::Add(id, peer) => (ChangeMembers::AddNodes(BTreeMap::from([(NodeId(id), peer)])), true),
            Change::Correct(id, peer) => (ChangeMembers::SetNodes(BTreeMap::from([(NodeId(id), peer)])), true),
            Change::Promote(id) => (ChangeMembers::AddVoterIds(one(id)), true),
            Change::Demote(id) => (ChangeMembers::RemoveVoters(one(id)), true),
            Change::Remove(id) if self.votes(&id) => (ChangeMembers::RemoveVoters(one(id)), false),
            Change::Remove(id) => (ChangeMembers::RemoveNodes(one(id)), false),
        };
        match self.raft.change_membership(changes, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ChangeError::NotLeader),
            Err(e) => Err(ChangeError::Refused(e.to_string())),
        }
    }

    fn votes(&self, id: &str) -> bool {
        self.raft.voter_ids().any(|v| v.0 == id)
    }

    /// Who may be handed the lead: voters that answer.
    pub fn heirs(&self) -> Vec<String> {
        self.those_who_answer().into_iter().map(|(id, _)| id.0).collect()
    }

    /// The other voters that have answered lately, and up to where they have the log.
    fn those_who_answer(&self) -> Vec<(NodeId, u64)> {
        let progress = self.progress();
        let answers = |id: NodeId| {
            let p = progress.get(&id.0)?;
            p.silent.is_some_and(|silent| silent < self.answers_within).then_some((id, p.matched))
        };
        self.raft.voter_ids().filter(|id| *id != self.id).filter_map(answers).collect()
    }

    /// Hand leadership to the best member ([`Heirs`]) of those that answer and may take it. False: there is none.
    pub async fn hand_over(&self, may: impl Fn(&str) -> bool) -> bool {
        let able = self.those_who_answer().into_iter().filter(|(id, _)| may(&id.0)).collect();
        let Some(to) = self.heirs.best(able) else { return false };
        self.heirs.has_its_turn(&to, self.lead().term);
        // From here on nothing is answered: the other one may lead before this one hears of it.
        self.handing_over.store(true, Ordering::SeqCst);
        let handed_over = self.transfer(to).await;
        self.handing_over.store(false, Ordering::SeqCst);
        handed_over
    }

    async fn transfer(&self, to: NodeId) -> bool {
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        let left = async {
            while self.raft.is_leader() {
                Types::sleep(Duration::from_millis(10)).await;
            }
        };
        Types::timeout(HAND_OVER_WITHIN, left).await.is_ok()
    }

    /// Answer another member's question.
    pub async fn answer(&self, head: &[u8], payloads: Vec<Value>) -> Vec<u8> {
        let reply = match serde_json::from_slice(head) {
            Ok(question) => self.reply(question, payloads).await.unwrap_or_else(|e| Reply::Failed(e.to_string())),
            Err(e) => Reply::Failed(e.to_string()),
        };
        serde_json::to_vec(&reply).unwrap_or_default()
    }

    async fn reply(&self, question: Question, payloads: Vec<Value>) -> io::Result<Reply> {
        if has_stopped(&self.raft) {
            return Ok(Reply::Failed(STOPPED.into()));
        }
        match question {
            Question::Append { vote, previous, entries, committed } => {
                let request = AppendEntriesRequest::<Types> {
                    vote: vote.vote(),
                    prev_log_id: previous.map(WrittenId::id),
                    entries: Question::entries(entries, payloads)?,
                    leader_commit: committed.map(WrittenId::id),
                };
                Ok(match self.raft.append_entries(request).await.map_err(io::Error::other)? {
                    AppendEntriesResponse::Success => Reply::Appended,
                    AppendEntriesResponse::PartialSuccess(at) => Reply::AppendedUpTo(at.as_ref().map(WrittenId::from)),
                    AppendEntriesResponse::Conflict => Reply::Conflict,
                    AppendEntriesResponse::HigherVote(vote) => Reply::HigherVote((&vote).into()),
                })
            }
            // The leader that hands over has given up what was promised to it.
            Question::Vote { transfer: false, .. } if !self.rest.is_over() => {
                Ok(Reply::Failed("this member was only just started".into()))
            }
            Question::Vote { vote, last, transfer, before } => {
                let request = VoteRequest::<Types> {
                    vote: vote.vote(),
                    last_log_id: last.map(WrittenId::id),
                    leadership_transfer: transfer,
                };
                let answer = match before {
                    true => self.raft.pre_vote(request).await,
                    false => self.raft.vote(request).await,
                };
                let answer = answer.map_err(io::Error::other)?;
                let last = answer.last_log_id.as_ref().map(WrittenId::from);
                Ok(Reply::Voted { vote: (&answer.vote).into(), granted: answer.vote_granted, last })
            }
            Question::Transfer { from, to, last } => {
                let request = TransferLeaderRequest::new(from.vote(), to, last.map(WrittenId::id));
                match self.raft.handle_transfer_leader(request).await.map_err(io::Error::other)? {
                    Ok(()) => Ok(Reply::Transferred),
                    Err(_) => Ok(Reply::NotTransferred),
                }
            }
            Question::Snapshot { .. } => Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot without its data")),
        }
    }

    /// An empty state machine for a snapshot that a leader sends.
    pub fn receive(&self) -> io::Result<Received> {
        self.replica.receive().map_err(io::Error::other)
    }

    /// Take a snapshot whose data came.
    pub async fn take_snapshot(&self, head: &[u8], received: Received) -> Vec<u8> {
        let taken = async {
            let question = serde_json::from_slice(head).map_err(io::Error::other)?;
            if has_stopped(&self.raft) {
                return Err(io::Error::other(STOPPED));
            }
            let Question::Snapshot { vote, last, members_at, members } = question else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "data without a snapshot"));
            };
            let members = serde_json::to_vec(&members).map_err(io::Error::other)?;
            let members = Stored::new(members_at.map(WrittenId::id), types::decode_members(&members)?);
            let meta = Meta { last_log_id: last.map(WrittenId::id), last_membership: members };
            let snapshot = Snapshot { meta, snapshot: Data::Received(Box::new(received)) };
            let answer = self.raft.install_full_snapshot(vote.vote(), snapshot).await.map_err(io::Error::other)?;
            Ok(Reply::Installed((&answer.vote).into()))
        };
        let reply = taken.await.unwrap_or_else(|e| Reply::Failed(e.to_string()));
        serde_json::to_vec(&reply).unwrap_or_default()
    }

    /// Take part no longer; what waits for an agreement is told so.
    pub async fn stop(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::error!("a part of the cluster's member had failed");
        }
    }

    /// How the store's proposals are agreed on. With the runtime whose clock measures how long that takes, where the
    /// store's own threads wait for it.
    pub fn agreement(&self, runtime: Option<Handle>) -> Arc<dyn Agreement> {
        Arc::new(Agreed { raft: self.raft.clone(), runtime })
    }
}

/// Whether openraft has stopped, because the disk failed or the server ends. Nothing is asked of it any more: it would log
/// each question as an error, and others ask many times a second.
fn has_stopped(raft: &Raft<Types, Machine>) -> bool {
    raft.metrics().borrow_watched().running_state.is_err()
}

/// Who this member is in a list of members.
#[derive(Clone)]
pub struct Oneself {
    id: NodeId,
    /// See [`Settings::joined_with`].
    key_hash: Option<String>,
}

impl Oneself {
    /// Whether the list is one with this member, and not with one that had its name before.
    pub fn is_listed(&self, raft: &Raft<Types, Machine>) -> bool {
        let Some(key_hash) = &self.key_hash else { return true };
        let metrics = raft.metrics();
        let m = metrics.borrow_watched();
        m.membership_config.get_node(&self.id).is_some_and(|peer| peer.key_hash == *key_hash)
    }

    /// Whether this member is the only one that votes.
    pub fn is_alone(&self, raft: &Raft<Types, Machine>) -> bool {
        let mut voters = raft.voter_ids();
        voters.next().is_some_and(|v| v == self.id) && voters.next().is_none() && self.is_listed(raft)
    }
}

struct Agreed {
    raft: Raft<Types, Machine>,
    runtime: Option<Handle>,
}

impl Agreement for Agreed {
    fn commit(&self, term: u64, payload: Vec<u8>) -> Agreeing {
        let raft = self.raft.clone();
        let mut agreed: Agreeing = Box::pin(async move {
            if has_stopped(&raft) {
                return Err(Disagreement::Unknown(STOPPED.into()));
            }
            let (responder, mut has_majority, mut done) = ProgressResponder::new();
            let write = raft.write(Changes(payload.into())).responder(responder);
            // It may have lost the lead and have it again: others may have written meanwhile.
            let sent = write.with_leader(CommittedLeader { term }).await;
            sent.map_err(|e| Disagreement::Unknown(e.to_string()))?;
            let answer = match Types::timeout(COMMIT_WITHIN, &mut done).await {
                Ok(answer) => answer,
                // It is applied, however long that takes: a snapshot that takes the store's place, say.
                Err(_) if has_majority.try_recv().is_ok() => done.await,
                Err(_) => return Err(Disagreement::Unknown("no majority of the members answers".into())),
            };
            match answer {
                Ok(Ok(_)) => Ok(()),
                // openraft says so only of what it had not appended.
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(Disagreement::NotLeader),
                Ok(Err(e)) => Err(Disagreement::Unknown(e.to_string())),
                Err(_) => Err(Disagreement::Unknown(STOPPED.into())),
            }
        });
        let runtime = self.runtime.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            let _its_clock = runtime.as_ref().map(Handle::enter);
            agreed.as_mut().poll(cx)
        }))
    }
}
