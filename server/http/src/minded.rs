//! A connection below TLS of which something was read already, and whose writes must go on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// See the module.
pub struct Minded<S> {
    inner: S,
    /// Bytes that come before those of the stream.
    ahead: Vec<u8>,
    /// How long a write may make no progress.
    write_limit: Option<Duration>,
    /// Since when none is made.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Minded<S> {
    /// The stream with `ahead` in front, cut off when a write makes no progress for `write_limit`.
    pub fn new(inner: S, ahead: Vec<u8>, write_limit: Option<Duration>) -> Minded<S> {
        Minded { inner, ahead, write_limit, stuck: None }
    }

    fn in_time<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Some(limit) = self.write_limit else { return polled };
        if polled.is_ready() {
            self.stuck = None;
            return polled;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(limit)));
        match stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Minded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.ahead.is_empty() {
            return Pin::new(&mut me.inner).poll_read(cx, buf);
        }
        let next = me.ahead.len().min(buf.remaining());
        buf.put_slice(&me.ahead[..next]);
        me.ahead.drain(..next);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Minded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.inner).poll_write(cx, buf);
        me.in_time(cx, polled)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.inner).poll_write_vectored(cx, bufs);
        me.in_time(cx, polled)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.inner).poll_flush(cx);
        me.in_time(cx, polled)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.inner).poll_shutdown(cx);
        me.in_time(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_a_stuck_write_ends() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Minded::new(near, b"ab".to_vec(), Some(Duration::from_millis(50)));
        far.write_all(b"cd").await.unwrap();
        let mut read = [0; 4];
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcd");
        // Nobody reads at the far end, which stays open.
        let much = vec![0; 64 << 20];
        let error = near.write_all(&much).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
