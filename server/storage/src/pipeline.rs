//! Transactions: optimistic validation, numbering, the overlay of what is in flight, latches.
//!
//! A transaction reads a [`View`] and collects a [`Proposal`]. [`Pipeline::propose`] checks, under
//! one short lock, that nothing it read was changed since by what is applied or in flight, gives it
//! the next log index and puts it into the queue. A conflict therefore costs no log entry.
//!
//! Most views read applied state only. One that conflicted is run again under a [`Latch`] on the
//! contended keys with a view that reads through the overlay, so that many writes of one key share
//! a sync: the latch is passed on when its holder has proposed, not when it is committed.
//!
//! When the log refuses a write, everything in flight behind it fails with
//! [`CommitError::Retry`], since it may have read what did not happen. The indexes of what failed
//! are not given out again (the log fills them with empty entries): a transaction that read it, and
//! proposes later, is found out by the index it read at.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::changes::encoded_len;
use crate::state::{Change, Snapshot};
use crate::{CommitError, Key, StoreError, Value};

/// Commits whose keys are remembered for validation; a transaction older than that runs again.
const REMEMBERED_COMMITS: usize = 8192;
/// Proposals in flight at most; more wait at the door.
pub const MAX_IN_FLIGHT: usize = 4096;
const LATCHES: usize = 1024;

/// What a transaction sees.
pub struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Set: reads go through proposals in flight, and what is read is true as of `index`.
    pub(crate) overlay: Option<Arc<Pipeline>>,
    pub(crate) index: u64,
}

/// What a transaction read and wants to write.
#[derive(Default)]
pub struct Proposal {
    /// The view's index.
    pub view_index: u64,
    /// Keys that were read, absent ones too, and the index as of which each was.
    pub reads: Vec<(Key, u64)>,
    /// Ranges that were listed: start, and end if there is one.
    pub ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub writes: Vec<Write>,
}

/// Computes a merge's new value from the old one, at the moment of numbering.
pub type Resolve = Box<dyn FnOnce(Option<&[u8]>) -> Result<Option<Value>, String> + Send>;

/// One write of a proposal.
pub enum Write {
    Put(Key, Value),
    Delete(Key),
    /// A counter: never conflicts, sees the latest value.
    Merge(Key, Resolve),
}

/// A numbered proposal; await it to learn that it is durable and applied.
pub struct Ticket {
    pub index: u64,
    pub(crate) done: oneshot::Receiver<Result<(), CommitError>>,
    /// It changes something.
    writes: bool,
}

impl Ticket {
    /// Wait for the commit. The proposal runs to its end even if nobody waits.
    pub async fn committed(self) -> Result<u64, CommitError> {
        match self.done.await {
            Ok(Ok(())) => Ok(self.index),
            Ok(Err(e)) => Err(e),
            // Whoever had it ended without a word: it may be in the log, and in those of others.
            Err(_) if self.writes => Err(CommitError::Unknown("the store was closed before it was answered".into())),
            Err(_) => Err(CommitError::Closed),
        }
    }
}

/// One queued proposal.
pub(crate) struct Queued {
    pub index: u64,
    pub changes: Vec<Change>,
    pub bytes: usize,
    pub done: oneshot::Sender<Result<(), CommitError>>,
}

/// Keys held by one transaction at a time; dropped when its holder has proposed.
pub struct Latch {
    _held: Vec<OwnedMutexGuard<()>>,
}

pub struct Pipeline {
    shared: Mutex<Shared>,
    latches: Vec<Arc<tokio::sync::Mutex<()>>>,
    max_entry_bytes: usize,
}

