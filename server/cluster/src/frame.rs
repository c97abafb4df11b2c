//! What goes over a channel between members: a question, then its answer, one after the other.
//!
//! ```text
//! question  kind u8 | head: length u32, bytes | parts u32 | each part: length u32, bytes
//! answer    head: length u32, bytes
//! stream    chunks behind a question or an answer: length u32, bytes; the last one is empty
//! ```
//!
//! Integers are big-endian. Each length has a bound, and a longer one ends the channel.

use std::io;

use holdfast_storage::Value;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The head of a question or an answer at most.
const HEAD_BYTES: u32 = 8 << 20;
/// One part or chunk at most: the largest log entry, and some.
const PART_BYTES: u32 = 80 << 20;
/// Parts of one question at most.
const PARTS: u32 = 100_000;

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// openraft's; the parts are payloads of entries.
    Raft = 1,
    /// A state machine; a stream of entries follows.
    Snapshot = 2,
    /// A client's request for the active node; the part is its body. A stream follows the answer's head.
    Request = 3,
    /// Where the one that calls is now: a member, JSON. Nothing is answered.
    Hello = 4,
    /// Who the members are: the answer is JSON.
    Members = 5,
    /// Keys that the store is about to have, closed with the present one.
    Keys = 6,
    /// Whether the one that is asked could lead: it is unsealed, and its disk has room. The answer is one byte, 1 or 0.
    Room = 7,
    /// A state that holds all that was answered until now, for reads of a node that stands by: see `read_index`.
    /// The head is the index up to which that node has applied the log; an earlier program says nothing.
    ReadIndex = 8,
    /// What seals the audit files of the one that calls, JSON. The answer is one byte, 1: it is kept.
    Seals = 9,
}

/// A question as it came.
pub struct Question {
    pub kind: Kind,
    pub head: Vec<u8>,
    pub parts: Vec<Value>,
}

/// In place of any answer: whoever asks is no member, and nothing more is heard of it. Its length is no other answer's.
const NOT_A_MEMBER: &[u8] = b"holdfast: this node is no member ";

/// What a node is told that others do not know as a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotAMember {
    /// The log index of the list of members that says so; 0: the members have not agreed on it.
    pub since: u64,
    /// The one that says so leads, as a majority has confirmed, by a list that was agreed on.
    pub leads: bool,
    /// The key is a member's, and another process has it too and counts as that member: where that one is. An earlier
    /// program reads only that it is no member, which nobody is sure of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<String>,
}

impl NotAMember {
    /// Why a question was not answered, if it was for this.
    pub fn of(e: &io::Error) -> Option<NotAMember> {
        e.get_ref()?.downcast_ref::<NotAMember>().cloned()
    }

