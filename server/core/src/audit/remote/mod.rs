//! Devices that are reached over a connection: a bounded queue, and a task that sends what is in it. Nobody waits for
//! one of them but a request that no other device has accepted.

mod http;
mod socket;
mod syslog;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::http::Http;
use self::socket::Socket;
use self::syslog::Syslog;
use super::Figures;
use super::options::Target;

/// Lines that wait to be sent: so many, or so many bytes.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 8 << 20;
/// Waits between two tries to reach a peer that could not be reached. A line that no other device has accepted waits
/// no longer than the first.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The device's end that requests see.
pub struct Remote {
    queue: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
}

struct Job {
    /// One or more, each with its line end.
    lines: Vec<u8>,
    /// No other device has accepted them.
    urgent: bool,
    taken: oneshot::Sender<bool>,
    /// When it was put into the queue.
    since: std::time::Instant,
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
        Remote { queue, bytes }
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
        self.figures.took(&job.lines);
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
