//! The log of a member of a cluster: the same segments as everywhere, which can be read back, cut at their end
//! when another leader's entries come there, and whose begin is a matter of policy. The vote is a file beside it.
//!
//! One work writes, in the order of the calls; appends that wait share a sync. What was appended can be read
//! at once. The newest [`TAIL_BYTES`] are kept in memory for followers that keep up.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::disk::{Disk, DiskFile};
use crate::executor::{Bell, Executor, Running};
use crate::log::{AppendError, Log, Place};
use crate::pipeline::lock;
use crate::redb_file::is_full;
use crate::state::Mark;
use crate::store::{make_spare, write_over};
use crate::{StoreError, Value};

/// Bytes of the newest entries that stay in memory.
const TAIL_BYTES: usize = 16 << 20;
/// Bytes that are written with one sync at most.
const GROUP_BYTES: usize = 8 << 20;
/// How often a full disk is tried again.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(200);
const VOTE_FILE: &str = "vote";
const PURGED_FILE: &str = "purged";
const VOTE_MAGIC: &[u8; 8] = b"HFVOTE2\0";
const PURGED_MAGIC: &[u8; 8] = b"HFPURGE\0";

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub mark: Mark,
    pub payload: Value,
}

/// For whom a member voted, in which term, and whether that one is known to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    pub term: u64,
    pub node: String,
    pub committed: bool,
}

/// Told when something is on the disk, or why it is not.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log; clones are the same one.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Shared>,
}

struct Shared {
    index: Mutex<Index>,
    orders: Arc<Orders>,
    running: Mutex<Option<Box<dyn Running>>>,
    disk: Option<Arc<dyn Disk>>,
    /// Segments that readers have open.
    files: Mutex<HashMap<u64, Arc<dyn DiskFile>>>,
}

/// What is known without the disk.
struct Index {
    purged: Option<Mark>,
    /// Of the entries behind `purged`: the term of each, and where it is once it is written.
    entries: VecDeque<(u64, Option<Place>)>,
    /// The newest of them.
    tail: VecDeque<Value>,
    tail_bytes: usize,
    vote: Option<Vote>,
}

/// What the writing work is to do, in order.
#[derive(Default)]
struct Orders {
    given: Mutex<Given>,
    bell: Bell,
}

#[derive(Default)]
struct Given {
    queue: VecDeque<Order>,
    closed: bool,
}

impl Orders {
    /// Once it is closed an order is dropped, and whoever waits is told so.
    fn give(&self, order: Order) {
        let mut given = lock(&self.given);
        if !given.closed {
            given.queue.push_back(order);
            drop(given);
            self.bell.ring();
        }
    }

    /// The next order; `None`: there are no more.
    async fn next(&self) -> Option<Order> {
        loop {
            {
                let mut given = lock(&self.given);
                if let Some(order) = given.queue.pop_front() {
                    return Some(order);
                }
                if given.closed {
                    return None;
                }
            }
            self.bell.rung().await;
        }
    }

    fn next_now(&self) -> Option<Order> {
        lock(&self.given).queue.pop_front()
    }

    fn is_closed(&self) -> bool {
        lock(&self.given).closed
    }

    /// What was given is still done.
    fn close(&self) {
        lock(&self.given).closed = true;
        self.bell.ring();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.orders.close();
    }
}

enum Order {
    Append(Vec<Record>, Done),
    Vote(Vote, Done),
    Truncate { first: u64, place: Option<Place>, done: Done },
    Purge(Mark, Done),
}

