//! The `file` audit device.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use super::DeviceConfig;

/// When a line counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is written.
    Write,
    /// It is in a group fdatasync that the answer waits for.
    Sync,
}

/// Appends lines to a file, stdout, or nothing.
///
/// The file is open for appending, and each line is one write at its end: the kernel keeps lines of
/// several threads apart, so no lock is held here.
pub struct FileDevice {
    target: Target,
    mode: u32,
    file: ArcSwapOption<File>,
    /// A write ended in the middle of a line.
    torn: AtomicBool,
    /// For requests that change something, and for reads.
    durability: (Durability, Durability),
    syncer: Option<Arc<Syncer>>,
    queue: Mutex<Queue>,
}

/// Lines that the next write takes together.
#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Empty, with the room of the lines that were written before.
    spare: Vec<u8>,
    waiting: Vec<oneshot::Sender<bool>>,
}

/// With as many bytes nobody waits for more.
const FULL_QUEUE: usize = 256 << 10;

enum Target {
    File(PathBuf),
    Stdout,
    Discard,
}

/// How long a sync waits for others to join it.
const GATHER: Duration = Duration::from_micros(150);

/// A thread that syncs for all who wait.
struct Syncer {
    state: Mutex<SyncState>,
    wake: Condvar,
}

#[derive(Default)]
struct SyncState {
    waiting: Vec<oneshot::Sender<bool>>,
    file: Option<File>,
    closed: bool,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_file(path: &Path, mode: u32) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(mode).open(path)
}

impl FileDevice {
    /// Open the device; what is wrong with its options is said in one line.
    pub fn open(config: &DeviceConfig) -> Result<FileDevice, String> {
        let wrong = |text: String| format!("audit device {}: {text}", config.path);
        let path = config.option("file_path").or(config.option("path"));
        let path = path.ok_or_else(|| wrong("file_path is required".into()))?;
        let mode = match config.option("mode") {
            None | Some("") => 0o600,
            Some(text) => u32::from_str_radix(text, 8)
                .ok()
                .filter(|m| *m <= 0o777)
                .ok_or_else(|| wrong(format!("mode {text:?} is no octal file mode")))?,
        };
        let mode = if mode == 0 { 0o600 } else { mode };
        match config.option("format") {
            None | Some("" | "json") => {}
            Some(other) => return Err(wrong(format!("format {other:?} is not offered; json is"))),
        }
        let durability = match config.option("durability") {
            None | Some("batch") => (Durability::Sync, Durability::Write),
            Some("write") => (Durability::Write, Durability::Write),
            Some("sync") => (Durability::Sync, Durability::Sync),
            Some(other) => return Err(wrong(format!("durability {other:?}: write, batch and sync are possible"))),
        };
        let target = match path {
            "stdout" => Target::Stdout,
            "discard" => Target::Discard,
            p => Target::File(p.into()),
        };
        let file = match &target {
            Target::File(p) => {
                Some(open_file(p, mode).map_err(|e| wrong(format!("cannot open {}: {e}", p.display())))?)
            }
            _ => None,
        };
        let syncer = match &file {
            Some(f) if durability != (Durability::Write, Durability::Write) => Some(
                Syncer::start(f.try_clone().map_err(|e| wrong(e.to_string()))?).map_err(|e| wrong(e.to_string()))?,
            ),
            _ => None,
        };
        Ok(FileDevice {
            target,
            mode,
            file: ArcSwapOption::from(file.map(Arc::new)),
            torn: AtomicBool::new(false),
            durability,
            syncer,
            queue: Mutex::default(),
        })
    }

    /// Append a line (with its line end). The receiver, if there is one, tells when it is synced.
    pub fn append(&self, line: &[u8], writes: bool) -> io::Result<Option<oneshot::Receiver<bool>>> {
        match self.target {
            Target::Discard => return Ok(None),
            Target::Stdout => return io::stdout().lock().write_all(line).map(|()| None),
            Target::File(_) => {}
        }
        {
            let file = self.file.load();
            let Some(file) = &*file else { return Err(io::ErrorKind::NotFound.into()) };
            if self.torn.swap(false, Ordering::SeqCst) {
                self.append_whole(file, b"\n")?;
            }
            self.append_whole(file, line)?;
        }
        let wanted = if writes { self.durability.0 } else { self.durability.1 };
        Ok(match (&self.syncer, wanted) {
            (Some(syncer), Durability::Sync) => Some(syncer.request()),
            _ => None,
        })
    }

