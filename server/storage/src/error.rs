//! What can go wrong with the store, in classes that callers act on.

use std::io;
use std::path::PathBuf;

use crate::Key;

/// The store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the store at {path} is in use by another process; stop it, or give this server a path of its own", path = .0.display())]
    InUse(PathBuf),
    #[error("the store at {path} has format {found}, this program reads up to {known}; use the program that wrote it, or a later one", path = path.display())]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged: {detail}; restore it from a backup, nothing was changed", path = path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("state machine: {0}")]
    State(String),
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| StoreError::Io { what, path, source }
    }
}

macro_rules! from_redb {
    ($($t:ty),*) => {$(impl From<$t> for StoreError {
        fn from(e: $t) -> Self { StoreError::State(e.to_string()) }
    })*};
}
from_redb!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);

/// Why a proposal was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody changed what the transaction had read. Run it again; a latch on these keys makes
    /// the next run end.
    #[error("the transaction read what has changed since")]
    Conflict(Vec<Key>),
    /// An earlier proposal in flight failed, on which this one may stand. Run it again.
    #[error("an earlier write failed")]
    Retry,
    /// The entry is larger than one log entry may be.
    #[error("the change has {bytes} bytes, at most {limit} fit into one log entry")]
    TooLarge { bytes: usize, limit: usize },
    /// A merge refused the old value (a counter at its end).
    #[error("{0}")]
    Refused(String),
    /// The disk is full. Nothing was written.
    #[error("the disk that holds the store is full: {0}; free some space, writes go on by themselves")]
    Full(String),
    /// Nobody can say whether it was written: it may be there after the store is opened again.
    #[error("it is not known whether the change was written: {0}")]
    Unknown(String),
    /// Writing failed. Nothing was committed.
    #[error("the store cannot be written: {0}")]
    Failed(String),
    #[error("the store is closed")]
    Closed,
}