impl RaftLog {
    /// Open the log in `disk`, or one in memory.
    pub(crate) fn open(
        disk: Option<Arc<dyn Disk>>,
        store_id: [u8; 16],
        executor: &Arc<dyn Executor>,
    ) -> Result<RaftLog, StoreError> {
        let mut index =
            Index { purged: None, entries: VecDeque::new(), tail: VecDeque::new(), tail_bytes: 0, vote: None };
        let mut log = None;
        if let Some(disk) = &disk {
            index.purged = read_purged(&**disk)?;
            index.vote = read_vote(&**disk)?;
            if let Some(vote) = &index.vote {
                // Of a store that an earlier program has written.
                let _there_is_no_room = make_spare(&**disk, VOTE_FILE, &encode_vote(vote));
            }
            let known = index.purged.map_or(0, |m| m.index);
            let mut first = None;
            let opened = Log::open_with_places(disk.clone(), store_id, known, |entry, place| {
                first.get_or_insert(entry.index);
                index.entries.push_back((entry.term, Some(place)));
                index.remember(entry.payload.into());
                Ok(())
            });
            // A store that was no member's has forgotten its first entries without a word; its term was 1.
            if let (None, Some(first)) = (index.purged, first.filter(|f| *f > 1)) {
                index.purged = Some(Mark { term: 1, index: first - 1 });
            }
            log = Some(opened?);
        }
        let shared = Arc::new(Shared {
            index: Mutex::new(index),
            orders: Arc::default(),
            running: Mutex::default(),
            disk: disk.clone(),
            files: Mutex::default(),
        });
        let writer = Writer { shared: Arc::downgrade(&shared), log, disk, cut: Vec::new(), executor: executor.clone() };
        let work = Box::pin(writer.run(shared.orders.clone()));
        let running = executor.start("raft-log", work).map_err(StoreError::io("cannot start the log thread", ""))?;
        *lock(&shared.running) = Some(running);
        Ok(RaftLog { shared })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.shared.index)
    }

    fn order(&self, order: Order) {
        self.shared.orders.give(order);
    }

    /// The last entry that was forgotten, and the last one there is (which may be that).
    pub fn ends(&self) -> (Option<Mark>, Option<Mark>) {
        let index = self.index();
        (index.purged, index.last())
    }

    pub fn vote(&self) -> Option<Vote> {
        self.index().vote.clone()
    }

    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.index().vote = Some(vote.clone());
        self.order(Order::Vote(vote, done));
    }

    /// Append entries, which must follow the last one.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        {
            let mut index = self.index();
            for record in &records {
                let next = index.next();
                if index.entries.is_empty() && index.purged.is_none() && record.mark.index > next {
                    // The first entry of a log may stand anywhere: what is before it is in a snapshot.
                    index.purged = Some(Mark { term: 0, index: record.mark.index - 1 });
                } else if record.mark.index != next {
                    let text = format!("entry {} does not follow entry {}", record.mark.index, next - 1);
                    drop(index);
                    return done(Err(io::Error::new(io::ErrorKind::InvalidInput, text)));
                }
                index.entries.push_back((record.mark.term, None));
                index.remember(record.payload.clone());
            }
        }
        self.order(Order::Append(records, done));
    }

    /// Take every entry behind `last` away.
    pub fn truncate_after(&self, last: u64, done: Done) {
        let (first, place) = {
            let mut index = self.index();
            let first = (last + 1).max(index.first());
            let keep = (first - index.first()) as usize;
            if keep >= index.entries.len() {
                drop(index);
                return done(Ok(()));
            }
            let place = index.entries[keep].1;
            let cut = index.entries.len() - keep;
            index.entries.truncate(keep);
            for _ in 0..cut {
                if let Some(payload) = index.tail.pop_back() {
                    index.tail_bytes -= payload.len();
                }
            }
            (first, place)
        };
        self.order(Order::Truncate { first, place, done });
    }

    /// If the log has more than `most` bytes on the disk: the entry up to which it is to be forgotten, so that the ones
    /// behind it have at most `kept`.
    pub fn surplus(&self, most: u64, kept: u64) -> Option<u64> {
        let index = self.index();
        let (mut bytes, mut last) = (0, None);
        for (i, (_, place)) in index.entries.iter().enumerate().rev() {
            bytes += place.map_or(0, |p| u64::from(p.len));
            if bytes > kept && last.is_none() {
                last = Some(index.first() + i as u64);
            }
            if bytes > most {
                return last;
            }
        }
        None
    }

    /// Forget everything up to a mark. The state machine must hold it on the disk.
    pub fn purge(&self, mark: Mark, done: Done) {
        {
            let mut index = self.index();
            if index.purged.is_some_and(|p| p.index >= mark.index) {
                drop(index);
                return done(Ok(()));
            }
            let gone = (mark.index + 1 - index.first()).min(index.entries.len() as u64) as usize;
            index.entries.drain(..gone);
            while index.tail.len() > index.entries.len() {
                if let Some(payload) = index.tail.pop_front() {
                    index.tail_bytes -= payload.len();
                }
            }
            index.purged = Some(mark);
        }
        self.order(Order::Purge(mark, done));
    }

    /// The entries from `from` to before `to`; at least the first one, and more until they have `bytes`. What was
    /// forgotten or is not there yet is not among them.
    pub fn read(&self, from: u64, to: u64, bytes: usize) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        let mut left = bytes;
        let start = from.max(self.index().first());
        for at in start..to {
            let (term, place, kept) = {
                let index = self.index();
                let Some(i) = at.checked_sub(index.first()).map(|i| i as usize) else { break };
                let Some((term, place)) = index.entries.get(i).copied() else { break };
                let kept = (i + index.tail.len()).checked_sub(index.entries.len()).and_then(|t| index.tail.get(t));
                (term, place, kept.cloned())
            };
            let payload = match (kept, place) {
                (Some(payload), _) => payload,
                (None, Some(place)) => match self.read_from_disk(place) {
                    Ok(payload) => payload,
                    // Forgotten between the look and the reading.
                    Err(_) if self.index().first() > at => break,
                    Err(e) => return Err(e),
                },
                (None, None) => return Err(io::Error::other("a log entry is neither in memory nor on the disk")),
            };
            if !found.is_empty() && payload.len() > left {
                break;
            }
            left = left.saturating_sub(payload.len());
            found.push(Record { mark: Mark { term, index: at }, payload });
        }
        Ok(found)
    }

    fn read_from_disk(&self, place: Place) -> io::Result<Value> {
        let Some(disk) = &self.shared.disk else { return Err(io::ErrorKind::NotFound.into()) };
        let file = {
            let mut files = lock(&self.shared.files);
            match files.get(&place.segment) {
                Some(file) => file.clone(),
                None => {
                    let file = Log::segment_file(&**disk, place.segment)?;
                    files.insert(place.segment, file.clone());
                    file
                }
            }
        };
        Ok(Log::read_payload(&*file, place)?.into())
    }

    /// Finish what was asked for and close the files.
    pub fn close(&self) {
        self.shared.orders.close();
        let running = lock(&self.shared.running).take();
        if let Some(running) = running {
            running.join();
        }
    }
}

