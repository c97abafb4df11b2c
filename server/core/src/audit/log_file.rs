//! A file that audit devices write to, as it is open in this process.
//!
//! A device ends with the lead or the unsealing that it was made for, while answers that are late still tell it their lines; the
//! next device of the same name is made meanwhile. Both write the same chain, so they have what is open, and how far the chain is, in
//! common.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use holdfast_chain::Chain;

/// A write that takes longer does not come back, as far as anybody waits for it.
pub const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// What is open under a name. One lock holds the order of the lines, from their numbers to the write, and which file they go to.
#[derive(Default)]
pub struct LogFile {
    pub file: ArcSwapOption<File>,
    chain: parking_lot::Mutex<Chained>,
    /// Somebody has waited in vain for whoever writes: nobody else waits until that write has come back.
    hangs: AtomicBool,
    /// One opens it at a time.
    pub opening: Mutex<()>,
}

/// How far the chain is.
#[derive(Default)]
pub struct Chained {
    /// None: what is open is no regular file.
    pub chain: Option<Chain>,
    /// When the first line behind the last checkpoint was written.
    pub since: Option<Instant>,
    /// What links the lines of a write.
    pub links: Vec<u8>,
}

/// Those that some device has.
static IN_USE: Mutex<Vec<(PathBuf, Weak<LogFile>)>> = Mutex::new(Vec::new());

impl LogFile {
    /// The file of that name: the one that another device has, if there is one.
    pub fn of(path: &Path) -> Arc<LogFile> {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|(_, file)| file.strong_count() > 0);
        let known = in_use.iter().find(|(of, _)| of == path).and_then(|(_, file)| file.upgrade());
        known.unwrap_or_else(|| {
            let file = Arc::<LogFile>::default();
            in_use.push((path.to_owned(), Arc::downgrade(&file)));
            file
        })
    }

    /// The order of the lines, for who writes. A write that does not come back is waited for once, and then by nobody.
    pub fn chained(&self) -> io::Result<parking_lot::MutexGuard<'_, Chained>> {
        let hangs = self.hangs.load(Ordering::Relaxed);
        let within = if hangs { Duration::ZERO } else { WRITE_WITHIN };
        let Some(chained) = self.chain.try_lock_for(within) else {
            self.hangs.store(true, Ordering::Relaxed);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a write to it does not come back"));
        };
        if hangs {
            self.hangs.store(false, Ordering::Relaxed);
        }
        Ok(chained)
    }
}
