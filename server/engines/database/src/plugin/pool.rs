//! A bounded pool of connections. One that was in use when its work failed is not used again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_sdk::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::details::Details;

/// Connections that a pool holds unless configured.
const OPEN: i64 = 4;
/// Never more than this, whatever is configured.
const MOST: i64 = 256;
/// An idle connection that does not answer within this is not used.
const PING: Duration = Duration::from_secs(2);

/// `max_open_connections`, `max_idle_connections`, `max_connection_lifetime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub open: usize,
    pub idle: usize,
    pub lifetime: Option<Duration>,
}

impl Limits {
    pub fn of(details: &Details<'_>) -> Result<Limits, String> {
        let open = match details.integer("max_open_connections")?.unwrap_or(0) {
            0 => OPEN,
            n if n < 0 => MOST,
            n => n.min(MOST),
        };
        let idle = match details.integer("max_idle_connections")?.unwrap_or(0) {
            0 => open,
            n => n.clamp(0, open),
        };
        let lifetime = details.seconds("max_connection_lifetime")?.filter(|s| *s > 0).map(Duration::from_secs);
        let size = |n: i64| usize::try_from(n).unwrap_or(0);
        Ok(Limits { open: size(open), idle: size(idle), lifetime })
    }
}

/// What a pool holds.
pub trait Connection: Send + 'static {
    /// Whether it is known to be.
    fn is_closed(&self) -> bool {
        false
    }

    /// Whether the database still answers on one that was idle: it may have been away since.
    fn answers(&mut self) -> impl Future<Output = bool> + Send {
        async { true }
    }
}

pub struct Pool<C> {
    limits: Limits,
    idle: Mutex<VecDeque<(C, Instant)>>,
    permits: Arc<Semaphore>,
    closed: AtomicBool,
}

/// A connection in use, until it is given back or dropped.
pub struct Held<C> {
    pub connection: C,
    born: Instant,
    _permit: OwnedSemaphorePermit,
}

impl<C: Connection> Pool<C> {
    pub fn new(limits: Limits) -> Pool<C> {
        let permits = Arc::new(Semaphore::new(limits.open));
        Pool { limits, idle: Mutex::default(), permits, closed: AtomicBool::new(false) }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(C, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was idle, or else a new one.
    pub async fn take(&self, connect: impl Future<Output = Result<C>>) -> Result<Held<C>> {
        let permit = self.permits.clone().acquire_owned().await.map_err(Error::internal)?;
        while let Some((mut connection, born)) = self.pop() {
            let usable = !connection.is_closed() && self.limits.lifetime.is_none_or(|l| born.elapsed() < l);
            if usable && tokio::time::timeout(PING, connection.answers()).await == Ok(true) {
                return Ok(Held { connection, born, _permit: permit });
            }
        }
        Ok(Held { connection: connect.await?, born: Instant::now(), _permit: permit })
    }

    fn pop(&self) -> Option<(C, Instant)> {
        self.idle().pop_back()
    }

    /// All is well with it: another may use it.
    pub fn give_back(&self, held: Held<C>) {
        if held.connection.is_closed() || self.closed.load(Ordering::SeqCst) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < self.limits.idle {
            idle.push_back((held.connection, held.born));
        }
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.idle().clear();
    }

    /// Idle connections end: the database was away, or is to be looked at anew.
    pub fn drain(&self) {
        self.idle().clear();
    }
}
