//! When each seal of this node opened the store last, to the hour, in a file beside the store.
//!
//! It is for people: a device that is away when a server starts has opened nothing since, and this says until when it did.
//! Nothing is decided by it, so it is neither sealed nor replicated: a member of a cluster knows its own seals alone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_sdk::Timestamp;
use holdfast_seal::Lock;
use holdfast_storage::Store;

use crate::seal_migration::SHARES;
use crate::{Core, clock};

const FILE: &str = "last-opened";
const HOUR_SECS: u64 = 3600;
/// Seals that are remembered. Those that opened it longest ago give way.
const SEALS: usize = 64;
/// What is read of the file at most.
const FILE_BYTES: u64 = 64 << 10;

/// By the names of seals, or their types where they have none.
pub(crate) struct LastOpened {
    /// `None`: the store is in memory, and so is this.
    file: Option<PathBuf>,
    known: Arc<Mutex<BTreeMap<String, u64>>>,
    /// Held while the file is written, so that the last one that writes it has what is known.
    writing: Arc<Mutex<()>>,
}

/// What a lock's seal is called here.
fn name(lock: &Lock) -> &str {
    lock.name.as_deref().or(lock.backend()).unwrap_or(SHARES)
}

impl LastOpened {
    pub fn of(store: &Store) -> LastOpened {
        let file = store.folder().map(|folder| folder.join(FILE));
        let known = file.as_deref().map(read).unwrap_or_default();
        LastOpened { file, known: Arc::new(Mutex::new(known)), writing: Arc::default() }
    }

    pub fn at(&self, of: &Lock) -> Option<Timestamp> {
        lock(&self.known).get(name(of)).map(|secs| Timestamp::from_secs(*secs))
    }

    fn note(&self, name: &str) {
        let hour = clock::now().secs() / HOUR_SECS * HOUR_SECS;
        let mut known = lock(&self.known);
        if known.insert(name.to_owned(), hour) == Some(hour) {
            return;
        }
        while known.len() > SEALS
            && let Some(oldest) = known.iter().min_by_key(|(_, secs)| **secs).map(|(name, _)| name.clone())
        {
            known.remove(&oldest);
        }
        drop(known);
        let Some(file) = self.file.clone() else { return };
        let (known, writing) = (self.known.clone(), self.writing.clone());
        tokio::task::spawn_blocking(move || {
            let _one = lock(&writing);
            let known = lock(&known).clone();
            if let Err(e) = write(&file, &known) {
                tracing::warn!("when the seals opened the store is not kept in {}: {e}", file.display());
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// A lock has opened the store, or would have.
    pub(crate) fn note_opened(&self, by: &Lock) {
        self.last_opened.note(name(by));
    }
}

fn read(file: &Path) -> BTreeMap<String, u64> {
    let is_small = fs::metadata(file).is_ok_and(|found| found.len() <= FILE_BYTES);
    let text = if is_small { fs::read_to_string(file).unwrap_or_default() } else { String::new() };
    let one = |line: &str| {
        let (secs, name) = line.split_once(' ')?;
        Some((name.to_owned(), secs.parse().ok()?))
    };
    text.lines().filter_map(one).take(SEALS).collect()
}

fn write(file: &Path, known: &BTreeMap<String, u64>) -> io::Result<()> {
    let text: String = known.iter().map(|(name, secs)| format!("{secs} {name}\n")).collect();
    let fresh = file.with_extension("new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_what_is_none_of_it_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        assert!(read(&file).is_empty());
        let known = BTreeMap::from([("the main one".to_owned(), 7200), (SHARES.to_owned(), 3600)]);
        write(&file, &known).unwrap();
        assert_eq!(read(&file), known);
        fs::write(&file, "7200 main\nnonsense\nx y\n").unwrap();
        assert_eq!(read(&file), BTreeMap::from([("main".to_owned(), 7200)]));
    }
}
