//! Devices that are reached over a connection: a bounded queue, and a task that sends what is in it. Nobody waits for
//! one of them but a request that no other device has accepted.

mod http;
mod socket;
mod syslog;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::http::Http;
use self::socket::Socket;
use self::syslog::Syslog;
use super::options::Target;
use super::spool::{self, Spool, SpoolTarget, Spooled, Writing};
use super::{Disk, Figures, count};

/// Lines that wait to be sent: so many, or so many bytes.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 8 << 20;
/// A datagram of a Unix socket is no longer, by the usual size of its buffer.
const LONGEST_UNIX_DATAGRAM: usize = 128 << 10;
/// Waits between two tries to reach a peer that could not be reached. A line that no other device has accepted waits
/// no longer than the first.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The device's end that requests see.
pub struct Remote {
    queue: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
    /// Where lines are kept until the peer has them, once that is open.
    spool: Arc<Mutex<Option<Arc<spool::Shared>>>>,
}

pub struct Job {
    /// One or more, each with its line end.
    pub lines: Vec<u8>,
    /// No other device has accepted them.
    urgent: bool,
    pub taken: oneshot::Sender<bool>,
    /// When it was put into the queue.
    pub since: std::time::Instant,
}

/// Where lines are sent.
pub enum Peer {
    Socket(Socket),
    Syslog(Syslog),
    Http(Box<Http>),
}

/// Why a line was not sent.
#[derive(Debug)]
pub struct Unsent {
    pub text: String,
    /// Nobody is there: it makes no sense to try again at once.
    unreachable: bool,
}

impl Peer {
    /// None: the target is no remote one.
    pub fn of(target: Target) -> Result<Option<Peer>, String> {
        Ok(match target {
            Target::File(_) => None,
            Target::Socket { network, address, time_out } => {
                Some(Peer::Socket(Socket::new(network, address, time_out)))
            }
            Target::Syslog { facility, tag, address } => Some(Peer::Syslog(Syslog::new(facility, tag, address))),
            Target::Http { uri, headers } => Some(Peer::Http(Box::new(Http::new(&uri, &headers)?))),
        })
    }

    /// The longest line that can be sent at once.
    pub fn longest_line(&self) -> usize {
        match self {
            Peer::Socket(peer) => peer.longest_line(),
            Peer::Syslog(_) => LONGEST_UNIX_DATAGRAM,
            Peer::Http(_) => usize::MAX,
        }
    }

    /// Whether a line that was sent has arrived, as far as anybody can know.
    pub fn proves(&self) -> bool {
        match self {
            Peer::Socket(peer) => !peer.is_stream(),
            Peer::Syslog(_) | Peer::Http(_) => true,
        }
    }

    /// Whether what was sent over the connection that there is may still arrive.
    pub fn is_open(&self) -> bool {
        match self {
            Peer::Socket(peer) => peer.is_open(),
            Peer::Syslog(_) | Peer::Http(_) => true,
        }
    }

    /// Send one line over the connection that the lines before it went over. False: there is a new connection, nothing
    /// was sent over it, and of what went over the old one nobody knows whether it has arrived.
    pub async fn send_in_order(&mut self, line: &[u8]) -> Result<bool, Unsent> {
        match self {
            Peer::Socket(peer) if peer.is_stream() => peer.send_in_order(line).await,
            other => other.send(line).await.map(|()| true),
        }
    }

    /// Send one line, which ends in a line end.
    pub async fn send(&mut self, line: &[u8]) -> Result<(), Unsent> {
        match self {
            Peer::Socket(peer) => peer.send(line).await,
            Peer::Syslog(peer) => peer.send(line).await,
            Peer::Http(peer) => peer.send(line).await,
        }
    }
}