    /// Append lines together with those of the requests that are answered at the same time. The receiver tells when
    /// they are written.
    ///
    /// A tenth of what a read costs was its write to the audit file, whatever the length: whoever comes first lets all
    /// that are ready to run on this thread add theirs.
    pub fn append_together(self: &Arc<Self>, lines: &[u8]) -> io::Result<Option<oneshot::Receiver<bool>>> {
        let alone = !matches!(self.target, Target::File(_)) || self.durability.1 == Durability::Sync;
        let runtime = match tokio::runtime::Handle::try_current() {
            Ok(r) if !alone => r,
            _ => return self.append(lines, false),
        };
        let (sender, receiver) = oneshot::channel();
        let (first, full) = {
            let mut queue = lock(&self.queue);
            queue.lines.extend_from_slice(lines);
            queue.waiting.push(sender);
            (queue.waiting.len() == 1, queue.lines.len() >= FULL_QUEUE)
        };
        if full {
            self.write_queue();
        } else if first {
            let device = self.clone();
            runtime.spawn(async move {
                tokio::task::yield_now().await;
                device.write_queue();
            });
        }
        Ok(Some(receiver))
    }

    fn write_queue(&self) {
        let (mut lines, waiting) = {
            let mut queue = lock(&self.queue);
            let spare = std::mem::take(&mut queue.spare);
            (std::mem::replace(&mut queue.lines, spare), std::mem::take(&mut queue.waiting))
        };
        if waiting.is_empty() {
            return;
        }
        let written = self.append(&lines, false);
        if let Err(e) = &written {
            tracing::error!(error = %e, "an audit device refused lines");
        }
        for sender in waiting {
            let _nobody_waits = sender.send(written.is_ok());
        }
        lines.clear();
        if lines.capacity() <= 2 * FULL_QUEUE {
            lock(&self.queue).spare = lines;
        }
    }

    /// One write at the end of the file; a short one is an error.
    fn append_whole(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        // The offset is not looked at in a file that is open for appending.
        let written = loop {
            match file.write_at(bytes, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match written {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(n) => {
                self.torn.store(n > 0, Ordering::SeqCst);
                Err(io::ErrorKind::StorageFull.into())
            }
            Err(e) => Err(e),
        }
    }

    /// Open the file of that name again.
    pub fn reopen(&self) -> io::Result<()> {
        let Target::File(path) = &self.target else { return Ok(()) };
        let file = open_file(path, self.mode)?;
        if let Some(syncer) = &self.syncer {
            lock(&syncer.state).file = Some(file.try_clone()?);
        }
        let old = self.file.swap(Some(Arc::new(file)));
        self.torn.store(false, Ordering::SeqCst);
        if let Some(old) = old {
            old.sync_data()?;
        }
        Ok(())
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        if let Some(syncer) = &self.syncer {
            lock(&syncer.state).closed = true;
            syncer.wake.notify_one();
        }
    }
}

impl Syncer {
    fn start(file: File) -> io::Result<Arc<Syncer>> {
        let state = Mutex::new(SyncState { file: Some(file), ..SyncState::default() });
        let syncer = Arc::new(Syncer { state, wake: Condvar::new() });
        let own = syncer.clone();
        thread::Builder::new().name("audit-sync".into()).stack_size(128 << 10).spawn(move || own.run())?;
        Ok(syncer)
    }

    fn request(&self) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut state = lock(&self.state);
            state.waiting.push(sender);
            state.waiting.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
        receiver
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
            let (waiting, file) = {
                let mut state = lock(&self.state);
                let file = state.file.as_ref().and_then(|f| f.try_clone().ok());
                (std::mem::take(&mut state.waiting), file)
            };
            let synced = match file {
                Some(f) => f.sync_data(),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            if let Err(e) = &synced {
                tracing::error!(error = %e, "an audit file cannot be synced");
            }
            for sender in waiting {
                let _nobody_waits = sender.send(synced.is_ok());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str) -> Arc<FileDevice> {
        let options = vec![("file_path".to_owned(), path.to_owned())];
        Arc::new(FileDevice::open(&DeviceConfig { path: "file/".into(), description: String::new(), options }).unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lines_that_are_written_together_are_all_there_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let device = device(path.to_str().unwrap());
        let tasks: Vec<_> = (0..200)
            .map(|task| {
                let device = device.clone();
                tokio::spawn(async move {
                    for n in 0..20 {
                        let line = format!("{task} {n} {}\n", "x".repeat(task * 37));
                        let written = device.append_together(line.as_bytes()).unwrap().expect("it is told");
                        assert!(written.await.unwrap());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<(usize, usize)> = text
            .lines()
            .map(|line| {
                let [task, n, rest] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                let task = task.parse().unwrap();
                assert_eq!(rest.len(), task * 37, "{line}");
                (task, n.parse().unwrap())
            })
            .collect();
        lines.sort_unstable();
        assert_eq!(lines, (0..200).flat_map(|t| (0..20).map(move |n| (t, n))).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_refusal_is_told_to_all_whose_lines_were_in_it() {
        let device = device("/dev/full");
        let waiting: Vec<_> = (0..5).map(|_| device.append_together(b"{}\n").unwrap().expect("it is told")).collect();
        for written in waiting {
            assert!(!written.await.unwrap());
        }
        // One that cannot wait is told at once.
        let together = std::thread::spawn({
            let device = device.clone();
            move || device.append_together(b"{}\n").err().map(|e| e.kind())
        });
        assert_eq!(together.join().unwrap(), Some(io::ErrorKind::StorageFull));
    }
}
