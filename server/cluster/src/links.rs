//! Channels to other members. Each carries one question at a time; idle ones are kept.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_core::cluster::Peer;
use holdfast_storage::{Frozen, Key, Value};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::frame::{self, Kind, NotAMember};
use crate::identity::Identity;
use crate::raft::{Peers, Sent};
use crate::tls;

/// Idle channels that are kept to each member.
const IDLE: usize = 8;
/// A channel that was used so lately is taken for open.
const FRESH: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of a state machine that go in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// The other side takes a chunk within this, and answers to a whole snapshot.
const CHUNK_WITHIN: Duration = Duration::from_secs(60);
/// A member answers to new keys within this: its device makes a lock of them.
pub const KEYS_WITHIN: Duration = Duration::from_secs(20);
/// A member that leads keeps what seals another's audit files within this: it is a write.
const SEALS_WITHIN: Duration = Duration::from_secs(15);
const INSTALL_WITHIN: Duration = Duration::from_secs(600);

pub type Channel = TlsStream<TcpStream>;

/// Channels to all members.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Arc<Identity>,
    /// This node, as it says itself whenever it calls.
    own: Peer,
    /// By the hash of a member's key.
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Default)]
struct Known {
    config: Option<Arc<ClientConfig>>,
    /// Where the member said itself that it is, which may be newer than what the members know.
    said: Option<String>,
    address: String,
    idle: Vec<(Channel, Instant)>,
    /// It said last that this node is no member.
    refuses: Option<NotAMember>,
}

impl Links {
    pub fn new(identity: Arc<Identity>, own: Peer) -> Links {
        Links { shared: Arc::new(Shared { identity, own, known: Mutex::default() }) }
    }

    /// A member said where it is.
    pub fn heard(&self, key_hash: &str, cluster_addr: String) {
        self.known().entry(key_hash.to_owned()).or_default().said = Some(cluster_addr);
    }

    /// What a member said last, if that was that this node is none.
    pub fn refuses(&self, key_hash: &str) -> Option<NotAMember> {
        self.known().get(key_hash)?.refuses.clone()
    }

    /// Forget who refused this node: it was let in.
    pub fn is_let_in(&self) {
        self.known().values_mut().for_each(|known| known.refuses = None);
    }

    /// The answer that a member gives.
    pub async fn answer(&self, peer: &Peer, channel: &mut Channel) -> io::Result<Vec<u8>> {
        let answer = frame::answer(channel).await;
        if let Some(known) = self.known().get_mut(&peer.key_hash) {
            known.refuses = answer.as_ref().err().and_then(NotAMember::of);
        }
        answer
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle channel to a member, if one is left. It may have been closed meanwhile.
    fn idle(&self, peer: &Peer) -> Option<(Channel, Instant)> {
        let mut known = self.known();
        let known = known.get_mut(&peer.key_hash)?;
        if known.address != peer.cluster_addr {
            known.idle.clear();
        }
        known.idle.pop()
    }

    /// Which process of a member listens at an address. Nothing is asked of it: the handshake shows it.
    pub async fn incarnation_at(&self, key_hash: &str, address: &str) -> io::Result<String> {
        let config = self.config(self.known().entry(key_hash.to_owned()).or_default(), key_hash)?;
        let channel = shake_hands(config, address).await?;
        let shown = channel.get_ref().1.peer_certificates().and_then(|c| c.first());
        tls::incarnation(shown.ok_or(io::ErrorKind::InvalidData)?).map_err(io::Error::other)
    }

    fn config(&self, known: &mut Known, key_hash: &str) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = &known.config {
            return Ok(config.clone());
        }
        let config = tls::client(&self.shared.identity, key_hash).map_err(io::Error::other)?;
        Ok(known.config.insert(config).clone())
    }