pub(crate) struct Shared {
    pub next_index: u64,
    /// The newest value in flight of each key, with the index that writes it.
    overlay: HashMap<Key, (u64, Option<Value>)>,
    /// The last index that wrote a key, for remembered commits.
    written: HashMap<Key, u64>,
    /// (index, its keys) of remembered commits, oldest first.
    commits: VecDeque<(u64, Vec<Key>)>,
    /// Validation knows all commits after this index.
    known_after: u64,
    pub queue: VecDeque<Queued>,
    pub in_flight: usize,
    /// Empty commits that wait for an index to be applied.
    pub waiters: Vec<(u64, oneshot::Sender<Result<(), CommitError>>)>,
    pub snapshot: Arc<Snapshot>,
    /// Every index up to here is applied or void.
    settled: u64,
    pub closed: bool,
    /// Why writes are refused at present (the disk is full).
    pub refusing: Option<String>,
    /// Why writes are refused until the store is opened again.
    pub broken: Option<String>,
    /// Another member is the active one.
    pub standby: bool,
    /// The term in which this member took over: what was judged in it is proposed in no other.
    pub term: u64,
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipeline {
    pub(crate) fn new(snapshot: Arc<Snapshot>, max_entry_bytes: usize) -> Pipeline {
        let applied = snapshot.index();
        Pipeline {
            shared: Mutex::new(Shared {
                next_index: applied + 1,
                overlay: HashMap::new(),
                written: HashMap::new(),
                commits: VecDeque::new(),
                known_after: applied,
                queue: VecDeque::new(),
                in_flight: 0,
                waiters: Vec::new(),
                snapshot,
                settled: applied,
                closed: false,
                refusing: None,
                broken: None,
                standby: false,
                term: 0,
            }),
            latches: (0..LATCHES).map(|_| Arc::default()).collect(),
            max_entry_bytes,
        }
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// A view of applied state.
    pub fn view(&self) -> View {
        let snapshot = self.shared().snapshot.clone();
        View { index: snapshot.index(), snapshot, overlay: None }
    }

    /// A view of applied state and everything in flight, for a run that holds a latch.
    pub fn view_in_flight(self: &Arc<Self>) -> View {
        let shared = self.shared();
        View { snapshot: shared.snapshot.clone(), overlay: Some(self.clone()), index: shared.next_index - 1 }
    }

    /// Wait until nobody else holds these keys. The keys are taken in one global order.
    pub async fn latch(&self, keys: &[Key]) -> Latch {
        let mut slots: Vec<usize> = keys.iter().map(|k| crc32fast::hash(k) as usize % LATCHES).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut held = Vec::with_capacity(slots.len());
        for slot in slots {
            held.push(self.latches[slot].clone().lock_owned().await);
        }
        Latch { _held: held }
    }

    /// Validate and number a proposal. One without writes is validated too, and its ticket ends
    /// when all that it may have read is applied.
    pub fn propose(&self, proposal: Proposal) -> Result<Ticket, CommitError> {
        self.propose_and(proposal, |_| {})
    }

    /// As [`Pipeline::propose`]; `then` is done before anybody else can propose.
    pub(crate) fn propose_and(
        &self,
        proposal: Proposal,
        then: impl FnOnce(&mut Shared),
    ) -> Result<Ticket, CommitError> {
        let (sender, done) = oneshot::channel();
        let mut shared = self.shared();
        if shared.closed {
            return Err(CommitError::Closed);
        }
        if shared.standby {
            return Err(CommitError::NotActive);
        }
        shared.validate(&proposal)?;
        if proposal.writes.is_empty() {
            let index = proposal.view_index;
            if index <= shared.settled {
                let _nobody_waits = sender.send(Ok(()));
            } else {
                shared.waiters.push((index, sender));
            }
            return Ok(Ticket { index, done, writes: false });
        }
        if let Some(reason) = &shared.broken {
            return Err(CommitError::Failed(reason.clone()));
        }
        if let Some(reason) = &shared.refusing {
            return Err(CommitError::Full(reason.clone()));
        }
        if shared.in_flight >= MAX_IN_FLIGHT {
            return Err(CommitError::Crowded(shared.in_flight));
        }
        let changes = shared.resolve(proposal.writes)?;
        let bytes = encoded_len(&changes);
        if bytes > self.max_entry_bytes {
            return Err(CommitError::TooLarge { bytes, limit: self.max_entry_bytes });
        }
        let index = shared.next_index;
        shared.next_index += 1;
        shared.in_flight += 1;
        shared.remember(index, &changes);
        shared.queue.push_back(Queued { index, changes, bytes, done: sender });
        then(&mut shared);
        Ok(Ticket { index, done, writes: true })
    }
}

/// Whether a key is in a range that was read.
fn is_in(key: &[u8], (start, end): &(Vec<u8>, Option<Vec<u8>>)) -> bool {
    key >= start.as_slice() && end.as_deref().is_none_or(|e| key < e)
}

impl Shared {
    fn validate(&self, p: &Proposal) -> Result<(), CommitError> {
        if p.view_index < self.known_after || p.reads.iter().any(|(_, at)| *at < self.known_after) {
            return Err(CommitError::Conflict(p.reads.iter().map(|(k, _)| k.clone()).collect()));
        }
        let mut conflicts = Vec::new();
        for (key, read_at) in &p.reads {
            if self.written.get(key).is_some_and(|at| at > read_at) {
                conflicts.push(key.clone());
            }
        }
        for range in &p.ranges {
            // What was committed since the view was taken is little, and ranges are seldom read by who writes.
            let mut since = self.commits.iter().rev().take_while(|(at, _)| *at > p.view_index);
            if let Some(key) = since.find_map(|(_, keys)| keys.iter().find(|key| is_in(key, range))) {
                conflicts.push(key.clone());
            }
        }
        if conflicts.is_empty() { Ok(()) } else { Err(CommitError::Conflict(conflicts)) }
    }

    fn resolve(&self, writes: Vec<Write>) -> Result<Vec<Change>, CommitError> {
        let mut changes: Vec<Change> = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Put(k, v) => changes.push((k, Some(v))),
                Write::Delete(k) => changes.push((k, None)),
                Write::Merge(k, resolve) => {
                    let own = changes.iter().rev().find(|(key, _)| *key == k).map(|(_, v)| v);
                    let old = match own.or_else(|| self.overlay.get(&k).map(|(_, v)| v)) {
                        Some(v) => v.clone(),
                        None => self.snapshot.get(&k).map_err(|e| CommitError::Failed(e.to_string()))?,
                    };
                    let new = resolve(old.as_deref()).map_err(CommitError::Refused)?;
                    changes.push((k, new));
                }
            }
        }
        Ok(changes)
    }

