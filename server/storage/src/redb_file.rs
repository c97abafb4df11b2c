//! redb's view of one of our files.
//!
//! redb takes no more work after its file has refused one write, so a full disk must not look like
//! a failure to it: while the store works, a write of the store's thread that finds no room waits until
//! there is some. Other threads write only to make room in redb's cache while they read, which redb can
//! do without: they are refused at once, or reading would end with the disk's room.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::disk::DiskFile;
use crate::pipeline::lock;
use crate::sums::Sums;

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

/// redb's file, and the checksums of its blocks.
pub struct RedbFile {
    file: Arc<dyn DiskFile>,
    patience: Arc<Patience>,
    sums: Arc<Sums>,
    /// Whether a block that is not as it was written is an error. While redb opens a file it is only noted: redb may
    /// have an earlier state, and everything is checked then.
    strict: Arc<AtomicBool>,
    /// Held while a block and its checksum change.
    writing: Arc<Mutex<()>>,
}

impl RedbFile {
    pub fn new(file: Arc<dyn DiskFile>, sums: Sums, patience: Arc<Patience>) -> io::Result<RedbFile> {
        sums.set_len(file.len()?);
        Ok(RedbFile { file, patience, sums: Arc::new(sums), strict: Arc::default(), writing: Arc::default() })
    }

    /// What is to be said of it while redb has it.
    pub fn watch(&self) -> Watch {
        Watch { sums: self.sums.clone(), strict: self.strict.clone() }
    }

    /// What was read and does not fit may have been written meanwhile.
    fn read_again(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let _nobody_writes = lock(&self.writing);
        self.file.read_at(offset, out)?;
        match self.sums.first_wrong(offset, out) {
            None => Ok(()),
            Some(block) if self.strict.load(Ordering::SeqCst) => {
                let detail = format!("block {block} of the state machine's file is not as it was written");
                tracing::error!(block, file = ?self.file, "a block of the state machine's file is not as it was written: the disk has \
                    changed it; nothing more is read or written. Restore a snapshot, or let the node join anew");
                Err(io::Error::new(io::ErrorKind::InvalidData, detail))
            }
            Some(_) => {
                self.sums.forget()?;
                self.sums.lose(offset, out.len());
                Ok(())
            }
        }
    }
}

/// The checksums of a file that redb has.
pub struct Watch {
    sums: Arc<Sums>,
    strict: Arc<AtomicBool>,
}

impl Watch {
    /// Whether all that is in use has its checksum, and nothing that was read did not fit.
    pub fn are_trusted(&self) -> bool {
        self.sums.are_trusted()
    }

    /// redb has opened the file, and checked everything where that was needed: what does not fit is an error from
    /// now on.
    pub fn opened(&self) -> io::Result<()> {
        self.strict.store(true, Ordering::SeqCst);
        self.sums.trust()
    }
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
        self.file.read_at(offset, out)?;
        if self.sums.first_wrong(offset, out).is_some() {
            self.read_again(offset, out)?;
        }
        if !self.strict.load(Ordering::SeqCst) {
            self.sums.learn(offset, out);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.patience.through(|| self.file.set_len(len))?;
        self.sums.set_len(len);
        Ok(())
    }

    /// Never tried again: after a failed sync the system takes for written what it has lost.
    fn sync_data(&self) -> io::Result<()> {
        self.patience.through(|| self.sums.write())?;
        self.sums.sync()?;
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.patience.through(|| {
            let _with_its_checksum = lock(&self.writing);
            if offset == 0 {
                self.sums.note_header(data)?;
            }
            let written = self.file.write_at(offset, data);
            match written {
                Ok(()) => self.sums.note(offset, data),
                Err(_) => self.sums.lose(offset, data.len()),
            }
            written
        })
    }
}
