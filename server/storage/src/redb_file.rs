//! redb's view of one of our files.
//!
//! redb takes no more work after its file has refused one write, so a full disk must not look like
//! a failure to it: while the store works, a write of the store's thread that finds no room waits until
//! there is some. Other threads write only to make room in redb's cache while they read, which redb can
//! do without: they are refused at once, or reading would end with the disk's room.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::disk::DiskFile;

/// The name of the thread that writes.
pub const WRITER: &str = "store-log";
const PAUSE: Duration = Duration::from_millis(50);

/// Called with the reason when a wait begins, and with `None` when it is over.
type Tell = Box<dyn Fn(Option<String>) + Send + Sync>;

/// Whether a write waits for room, and who is told.
#[derive(Default)]
pub struct Patience {
    waits: AtomicBool,
    /// A write found no room, and did not wait.
    refused: AtomicBool,
    tell: std::sync::OnceLock<Tell>,
}

impl Patience {
    /// From now on writes wait for room.
    pub fn begin(&self, tell: Tell) {
        let _set_once = self.tell.set(tell);
        self.waits.store(true, Ordering::SeqCst);
    }

    /// From now on a full disk is an error: the store is closed.
    pub fn end(&self) {
        self.waits.store(false, Ordering::SeqCst);
    }

    /// Whether a write was refused because the disk is full.
    pub fn refusal(&self) -> Option<io::Error> {
        self.refused.load(Ordering::SeqCst).then(|| io::ErrorKind::StorageFull.into())
    }

    fn tell(&self, reason: Option<String>) {
        if let Some(tell) = self.tell.get() {
            tell(reason);
        }
    }

    fn through<R>(&self, mut write: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        let mut told = false;
        let result = loop {
            match write() {
                Err(e) if is_full(&e) && self.waits.load(Ordering::SeqCst) && is_writer() => {
                    if !told {
                        self.tell(Some(e.to_string()));
                    }
                    told = true;
                    std::thread::sleep(PAUSE);
                }
                result => {
                    if result.as_ref().is_err_and(is_full) {
                        self.refused.store(true, Ordering::SeqCst);
                    }
                    break result;
                }
            }
        };
        if told {
            self.tell(None);
        }
        result
    }
}

fn is_writer() -> bool {
    std::thread::current().name() == Some(WRITER)
}

pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub struct RedbFile {
    pub file: Arc<dyn DiskFile>,
    pub patience: Arc<Patience>,
}

impl std::fmt::Debug for RedbFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedbFile({:?})", self.file)
    }
}

impl redb::StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.patience.through(|| self.file.set_len(len))
    }
    /// Never tried again: after a failed sync the system takes for written what it has lost.
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.patience.through(|| self.file.write_at(offset, data))
    }
}