    fn remember(&mut self, index: u64, changes: &[Change]) {
        for (key, value) in changes {
            self.overlay.insert(key.clone(), (index, value.clone()));
            self.written.insert(key.clone(), index);
        }
        self.remember_commit(index, changes.iter().map(|(k, _)| k.clone()).collect());
    }

    fn remember_commit(&mut self, index: u64, keys: Vec<Key>) {
        self.commits.push_back((index, keys));
        while self.commits.len() > REMEMBERED_COMMITS {
            let Some((old, keys)) = self.commits.pop_front() else { break };
            for key in keys {
                if self.written.get(&key) == Some(&old) {
                    self.written.remove(&key);
                }
            }
            self.known_after = old;
        }
    }

    /// Everything up to `snapshot` is applied: publish it and forget it from the overlay.
    pub(crate) fn publish(&mut self, snapshot: Arc<Snapshot>, keys: &[Key]) {
        let applied = snapshot.index();
        self.snapshot = snapshot;
        for key in keys {
            if let Entry::Occupied(flying) = self.overlay.entry(key.clone())
                && flying.get().0 <= applied
            {
                flying.remove();
            }
        }
        self.settle(applied);
    }

    /// What is applied was agreed on in another term than that in which this member took over, or was taken from
    /// elsewhere as a whole: whoever waits for what was in flight here has read what may never happen.
    pub(crate) fn give_up_readers(&mut self) {
        for (_, sender) in self.waiters.drain(..) {
            let _nobody_waits = sender.send(Err(CommitError::Retry));
        }
    }

    /// Tell those whose proposals nobody has taken out of the queue that nothing of them was written.
    pub(crate) fn refuse_queued(&mut self, why: impl Fn() -> CommitError) {
        for queued in self.queue.drain(..) {
            let _nobody_waits = queued.done.send(Err(why()));
        }
    }

    /// Everything up to `index` is applied or void.
    fn settle(&mut self, index: u64) {
        self.settled = index;
        let mut i = 0;
        while i < self.waiters.len() {
            if self.waiters[i].0 <= index {
                let (_, sender) = self.waiters.swap_remove(i);
                let _nobody_waits = sender.send(Ok(()));
            } else {
                i += 1;
            }
        }
    }

    /// This member shall become the active one in a term. Everything that was read before is void: what is proposed
    /// from now on stands on the state that a proposal leaves, which changes nothing, when it is applied. Returns its
    /// index, and the word that it was; then see [`Shared::has_taken_over`].
    pub(crate) fn take_over(&mut self, term: u64) -> (u64, oneshot::Receiver<Result<(), CommitError>>) {
        let index = self.next_index.max(self.snapshot.index() + 1);
        self.overlay.clear();
        self.written.clear();
        self.commits.clear();
        self.refuse_queued(|| CommitError::NotActive);
        self.give_up_readers();
        self.known_after = index;
        self.next_index = index + 1;
        self.standby = true;
        self.term = term;
        self.in_flight = 1;
        let (done, applied) = oneshot::channel();
        self.queue.push_back(Queued { index, changes: Vec::new(), bytes: 0, done });
        (index, applied)
    }

