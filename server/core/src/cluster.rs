//! A cluster, as the core sees it: who leads, who the members are, and what may be asked of them. Whoever puts the
//! server together brings what does it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Chunks, Timestamp, Value};
use serde::{Deserialize, Serialize};

/// What will be there.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What every member knows of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where other members reach it, `host:port`.
    pub cluster_addr: String,
    /// Where clients reach it, a URL.
    pub api_addr: String,
    /// SHA-256 of its identity's public key, in hex.
    pub key_hash: String,
    /// It gets no vote by itself.
    #[serde(default)]
    pub never_votes: bool,
    /// The highest feature level that its program can follow; 0 says nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub level: u64,
    /// Its program's version, for whoever looks after the cluster; earlier programs do not say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub peer: Peer,
    pub votes: bool,
}

/// Who leads, as this member knows.
#[derive(Debug, Clone, Default)]
pub struct Lead {
    /// This member does.
    pub here: bool,
    /// It does, and a majority has said so within the time in which nobody else can.
    pub sure: bool,
    pub term: u64,
    pub leader: Option<(String, Peer)>,
    /// Log indexes.
    pub committed: u64,
    pub applied: u64,
    pub last: u64,
    /// The members have said that this node is none of them any more.
    pub removed: bool,
    /// Another process has this node's key, and the members count that one: where it is.
    pub copy_of: Option<String>,
    /// Why this member takes part no longer.
    pub broken: Option<String>,
}

/// What is said of a process that has the key of another one, which the members count.
pub const COPY: &str = "another process has the key of this node and is a member: this one is a copy of its folder, or of \
    its machine, is heard by nobody and serves nothing: stop it, and let it join with an empty folder and a node_id of its \
    own (where the other one is gone for good, start this one again)";

/// How a member that follows is, as the leader knows.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Up to where its log is known to be equal.
    pub matched: u64,
    /// The term of the entry there.
    pub term: u64,
    /// Since it last answered.
    pub silent: Option<Duration>,
}

/// A change of the members.
#[derive(Debug, Clone)]
pub enum Change {
    /// Join, without a vote.
    Add(String, Peer),
    /// Say anew where a member is, or whether it gets a vote.
    Correct(String, Peer),
    Promote(String),
    Demote(String),
    Remove(String),
}

/// Why members were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("this node does not lead")]
    NotLeader,
    #[error("{0}")]
    Refused(String),
}

/// A node of the cluster that is to be joined, and how to call it.
#[derive(Debug, Clone, Default)]
pub struct JoinFrom {
    /// Its API address.
    pub api_addr: String,
    /// The name that its certificate must have.
    pub tls_servername: Option<String>,
    /// PEM: the CA of its certificate, and our own certificate and key.
    pub ca_cert: Option<String>,
    pub client_cert: Option<String>,
    pub client_key: Option<String>,
    /// The right to join with a device of the node's own.
    pub join_token: Option<JoinSecret>,
}

/// A join token as an operator gave it.
#[derive(Clone)]
pub struct JoinSecret(pub Arc<Secret<String>>);

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a join token")
    }
}

/// A client's request on its way to the active node. Its headers hold its token: there is no `Debug`.
#[derive(Serialize, Deserialize)]
pub struct Forwarded {
    pub method: String,
    /// Path and query, as the client wrote them.
    pub uri: String,
    pub headers: Vec<(String, String)>,
    /// Where it came from, as the node that took it says.
    pub client: Option<SocketAddr>,
    pub certificate_serial: Option<String>,
    /// What the listener that took it allows.
    pub listener: ListenerAllows,
}

/// What a listener allows, as far as it matters to who answers.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct ListenerAllows {
    pub rekey: bool,
    pub generate_root: bool,
    pub unauthenticated_metrics: bool,
    pub unauthenticated_in_flight: bool,
    pub max_json_strings: u64,
    pub max_request_ms: u64,
}

/// What the active node answered.
pub struct ForwardedAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Box<dyn Chunks>,
}

/// Why a request was not answered by the active node.
#[derive(Debug)]
pub enum NotForwarded {
    /// It never got there.
    NotSent(String),
    /// It may have been carried out.
    Unknown(String),
}

