//! What other members ask of this node.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::frame::{self, Kind, NotAMember, Question};
use crate::node::Node;
use crate::raft::Group;
use crate::{read_index, snapshot, tls};

/// A handshake takes no longer.
const SHAKE_HANDS_WITHIN: Duration = Duration::from_secs(5);
/// Channels of others at most, each.
const CHANNELS: usize = 1024;
/// A channel on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// One that is no member is told so within this; what it has sent meanwhile is thrown away, so many bytes at most.
const REFUSE_WITHIN: Duration = Duration::from_secs(2);
const THROWN_AWAY: usize = 1 << 20;
/// A chunk of a snapshot comes within this.
const CHUNK_WITHIN: Duration = Duration::from_secs(60);

/// Listen to other members until the node ends.
pub async fn listen(node: Arc<Node>, address: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on {address} for other members (cluster_address): {e}"))?;
    let config = tls::server(node.identity()).map_err(|e| e.to_string())?;
    tracing::info!(%address, "listening for other members");
    let handle = node.handle().clone();
    handle.spawn(accept(Arc::downgrade(&node), listener, TlsAcceptor::from(config)));
    Ok(())
}

/// Handshakes that fail, each of which may be a thief's or a health check's: said once in a while, with how many there were.
#[derive(Default)]
struct Strangers(Mutex<(Option<Instant>, u64)>);

/// Between two lines of them.
const SAY_AGAIN: Duration = Duration::from_secs(30);

impl Strangers {
    fn failed(&self, from: SocketAddr, error: &io::Error) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1 += 1;
        if seen.0.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            let times = std::mem::take(&mut seen.1);
            seen.0 = Some(Instant::now());
            tracing::warn!(%from, %error, times, "who called at the members' port did not show a member's certificate");
        }
    }
}

async fn accept(node: std::sync::Weak<Node>, listener: TcpListener, tls: TlsAcceptor) {
    let open = Arc::new(tokio::sync::Semaphore::new(CHANNELS));
    let strangers = Arc::new(Strangers::default());
    loop {
        let Ok(permit) = open.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "a member could not be let in");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (Some(node), tls, strangers) = (node.upgrade(), tls.clone(), strangers.clone()) else { return };
        tokio::spawn(async move {
            let _held_while_it_is_open = permit;
            if let Err(e) = serve(&node, stream, tls, &strangers).await {
                tracing::debug!(error = %e, "a channel of a member ended");
            }
        });
    }
}

async fn serve(node: &Arc<Node>, stream: TcpStream, tls: TlsAcceptor, strangers: &Strangers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let from = stream.peer_addr()?;
    let shaking = tokio::time::timeout(SHAKE_HANDS_WITHIN, tls.accept(stream));
    let shaken = shaking.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut channel = shaken.inspect_err(|e| strangers.failed(from, e))?;
    let certificate = channel.get_ref().1.peer_certificates().and_then(|c| c.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("no certificate was shown"))?;
    let hash = tls::key_hash(certificate).map_err(io::Error::other)?;
    let incarnation = tls::incarnation(certificate).map_err(io::Error::other)?;
    let caller = Caller { key_hash: &hash, incarnation: &incarnation, from };
    // Nothing that a stranger sends is read.
    if let Err(refusal) = let_in(node, &caller).await {
        return refuse(&refusal, channel).await;
    }
    loop {
        let Ok(question) = tokio::time::timeout(IDLE, frame::next_question(&mut channel)).await else {
            return channel.shutdown().await;
        };
        let Some(question) = question? else { return Ok(()) };
        // Asked each time: a member that was removed is heard no longer.
        if let Err(refusal) = let_in(node, &caller).await {
            return refuse(&refusal, channel).await;
        }
        if question.kind == Kind::Hello {
            node.heard(&hash, &question.head);
            continue;
        }
        answer(node, &mut channel, (&hash, from), question).await?;
    }
}

/// Who calls, as the handshake has shown.
struct Caller<'c> {
    key_hash: &'c str,
    incarnation: &'c str,
    from: SocketAddr,
}