impl Index {
    /// The first index behind what was forgotten.
    fn first(&self) -> u64 {
        self.purged.map_or(1, |m| m.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    fn last(&self) -> Option<Mark> {
        match self.entries.back() {
            Some((term, _)) => Some(Mark { term: *term, index: self.next() - 1 }),
            None => self.purged,
        }
    }

    /// Keep a payload in memory, and let the oldest go that are on the disk.
    fn remember(&mut self, payload: Value) {
        self.tail_bytes += payload.len();
        self.tail.push_back(payload);
        while self.tail_bytes > TAIL_BYTES && self.tail.len() > 1 {
            let oldest = self.entries.len() - self.tail.len();
            if self.entries[oldest].1.is_none() {
                break;
            }
            if let Some(payload) = self.tail.pop_front() {
                self.tail_bytes -= payload.len();
            }
        }
    }

    /// Entries from `first` on were written there. Returns those that were cut off meanwhile.
    fn written(&mut self, first: u64, places: &[Place]) -> Vec<(u64, Place)> {
        let mut cut = Vec::new();
        for (at, place) in (first..).zip(places) {
            let Some(i) = at.checked_sub(self.first()) else { continue };
            match self.entries.get_mut(i as usize) {
                Some(entry) => entry.1 = Some(*place),
                None => cut.push((at, *place)),
            }
        }
        cut
    }
}

/// The work that writes.
struct Writer {
    shared: std::sync::Weak<Shared>,
    log: Option<Log>,
    disk: Option<Arc<dyn Disk>>,
    /// Entries that were cut off before they were written.
    cut: Vec<(u64, Place)>,
    executor: Arc<dyn Executor>,
}

impl Writer {
    async fn run(mut self, orders: Arc<Orders>) {
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => order,
                None => match orders.next().await {
                    Some(order) => order,
                    None => return,
                },
            };
            match order {
                Order::Append(records, done) => {
                    let (mut records, mut waiting) = (records, vec![done]);
                    let mut bytes: usize = records.iter().map(|r| r.payload.len()).sum();
                    while bytes < GROUP_BYTES {
                        match orders.next_now() {
                            Some(Order::Append(more, done)) => {
                                bytes += more.iter().map(|r| r.payload.len()).sum::<usize>();
                                records.extend(more);
                                waiting.push(done);
                            }
                            other => {
                                next = other;
                                break;
                            }
                        }
                    }
                    let outcome = self.append(&records, &orders).await;
                    for done in waiting {
                        done(copied(&outcome));
                    }
                }
                Order::Vote(vote, done) => done(self.beside(VOTE_FILE, &encode_vote(&vote), &orders).await),
                Order::Truncate { first, place, done } => done(self.truncate(first, place)),
                Order::Purge(mark, done) => done(self.purge(mark, &orders).await),
            }
        }
    }