    /// What [`Shared::take_over`] proposed was applied. False: entries of the member before were in the log, with
    /// indexes behind ours, which was chosen before they were applied: it has to be done again, or what is proposed
    /// next would seem older than what was read.
    pub(crate) fn has_taken_over(&mut self, index: u64) -> bool {
        let is_behind_all = self.snapshot.index() == index;
        self.standby = !is_behind_all;
        is_behind_all
    }

    /// The log refused: forget everything in flight. Its keys count as written by an index of their
    /// own, behind all that was given out, so that whoever read what did not happen runs again.
    pub(crate) fn roll_back(&mut self) -> RolledBack {
        let applied = self.snapshot.index();
        let mut keys = Vec::new();
        while let Some((_, failed)) = self.commits.pop_back_if(|(at, _)| *at > applied) {
            keys.extend(failed);
        }
        keys.sort_unstable();
        keys.dedup();
        let index = self.next_index;
        for key in &keys {
            self.written.insert(key.clone(), index);
        }
        self.remember_commit(index, keys.clone());
        self.next_index = index + 1;
        self.overlay.clear();
        let readers = std::mem::take(&mut self.waiters).into_iter().map(|(_, sender)| sender).collect();
        let queued = std::mem::take(&mut self.queue).into();
        self.in_flight = 0;
        self.settle(index);
        RolledBack { queued, readers, keys, index }
    }
}

/// What was in flight when the log refused a write.
pub(crate) struct RolledBack {
    /// What nobody had tried to write yet.
    pub queued: Vec<Queued>,
    /// Those who had read it and wait to hear whether it was true.
    pub readers: Vec<oneshot::Sender<Result<(), CommitError>>>,
    pub keys: Vec<Key>,
    /// The index from which on nothing of it is seen.
    pub index: u64,
}

impl View {
    /// The index as of which reads are true.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Reads of proposals in flight are possible: nothing may be answered before a commit.
    pub fn sees_in_flight(&self) -> bool {
        self.overlay.is_some()
    }

    pub fn with<R>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, StoreError> {
        let Some(pipeline) = &self.overlay else { return self.snapshot.with(key, read) };
        let (flying, snapshot) = {
            let shared = pipeline.shared();
            (shared.overlay.get(key).map(|(_, v)| v.clone()), shared.snapshot.clone())
        };
        match flying {
            Some(value) => Ok(read(value.as_deref())),
            None => snapshot.with(key, read),
        }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.with(key, |v| v.map(Value::from))
    }

    /// The applied state, if nothing in flight is seen.
    pub fn applied(&self) -> Option<&Snapshot> {
        self.overlay.is_none().then_some(&*self.snapshot)
    }