async fn let_in(node: &Node, caller: &Caller<'_>) -> Result<(), NotAMember> {
    if node.knows(caller.key_hash) || node.learns_of(caller.key_hash).await {
        return node.is_no_copy(caller.key_hash, caller.incarnation, caller.from).await;
    }
    tracing::warn!(from = %caller.from, "a node that is no member of this cluster was refused");
    Err(node.refusal())
}

/// Say so to one that is no member: it may have been one, and shall not serve any more.
async fn refuse(refusal: &NotAMember, mut channel: TlsStream<TcpStream>) -> io::Result<()> {
    let told = async {
        frame::send_refusal(&mut channel, refusal).await?;
        channel.shutdown().await?;
        // A connection that is closed while there is something unread in it is reset, and takes the refusal along. It is
        // not opened, let alone looked at.
        let (unread, mut buffer, mut thrown_away) = (&mut channel.get_mut().0, vec![0; 16 << 10], 0);
        while thrown_away < THROWN_AWAY {
            match unread.read(&mut buffer).await? {
                0 => break,
                n => thrown_away += n,
            }
        }
        Ok(())
    };
    tokio::time::timeout(REFUSE_WITHIN, told).await.unwrap_or(Ok(()))
}

/// `from`: the hash of the member's key, and where its channel comes from.
async fn answer(
    node: &Arc<Node>,
    channel: &mut TlsStream<TcpStream>,
    from: (&str, SocketAddr),
    question: Question,
) -> io::Result<()> {
    match question.kind {
        Kind::Raft => {
            let group = node.group().ok_or_else(|| io::Error::other("this node takes no part yet"))?;
            let answer = group.answer(&question.head, question.parts).await;
            frame::send_answer(channel, &answer).await
        }
        Kind::Snapshot => {
            let group = node.group().ok_or_else(|| io::Error::other("this node takes no part yet"))?;
            let answer = take_snapshot(&group, channel, &question.head).await?;
            frame::send_answer(channel, &answer).await
        }
        Kind::Request => {
            let from = node.cluster_addr_of(from.0).unwrap_or_else(|| from.1.to_string());
            node.serve_request(channel, from, question).await
        }
        Kind::Hello => Ok(()),
        Kind::Keys => {
            let front = node.front().ok_or_else(|| io::Error::other("this node is starting"))?;
            let answer = front.take_keys(question.head).await;
            frame::send_answer(channel, &answer).await
        }
        Kind::Room => frame::send_answer(channel, &[u8::from(node.could_lead())]).await,
        Kind::ReadIndex => {
            frame::send_answer(channel, &read_index::encode(node.lead_point(&question.head).await)).await
        }
        Kind::Seals => {
            let front = node.front().ok_or_else(|| io::Error::other("this node is starting"))?;
            let from = node.name_of(from.0).ok_or_else(|| io::Error::other("not a member"))?;
            let is_kept = front.take_seals(from, question.head).await;
            frame::send_answer(channel, &[u8::from(is_kept)]).await
        }
        Kind::Members => {
            frame::send_answer(channel, &serde_json::to_vec(&node.peers()).map_err(io::Error::other)?).await
        }
    }
}

async fn take_snapshot(group: &Group, channel: &mut TlsStream<TcpStream>, head: &[u8]) -> io::Result<Vec<u8>> {
    tracing::info!("a snapshot comes from the leader");
    let mut received = group.receive()?;
    loop {
        let chunk = tokio::time::timeout(CHUNK_WITHIN, frame::chunk(channel));
        let chunk = chunk.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if chunk.is_empty() {
            break;
        }
        let entries = snapshot::unpack(&chunk)?;
        let put = tokio::task::block_in_place(|| received.put(entries));
        put.map_err(io::Error::other)?;
    }
    let _length = channel.read_u32().await?;
    received.is_version(channel.read_u64().await?);
    Ok(group.take_snapshot(head, received).await)
}
