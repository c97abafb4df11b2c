//! The spool of a remote device: a folder in which its lines are until the peer has them.
//!
//! A line is accepted when the disk has it; a task of its own sends what the disk has, in order, and goes on where it was
//! after a restart. What may not have arrived is sent again, so that a peer may see a line twice: each has a last member
//! `spool` with the spool's id and the line's number, and the same two again are the same line again.
//!
//! The folder is bounded: where a line finds no room, the device refuses it.

mod folder;
mod sending;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use self::folder::{Folder, Position};
use self::sending::Sending;
use super::remote::{Job, Peer};
use super::{Disk, Figures, count};
use crate::clock;

/// Lines of one write.
const BATCH_BYTES: usize = 1 << 20;
/// How often it is tried to open a folder that cannot be opened.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How long another user of the folder is waited for, where it has to work.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);

/// What the options of a device say of its spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolTarget {
    pub path: PathBuf,
    pub max_bytes: u64,
}

/// A folder that is used as a spool, and what is in it.
pub struct Spool {
    folder: Folder,
    shared: Arc<Shared>,
}

/// What the thread that writes and the task that sends know of each other.
pub struct Shared {
    /// Held as long as either is at work, so that nobody else uses the folder.
    _lock: std::fs::File,
    path: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
    /// There are more lines.
    changed: Notify,
    /// True: no more will come.
    closed: watch::Sender<bool>,
}

/// What of the folder concerns both.
#[derive(Debug, Default)]
struct State {
    /// Segments by the number of their first line, and their bytes that the disk has.
    segments: std::collections::VecDeque<(u64, u64)>,
    /// The last line that the disk has.
    last: u64,
    /// The last line that need not be sent again, and the one of which that is kept.
    sent: u64,
    kept_sent: u64,
    /// Bytes of the lines behind it, and of all files.
    waiting_bytes: u64,
    file_bytes: u64,
    /// When the oldest line that was not handed to the peer was written, in milliseconds.
    oldest_ms: Option<u64>,
}

/// How a spool does.
#[derive(Debug, Clone, Copy)]
pub struct Spooled {
    pub lines: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    /// Of that in use, in percent: what was sent counts until its file is deleted.
    pub used_percent: u64,
    /// Seconds since the oldest line that the peer was not handed was written.
    pub oldest_secs: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full its disk is.
    pub fn disk(&self) -> Option<Disk> {
        Disk::of(&rustix::fs::statvfs(&self.path).ok()?)
    }

    pub fn figures(&self) -> Spooled {
        let now_ms = clock::now().0 / 1_000_000;
        let state = self.state();
        Spooled {
            lines: state.last - state.sent,
            bytes: state.waiting_bytes,
            max_bytes: self.max_bytes,
            used_percent: match state.last > state.sent {
                true => (state.file_bytes.saturating_mul(100) / self.max_bytes.max(1)).min(100),
                // All of it is given up where a line needs the room.
                false => 0,
            },
            oldest_secs: state.oldest_ms.map_or(0, |at| now_ms.saturating_sub(at) / 1000),
        }
    }
}

impl Spool {
    /// Take a folder up, in one of the folders `within` if there are any.
    ///
    /// # Errors
    /// What is wrong with the folder, and what to do about it.
    pub fn open(target: &SpoolTarget, within: Option<&[PathBuf]>, wait: bool) -> Result<Spool, String> {
        let start = Instant::now();
        let refused = |e: &dyn std::fmt::Display| format!("spool_path {:?}: {e}", target.path);
        loop {
            match folder::lock(&target.path, within).map_err(|e| refused(&e))? {
                Some(lock) => {
                    let (folder, state) = Folder::read(lock.id, target).map_err(|e| refused(&e))?;
                    let shared = Shared {
                        _lock: lock.file,
                        path: target.path.clone(),
                        max_bytes: target.max_bytes,
                        state: Mutex::new(state),
                        changed: Notify::new(),
                        closed: watch::Sender::new(false),
                    };
                    return Ok(Spool { folder, shared: Arc::new(shared) });
                }
                None if wait && start.elapsed() < WAIT_FOR_OTHERS => thread::sleep(TRY_AGAIN),
                None => return Err(refused(&"it is the spool of another audit device: each has a folder of its own")),
            }
        }
    }
}