    /// A new channel to a member.
    pub async fn connect(&self, peer: &Peer) -> io::Result<Channel> {
        let (config, address) = {
            let mut known = self.known();
            let known = known.entry(peer.key_hash.clone()).or_default();
            if known.address != peer.cluster_addr {
                if !known.address.is_empty() {
                    // The members have agreed on another one since.
                    known.said = None;
                }
                known.address.clone_from(&peer.cluster_addr);
            }
            let config = self.config(known, &peer.key_hash)?;
            (config, known.said.clone().unwrap_or_else(|| peer.cluster_addr.clone()))
        };
        let hello = serde_json::to_vec(&self.shared.own).map_err(io::Error::other)?;
        let connecting = async {
            let mut channel = shake_hands(config, &address).await?;
            frame::send_question(&mut channel, Kind::Hello, &hello, &[]).await?;
            Ok(channel)
        };
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(channel) => channel,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// A channel on which nothing is under way: an idle one, or a new one. True: it was idle.
    pub async fn channel(&self, peer: &Peer) -> io::Result<(Channel, bool)> {
        match self.idle(peer) {
            Some((channel, _)) => Ok((channel, true)),
            None => Ok((self.connect(peer).await?, false)),
        }
    }

    /// A channel that is surely open: one that was idle for a moment only, or a new one.
    pub async fn fresh_channel(&self, peer: &Peer) -> io::Result<Channel> {
        while let Some((channel, since)) = self.idle(peer) {
            if since.elapsed() < FRESH && is_quiet(&channel) {
                return Ok(channel);
            }
        }
        self.connect(peer).await
    }

    /// Keep a channel on which nothing is under way.
    pub fn give_back(&self, peer: &Peer, channel: Channel) {
        let mut known = self.known();
        let Some(known) = known.get_mut(&peer.key_hash) else { return };
        if known.idle.len() < IDLE && known.address == peer.cluster_addr {
            known.idle.push((channel, Instant::now()));
        }
    }

    /// Ask a member who the members are.
    pub async fn members(&self, peer: &Peer) -> io::Result<Vec<Peer>> {
        let asked = async {
            let mut channel = self.connect(peer).await?;
            frame::send_question(&mut channel, Kind::Members, &[], &[]).await?;
            let answer = self.answer(peer, &mut channel).await?;
            self.give_back(peer, channel);
            serde_json::from_slice(&answer).map_err(io::Error::other)
        };
        within(CONNECT_WITHIN * 2, asked).await
    }

    /// Ask a member whether it could lead.
    pub async fn could_lead(&self, peer: &Peer) -> io::Result<bool> {
        let asked = async {
            let mut channel = self.connect(peer).await?;
            frame::send_question(&mut channel, Kind::Room, &[], &[]).await?;
            let answer = self.answer(peer, &mut channel).await?;
            self.give_back(peer, channel);
            Ok(answer == [1])
        };
        within(CONNECT_WITHIN * 2, asked).await
    }

    /// Ask the member that leads for a state to read from. `has`: up to where the log is applied here.
    pub async fn read_index(&self, peer: &Peer, has: u64) -> io::Result<Vec<u8>> {
        self.ask_on_a_kept_channel(peer, Kind::ReadIndex, &has.to_be_bytes(), &[]).await
    }

    /// Give the member that leads what seals this one's audit files.
    pub async fn pass_seals_on(&self, peer: &Peer, seals: &[u8]) -> io::Result<bool> {
        let asked = async {
            let mut channel = self.connect(peer).await?;
            frame::send_question(&mut channel, Kind::Seals, seals, &[]).await?;
            let answer = self.answer(peer, &mut channel).await?;
            self.give_back(peer, channel);
            Ok(answer == [1])
        };
        within(SEALS_WITHIN, asked).await
    }

    /// Tell a member keys that the store is about to have. It may have to ask its device.
    pub async fn offer_keys(&self, peer: &Peer, offer: &[u8], for_at_most: Duration) -> io::Result<Vec<u8>> {
        let mut channel = self.connect(peer).await?;
        let offered = async {
            frame::send_question(&mut channel, Kind::Keys, offer, &[]).await?;
            self.answer(peer, &mut channel).await
        };
        let answer = within(for_at_most, offered).await?;
        self.give_back(peer, channel);
        Ok(answer)
    }

    async fn ask_raft(self, peer: Peer, head: Vec<u8>, payloads: Vec<Value>) -> io::Result<Vec<u8>> {
        self.ask_on_a_kept_channel(&peer, Kind::Raft, &head, &payloads).await
    }

    /// Ask something that may be asked twice.
    async fn ask_on_a_kept_channel(
        &self,
        peer: &Peer,
        kind: Kind,
        head: &[u8],
        payloads: &[Value],
    ) -> io::Result<Vec<u8>> {
        loop {
            let (mut channel, was_idle) = self.channel(peer).await?;
            let asked = async {
                frame::send_question(&mut channel, kind, head, payloads).await?;
                self.answer(peer, &mut channel).await
            };
            match asked.await {
                Ok(answer) => {
                    self.give_back(peer, channel);
                    return Ok(answer);
                }
                // The other side may have been started anew.
                Err(_) if was_idle => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn stream_snapshot(self, peer: Peer, head: Vec<u8>, frozen: Box<Frozen>) -> io::Result<Vec<u8>> {
        let mut channel = self.connect(&peer).await?;
        frame::send_question(&mut channel, Kind::Snapshot, &head, &[]).await?;
        let mut last: Option<Key> = None;
        loop {
            let start = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let entries = frozen.snapshot.chunk(start, CHUNK_BYTES).map_err(io::Error::other)?;
            let Some((key, _)) = entries.last() else { break };
            last = Some(key.clone());
            within(CHUNK_WITHIN, frame::send_chunk(&mut channel, &crate::snapshot::pack(&entries))).await?;
        }
        let version = frozen.snapshot.index().to_be_bytes();
        within(CHUNK_WITHIN, frame::send_chunk(&mut channel, &[])).await?;
        within(CHUNK_WITHIN, frame::send_chunk(&mut channel, &version)).await?;
        within(INSTALL_WITHIN, self.answer(&peer, &mut channel)).await
    }
}

async fn shake_hands(config: Arc<ClientConfig>, address: &str) -> io::Result<Channel> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Nothing looks at the name.
    let name = ServerName::try_from("holdfast-node").map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// The other side has neither said anything nor closed the channel, as far as this side has heard.
fn is_quiet(channel: &Channel) -> bool {
    let mut byte = [0];
    matches!(channel.get_ref().0.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Peers for Links {
    fn ask(&self, peer: &Peer, head: Vec<u8>, payloads: Vec<Value>) -> Sent<Vec<u8>> {
        Box::pin(self.clone().ask_raft(peer.clone(), head, payloads))
    }

    fn send_snapshot(&self, peer: &Peer, head: Vec<u8>, frozen: Box<Frozen>) -> Sent<Vec<u8>> {
        Box::pin(self.clone().stream_snapshot(peer.clone(), head, frozen))
    }
}
