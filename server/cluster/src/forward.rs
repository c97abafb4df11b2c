//! Requests of clients, from a node that stands by to the active one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use holdfast_core::cluster::{Forwarded, ForwardedAnswer, NotForwarded, Peer};
use holdfast_sdk::Chunks;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

use crate::frame::{self, Kind, NotAMember, Question};
use crate::links::{Channel, Links};
use crate::node::Node;

/// Chunks of an answer that wait for the client.
const WAITING: usize = 4;

/// An answer without its body.
#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
}

/// Ask the active node.
pub async fn ask(
    links: Links,
    leader: Peer,
    request: Forwarded,
    body: Vec<u8>,
) -> Result<ForwardedAnswer, NotForwarded> {
    let not_sent = |e: io::Error| NotForwarded::NotSent(e.to_string());
    let head = serde_json::to_vec(&request).map_err(|e| NotForwarded::NotSent(e.to_string()))?;
    // An idle channel may be a dead one, and nobody could say how far a request got on it: a new one is asked where
    // the request changes something.
    let mut channel = match request.method.as_str() {
        "GET" | "HEAD" | "LIST" | "OPTIONS" => links.channel(&leader).await.map_err(not_sent)?.0,
        _ => links.fresh_channel(&leader).await.map_err(not_sent)?,
    };
    let unknown = |e: io::Error| match NotAMember::of(&e) {
        // Nothing was read of it.
        Some(refusal) => NotForwarded::NotSent(refusal.to_string()),
        None => NotForwarded::Unknown(e.to_string()),
    };
    frame::send_question(&mut channel, Kind::Request, &head, &[body.into()]).await.map_err(unknown)?;
    let head = links.answer(&leader, &mut channel).await.map_err(unknown)?;
    let head: Head = serde_json::from_slice(&head).map_err(|e| NotForwarded::Unknown(e.to_string()))?;
    let (chunks, coming) = mpsc::channel(WAITING);
    tokio::spawn(pass_on(links, leader, channel, chunks));
    Ok(ForwardedAnswer { status: head.status, headers: head.headers, body: Box::new(Coming(coming)) })
}

/// Hand the chunks of an answer to whoever reads them. The channel is kept if all of it was read.
async fn pass_on(links: Links, leader: Peer, mut channel: Channel, chunks: mpsc::Sender<Vec<u8>>) {
    loop {
        // The client has gone, or the other node has: the channel is of no more use.
        let Ok(chunk) = frame::chunk(&mut channel).await else { return };
        if chunk.is_empty() {
            return links.give_back(&leader, channel);
        }
        if chunks.send(chunk).await.is_err() {
            return;
        }
    }
}

struct Coming(mpsc::Receiver<Vec<u8>>);

impl Chunks for Coming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.poll_recv(cx)
    }
}

impl Node {
    /// Answer a request that another node passed on.
    pub(crate) async fn serve_request(
        &self,
        channel: &mut TlsStream<TcpStream>,
        from: String,
        question: Question,
    ) -> io::Result<()> {
        let front = self.front().ok_or_else(|| io::Error::other("this node does not serve yet"))?;
        let request: Forwarded = serde_json::from_slice(&question.head).map_err(io::Error::other)?;
        let body = question.parts.into_iter().next().map(|b| b.to_vec()).unwrap_or_default();
        let mut answer = front.answer(request, from, body).await;
        let head = Head { status: answer.status, headers: answer.headers };
        frame::send_answer(channel, &serde_json::to_vec(&head).map_err(io::Error::other)?).await?;
        while let Some(chunk) = (Next(&mut *answer.body)).await {
            if !chunk.is_empty() {
                frame::send_chunk(channel, &chunk).await?;
            }
        }
        frame::send_chunk(channel, &[]).await
    }
}

struct Next<'c>(&'c mut dyn Chunks);

impl Future for Next<'_> {
    type Output = Option<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        Poll::Ready(ready!(self.0.poll_next(cx)))
    }
}