    /// As [`Snapshot::range`].
    pub fn range(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        let Some(pipeline) = &self.overlay else { return self.snapshot.range(start, end, limit) };
        let (flying, snapshot): (Vec<(Key, Option<Value>)>, _) = {
            let shared = pipeline.shared();
            let flying = shared.overlay.iter().filter(|(k, _)| &***k >= start && end.is_none_or(|e| &***k < e));
            (flying.map(|(k, (_, v))| (k.clone(), v.clone())).collect(), shared.snapshot.clone())
        };
        let mut merged: BTreeMap<Key, Value> =
            snapshot.range(start, end, limit.saturating_add(flying.len()))?.into_iter().collect();
        for (key, value) in flying {
            match value {
                Some(v) => merged.insert(key, v),
                None => merged.remove(&key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn pipeline() -> (State, Pipeline) {
        let (state, _) = State::open(None).unwrap();
        let pipeline = Pipeline::new(state.snapshot().unwrap(), 1 << 20);
        (state, pipeline)
    }

    fn key(k: &str) -> Key {
        k.as_bytes().into()
    }

    fn put(k: &str, v: &str) -> Write {
        Write::Put(key(k), v.as_bytes().into())
    }

    fn append(k: &str, more: &'static str) -> Write {
        let resolve = move |old: Option<&[u8]>| Ok(Some(Value::from([old.unwrap_or(b""), more.as_bytes()].concat())));
        Write::Merge(key(k), Box::new(resolve))
    }

    fn proposal(at: u64, reads: &[&str], writes: Vec<Write>) -> Proposal {
        Proposal { view_index: at, reads: reads.iter().map(|k| (key(k), at)).collect(), writes, ..Proposal::default() }
    }

    /// What the writer does with a group that went well.
    fn apply_queue(state: &State, pipeline: &Pipeline) {
        let mut shared = pipeline.shared();
        while let Some(q) = shared.queue.pop_front() {
            state.apply(q.changes.iter(), q.index).unwrap();
            let keys: Vec<Key> = q.changes.into_iter().map(|(k, _)| k).collect();
            shared.publish(state.snapshot().unwrap(), &keys);
            shared.in_flight -= 1;
            let _ = q.done.send(Ok(()));
        }
    }

    #[test]
    fn a_read_that_was_overtaken_is_a_conflict_and_names_the_key() {
        let (state, p) = pipeline();
        p.propose(proposal(0, &["a"], vec![put("a", "1")])).unwrap();
        let conflict = |r: Result<Ticket, CommitError>| match r {
            Err(CommitError::Conflict(keys)) => keys,
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("no conflict"),
        };
        assert_eq!(conflict(p.propose(proposal(0, &["b", "a"], vec![put("b", "1")]))), [key("a")]);
        assert_eq!(conflict(p.propose(proposal(0, &["a"], vec![]))), [key("a")], "also for one that only reads");
        p.propose(proposal(1, &["a"], vec![put("b", "1")])).unwrap();
        p.propose(proposal(0, &[], vec![put("a", "2")])).unwrap();
        apply_queue(&state, &p);
        assert_eq!(
            conflict(p.propose(proposal(2, &["a"], vec![put("b", "2")]))),
            [key("a")],
            "applied is no different"
        );
    }

    #[test]
    fn a_range_conflicts_with_what_appears_in_it_and_with_nothing_beside_it() {
        let (_state, p) = pipeline();
        p.propose(proposal(0, &[], vec![put("m", "1")])).unwrap();
        let propose = |start: &str, end: Option<&str>| {
            let ranges = vec![(start.as_bytes().to_vec(), end.map(|e| e.as_bytes().to_vec()))];
            p.propose(Proposal { view_index: 0, ranges, ..Proposal::default() })
        };
        assert!(propose("a", Some("z")).is_err());
        assert!(propose("m", Some("n")).is_err(), "the start is in it");
        assert!(propose("a", None).is_err());
        assert!(propose("a", Some("m")).is_ok(), "the end is not");
        assert!(propose("n", None).is_ok());
        assert!(propose("z", Some("a")).is_ok(), "a range of nothing");
    }

    #[test]
    fn a_merge_sees_what_is_in_flight_and_the_writes_before_it_in_its_own_proposal() {
        let (state, p) = pipeline();
        p.propose(proposal(0, &[], vec![append("k", "a")])).unwrap();
        p.propose(proposal(0, &[], vec![append("k", "b"), append("k", "c")])).unwrap();
        p.propose(proposal(0, &[], vec![Write::Delete(key("x")), append("x", "d"), put("x", "e"), append("x", "f")]))
            .unwrap();
        apply_queue(&state, &p);
        let snapshot = state.snapshot().unwrap();
        assert_eq!(snapshot.get(b"k").unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(snapshot.get(b"x").unwrap().as_deref(), Some(&b"ef"[..]));
    }

    #[test]
    fn a_refused_merge_leaves_no_trace() {
        let (_state, p) = pipeline();
        let refuse = Write::Merge(key("k"), Box::new(|_| Err("no more".into())));
        let refused = p.propose(proposal(0, &[], vec![put("a", "1"), refuse]));
        assert!(matches!(refused, Err(CommitError::Refused(text)) if text == "no more"));
        assert!(p.propose(proposal(0, &["a", "k"], vec![put("a", "2")])).is_ok());
        assert_eq!(p.shared().next_index, 2);
    }

    #[test]
    fn a_transaction_older_than_what_is_remembered_runs_again() {
        let (state, p) = pipeline();
        let old = p.view().index();
        for i in 0..=REMEMBERED_COMMITS {
            p.propose(proposal(p.view().index(), &[], vec![put(&format!("{i}"), "x")])).unwrap();
            apply_queue(&state, &p);
        }
        assert!(matches!(p.propose(proposal(old, &["never"], vec![])), Err(CommitError::Conflict(_))));
        let shared = p.shared();
        assert_eq!(shared.commits.len(), REMEMBERED_COMMITS);
        assert_eq!(shared.written.len(), REMEMBERED_COMMITS, "what is forgotten takes no room");
        assert!(shared.overlay.is_empty());
    }

    #[test]
    fn a_view_in_flight_merges_ranges_with_what_is_stored() {
        let (state, p) = pipeline();
        let p = Arc::new(p);
        p.propose(proposal(0, &[], "bdfh".chars().map(|c| put(&c.to_string(), "s")).collect())).unwrap();
        apply_queue(&state, &p);
        p.propose(proposal(1, &[], vec![put("a", "n"), Write::Delete(key("b")), put("d", "n"), put("e", "n")]))
            .unwrap();
        let keys = |start: &str, end: Option<&str>, limit| -> String {
            let found = p.view_in_flight().range(start.as_bytes(), end.map(str::as_bytes), limit).unwrap();
            found
                .iter()
                .map(|(k, v)| format!("{}{} ", String::from_utf8_lossy(k), String::from_utf8_lossy(v)))
                .collect()
        };
        assert_eq!(keys("", None, 99), "an dn en fs hs ");
        assert_eq!(keys("", None, 3), "an dn en ");
        assert_eq!(keys("b", Some("f"), 99), "dn en ");
        assert_eq!(keys("x", Some("b"), 99), "");
        assert_eq!(p.view().range(b"", None, 99).unwrap().len(), 4, "a plain view sees what is applied");
    }

    #[test]
    fn after_a_roll_back_indexes_are_not_used_again_and_readers_of_what_failed_run_again() {
        let (state, p) = pipeline();
        let p = Arc::new(p);
        p.propose(proposal(0, &[], vec![put("a", "1")])).unwrap();
        apply_queue(&state, &p);
        for _ in 0..3 {
            p.propose(proposal(1, &[], vec![put("a", "2"), put("b", "2")])).unwrap();
        }
        let dirty = p.view_in_flight();
        assert_eq!(dirty.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
        let mut reader = p.propose(proposal(dirty.index(), &["b"], vec![])).unwrap();
        let rolled_back = p.shared().roll_back();
        assert_eq!((rolled_back.queued.len(), rolled_back.readers.len()), (3, 1));
        assert_eq!((rolled_back.keys, rolled_back.index), (vec![key("a"), key("b")], 5));
        assert!(reader.done.try_recv().is_err(), "told by the writer, which knows why");

        assert!(p.propose(proposal(dirty.index(), &["b"], vec![put("c", "2")])).is_err());
        let clean = p.view_in_flight();
        assert_eq!((clean.get(b"a").unwrap().as_deref(), clean.get(b"b").unwrap()), (Some(&b"1"[..]), None));
        let mut waits_for_nothing = p.propose(proposal(clean.index(), &["a", "b"], vec![])).unwrap();
        assert!(matches!(waits_for_nothing.done.try_recv(), Ok(Ok(()))));
        let ticket = p.propose(proposal(clean.index(), &["a", "b"], vec![put("a", "3")])).unwrap();
        assert_eq!(ticket.index, 6);
        assert_eq!(p.shared().in_flight, 1);
    }

    #[test]
    fn a_full_pipeline_and_an_entry_that_is_too_large_are_refused() {
        let (_state, p) = pipeline();
        let long = "x".repeat(1 << 20);
        let refused = p.propose(proposal(0, &[], vec![put("a", &long)]));
        assert!(matches!(refused, Err(CommitError::TooLarge { bytes, limit }) if bytes > limit && limit == 1 << 20));
        for _ in 0..MAX_IN_FLIGHT {
            p.propose(proposal(0, &[], vec![put("a", "x")])).unwrap();
        }
        assert!(matches!(p.propose(proposal(0, &[], vec![put("a", "x")])), Err(CommitError::Crowded(MAX_IN_FLIGHT))));
    }

    #[tokio::test]
    async fn latches_on_many_keys_do_not_lock_each_other_out() {
        let (_state, p) = pipeline();
        let p = Arc::new(p);
        let tasks: Vec<_> = (0..20u32)
            .map(|i| {
                let p = p.clone();
                tokio::spawn(async move {
                    for j in 0..20u32 {
                        let mut keys: Vec<Key> =
                            (0..5).map(|n| key(&format!("{}", (i * 7 + j * 3 + n * 11) % 13))).collect();
                        keys.push(keys[0].clone());
                        let _latch = p.latch(&keys).await;
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(std::time::Duration::from_secs(20), task).await.unwrap().unwrap();
        }
    }
}