impl Remote {
    /// Send to the peer from now on, until this is dropped and the queue empty.
    pub fn start(peer: Peer, figures: Arc<Figures>) -> Remote {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicUsize::new(0));
        tokio::spawn(Sending { peer, figures, bytes: bytes.clone(), failed: None }.run(jobs));
        Remote { queue, bytes, spool: Arc::default() }
    }

    /// Keep lines in a folder from now on, in one of the folders `within` if there are any, and send them from there.
    /// With `must_work` the folder must be ready; else lines are refused until it is.
    pub async fn start_spooled(
        peer: Peer,
        (target, within): (SpoolTarget, Option<Arc<[PathBuf]>>),
        figures: Arc<Figures>,
        must_work: bool,
    ) -> Result<Remote, String> {
        let (wanted, below) = (target.clone(), within.clone());
        let opening = move || Spool::open(&wanted, below.as_deref(), must_work);
        let opened = tokio::task::spawn_blocking(opening).await.map_err(|e| e.to_string())?;
        let opened = if must_work { Ok(opened?) } else { opened };
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (bytes, shown) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let longest = peer.longest_line();
        let runtime = tokio::runtime::Handle::current();
        let writing =
            Writing { target, within, figures, peer: Some(peer), runtime, shown: Arc::clone(&shown), longest };
        let queued = bytes.clone();
        let done = move |job: &Job| {
            queued.fetch_sub(job.lines.len(), Ordering::SeqCst);
        };
        writing.start(opened, jobs, done).map_err(|e| e.to_string())?;
        Ok(Remote { queue, bytes, spool: shown })
    }

    /// How its spool does, if it has one that is open.
    pub fn spooled(&self) -> Option<Spooled> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|shared| shared.figures())
    }

    /// How full the disk of its spool is.
    pub fn disk(&self) -> Option<Disk> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.disk()
    }

    /// Put lines into the queue. The receiver tells whether all of them were sent.
    pub fn append(&self, lines: &[u8], urgent: bool) -> io::Result<oneshot::Receiver<bool>> {
        let full = || io::Error::other("its queue is full");
        if self.bytes.fetch_add(lines.len(), Ordering::SeqCst) > QUEUE_BYTES {
            self.bytes.fetch_sub(lines.len(), Ordering::SeqCst);
            return Err(full());
        }
        let (taken, receiver) = oneshot::channel();
        let job = Job { lines: lines.to_vec(), urgent, taken, since: std::time::Instant::now() };
        self.queue.try_send(job).map_err(|refused| {
            self.bytes.fetch_sub(lines.len(), Ordering::SeqCst);
            match refused {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => io::Error::other("it has ended"),
            }
        })?;
        Ok(receiver)
    }

    /// How many writes wait, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.max_capacity() - self.queue.capacity(), self.bytes.load(Ordering::SeqCst))
    }
}

/// The task behind a [`Remote`].
struct Sending {
    peer: Peer,
    figures: Arc<Figures>,
    bytes: Arc<AtomicUsize>,
    /// When the peer was last not reached, and how long others are spared.
    failed: Option<(Instant, Duration)>,
}

impl Sending {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let sent = self.send(&job).await;
            let failed = sent.is_err();
            self.done(job, !failed);
            if failed {
                // Those who came meanwhile have waited long enough.
                for _ in 0..jobs.len() {
                    match jobs.try_recv() {
                        Ok(job) => self.done(job, false),
                        Err(_) => break,
                    }
                }
            }
        }
    }

    fn done(&self, job: Job, sent: bool) {
        self.bytes.fetch_sub(job.lines.len(), Ordering::SeqCst);
        let _nobody_waits = job.taken.send(sent);
    }

    async fn send(&mut self, job: &Job) -> Result<(), Unsent> {
        if let Some((at, wait)) = self.failed {
            if job.urgent {
                sleep_until(at + BACK_OFF.0).await;
            } else if at.elapsed() < wait {
                return Err(Unsent { text: String::new(), unreachable: true });
            }
        }
        for line in job.lines.split_inclusive(|b| *b == b'\n') {
            if let Err(e) = self.peer.send(line).await {
                if e.unreachable {
                    let wait = self.failed.map_or(BACK_OFF.0, |(_, wait)| (wait * 2).min(BACK_OFF.1));
                    self.failed = Some((Instant::now(), wait));
                }
                self.figures.refused(&e.text);
                return Err(e);
            }
        }
        self.failed = None;
        self.figures.took(count(&job.lines));
        self.figures.writes.since(job.since);
        Ok(())
    }
}

impl Unsent {
    fn unreachable(text: impl Into<String>) -> Unsent {
        Unsent { text: text.into(), unreachable: true }
    }

    fn refused(text: impl Into<String>) -> Unsent {
        Unsent { text: text.into(), unreachable: false }
    }
}