/// As of when a read is answered by a node that stands by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPoint {
    /// The active node's clock: what ends is judged by it, or by a later one.
    pub now: Timestamp,
    /// Its cluster time.
    pub cluster: Timestamp,
}

/// Answers requests that other nodes pass on.
pub trait Front: Send + Sync + 'static {
    /// `from`: where the node that passes it on is, as this one knows.
    fn answer(&self, request: Forwarded, from: String, body: Vec<u8>) -> Later<ForwardedAnswer>;
    /// The active node tells keys that the store is about to have; what is answered goes back to it.
    fn take_keys(&self, offer: Vec<u8>) -> Later<Vec<u8>>;
    /// This node's clocks, if it is the active one.
    fn point_of_read(&self) -> Option<ReadPoint>;
    /// A member of this name that stands by passes on what seals its audit files. Whether they are kept.
    fn take_seals(&self, from: String, seals: Vec<u8>) -> Later<bool>;
}

/// A cluster that this node belongs to, or may join.
pub trait Cluster: Send + Sync + 'static {
    /// The name of this node.
    fn node_id(&self) -> &str;
    /// Whether this node belongs to a cluster.
    fn is_member(&self) -> bool;
    /// A folder of this node's own, for files that come and go.
    fn folder(&self) -> &Path;
    /// This node as others shall know it.
    fn own_peer(&self) -> Peer;
    /// Ask a node of the cluster that is to be joined: a path of its API, and a body where something is written.
    fn ask_leader(&self, from: JoinFrom, path: &str, body: Option<Value>) -> Later<Result<Value, String>>;
    /// Take part in the cluster of these members, which knows this node now.
    fn enrol(&self, members: Vec<(String, Peer)>) -> Later<Result<(), String>>;
    /// Make this node the first member of a cluster.
    fn found(&self) -> Later<Result<(), String>>;
    /// Who leads.
    fn lead(&self) -> Lead;
    /// What is wrong with another member, for people.
    fn trouble_with_others(&self) -> Option<String>;
    /// Wait until somebody else may lead.
    fn changed(&self) -> Later<()>;
    /// Whether this node may try to lead: it is unsealed.
    fn may_lead(&self, may: bool);
    /// The members, and the log index from which on they are.
    fn members(&self) -> (Vec<Member>, u64);
    /// Of the members that follow this one.
    fn progress(&self) -> BTreeMap<String, Progress>;
    /// How often the active node looks after the members, where the configuration says it.
    fn looked_after_every(&self) -> Option<Duration>;
    fn change(&self, change: Change) -> Later<Result<(), ChangeError>>;
    /// Let the node that leads answer a request.
    fn forward(&self, request: Forwarded, body: Vec<u8>) -> Later<Result<ForwardedAnswer, NotForwarded>>;
    /// Tell every other member keys that the store is about to have. Their answers, by their names; who cannot be
    /// reached, or does not answer in time, with the reason.
    fn offer_keys(&self, offer: Vec<u8>) -> Later<BTreeMap<String, Result<Vec<u8>, String>>>;
    /// Ask every other member something that it answers at once. Their answers, as above.
    fn ask_members(&self, question: Vec<u8>, within: Duration) -> Later<BTreeMap<String, Result<Vec<u8>, String>>>;
    /// Whether this node answers reads while it stands by.
    fn answers_reads(&self) -> bool;
    /// Wait until everything is applied here that was answered to anybody before this was called (with `stale_reads`:
    /// some time before). `None`: let the node that leads answer.
    fn point_of_read(&self) -> Later<Option<ReadPoint>>;
    /// As a node that stands by: let the active node keep what seals this one's audit files.
    fn pass_seals_on(&self, seals: Vec<u8>) -> Later<Result<(), String>>;
    /// Up to which index the log is being applied here, and up to which readers of the store see it.
    fn applied(&self) -> (u64, u64);
    /// Hand leadership to another member: one that votes, answers, is unsealed, has room and is up to date. False: there is
    /// none that could take it.
    fn hand_over(&self) -> Later<bool>;
    /// Whether this node's disk has no room for writes, or soon will have none.
    fn is_short_of_room(&self) -> bool;
}
