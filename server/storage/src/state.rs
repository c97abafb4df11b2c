//! The state machine: redb, whose commits are made durable only by checkpoints.
//!
//! redb checks its pages' checksums only when it is told to, and then all of them. So each block has a checksum in a
//! file beside it ([`crate::sums`]), which is compared when the block is read: a flipped bit is answered to nobody. Where
//! these are missing or do not fit, redb is told to check everything at the open. Where redb panics on what it
//! reads, that is an error here.

use std::cell::Cell;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use crate::disk::Disk;
use crate::level::{self, LEVEL_KEY};
use crate::redb_file::{Patience, RedbFile};
use crate::replicated::RECEIVED_FILE;
use crate::sums::{self, Sums};
use crate::{Key, StoreError, Value};

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const APPLIED: &str = "applied";
/// What a member of a cluster keeps beside: where it is in the replicated log, and who the members are.
const RAFT_TERM: &str = "raft term";
const RAFT_INDEX: &str = "raft index";
const RAFT: TableDefinition<&str, &[u8]> = TableDefinition::new("raft");
const MEMBERS: &str = "members";
/// redb's own cache; what is beyond it comes from the page cache.
pub(crate) const CACHE_BYTES: usize = 24 << 20;
pub(crate) const FILE: &str = "state.redb";
/// What a copy is called until it takes the place of the file.
pub(crate) const COPY_FILE: &str = "state.redb.copy";
/// What it is called while it is made.
const NEW_FILE: &str = "state.redb.new";

/// The first byte of keys that wait for a restore.
pub const STAGED: u8 = 2;
/// A member's change of this key puts what was staged under its value (16 bytes) in the place of everything else.
pub const RESTORE_KEY: &[u8] = &[STAGED, 0xff];
/// Entries that are moved at a time.
const MOVED: usize = 1000;

/// Where an entry of a restore waits.
pub fn staged_key(id: &[u8; 16], key: &[u8]) -> Key {
    [&[STAGED, 0][..], id, key].concat().into()
}

/// One change of one key; `None` removes it.
pub type Change = (Key, Option<Value>);

/// A place in a replicated log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    pub term: u64,
    pub index: u64,
}

pub struct State {
    /// redb closes a database when it is dropped, though somebody still reads: whoever reads keeps it.
    database: Arc<Database>,
    patience: Arc<Patience>,
    was_checked: bool,
}

/// A consistent, immutable view of everything that was applied up to `index`.
pub struct Snapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    index: u64,
    database: Arc<Database>,
}

/// What was staged under `id` becomes everything there is.
fn put_staged(entries: &mut redb::Table<'_, &[u8], &[u8]>, id: &[u8; 16]) -> Result<(), StoreError> {
    let prefix = staged_key(id, &[]);
    entries.retain(|key, _| key.starts_with(&prefix))?;
    loop {
        let mut some = Vec::new();
        for item in entries.range::<&[u8]>(&*prefix..)?.take(MOVED) {
            let (key, value) = item?;
            let Some(to) = key.value().strip_prefix(&*prefix) else { break };
            some.push((to.to_vec(), value.value().to_vec()));
        }
        if some.is_empty() {
            return Ok(());
        }
        for (key, value) in some {
            entries.remove(&*staged_key(id, &key))?;
            entries.insert(&*key, &*value)?;
        }
    }
}

/// Make an empty one, so that it is there whole or not at all.
fn create(disk: &dyn Disk) -> Result<(), StoreError> {
    let path = disk.path(NEW_FILE);
    drop(State::create(disk, NEW_FILE, &Arc::default())?);
    let file = disk.open(NEW_FILE, false).map_err(StoreError::io("cannot open", &path))?;
    file.sync().map_err(StoreError::io("cannot sync", &path))?;
    put_in_place(disk, NEW_FILE).map_err(StoreError::io("cannot rename", &path))
}

/// Give a file that was made beside it the state machine's name, and its checksums with it. A crash leaves one of
/// both files, and the other's checksums never beside it.
pub(crate) fn put_in_place(disk: &dyn Disk, made: &str) -> io::Result<()> {
    let sums = sums::beside(FILE);
    if disk.list()?.contains(&sums) {
        disk.remove(&sums)?;
        disk.sync_folder()?;
    }
    disk.rename(made, FILE)?;
    disk.sync_folder()?;
    disk.rename(&sums::beside(made), &sums)?;
    disk.sync_folder()
}