/// The thread that writes what is in a device's queue.
pub struct Writing {
    pub target: SpoolTarget,
    pub within: Option<Arc<[PathBuf]>>,
    pub figures: Arc<Figures>,
    /// Until something is sent by it.
    pub peer: Option<Peer>,
    pub runtime: tokio::runtime::Handle,
    /// Where others see the spool.
    pub shown: Arc<Mutex<Option<Arc<Shared>>>>,
    /// The longest line that the peer can take.
    pub longest: usize,
}

impl Writing {
    /// Write from now on, until the queue ends.
    pub fn start(
        self,
        opened: Result<Spool, String>,
        jobs: mpsc::Receiver<Job>,
        done: impl Fn(&Job) + Send + 'static,
    ) -> io::Result<()> {
        thread::Builder::new()
            .name("audit-spool".into())
            .stack_size(256 << 10)
            .spawn(move || self.run(opened, jobs, done))
            .map(drop)
    }

    fn run(mut self, opened: Result<Spool, String>, mut jobs: mpsc::Receiver<Job>, done: impl Fn(&Job)) {
        let mut tried = Instant::now();
        let mut spool = self.takes_up(opened);
        while let Some(first) = jobs.blocking_recv() {
            let mut batch = vec![first];
            let mut bytes = batch[0].lines.len();
            while bytes < BATCH_BYTES
                && let Ok(next) = jobs.try_recv()
            {
                bytes += next.lines.len();
                batch.push(next);
            }
            if spool.is_none() && tried.elapsed() >= TRY_AGAIN {
                spool = self.takes_up(Spool::open(&self.target, self.within.as_deref(), false));
                tried = Instant::now();
            }
            let taken = match &mut spool {
                Some(spool) => self.write(spool, &batch),
                None => vec![false; batch.len()],
            };
            for (job, taken) in batch.into_iter().zip(taken) {
                done(&job);
                let _nobody_waits = job.taken.send(taken);
            }
        }
        if let Some(spool) = spool {
            spool.shared.closed.send_replace(true);
        }
    }

    fn takes_up(&mut self, opened: Result<Spool, String>) -> Option<Spool> {
        match opened {
            Ok(spool) => {
                let peer = self.peer.take()?;
                let sending = Sending::new(peer, self.figures.clone(), spool.shared.clone(), spool.folder.first());
                self.runtime.spawn(sending.run());
                *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(spool.shared.clone());
                Some(spool)
            }
            Err(why) => {
                self.figures.refused(&why);
                None
            }
        }
    }

    /// Write the lines of a batch with one sync: which of them the disk has.
    fn write(&self, spool: &mut Spool, batch: &[Job]) -> Vec<bool> {
        let now_ms = clock::now().0 / 1_000_000;
        let mut added = Vec::with_capacity(batch.len());
        for job in batch {
            let fits = spool.folder.add(&job.lines, now_ms, self.longest, &mut spool.shared.state());
            if let Err(e) = &fits {
                self.figures.refused(e);
            }
            added.push(fits.is_ok());
        }
        if !added.contains(&true) {
            return added;
        }
        let start = Instant::now();
        let written = spool.folder.write();
        self.figures.syncs.since(start);
        match written {
            Ok(written) => {
                let mut state = spool.shared.state();
                spool.folder.publish(written, now_ms, &mut state);
                drop(state);
                for (job, _) in batch.iter().zip(&added).filter(|(_, added)| **added) {
                    self.figures.took(count(&job.lines));
                    self.figures.writes.since(job.since);
                }
                spool.shared.changed.notify_one();
                added
            }
            Err(e) => {
                self.figures.refused(&format_args!("its spool {}: {e}", self.target.path.display()));
                vec![false; batch.len()]
            }
        }
    }
}

/// Where a line that is to be sent is.
type Cursor = Position;
