//! The thread that syncs an audit file for all who wait.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Appended, Figures, SYNC_WITHIN};

/// How long a sync waits for others to join it.
const GATHER: Duration = Duration::from_micros(150);
/// Writes that wait for a sync, at most.
const WAITING: usize = 4096;

/// A thread that syncs for all who wait.
pub struct Syncer {
    figures: Arc<Figures>,
    state: Mutex<SyncState>,
    wake: Condvar,
}

#[derive(Default)]
struct SyncState {
    /// And how many lines each has written.
    waiting: Vec<(oneshot::Sender<bool>, usize)>,
    /// That they were written to: two if the file was opened again meanwhile.
    files: Vec<Arc<File>>,
    /// When the sync that is under way has begun.
    since: Option<Instant>,
    closed: bool,
}

impl SyncState {
    fn is_late(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > SYNC_WITHIN)
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Syncer {
    pub fn start(figures: Arc<Figures>) -> io::Result<Arc<Syncer>> {
        let syncer = Arc::new(Syncer { figures, state: Mutex::default(), wake: Condvar::new() });
        let own = syncer.clone();
        thread::Builder::new().name("audit-sync".into()).stack_size(128 << 10).spawn(move || own.run())?;
        Ok(syncer)
    }

    /// The receiver tells when what is written to the file by now is synced; so many lines of it count as taken then.
    pub fn request(&self, file: &Arc<File>, lines: usize) -> io::Result<Appended> {
        let (sender, receiver) = oneshot::channel();
        let (first, late) = {
            let mut state = lock(&self.state);
            if state.waiting.len() >= WAITING {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its disk does not sync what was written"));
            }
            state.waiting.push((sender, lines));
            if !state.files.last().is_some_and(|last| Arc::ptr_eq(last, file)) {
                state.files.push(file.clone());
            }
            (state.waiting.len() == 1, state.is_late())
        };
        if first {
            self.wake.notify_one();
        }
        // Nobody waits for a disk that hangs, unless no other device has the line.
        Ok(if late { Appended::Remote(receiver) } else { Appended::Synced(receiver) })
    }

    /// Whether a sync takes so long that nobody waits for it.
    pub fn is_late(&self) -> bool {
        lock(&self.state).is_late()
    }

    /// End when all who wait were told.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        loop {
            {
                let mut state = lock(&self.state);
                while state.waiting.is_empty() {
                    if state.closed {
                        return;
                    }
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
            // The commits beside it take about as long: more of them share one sync.
            thread::sleep(GATHER);
            let (waiting, files) = {
                let mut state = lock(&self.state);
                state.since = Some(Instant::now());
                (std::mem::take(&mut state.waiting), std::mem::take(&mut state.files))
            };
            let start = Instant::now();
            let synced = files.iter().try_for_each(|file| sync(file));
            lock(&self.state).since = None;
            self.figures.syncs.since(start);
            match &synced {
                Ok(()) => {
                    self.figures.is_synced();
                    self.figures.took(waiting.iter().map(|(_, lines)| lines).sum());
                }
                Err(e) => self.figures.is_not_synced(waiting.iter().filter(|(_, lines)| *lines > 0).count(), e),
            }
            for (sender, _) in waiting {
                let _nobody_waits = sender.send(synced.is_ok());
            }
        }
    }
}

/// A pipe or a device has nothing to sync.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput && !file.metadata()?.is_file() => Ok(()),
        other => other,
    }
}
