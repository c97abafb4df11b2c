//! An answer's body: bytes that are all there, or such that come for as long as the client reads.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_sdk::Chunks;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use crate::connections::{Connection, Streaming};

pub enum Content {
    Whole(Full<Bytes>),
    Stream {
        chunks: Box<dyn Chunks>,
        _while_sent: Option<Streaming>,
    },
    /// From another node; so many bytes, if that is known.
    PassedOn(Box<dyn Chunks>, Option<u64>),
}

impl Content {
    pub fn new(body: Vec<u8>, stream: Option<Box<dyn Chunks>>) -> Content {
        match stream {
            None => Content::Whole(Full::new(Bytes::from(body))),
            Some(chunks) => Content::Stream { chunks, _while_sent: None },
        }
    }

    /// Sent on this connection, which sees that the client goes while there is nothing to send.
    pub fn sent_on(self, connection: &Arc<Connection>) -> Content {
        match self {
            Content::Stream { chunks, .. } => Content::Stream { chunks, _while_sent: Some(Streaming::on(connection)) },
            whole => whole,
        }
    }
}

impl Content {
    pub fn passed_on(chunks: Box<dyn Chunks>, len: Option<u64>) -> Content {
        Content::PassedOn(chunks, len)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Content::Whole(body) => Pin::new(body).poll_frame(cx),
            Content::Stream { chunks, .. } | Content::PassedOn(chunks, _) => {
                chunks.poll_next(cx).map(|c| c.map(|bytes| Ok(Frame::data(bytes.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Content::Whole(body) => body.is_end_stream(),
            Content::Stream { .. } => false,
            Content::PassedOn(_, len) => *len == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(body) => body.size_hint(),
            Content::Stream { .. } => SizeHint::default(),
            Content::PassedOn(_, len) => len.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
