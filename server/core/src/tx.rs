//! A transaction: a view of the store through the barrier, its reads remembered, its writes buffered.
//!
//! It shows one scope at a time. Engines see it as [`holdfast_sdk::Transaction`]; the core moves it
//! from scope to scope, so that everything a request changes is one commit.

mod entries;
mod listing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::{Error, LAST_USES, ManagedKey, Place, Result, Table, Timestamp, TokenId, Transaction};
use holdfast_seal::{Barrier, LockList, OwnRing, SealError};
use holdfast_storage::{Key, Proposal, StoreError, Value, View, Write, prefix_end};

use crate::cache::Cache;
use crate::devices::Devices;
use crate::last_use::Thing;
use crate::layout::{Destination, LOCKS, NamespaceId, STORE, Scope};
use crate::{intents, last_use, leases, managed_keys};
use listing::Listing;

/// How many entries one step of a listing reads.
const SCAN_STEP: usize = 256;

/// Things whose use one request notes.
const USES: usize = 16;

enum Pending {
    Put(Vec<u8>),
    Delete,
    Add { delta: i64, floor: Option<(i64, &'static str)> },
}

/// What one step through a range found.
struct Step {
    entries: Vec<(Key, Option<Value>)>,
    /// The last stored key that was read, if there may be more behind it.
    reached: Option<Vec<u8>>,
}

/// A batch of entries by storage key.
pub struct Below {
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the next batch begins, if there may be more.
    pub after: Option<Vec<u8>>,
}

/// Something to do when the transaction is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Seal the server once the answer is written.
    Seal,
    /// Hand leadership over once the answer is made.
    StepDown,
    /// A namespace with a seal of its own was sealed.
    NamespaceSealed,
    /// A job was stored.
    RunJobs,
    /// The answer waits until this job is done.
    AwaitJob([u8; 16]),
    /// Something outside is to be undone.
    Undo,
    /// The stored audit devices have changed.
    AuditDevices,
    /// There is a new key for the checkpoints of audit logs.
    AuditKey,
}

/// What begins with a commit, and would be left behind if whoever asked never heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    Token(TokenId),
    /// Of a namespace, by its id.
    Lease(NamespaceId, String),
}

/// Opened entries by storage key; of those that are not large.
pub type Opened = Cache<Vec<u8>>;
/// Larger entries are not kept.
const CACHED_BYTES: usize = 4096;

pub struct Tx {
    view: View,
    opened: Option<Arc<Opened>>,
    /// Where keys of `sys/managed-keys` are.
    devices: Option<Arc<Devices>>,
    barrier: Barrier,
    scope: Scope,
    reads: Vec<(Key, u64)>,
    ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    writes: BTreeMap<Vec<u8>, Pending>,
    effects: Vec<Effect>,
    uses: Vec<Thing>,
    made: Vec<Made>,
    read_only: bool,
    wall_ahead: Duration,
}

/// What the barrier refuses, as a client is told.
fn barrier_error(e: SealError) -> Error {
    match e {
        SealError::NamespaceSealed => Error::Unavailable(e.to_string()),
        other => Error::Internal(format!("storage: {other}")),
    }
}

fn store_error(e: StoreError) -> Error {
    Error::Internal(format!("storage: {e}"))
}

impl Tx {
    pub fn new(view: View, barrier: Barrier) -> Tx {
        Tx {
            view,
            opened: None,
            devices: None,
            barrier,
            scope: STORE,
            reads: Vec::new(),
            ranges: Vec::new(),
            writes: BTreeMap::new(),
            effects: Vec::new(),
            uses: Vec::new(),
            made: Vec::new(),
            read_only: false,
            wall_ahead: Duration::ZERO,
        }
    }

    /// The locks of the store, which are beside what the barrier protects.
    pub fn lock_list(&self) -> Result<Option<LockList>> {
        let read = self.view.with(LOCKS, |bytes| bytes.map(LockList::decode).transpose()).map_err(store_error)?;
        Ok(read.map_err(barrier_error)?.map(|read| read.list))
    }

