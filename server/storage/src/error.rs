//! What can go wrong with the store, in classes that callers act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::Key;
use crate::redb_file::is_full;

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
    #[error(
        "the disk that holds the store at {folder} is full: {source}; nothing is lost: free some space there and start \
         the server again",
        folder = folder.display()
    )]
    Full { folder: PathBuf, source: io::Error },
    #[error("state machine: {0}")]
    State(String),
    /// Its file cannot be read or written, which says nothing about what is in it.
    #[error("state machine: {0}")]
    StateIo(io::Error),
    #[error(
        "the store at {path} is a member's of a cluster: use storage \"raft\", with which it was last opened",
        path = path.display()
    )]
    Member { path: PathBuf },
    #[error("{path} holds no store of a cluster's member", path = path.display())]
    NoMember { path: PathBuf },
    #[error(
        "the store has feature level {found}, and this program knows up to {known}: use a later program, or where \
         HOLDFAST_MAX_FEATURE_LEVEL holds it back, raise or unset it"
    )]
    Level { found: u64, known: u64 },
    #[error("{path} holds a store already: name a folder that is empty, or does not exist", path = path.display())]
    NotEmpty { path: PathBuf },
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| StoreError::Io { what, path, source }
    }

    /// Met while a store is opened: a full disk is said as what it is, wherever it was noticed.
    pub(crate) fn while_opening(self, folder: &Path) -> StoreError {
        match self {
            StoreError::Io { source, .. } | StoreError::StateIo(source) if is_full(&source) => {
                StoreError::Full { folder: folder.to_owned(), source }
            }
            StoreError::StateIo(source) => {
                StoreError::Io { what: "cannot read or write the state machine in", path: folder.to_owned(), source }
            }
            other => other,
        }
    }
}

/// An error of redb. Where the file itself is too short or not one of redb's, that is damage.
fn of_redb(e: redb::Error) -> StoreError {
    match e {
        redb::Error::Io(e) if !matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
            StoreError::StateIo(e)
        }
        redb::Error::PreviousIo => StoreError::StateIo(io::Error::other(e.to_string())),
        other => StoreError::State(other.to_string()),
    }
}

macro_rules! from_redb {
    ($($t:ty),*) => {$(impl From<$t> for StoreError {
        fn from(e: $t) -> Self { of_redb(e.into()) }
    })*};
}
from_redb!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::CompactionError
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
    /// So many writes wait for the disk, or for other members, that no more are taken. Run it again in a while.
    #[error("{0} writes wait for the disk or for other members, and no more are taken: try again in a while")]
    Crowded(usize),
    /// The entry is larger than one log entry may be.
    #[error("the change has {bytes} bytes, at most {limit} fit into one log entry")]
    TooLarge { bytes: usize, limit: usize },
    /// A merge refused the old value (a counter at its end).
    #[error("{0}")]
    Refused(String),
    /// Another member of the cluster is the active one. Nothing was written.
    #[error("this node is not the active one")]
    NotActive,
    /// The disk is full. Nothing was written.
    #[error("the disk that holds the store is full: {0}; free some space, writes go on by themselves")]
    Full(String),
    /// Nobody can say whether it was written: it may be there after the store is opened again.
    #[error("it is not known whether the change was written: {0}")]
    Unknown(String),
    /// Writing failed. Nothing was committed.
    #[error("the store cannot be written: {0}")]
    Failed(String),
    /// Nothing was written.
    #[error("the store is closed")]
    Closed,
}
