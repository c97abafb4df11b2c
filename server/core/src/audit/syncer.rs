//! The thread that syncs an audit file for all who wait.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Figures;

/// How long a sync waits for others to join it.
const GATHER: Duration = Duration::from_micros(150);

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
    closed: bool,
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
    pub fn request(&self, file: &Arc<File>, lines: usize) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut state = lock(&self.state);
            state.waiting.push((sender, lines));
            if !state.files.last().is_some_and(|last| Arc::ptr_eq(last, file)) {
                state.files.push(file.clone());
            }
            state.waiting.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
        receiver
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
                (std::mem::take(&mut state.waiting), std::mem::take(&mut state.files))
            };
            let start = Instant::now();
            let synced = files.iter().try_for_each(|file| sync(file));
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
