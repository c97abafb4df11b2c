//! The state machine: redb, whose commits are made durable only by checkpoints.

use std::ops::Bound;
use std::sync::Arc;

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use crate::disk::{Disk, RedbFile};
use crate::{Key, StoreError, Value};

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const APPLIED: &str = "applied";
/// redb's own cache; what is beyond it comes from the page cache.
const CACHE_BYTES: usize = 24 << 20;
const FILE: &str = "state.redb";

/// One change of one key; `None` removes it.
pub type Change = (Key, Option<Value>);

pub struct State {
    database: Database,
}

/// A consistent, immutable view of everything that was applied up to `index`.
pub struct Snapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    index: u64,
}

impl State {
    /// Open the state machine in `disk`, or in memory. Returns the index that it holds.
    pub fn open(disk: Option<&dyn Disk>) -> Result<(State, u64), StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = match disk {
            None => builder.create_with_backend(redb::backends::InMemoryBackend::new())?,
            Some(disk) => {
                let path = disk.path(FILE);
                let file = disk.open(FILE, true).map_err(StoreError::io("cannot open", &path))?;
                // redb panics on some kinds of damage: that is an answer too, not the end of the server.
                let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.create_with_backend(RedbFile(file))));
                match opened {
                    Ok(Ok(d)) => d,
                    Ok(Err(e)) => return Err(StoreError::Damaged { path, detail: e.to_string() }),
                    Err(_) => return Err(StoreError::Damaged { path, detail: "its structure cannot be read".into() }),
                }
            }
        };
        let state = State { database };
        let write = state.database.begin_write()?;
        let applied = {
            write.open_table(ENTRIES)?;
            let meta = write.open_table(META)?;
            meta.get(APPLIED)?.map_or(0, |v| v.value())
        };
        write.commit()?;
        Ok((state, applied))
    }

    /// Apply changes in order; they are visible in the next snapshot, and durable at the next checkpoint.
    pub fn apply<'a>(&self, changes: impl Iterator<Item = &'a Change>, index: u64) -> Result<(), StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            for (key, value) in changes {
                match value {
                    Some(v) => entries.insert(&**key, &**v)?,
                    None => entries.remove(&**key)?,
                };
            }
            write.open_table(META)?.insert(APPLIED, index)?;
        }
        Ok(write.commit()?)
    }

    /// Make everything applied so far durable.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        // Without this a crash means a walk of the whole file at the next start.
        write.set_quick_repair(true);
        Ok(write.commit()?)
    }

    pub fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(ENTRIES)?;
        let index = read.open_table(META)?.get(APPLIED)?.map_or(0, |v| v.value());
        Ok(Arc::new(Snapshot { table, index }))
    }

    /// Give room that nothing uses back to the file system. Nothing may be reading.
    pub fn compact(&mut self) -> Result<bool, StoreError> {
        self.database.compact().map_err(|e| StoreError::State(e.to_string()))
    }
}

impl Snapshot {
    /// The log index up to which everything is in this view.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Read a value without copying it.
    pub fn with<R>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, StoreError> {
        let found = self.table.get(key)?;
        Ok(read(found.as_ref().map(|g| g.value())))
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.with(key, |v| v.map(Value::from))
    }

    /// Up to `limit` entries with `start <= key < end` (`end` absent: no upper end), in order.
    pub fn range(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        if end.is_some_and(|e| e <= start) {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        for item in self.table.range::<&[u8]>((Bound::Included(start), upper))?.take(limit) {
            let (k, v) = item?;
            out.push((Key::from(k.value()), Value::from(v.value())));
        }
        Ok(out)
    }
}