    async fn append(&mut self, records: &[Record], orders: &Orders) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let Some(first) = records.first().map(|r| r.mark.index) else { return Ok(()) };
        if first != log.next_index() {
            log.start_anew(first)?;
        }
        let mut wait = ForRoom::default();
        loop {
            match log.append_each(records.iter().map(|r| (r.mark.term, &*r.payload))) {
                Ok(()) => break,
                // Everything behind waits too: nothing is acknowledged meanwhile, and others go on.
                Err(AppendError::Nothing(e) | AppendError::Unknown(e)) if is_full(&e) => {
                    wait.after(e, orders, &*self.executor).await?;
                }
                Err(e) => return Err(io::Error::other(e.to_string())),
            }
        }
        let lengths: Vec<usize> = records.iter().map(|r| r.payload.len()).collect();
        let places = log.places_of_last(&lengths);
        if let Some(shared) = self.shared.upgrade() {
            let cut = lock(&shared.index).written(first, &places);
            self.cut.extend(cut);
        }
        Ok(())
    }

    fn truncate(&mut self, first: u64, place: Option<Place>) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        lock(&shared.files).clear();
        // When it was asked for, the entry may not have been written yet; now it is, right behind what is kept.
        let cut = std::mem::take(&mut self.cut);
        let place = place.or_else(|| Some(cut.iter().find(|(at, _)| *at == first)?.1));
        let place = place.ok_or_else(|| io::Error::other("an entry that is cut off was never written"))?;
        log.truncate_from(first, place).map_err(|e| io::Error::other(e.to_string()))
    }

    async fn purge(&mut self, mark: Mark, orders: &Orders) -> io::Result<()> {
        let mut bytes = PURGED_MAGIC.to_vec();
        bytes.extend_from_slice(&mark.term.to_le_bytes());
        bytes.extend_from_slice(&mark.index.to_le_bytes());
        self.beside(PURGED_FILE, &sealed(bytes), orders).await?;
        let Some(log) = &mut self.log else { return Ok(()) };
        if let Some(shared) = self.shared.upgrade() {
            lock(&shared.files).clear();
        }
        if mark.index >= log.next_index() { log.start_anew(mark.index + 1) } else { log.forget_through(mark.index) }
    }

    async fn beside(&self, name: &str, bytes: &[u8], orders: &Orders) -> io::Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut wait = ForRoom::default();
        loop {
            match write_over(&**disk, name, bytes) {
                Err(e) if is_full(&e) => wait.after(e, orders, &*self.executor).await?,
                other => return other,
            }
        }
    }
}