/// Remove a file that was made beside it, if it is there.
pub(crate) fn remove_made(disk: &dyn Disk, made: &str) -> io::Result<()> {
    let names = disk.list()?;
    for name in [made, &sums::beside(made)] {
        if names.iter().any(|n| n == name) {
            disk.remove(name)?;
        }
    }
    Ok(())
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is redb's at a damaged file, which becomes an error: a panic hook need not tell.
pub fn panics_are_errors() -> bool {
    GUARDED.get()
}

/// What redb does, with its panics as errors.
pub(crate) fn guarded<R, E: Into<StoreError>>(work: impl FnOnce() -> Result<R, E>) -> Result<R, StoreError> {
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match done {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(StoreError::State("its structure cannot be read".into())),
    }
}

impl State {
    /// Open the state machine in `disk`, or in memory. Returns the index that it holds.
    pub fn open(disk: Option<&dyn Disk>) -> Result<(State, u64), StoreError> {
        let patience = Arc::<Patience>::default();
        let Some(disk) = disk else {
            let database = Arc::new(builder().create_with_backend(redb::backends::InMemoryBackend::new())?);
            return State { database, patience, was_checked: false }.prepare();
        };
        let names = disk.list().map_err(StoreError::io("cannot list", disk.path("")))?;
        // Where a compaction was under way, or a snapshot came: it takes room only.
        let begun = names.iter().filter(|n| n.starts_with(RECEIVED_FILE)).map(String::as_str);
        for name in begun.chain([COPY_FILE]) {
            remove_made(disk, name).map_err(StoreError::io("cannot remove", disk.path(name)))?;
        }
        if !names.iter().any(|n| n == FILE) {
            create(disk)?;
        }
        let path = disk.path(FILE);
        let file = disk.open(FILE, false).map_err(StoreError::io("cannot open", &path))?;
        let beside = disk.path(&sums::beside(FILE));
        let file = disk
            .open(&sums::beside(FILE), true)
            .and_then(|sums| Sums::open(sums, &*file))
            .and_then(|sums| RedbFile::new(file, sums, patience.clone()))
            .map_err(StoreError::io("cannot open", &beside))?;
        let watch = file.watch();
        let opened = guarded(|| {
            let mut database = builder().create_with_backend(file)?;
            let is_to_be_checked = !watch.are_trusted();
            if is_to_be_checked {
                tracing::info!(path = %path.display(), "the state machine's file is checked as a whole: no checksums fit it");
                if !database.check_integrity()? {
                    tracing::warn!(path = %path.display(), "the state machine was damaged and is set back to an earlier state");
                }
            }
            Ok::<_, redb::DatabaseError>((database, is_to_be_checked))
        });
        let prepared = opened.and_then(|(database, was_checked)| {
            watch.opened().map_err(StoreError::io("cannot write", &beside))?;
            guarded(|| State { database: Arc::new(database), patience: patience.clone(), was_checked }.prepare())
        });
        prepared.map_err(|e| match (e, patience.refusal()) {
            // Whatever redb made of it.
            (_, Some(full)) => StoreError::StateIo(full),
            (StoreError::State(detail), None) => StoreError::Damaged { path, detail },
            (StoreError::StateIo(e), None) if e.kind() == io::ErrorKind::InvalidData => {
                StoreError::Damaged { path, detail: e.to_string() }
            }
            (other, None) => other,
        })
    }

    /// An empty one in a file of its own; what was there is gone.
    pub(crate) fn create(disk: &dyn Disk, name: &str, patience: &Arc<Patience>) -> Result<State, StoreError> {
        let path = disk.path(name);
        let file = disk.open(name, true).map_err(StoreError::io("cannot create", &path))?;
        file.set_len(0).map_err(StoreError::io("cannot empty", &path))?;
        let file = disk
            .open(&sums::beside(name), true)
            .and_then(Sums::create)
            .and_then(|sums| RedbFile::new(file, sums, patience.clone()))
            .map_err(StoreError::io("cannot create the checksums of", &path))?;
        let watch = file.watch();
        guarded(|| {
            let database = builder().create_with_backend(file)?;
            watch.opened().map_err(StoreError::io("cannot write the checksums of", &path))?;
            let state = State { database: Arc::new(database), patience: patience.clone(), was_checked: false };
            Ok::<_, StoreError>(state.prepare()?.0)
        })
    }

    /// Make the tables if they are not there, and read the applied index.
    fn prepare(self) -> Result<(State, u64), StoreError> {
        let read = self.database.begin_read()?;
        let tables = read.open_table(ENTRIES).and_then(|_| read.open_table(META));
        if let Ok(entries) = read.open_table(ENTRIES) {
            level::check(entries.get(LEVEL_KEY)?.as_ref().map(|v| v.value()))?;
        }
        let applied = match tables {
            Ok(meta) => meta.get(APPLIED)?.map_or(0, |v| v.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => {
                let mut write = self.database.begin_write()?;
                write.set_quick_repair(true);
                write.open_table(ENTRIES)?;
                write.open_table(META)?;
                write.commit()?;
                0
            }
            Err(e) => return Err(e.into()),
        };
        drop(read);
        Ok((self, applied))
    }

    /// Whether everything was read and checked at the open.
    pub(crate) fn was_checked(&self) -> bool {
        self.was_checked
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Whether writes wait for room on a full disk.
    pub(crate) fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }

    /// Apply changes in order; they are visible in the next snapshot, and durable at the next checkpoint.
    pub fn apply<'a>(&self, changes: impl Iterator<Item = &'a Change>, index: u64) -> Result<(), StoreError> {
        self.apply_replicated(changes, index, None, None)
    }

    /// As [`State::apply`], with the place in the replicated log that it comes from, and the members from there
    /// on if they change.
    pub(crate) fn apply_replicated<'a>(
        &self,
        changes: impl Iterator<Item = &'a Change>,
        index: u64,
        mark: Option<Mark>,
        members: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        guarded(|| {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut entries = write.open_table(ENTRIES)?;
                for (key, value) in changes {
                    if **key == *RESTORE_KEY
                        && let Some(id) = value.as_deref().and_then(|id| id.try_into().ok())
                    {
                        put_staged(&mut entries, id)?;
                        level::check(entries.get(LEVEL_KEY)?.as_ref().map(|v| v.value()))?;
                        continue;
                    }
                    if **key == *LEVEL_KEY {
                        level::check(value.as_deref())?;
                    }
                    match value {
                        Some(v) => entries.insert(&**key, &**v)?,
                        None => entries.remove(&**key)?,
                    };
                }
                let mut meta = write.open_table(META)?;
                meta.insert(APPLIED, index)?;
                if let Some(mark) = mark {
                    meta.insert(RAFT_TERM, mark.term)?;
                    meta.insert(RAFT_INDEX, mark.index)?;
                }
                if let Some(members) = members {
                    write.open_table(RAFT)?.insert(MEMBERS, members)?;
                }
            }
            Ok::<_, StoreError>(write.commit()?)
        })
    }

    /// Where it is in the replicated log, and who the members are; `None`: it never was a member's.
    pub(crate) fn replicated(&self) -> Result<Option<(Mark, Vec<u8>)>, StoreError> {
        guarded(|| {
            let read = self.database.begin_read()?;
            let meta = read.open_table(META)?;
            let (Some(term), Some(index)) = (meta.get(RAFT_TERM)?, meta.get(RAFT_INDEX)?) else { return Ok(None) };
            let members = match read.open_table(RAFT) {
                Ok(table) => table.get(MEMBERS)?.map_or_else(Vec::new, |m| m.value().to_vec()),
                Err(redb::TableError::TableDoesNotExist(_)) => Vec::new(),
                Err(e) => return Err(StoreError::from(e)),
            };
            Ok(Some((Mark { term: term.value(), index: index.value() }, members)))
        })
    }

    /// Make everything applied so far durable.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        guarded(|| {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            // Without this a crash means a walk of the whole file at the next start.
            write.set_quick_repair(true);
            Ok::<_, StoreError>(write.commit()?)
        })
    }

    pub fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        guarded(|| {
            let read = self.database.begin_read()?;
            let table = read.open_table(ENTRIES)?;
            let index = read.open_table(META)?.get(APPLIED)?.map_or(0, |v| v.value());
            Ok::<_, StoreError>(Arc::new(Snapshot { table, index, database: self.database.clone() }))
        })
    }

    /// Give room that nothing uses back to the file system. Nothing may be reading.
    pub fn compact(&mut self) -> Result<bool, StoreError> {
        let read = || StoreError::State("somebody reads what is to be compacted".into());
        let database = Arc::get_mut(&mut self.database).ok_or_else(read)?;
        guarded(|| database.compact())
    }

    /// Snapshots that somebody still has.
    pub(crate) fn readers(&self) -> usize {
        Arc::strong_count(&self.database) - 1
    }
}