    fn text(&self) -> String {
        match &self.copy_of {
            Some(other) => format!("the other side counts another process as this node, which is at {other}"),
            None => "the other side does not know this node as a member".into(),
        }
    }
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

pub async fn send_question(
    to: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    head: &[u8],
    parts: &[Value],
) -> io::Result<()> {
    let mut out = Vec::with_capacity(16 + head.len() + parts.iter().map(|p| 4 + p.len()).sum::<usize>());
    out.push(kind as u8);
    put(&mut out, head);
    out.extend_from_slice(&(parts.len() as u32).to_be_bytes());
    for part in parts {
        put(&mut out, part);
    }
    to.write_all(&out).await?;
    to.flush().await
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The next question; `None`: the other side has closed the channel.
pub async fn next_question(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Question>> {
    let kind = match from.read_u8().await {
        Ok(1) => Kind::Raft,
        Ok(2) => Kind::Snapshot,
        Ok(3) => Kind::Request,
        Ok(4) => Kind::Hello,
        Ok(5) => Kind::Members,
        Ok(6) => Kind::Keys,
        Ok(7) => Kind::Room,
        Ok(8) => Kind::ReadIndex,
        Ok(9) => Kind::Seals,
        Ok(_) => return Err(broken("a question of an unknown kind")),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    let head = bytes(from, HEAD_BYTES).await?;
    let count = from.read_u32().await?;
    if count > PARTS {
        return Err(broken("a question of too many parts"));
    }
    let mut parts = Vec::with_capacity(count.min(1024) as usize);
    for _ in 0..count {
        parts.push(bytes(from, PART_BYTES).await?.into());
    }
    Ok(Some(Question { kind, head, parts }))
}

pub async fn send_answer(to: &mut (impl AsyncWrite + Unpin), head: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(4 + head.len());
    put(&mut out, head);
    to.write_all(&out).await?;
    to.flush().await
}

pub async fn send_refusal(to: &mut (impl AsyncWrite + Unpin), refusal: &NotAMember) -> io::Result<()> {
    let said = serde_json::to_vec(refusal).map_err(io::Error::other)?;
    send_answer(to, &[NOT_A_MEMBER, &said].concat()).await
}

/// The answer to a question; an error also where there is none for this node ([`NotAMember::of`]).
pub async fn answer(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let head = bytes(from, HEAD_BYTES).await?;
    match head.strip_prefix(NOT_A_MEMBER).and_then(|said| serde_json::from_slice::<NotAMember>(said).ok()) {
        Some(refusal) => Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal)),
        None => Ok(head),
    }
}

/// A chunk of a stream; an empty one ends it.
pub async fn send_chunk(to: &mut (impl AsyncWrite + Unpin), chunk: &[u8]) -> io::Result<()> {
    to.write_all(&(chunk.len() as u32).to_be_bytes()).await?;
    to.write_all(chunk).await?;
    to.flush().await
}

/// The next chunk; an empty one is the last.
pub async fn chunk(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    bytes(from, PART_BYTES).await
}

async fn bytes(from: &mut (impl AsyncRead + Unpin), most: u32) -> io::Result<Vec<u8>> {
    let len = from.read_u32().await?;
    if len > most {
        return Err(broken("a part that is longer than any may be"));
    }
    let mut out = Vec::new();
    // Room is made as it comes, not as it is promised.
    let read = (&mut *from).take(len.into()).read_to_end(&mut out).await?;
    if read as u32 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_arrives_as_it_was_sent_and_a_cut_one_does_not() {
        let mut sent = Vec::new();
        let parts: Vec<Value> = vec![b"one"[..].into(), b""[..].into()];
        send_question(&mut sent, Kind::Raft, b"head", &parts).await.unwrap();
        let got = next_question(&mut &sent[..]).await.unwrap().unwrap();
        assert_eq!((got.kind, &got.head[..], got.parts), (Kind::Raft, &b"head"[..], parts));
        for cut in 1..sent.len() {
            assert!(next_question(&mut &sent[..cut]).await.is_err(), "{cut}");
        }
        assert!(next_question(&mut &sent[..0]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_refusal_is_no_answer_whatever_was_asked() {
        let refusal = NotAMember { since: 7, leads: true, copy_of: None };
        let mut sent = Vec::new();
        send_refusal(&mut sent, &refusal).await.unwrap();
        let refused = answer(&mut &sent[..]).await.unwrap_err();
        assert_eq!(NotAMember::of(&refused), Some(refusal));
        let copied = NotAMember { copy_of: Some("n1:8201".into()), ..NotAMember::default() };
        let mut also_sent = Vec::new();
        send_refusal(&mut also_sent, &copied).await.unwrap();
        let refused = answer(&mut &also_sent[..]).await.unwrap_err();
        assert!(refused.to_string().contains("n1:8201"), "{refused}");
        assert_eq!(NotAMember::of(&refused), Some(copied));
        // Nor does an earlier program take it for one: a state to read from has 24 bytes, whether it could lead has one.
        assert!(sent.len() - 4 > 24);
        assert_eq!(NotAMember::of(&io::ErrorKind::PermissionDenied.into()), None);
    }

    #[tokio::test]
    async fn what_promises_too_much_is_refused_before_there_is_room_for_it() {
        let huge = [&[1u8][..], &u32::MAX.to_be_bytes(), b"x"].concat();
        assert!(next_question(&mut &huge[..]).await.is_err());
        assert!(next_question(&mut &[99u8, 0, 0, 0, 0, 0, 0, 0, 0][..]).await.is_err());
        let many = [&[1u8][..], &0u32.to_be_bytes(), &u32::MAX.to_be_bytes()].concat();
        assert!(next_question(&mut &many[..]).await.is_err());
    }
}