/// Waiting until a full disk has room.
#[derive(Default)]
struct ForRoom {
    is_said: bool,
}

impl ForRoom {
    /// Wait a moment; or give up with the disk's own word, because the log is being closed.
    async fn after(&mut self, full: io::Error, orders: &Orders, executor: &dyn Executor) -> io::Result<()> {
        if orders.is_closed() {
            return Err(full);
        }
        if !std::mem::replace(&mut self.is_said, true) {
            tracing::error!("the disk that holds the log is full; it is tried again until there is room");
        }
        executor.sleep(LOOK_FOR_ROOM).await;
        Ok(())
    }
}

fn copied(outcome: &io::Result<()>) -> io::Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
    }
}

/// With its checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut bytes = VOTE_MAGIC.to_vec();
    bytes.extend_from_slice(&vote.term.to_le_bytes());
    bytes.push(vote.committed.into());
    bytes.extend_from_slice(vote.node.as_bytes());
    sealed(bytes)
}

/// A small file's bytes without their checksum; `None`: there is no such file.
fn read_beside(disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let path = disk.path(name);
    let fail = |what| StoreError::io(what, &path);
    if !disk.list().map_err(fail("cannot list the folder of"))?.iter().any(|n| n == name) {
        return Ok(None);
    }
    let file = disk.open(name, false).map_err(fail("cannot open"))?;
    let mut bytes = vec![0; file.len().map_err(fail("cannot read"))?.min(4096) as usize];
    file.read_at(0, &mut bytes).map_err(fail("cannot read"))?;
    let damaged = || StoreError::Damaged { path: path.clone(), detail: "its checksum is wrong".into() };
    let crc = bytes.split_off(bytes.len().checked_sub(4).ok_or_else(damaged)?);
    if crc != crc32fast::hash(&bytes).to_le_bytes() {
        return Err(damaged());
    }
    Ok(Some(bytes))
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
}

fn read_purged(disk: &dyn Disk) -> Result<Option<Mark>, StoreError> {
    let Some(bytes) = read_beside(disk, PURGED_FILE)? else { return Ok(None) };
    let parts = bytes.strip_prefix(PURGED_MAGIC).and_then(|b| Some((number(b)?, number(b.get(8..)?)?)));
    let (term, index) = parts.ok_or_else(|| unknown(disk, PURGED_FILE))?;
    Ok(Some(Mark { term, index }))
}

/// The vote; one of a store that was no member's counts as none.
fn read_vote(disk: &dyn Disk) -> Result<Option<Vote>, StoreError> {
    let Some(bytes) = read_beside(disk, VOTE_FILE)? else { return Ok(None) };
    let Some(rest) = bytes.strip_prefix(VOTE_MAGIC) else { return Ok(None) };
    let parts = (|| {
        let (term, rest) = (number(rest)?, rest.get(8..)?);
        let (committed, node) = rest.split_first()?;
        let node = String::from_utf8(node.to_vec()).ok()?;
        Some(Vote { term, node, committed: *committed == 1 })
    })();
    Ok(Some(parts.ok_or_else(|| unknown(disk, VOTE_FILE))?))
}

/// Whether a member of a cluster has voted here, or seen others vote.
pub(crate) fn is_members(disk: &dyn Disk) -> Result<bool, StoreError> {
    Ok(read_vote(disk)?.is_some())
}

fn unknown(disk: &dyn Disk, name: &str) -> StoreError {
    StoreError::Damaged { path: disk.path(name), detail: "it is not one of this version's".into() }
}