    /// Read through this cache.
    pub fn cached(mut self, opened: &Arc<Opened>) -> Tx {
        // What is in flight is not in the cache.
        if !self.view.sees_in_flight() {
            self.opened = Some(opened.clone());
        }
        self
    }

    /// Managed keys of these devices can be asked for.
    pub fn with_devices(mut self, devices: &Arc<Devices>) -> Tx {
        self.devices = Some(devices.clone());
        self
    }

    /// What is told as now lies so far ahead of cluster time.
    pub fn with_wall_ahead(self, wall_ahead: Duration) -> Tx {
        Tx { wall_ahead, ..self }
    }

    /// When, by cluster time, something ends whose end was reckoned from what was told as now.
    pub fn by_cluster_time(&self, end: Timestamp) -> Timestamp {
        Timestamp(end.0.saturating_sub(u64::try_from(self.wall_ahead.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// One that remembers no reads and refuses writes.
    pub fn read_only(view: View, barrier: Barrier) -> Tx {
        Tx { read_only: true, ..Tx::new(view, barrier) }
    }

    /// Show another scope from here on.
    pub fn enter(&mut self, to: impl Destination) {
        self.scope = to.scope(self.scope.namespace);
    }

    /// The namespace whose scope is shown. The core's parts that are asked for are this one's.
    pub fn namespace(&self) -> NamespaceId {
        self.scope.namespace
    }

    /// The scope of a mount of the present namespace.
    pub fn mount(&self, mount: [u8; 16]) -> Scope {
        Scope::mount(self.scope.namespace, mount)
    }

    /// Run `f` in another scope.
    pub fn within<R>(&mut self, to: impl Destination, f: impl FnOnce(&mut Tx) -> R) -> R {
        let scope = to.scope(self.scope.namespace);
        let before = std::mem::replace(&mut self.scope, scope);
        let result = f(self);
        self.scope = before;
        result
    }

    pub fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    /// Whether nothing of a namespace can be read or written.
    pub fn is_sealed(&self, namespace: &NamespaceId) -> bool {
        self.barrier.is_sealed(namespace)
    }

    /// What this transaction writes of a namespace that it makes rests under this ring.
    pub fn use_ring(&mut self, namespace: NamespaceId, ring: OwnRing) {
        self.barrier = self.barrier.with_fresh(namespace, ring);
    }

    /// The index as of which reads are true.
    pub fn index(&self) -> u64 {
        self.view.index()
    }

    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Things of mounts that were used.
    pub fn take_uses(&mut self) -> Vec<Thing> {
        std::mem::take(&mut self.uses)
    }

    /// A token or a lease begins with the commit.
    pub fn begins(&mut self, made: Made) {
        self.made.push(made);
    }

    /// Tokens and leases that begin with the commit.
    pub fn take_made(&mut self) -> Vec<Made> {
        std::mem::take(&mut self.made)
    }

    pub fn writes_anything(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The decision stands on this record as it was at `index`: if it changes before the commit, the
    /// transaction runs again.
    pub fn depend_on(&mut self, key: impl Into<Key>, index: u64) {
        if !self.read_only {
            self.reads.push((key.into(), index));
        }
    }

    /// The storage key of a place in the present scope.
    pub fn key(&self, place: Place<'_>) -> Result<Vec<u8>> {
        let mut key = Vec::with_capacity(96);
        key.extend_from_slice(&self.scope.prefix());
        match place {
            Place::Ordered(table, bytes) => {
                key.push(table.0);
                key.extend_from_slice(bytes);
            }
            Place::Id(table, id) => {
                key.push(table.0);
                let id = self.id(table, id)?;
                key.extend_from_slice(&id);
            }
            Place::Name(table, name) => {
                let start = key.len();
                key.push(table.0);
                self.encrypt_name(table, name, &mut key)?;
                debug_assert!(key.len() > start);
            }
        }
        Ok(key)
    }

    fn encrypt_name(&self, table: Table, name: &str, out: &mut Vec<u8>) -> Result<()> {
        let context = self.domain(table);
        let mut segments = Vec::with_capacity(name.len() + 32);
        self.barrier.encrypt_name(&context, name, &mut segments).map_err(|e| match e {
            SealError::NamespaceSealed => barrier_error(e),
            _ => {
                Error::bad_request("a path segment is too long: at most 65,000 bytes are possible between two slashes")
            }
        })?;
        out.extend_from_slice(&segments);
        Ok(())
    }

    /// The stored form of an id that a client may present.
    pub fn id(&self, table: Table, id: &str) -> Result<[u8; 32]> {
        self.barrier.id(&self.domain(table), id).map_err(barrier_error)
    }

    /// What names and ids of a table are bound to: the start of its keys.
    fn domain(&self, table: Table) -> [u8; 34] {
        let mut domain = [0; 34];
        domain[..33].copy_from_slice(&self.scope.prefix());
        domain[33] = table.0;
        domain
    }

    fn open(&self, key: &[u8], sealed: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        match sealed {
            None => Ok(None),
            Some(s) => self.barrier.open(key, s).map(Some).map_err(|e| {
                if !matches!(e, SealError::NamespaceSealed) {
                    tracing::error!(error = %e, "a stored entry is refused");
                }
                barrier_error(e)
            }),
        }
    }

    /// Read by storage key.
    pub fn get_key(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.writes.get(key) {
            Some(Pending::Put(v)) => return Ok(Some(v.clone())),
            Some(Pending::Delete) => return Ok(None),
            Some(Pending::Add { .. }) | None => {}
        }
        self.depend_on(key, self.view.index());
        let Some(opened) = self.opened.clone() else {
            return self.view.with(key, |sealed| self.open(key, sealed)).map_err(store_error)?;
        };
        if let Some(found) = opened.get_at(key, self.view.index()) {
            return Ok(Some(found.as_ref().clone()));
        }
        let value = self.view.with(key, |sealed| self.open(key, sealed)).map_err(store_error)??;
        if let Some(v) = value.as_ref().filter(|v| v.len() <= CACHED_BYTES) {
            opened.insert(key, Arc::new(v.clone()), self.view.index());
        }
        Ok(value)
    }

    fn write(&mut self, key: Vec<u8>, pending: Pending) -> Result<()> {
        if self.read_only {
            return Err(Error::Internal("a read tried to write".into()));
        }
        self.writes.insert(key, pending);
        Ok(())
    }

    pub fn put_key(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.write(key, Pending::Put(value))
    }

    pub fn delete_key(&mut self, key: Vec<u8>) -> Result<()> {
        self.write(key, Pending::Delete)
    }

    /// One step through a range of storage keys, own writes included. It reads `limit` stored entries at
    /// most; what it answers may be fewer, if some were deleted here, or more.
    fn range(&mut self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Step> {
        let stored = self.view.range(start, end, limit).map_err(store_error)?;
        let full = stored.len() == limit;
        let mut merged: BTreeMap<Key, Option<Value>> = stored.into_iter().map(|(k, v)| (k, Some(v))).collect();
        // Beyond the last entry that was read, own writes must wait for their turn.
        let bound = if full { merged.last_key_value().map(|(k, _)| k.to_vec()) } else { None };
        if !self.read_only {
            // Nor does anything beyond it matter to what was read.
            let seen = bound.as_ref().map(|b| [b.as_slice(), &[0]].concat()).or_else(|| end.map(<[u8]>::to_vec));
            self.ranges.push((start.to_vec(), seen));
        }
        let own = self.writes.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded));
        for (key, pending) in own.take_while(|(k, _)| end.is_none_or(|e| k.as_slice() < e)) {
            if bound.as_ref().is_some_and(|b| key > b) {
                break;
            }
            match pending {
                Pending::Put(_) | Pending::Add { .. } => merged.insert(key.as_slice().into(), None),
                Pending::Delete => merged.remove(key.as_slice()),
            };
        }
        Ok(Step { entries: merged.into_iter().collect(), reached: bound })
    }

    /// Delete up to `limit` entries whose keys start with `prefix`. True: there may be more.
    pub fn delete_prefix(&mut self, prefix: &[u8], limit: usize) -> Result<bool> {
        let end = prefix_end(prefix);
        let found = self.range(prefix, end.as_deref(), limit)?;
        for (key, _) in found.entries {
            self.delete_key(key.to_vec())?;
        }
        Ok(found.reached.is_some())
    }

    /// The keys that start with `prefix`, behind one of them, without what they hold; at most about `limit`.
    pub fn keys(&mut self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Vec<u8>>> {
        let start = if after.is_empty() { prefix.to_vec() } else { [after, &[0]].concat() };
        let found = self.range(&start, prefix_end(prefix).as_deref(), limit)?;
        Ok(found.entries.into_iter().map(|(key, _)| key.to_vec()).collect())
    }

    /// Entries below a folder of a table by name, at any depth, in the order of their storage keys and behind
    /// one of these; at most `limit` (or somewhat more, of own writes). Their keys lead on from batch to batch.
    pub fn below(&mut self, table: Table, folder: &str, after: &[u8], limit: usize) -> Result<Below> {
        let mut prefix = self.domain(table).to_vec();
        self.encrypt_name(table, folder, &mut prefix)?;
        let end = prefix_end(&prefix);
        let start = if after.is_empty() { prefix } else { [after, &[0]].concat() };
        let step = self.range(&start, end.as_deref(), limit)?;
        let mut entries = Vec::with_capacity(step.entries.len());
        for (key, sealed) in step.entries {
            let plain = match (self.writes.get(&*key), sealed) {
                (Some(Pending::Put(v)), _) => v.clone(),
                (_, Some(sealed)) => self.open(&key, Some(&sealed))?.unwrap_or_default(),
                (_, None) => continue,
            };
            entries.push((key.to_vec(), plain));
        }
        Ok(Below { entries, after: step.reached })
    }

    /// What the store is asked to validate and commit.
    pub fn into_proposal(self) -> Result<Proposal> {
        let view_index = self.view.index();
        let mut writes = Vec::with_capacity(self.writes.len());
        for (key, pending) in self.writes {
            match pending {
                Pending::Put(value) => {
                    let sealed = self.barrier.seal(&key, &value).map_err(barrier_error)?;
                    writes.push(Write::Put(key.into(), sealed.into()));
                }
                Pending::Delete => writes.push(Write::Delete(key.into())),
                Pending::Add { delta, floor } => {
                    let (barrier, place) = (self.barrier.clone(), key.clone());
                    let resolve = move |old: Option<&[u8]>| {
                        let old = match old {
                            None => 0,
                            Some(s) => read_counter(&barrier.open(&place, s).map_err(|e| e.to_string())?),
                        };
                        let new = old.saturating_add(delta);
                        if let Some((floor, refused)) = floor
                            && new < floor
                        {
                            return Err(refused.to_owned());
                        }
                        let sealed = barrier.seal(&place, &new.to_be_bytes()).map_err(|e| e.to_string())?;
                        Ok(Some(Value::from(sealed)))
                    };
                    writes.push(Write::Merge(key.into(), Box::new(resolve)));
                }
            }
        }
        Ok(Proposal { view_index, reads: self.reads, ranges: self.ranges, writes })
    }
}

fn read_counter(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes)
}

impl Transaction for Tx {
    fn get(&mut self, place: Place<'_>) -> Result<Option<Vec<u8>>> {
        let key = self.key(place)?;
        self.get_key(&key)
    }

    fn put(&mut self, place: Place<'_>, value: Vec<u8>) -> Result<()> {
        let key = self.key(place)?;
        self.put_key(key, value)
    }

    fn delete(&mut self, place: Place<'_>) -> Result<()> {
        let key = self.key(place)?;
        self.delete_key(key)
    }

    fn names(&mut self, table: Table, folder: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let context = self.domain(table);
        let mut prefix = context.to_vec();
        self.encrypt_name(table, folder, &mut prefix)?;
        let parents = prefix[34..].to_vec();
        let end = prefix_end(&prefix);
        let segments = self.barrier.segments(&context, &parents).map_err(barrier_error)?;
        let mut listing = Listing { prefix: prefix.len(), segments, names: Vec::new() };
        match self.view.applied().filter(|_| self.read_only) {
            // Nothing has to be merged, nor remembered.
            Some(applied) => listing.read(applied, prefix, end.as_deref())?,
            None => {
                let mut start = prefix;
                loop {
                    let step = self.range(&start, end.as_deref(), SCAN_STEP)?;
                    let mut next: Option<Vec<u8>> = None;
                    for (key, _) in &step.entries {
                        // Or it is deeper down in a folder that is listed already.
                        if next.as_ref().is_none_or(|n| &**key >= n.as_slice()) {
                            next = listing.take(key)?.and_then(|through| prefix_end(&key[..through]));
                        }
                    }
                    let Some(mut after_last) = step.reached else { break };
                    after_last.push(0);
                    start = next.filter(|n| *n > after_last).unwrap_or(after_last);
                }
            }
        }
        let mut names = listing.names;
        names.sort_unstable();
        let mut names: Vec<String> = names.into_iter().filter(|n| after.is_empty() || n.as_str() > after).collect();
        if limit > 0 {
            names.truncate(limit);
        }
        Ok(names)
    }

    fn ordered(&mut self, table: Table, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let base = self.key(Place::Ordered(table, &[]))?;
        let from = [&base[..], start].concat();
        let to = if end.is_empty() { prefix_end(&base) } else { Some([&base[..], end].concat()) };
        let (mut out, mut from) = (Vec::new(), from);
        loop {
            let step = self.range(&from, to.as_deref(), limit)?;
            for (key, value) in step.entries {
                let plain = match (value, self.writes.get(&*key)) {
                    (_, Some(Pending::Put(v))) => v.clone(),
                    (_, Some(Pending::Add { delta, .. })) => {
                        let (delta, stored) = (*delta, self.get_key(&key)?);
                        stored.map_or(0, |b| read_counter(&b)).saturating_add(delta).to_be_bytes().to_vec()
                    }
                    (Some(v), _) => self.open(&key, Some(&v))?.unwrap_or_default(),
                    (None, _) => continue,
                };
                out.push((key[base.len()..].to_vec(), plain));
            }
            match step.reached {
                Some(reached) if out.len() < limit => from = [&reached[..], &[0]].concat(),
                _ => break,
            }
        }
        out.truncate(limit);
        Ok(out)
    }

    fn add(&mut self, place: Place<'_>, delta: i64, floor: Option<(i64, &'static str)>) -> Result<()> {
        let key = self.key(place)?;
        match self.writes.get_mut(&key) {
            Some(Pending::Put(v)) => {
                let sum = read_counter(v).saturating_add(delta);
                *v = sum.to_be_bytes().to_vec();
                Ok(())
            }
            Some(Pending::Add { delta: before, .. }) => {
                *before = before.saturating_add(delta);
                Ok(())
            }
            _ => self.write(key, Pending::Add { delta, floor }),
        }
    }

    fn note_use(&mut self, name: &str, at: Place<'_>) {
        if self.uses.len() < USES {
            self.uses.push(Thing::new(self.scope, name, at));
        }
    }

    fn forget_use(&mut self, name: &str) -> Result<()> {
        self.delete(Place::Id(LAST_USES, name))
    }

    fn last_use(&mut self, name: &str) -> Result<Option<Timestamp>> {
        last_use::of_thing(self, name)
    }

    fn generate_password(&mut self, policy: &str) -> Result<Option<String>> {
        crate::sys::password::generate_by(self, policy)
    }

    fn managed_key(&mut self, named: &str) -> Result<Arc<dyn ManagedKey>> {
        let devices = self.devices.clone().ok_or_else(|| Error::internal("no devices are known here"))?;
        Ok(Arc::new(managed_keys::for_mount(self, &devices, &self.scope.mount.clone(), named)?))
    }

    fn has_outside(&mut self, target: &str) -> Result<bool> {
        let mount = self.scope.mount;
        Ok(leases::count_of_target(self, &mount, target)? > 0 || intents::any_at(self, &mount, target)?)
    }

    fn count(&mut self, place: Place<'_>) -> Result<i64> {
        let key = self.key(place)?;
        let stored = self.get_key(&key)?.map_or(0, |b| read_counter(&b));
        // What this transaction adds counts for it already.
        Ok(match self.writes.get(&key) {
            Some(Pending::Add { delta, .. }) => stored.saturating_add(*delta),
            _ => stored,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{SETTINGS, UI_HEADERS};
    use crate::testing::unsealed;

    #[tokio::test]
    async fn what_was_deleted_in_the_same_transaction_does_not_end_a_listing() {
        let (core, open) = unsealed().await;
        let name = |n: usize| format!("n{n:04}");
        let many = 3 * SCAN_STEP;
        let fill = |tx: &mut Tx| {
            tx.enter(STORE);
            for n in 0..many {
                tx.put(Place::Name(UI_HEADERS, &name(n)), vec![1])?;
                tx.put(Place::Ordered(SETTINGS, format!("x{n:04}").as_bytes()), vec![1])?;
            }
            Ok(())
        };
        core.transact(&open, fill).await.unwrap();
        let look = |tx: &mut Tx| {
            tx.enter(STORE);
            for n in (0..many).step_by(3) {
                tx.delete(Place::Name(UI_HEADERS, &name(n)))?;
                tx.delete(Place::Ordered(SETTINGS, format!("x{n:04}").as_bytes()))?;
            }
            let left = tx.ordered(SETTINGS, b"x", b"y", SCAN_STEP)?;
            Ok((tx.names(UI_HEADERS, "", "", 0)?, left))
        };
        let (names, left) = core.transact(&open, look).await.unwrap();
        let kept = |n: &usize| !n.is_multiple_of(3);
        assert_eq!(names, (0..many).filter(kept).map(name).collect::<Vec<_>>());
        let keys: Vec<String> = left.iter().map(|(k, _)| String::from_utf8_lossy(k).into_owned()).collect();
        assert_eq!(keys, (0..many).filter(kept).map(|n| format!("x{n:04}")).take(SCAN_STEP).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_folder_is_listed_the_same_by_who_only_reads() {
        let (core, open) = unsealed().await;
        let names: Vec<String> = (0..2 * SCAN_STEP)
            .map(|n| match n % 5 {
                0 => format!("f{n:03}"),
                1 => format!("f{:03}/deep/{n}", n / 50),
                2 => format!("f{:03}/x{n}", n / 50),
                3 => format!("g/f{n:03}"),
                _ => format!("g/h{n:03}/k"),
            })
            .collect();
        let fill = |tx: &mut Tx| {
            tx.enter(STORE);
            names.iter().try_for_each(|name| tx.put(Place::Name(UI_HEADERS, name), vec![1]))
        };
        core.transact(&open, fill).await.unwrap();
        for folder in ["", "g/", "f000/", "f000/deep/", "nothing/"] {
            let list = |tx: &mut Tx| {
                tx.enter(STORE);
                Ok((tx.names(UI_HEADERS, folder, "", 0)?, tx.names(UI_HEADERS, folder, "f001", 3)?))
            };
            let merged = core.transact(&open, list).await.unwrap();
            let mut reader = Tx::read_only(core.store.view(), Barrier::clone(&open.barrier.load()));
            assert_eq!(list(&mut reader).unwrap(), merged, "{folder}");
            assert_eq!(merged.0.is_empty(), folder == "nothing/");
            assert!(merged.0.is_sorted_by(|a, b| a < b), "each once: {:?}", merged.0);
        }
    }
}
