//! What the tests of this crate share: seeded randomness, and transactions as the core runs them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

pub use holdfast_random::Random;
use holdfast_storage::{CommitError, Key, Proposal, Store, StoreError, Value, View, Write};

pub fn key(text: &str) -> Key {
    text.as_bytes().into()
}

pub fn put(k: &str, v: &[u8]) -> Write {
    Write::Put(key(k), v.into())
}

pub fn number(v: Option<&[u8]>) -> u64 {
    v.map_or(0, |v| u64::from_be_bytes(v.try_into().expect("eight bytes")))
}

/// A merge that adds.
pub fn add(k: &str, n: u64) -> Write {
    Write::Merge(key(k), Box::new(move |old| Ok(Some(Value::from(&(number(old) + n).to_be_bytes()[..])))))
}

/// A proposal that read nothing.
pub fn blind(store: &Store, writes: Vec<Write>) -> Proposal {
    Proposal { view_index: store.view().index(), writes, ..Proposal::default() }
}

/// Commit and wait.
pub async fn commit(store: &Store, writes: Vec<Write>) -> Result<u64, CommitError> {
    store.propose(blind(store, writes))?.committed().await
}

pub fn everything(store: &Store) -> BTreeMap<Key, Value> {
    store.snapshot().range(b"", None, usize::MAX).expect("the store can be read").into_iter().collect()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// A transaction as the core's: reads remembered, writes buffered and seen by its own reads.
pub struct Tx {
    view: View,
    reads: Vec<(Key, u64)>,
    ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    writes: BTreeMap<Key, Pending>,
}

enum Pending {
    Put(Value),
    Delete,
    Add(u64),
}

impl Tx {
    fn new(view: View) -> Tx {
        Tx { view, reads: Vec::new(), ranges: Vec::new(), writes: BTreeMap::new() }
    }

    /// Own puts and deletes are seen, own additions are not.
    pub fn get(&mut self, k: &Key) -> Result<Option<Value>, StoreError> {
        match self.writes.get(k) {
            Some(Pending::Put(v)) => return Ok(Some(v.clone())),
            Some(Pending::Delete) => return Ok(None),
            Some(Pending::Add(_)) | None => {}
        }
        self.reads.push((k.clone(), self.view.index()));
        self.view.get(k)
    }

    /// What is stored; own writes are not seen.
    pub fn range(&mut self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        self.ranges.push((start.to_vec(), end.map(<[u8]>::to_vec)));
        self.view.range(start, end, limit)
    }

    pub fn put(&mut self, k: &Key, v: &[u8]) {
        self.writes.insert(k.clone(), Pending::Put(v.into()));
    }

    pub fn delete(&mut self, k: &Key) {
        self.writes.insert(k.clone(), Pending::Delete);
    }

    pub fn add(&mut self, k: &Key, n: u64) {
        match self.writes.get_mut(k) {
            Some(Pending::Put(v)) => *v = Value::from(&(number(Some(v)) + n).to_be_bytes()[..]),
            Some(Pending::Add(before)) => *before += n,
            Some(Pending::Delete) => self.put(k, &n.to_be_bytes()),
            None => {
                self.writes.insert(k.clone(), Pending::Add(n));
            }
        }
    }

    fn into_proposal(self) -> Proposal {
        let writes = self.writes.into_iter().map(|(k, pending)| match pending {
            Pending::Put(v) => Write::Put(k, v),
            Pending::Delete => Write::Delete(k),
            Pending::Add(n) => {
                Write::Merge(k, Box::new(move |old| Ok(Some(Value::from(&(number(old) + n).to_be_bytes()[..])))))
            }
        });
        Proposal { view_index: self.view.index(), reads: self.reads, ranges: self.ranges, writes: writes.collect() }
    }
}

/// How a transaction ended: where it stands in the order, and what its last run returned.
pub struct Ended<R> {
    /// A writer's own index; for one that only read, the last index before it.
    pub index: u64,
    pub wrote: bool,
    pub result: R,
}

/// Run a transaction as server/core/src/lib.rs does: again after a conflict, then with latches and
/// through what is in flight. `run` says with its `Err` that the handler failed and writes nothing.
pub async fn transact<R>(store: &Store, mut run: impl FnMut(&mut Tx) -> Result<R, R>) -> Result<Ended<R>, CommitError> {
    let mut contended: Vec<Key> = Vec::new();
    for attempt in 0..1000 {
        let latch = if contended.is_empty() { None } else { Some(store.latch(&contended).await) };
        let view = if latch.is_some() { store.view_in_flight() } else { store.view() };
        let (index, in_flight) = (view.index(), view.sees_in_flight());
        let mut tx = Tx::new(view);
        let (result, failed) = match run(&mut tx) {
            Ok(r) => (r, false),
            Err(r) => (r, true),
        };
        let wrote = !failed && !tx.writes.is_empty();
        if !wrote && !in_flight {
            return Ok(Ended { index, wrote, result });
        }
        let mut proposal = tx.into_proposal();
        if failed {
            proposal.writes.clear();
        }
        match store.propose(proposal) {
            Ok(ticket) => {
                drop(latch);
                match ticket.committed().await {
                    Ok(index) => return Ok(Ended { index, wrote, result }),
                    Err(CommitError::Retry | CommitError::Conflict(_)) => {}
                    Err(e) => return Err(e),
                }
            }
            Err(CommitError::Conflict(keys)) => {
                for key in keys {
                    if !contended.contains(&key) {
                        contended.push(key);
                    }
                }
            }
            Err(CommitError::Retry | CommitError::Crowded(_)) => {
                drop(latch);
                tokio::time::sleep(Duration::from_millis(1 << (attempt as u32).min(6))).await;
            }
            Err(e) => return Err(e),
        }
    }
    panic!("a transaction did not end after 1000 runs");
}
