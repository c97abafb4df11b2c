//! Open connections: a client that dribbles its request's head, or asks nothing for long, is cut off.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;

/// One connection's state, seen by its IO and by the sweeper.
#[derive(Default)]
pub struct Connection {
    /// Milliseconds of the registry's clock since when a head is being read; 0: none.
    head_since_ms: AtomicU64,
    /// When bytes were written last, by the same clock.
    written_ms: AtomicU64,
    /// How long nothing may be asked; 0: for ever.
    idle_limit_ms: AtomicU64,
    streaming: AtomicBool,
    /// An [`End`] that it is to come to; 0: none.
    end: AtomicU8,
    /// Of the task that drives it.
    waker: AtomicWaker,
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// With the answers to what was asked.
    Gracefully = 1,
    AtOnce = 2,
}

/// An answer that goes on for as long as the client listens.
pub struct Streaming(Arc<Connection>);

pub struct Connections {
    start: Instant,
    all: Mutex<Vec<Weak<Connection>>>,
}

impl Connections {
    /// A registry whose sweeper cuts heads that take longer than `limit`. It ends with the registry.
    pub fn start(limit: Duration) -> Arc<Connections> {
        let registry = Arc::new(Connections { start: Instant::now(), all: Mutex::default() });
        let weak = Arc::downgrade(&registry);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1).min(limit)).await;
                let Some(registry) = weak.upgrade() else { return };
                registry.sweep(limit);
            }
        });
        registry
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    pub fn add(&self) -> Arc<Connection> {
        let connection = Arc::new(Connection::default());
        // From the first byte on, the handshake included, a head is being read.
        connection.head_since_ms.store(self.now_ms(), Ordering::Relaxed);
        connection.written_ms.store(self.now_ms(), Ordering::Relaxed);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&connection));
        connection
    }

    /// Let all connections end when what they were asked is answered.
    pub fn end_all(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in all.iter().filter_map(Weak::upgrade) {
            connection.end(End::Gracefully);
        }
    }

    fn sweep(&self, limit: Duration) {
        let (now, limit) = (self.now_ms(), limit.as_millis() as u64);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|c| {
            let Some(c) = c.upgrade() else { return false };
            let since = c.head_since_ms.load(Ordering::Relaxed);
            let late = match since {
                0 => c.is_idle_too_long(now),
                _ => now.saturating_sub(since) > limit,
            };
            if late {
                c.end(End::AtOnce);
            }
            true
        });
    }

    /// Bytes arrived: a head has begun unless a request is being served.
    pub fn bytes_arrived(&self, c: &Connection) {
        let _began_already = c.head_since_ms.compare_exchange(0, self.now_ms(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Bytes are written: the client is there, or will be found to be slow.
    pub fn bytes_left(&self, c: &Connection) {
        c.written_ms.store(self.now_ms(), Ordering::Relaxed);
    }
}

impl Connection {
    fn end(&self, how: End) {
        self.end.fetch_max(how as u8, Ordering::SeqCst);
        self.waker.wake();
    }

    /// HTTP begins: what was asked to end before is no concern of it, but for what must end at once.
    pub fn begins(&self) {
        let _ends_at_once = self.end.compare_exchange(End::Gracefully as u8, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// How it is to end, at least so. One word is looked at: this is asked at every step of a connection, and locks
    /// that all of them share were 1 % of a read.
    pub fn poll_end(&self, at_least: End, cx: &Context<'_>) -> Poll<End> {
        self.waker.register(cx.waker());
        let end = match self.end.load(Ordering::SeqCst) {
            0 => return Poll::Pending,
            1 => End::Gracefully,
            _ => End::AtOnce,
        };
        if end >= at_least { Poll::Ready(end) } else { Poll::Pending }
    }

    /// It is cut off.
    pub async fn cut(&self) {
        poll_fn(|cx| self.poll_end(End::AtOnce, cx)).await;
    }

    /// The head is complete.
    pub fn head_read(&self) {
        self.head_since_ms.store(u64::MAX / 2, Ordering::Relaxed);
    }

    /// The answer is on its way: the next byte begins a head.
    pub fn idle(&self) {
        self.head_since_ms.store(0, Ordering::Relaxed);
    }

    /// From now on the connection is cut when nothing was asked for so long.
    pub fn limit_idle(&self, limit: Duration) {
        self.idle_limit_ms.store((limit.as_millis() as u64).max(1), Ordering::Relaxed);
    }

    fn is_idle_too_long(&self, now_ms: u64) -> bool {
        let limit = self.idle_limit_ms.load(Ordering::Relaxed);
        let idle = now_ms.saturating_sub(self.written_ms.load(Ordering::Relaxed));
        limit > 0 && idle > limit && !self.streams()
    }

    pub fn streams(&self) -> bool {
        self.streaming.load(Ordering::Relaxed)
    }
}

impl Streaming {
    pub fn on(connection: &Arc<Connection>) -> Streaming {
        connection.streaming.store(true, Ordering::Relaxed);
        Streaming(connection.clone())
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.streaming.store(false, Ordering::Relaxed);
    }
}