impl Snapshot {
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The log index up to which everything is in this view.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The number of entries.
    pub fn len(&self) -> Result<u64, StoreError> {
        guarded(|| self.table.len())
    }

    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// Entries from `start` on, in order, until there are so many bytes of them.
    pub fn chunk(&self, start: Bound<&[u8]>, bytes: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        guarded(|| {
            let (mut out, mut left) = (Vec::new(), bytes);
            for item in self.table.range::<&[u8]>((start, Bound::Unbounded))? {
                let (k, v) = item?;
                let (k, v) = (k.value(), v.value());
                out.push((Key::from(k), Value::from(v)));
                left = left.saturating_sub(k.len() + v.len());
                if left == 0 {
                    break;
                }
            }
            Ok::<_, StoreError>(out)
        })
    }

    /// Read a value without copying it.
    pub fn with<R>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, StoreError> {
        let found = guarded(|| self.table.get(key))?;
        let value = guarded(|| Ok::<_, StoreError>(found.as_ref().map(|g| g.value())))?;
        Ok(read(value))
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.with(key, |v| v.map(Value::from))
    }

    /// The keys with `start <= key < end` (`end` absent: no upper end), in order, until `visit` breaks off.
    pub fn keys(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if end.is_some_and(|e| e <= start) {
            return Ok(());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut range = guarded(|| self.table.range::<&[u8]>((Bound::Included(start), upper)))?;
        while let Some(key) = guarded(|| range.next().transpose())? {
            if visit(key.0.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Up to `limit` entries with `start <= key < end` (`end` absent: no upper end), in order.
    pub fn range(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        if end.is_some_and(|e| e <= start) {
            return Ok(Vec::new());
        }
        guarded(|| {
            let mut out = Vec::new();
            for item in self.table.range::<&[u8]>((Bound::Included(start), upper))?.take(limit) {
                let (k, v) = item?;
                out.push((Key::from(k.value()), Value::from(v.value())));
            }
            Ok::<_, StoreError>(out)
        })
    }
}
