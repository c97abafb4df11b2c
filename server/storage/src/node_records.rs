//! What a node keeps for itself in the state machine's file: small records by name, each of them durable when it was kept.
//!
//! They are no entries: nobody replicates them, no snapshot has them, and a restore or a snapshot from elsewhere leaves
//! them as they are. They are in the very file that holds the entries, so that neither is put back without the other.

use std::collections::VecDeque;
use std::sync::Mutex;

use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::oneshot;

use crate::StoreError;
use crate::pipeline::lock;
use crate::state::{Snapshot, State, guarded};
use crate::store::{Inner, Store};
use crate::writer::{Failure, Writer};

const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("node");

/// What the log thread is to keep, each with who waits for it. `None`: it has ended.
pub(crate) struct ToKeep(Mutex<Option<VecDeque<Order>>>);

struct Order {
    name: &'static str,
    record: Vec<u8>,
    kept: oneshot::Sender<Result<(), StoreError>>,
}

impl Default for ToKeep {
    fn default() -> Self {
        ToKeep(Mutex::new(Some(VecDeque::new())))
    }
}

impl ToKeep {
    /// The log thread ends: whoever waits is told, and so is whoever comes.
    pub(crate) fn end(&self) {
        *lock(&self.0) = None;
    }

    fn next(&self) -> Option<Order> {
        lock(&self.0).as_mut()?.pop_front()
    }
}

impl Store {
    /// What this node has kept under a name.
    pub fn node_record(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot().node_record(name)
    }

    /// Keep a record of this node's in the place of the one before; when it is answered it is on the disk, and with it
    /// all that was applied before. For what is kept rarely: a caller has one under way at a time.
    pub async fn keep_node_record(&self, name: &'static str, record: Vec<u8>) -> Result<(), StoreError> {
        self.inner().keep_node_record(name, record).await
    }
}

impl Inner {
    async fn keep_node_record(&self, name: &'static str, record: Vec<u8>) -> Result<(), StoreError> {
        let (kept, answer) = oneshot::channel();
        match lock(&self.to_keep.0).as_mut() {
            Some(orders) => orders.push_back(Order { name, record, kept }),
            None => return Err(StoreError::Closed),
        }
        self.wake_writer();
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Writer {
    /// Keep what nodes' records are waiting to be. False: there are none.
    pub(crate) fn keep_node_records(&mut self) -> bool {
        let mut did_something = false;
        while let Some(Order { name, record, kept }) = self.inner.to_keep.next() {
            did_something = true;
            let _nobody_waits = kept.send(self.keep_node_record(name, &record));
        }
        did_something
    }

    fn keep_node_record(&mut self, name: &str, record: &[u8]) -> Result<(), StoreError> {
        self.require_checkpoints()?;
        let applied = self.inner.current.load().index();
        if let Err(e) = self.state.keep_node_record(name, record) {
            self.fail(Vec::new(), Failure::Broken { reason: e.to_string(), unknown: false });
            return Err(e);
        }
        self.is_durable(applied);
        Ok(())
    }
}

impl State {
    /// Durable, and everything before it too.
    fn keep_node_record(&self, name: &str, record: &[u8]) -> Result<(), StoreError> {
        guarded(|| {
            let mut write = self.database().begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_quick_repair(true);
            write.open_table(RECORDS)?.insert(name, record)?;
            Ok::<_, StoreError>(write.commit()?)
        })
    }

    /// Take over what the node keeps in another file, in whose place this one comes. Durable with the next checkpoint.
    pub(crate) fn take_node_records_of(&self, other: &State) -> Result<(), StoreError> {
        guarded(|| {
            let read = other.database().begin_read()?;
            let records = match read.open_table(RECORDS) {
                Ok(records) => records,
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(e) => return Err(StoreError::from(e)),
            };
            let mut write = self.database().begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut taken = write.open_table(RECORDS)?;
                for item in records.iter()? {
                    let (name, record) = item?;
                    taken.insert(name.value(), record.value())?;
                }
            }
            Ok(write.commit()?)
        })
    }
}

impl Snapshot {
    fn node_record(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(|| {
            let read = self.database().begin_read()?;
            match read.open_table(RECORDS) {
                Ok(records) => Ok(records.get(name)?.map(|record| record.value().to_vec())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(e) => Err(StoreError::from(e)),
            }
        })
    }
}
