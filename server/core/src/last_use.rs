//! When tokens, and the roles, keys and secret ids of mounts, were last used, to the hour.
//!
//! A request costs it a look: a token in use remembers the hour that was noted last, and only its first request of an
//! hour leaves a note in a bounded queue, as things of mounts do. The active node writes the notes down in batches, in
//! the background. What is in the queue when the server is sealed or killed is lost, and so is what finds no room.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use holdfast_sdk::{LAST_USES, Place, Result, Table, Timestamp, TokenId, Transaction, record};
use minicbor::{Decode, Encode};

use crate::layout::{SETTINGS, STORE, Scope, TOKEN, TOKEN_USES, TOKENS};
use crate::sync::RandomState;
use crate::tokens::Session;
use crate::tx::Tx;
use crate::{Core, Open};

const HOUR_NS: u64 = 3_600_000_000_000;
/// Notes that wait to be written.
const QUEUE: usize = 65_536;
/// Things that are known to have been noted in this hour.
const NOTED: usize = 65_536;
/// Notes in one commit.
const BATCH: usize = 256;
const TICK: Duration = Duration::from_secs(2);
/// When the first notes were taken: what has none may have been used before.
const SINCE: &[u8] = b"last-uses-since";

/// What an unsealed server has noted and not written down yet.
#[derive(Default)]
pub struct LastUses {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    notes: VecDeque<(Note, u32)>,
    /// The hour of `noted`.
    hour: u32,
    /// Hashes of the things that were noted in it.
    noted: HashSet<u64>,
    hashes: RandomState,
}

#[derive(Debug, Clone)]
enum Note {
    Token(TokenId),
    Thing(Thing),
}

/// Something of a mount that was used.
#[derive(Debug, Clone)]
pub struct Thing {
    scope: Scope,
    name: String,
    at: Whereabouts,
}

/// A [`Place`] of its own.
#[derive(Debug, Clone)]
enum Whereabouts {
    Ordered(Table, Vec<u8>),
    Name(Table, String),
    Id(Table, String),
}

/// What is stored of a thing, under the HMAC of its name.
#[derive(Debug, Clone, Encode, Decode)]
pub struct LastUse {
    /// Hours since 1970.
    #[n(0)]
    hour: u32,
    #[n(1)]
    pub name: String,
}
holdfast_sdk::record!(LastUse);

/// The hour of a moment, counted from 1970.
pub fn hour_of(now: Timestamp) -> u32 {
    u32::try_from(now.0 / HOUR_NS).unwrap_or(u32::MAX)
}

fn begin_of(hour: u32) -> Timestamp {
    Timestamp(u64::from(hour) * HOUR_NS)
}

impl Thing {
    pub fn new(scope: Scope, name: &str, at: Place<'_>) -> Thing {
        let at = match at {
            Place::Ordered(table, bytes) => Whereabouts::Ordered(table, bytes.to_vec()),
            Place::Name(table, name) => Whereabouts::Name(table, name.to_owned()),
            Place::Id(table, id) => Whereabouts::Id(table, id.to_owned()),
        };
        Thing { scope, name: name.to_owned(), at }
    }

    fn place(&self) -> Place<'_> {
        match &self.at {
            Whereabouts::Ordered(table, bytes) => Place::Ordered(*table, bytes),
            Whereabouts::Name(table, name) => Place::Name(*table, name),
            Whereabouts::Id(table, id) => Place::Id(*table, id),
        }
    }
}

impl LastUse {
    /// The beginning of the hour.
    pub fn at(&self) -> Timestamp {
        begin_of(self.hour)
    }
}

impl LastUses {
    /// A token that is good is used by a request.
    #[inline]
    pub fn of_token(&self, session: &Session, now: Timestamp) {
        let hour = hour_of(now);
        if session.is_noted_in(hour) {
            return;
        }
        if let Some(id) = session.caller.token_id
            && !self.lock().put(Note::Token(id), hour)
        {
            session.forget_noted();
        }
    }

    /// Things that a request has used are noted once an hour.
    pub fn of_things(&self, things: Vec<Thing>, now: Timestamp) {
        if things.is_empty() {
            return;
        }
        let hour = hour_of(now);
        let mut queue = self.lock();
        if queue.hour != hour || queue.noted.len() >= NOTED {
            queue.hour = hour;
            queue.noted.clear();
        }
        for thing in things {
            let hash = queue.hashes.hash_one((thing.scope, &thing.name));
            if !queue.noted.contains(&hash) && queue.put(Note::Thing(thing), hour) {
                queue.noted.insert(hash);
            }
        }
    }

    fn take(&self) -> Vec<(Note, u32)> {
        let mut queue = self.lock();
        let many = queue.notes.len().min(BATCH);
        queue.notes.drain(..many).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// False: there is no room.
    fn put(&mut self, note: Note, hour: u32) -> bool {
        let room = self.notes.len() < QUEUE;
        if room {
            self.notes.push_back((note, hour));
        }
        room
    }
}

/// Write notes down for as long as the server is active.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    core.while_open(open, run);
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    loop {
        tokio::time::sleep(TICK).await;
        let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
        if let Err(e) = core.write_last_uses(&open).await {
            tracing::warn!(error = %e, "when tokens and roles were last used could not be written down; it is not tried again");
        }
    }
}

impl Core {
    async fn write_last_uses(&self, open: &Open) -> Result<()> {
        loop {
            let notes = open.last_uses.take();
            if notes.is_empty() {
                return Ok(());
            }
            self.transact(open, |tx| notes.iter().try_for_each(|(note, hour)| write(tx, note, *hour))).await?;
        }
    }
}

/// Notes are taken from now on, if they were not before.
pub fn begin(tx: &mut Tx, now: Timestamp) -> Result<()> {
    tx.within(STORE, |tx| match tx.get(Place::Ordered(SETTINGS, SINCE))? {
        Some(_) => Ok(()),
        None => tx.put(Place::Ordered(SETTINGS, SINCE), now.0.to_be_bytes().to_vec()),
    })
}

/// When the first notes were taken.
pub fn since(tx: &mut Tx) -> Result<Option<Timestamp>> {
    let found = tx.within(STORE, |tx| tx.get(Place::Ordered(SETTINGS, SINCE)))?;
    Ok(found.and_then(|b| b.try_into().ok()).map(|b| Timestamp(u64::from_be_bytes(b))))
}

/// Nothing is noted of what is gone or sealed by now.
fn write(tx: &mut Tx, note: &Note, hour: u32) -> Result<()> {
    match note {
        Note::Token(id) if tx.is_sealed(&id.namespace) => Ok(()),
        Note::Token(id) => tx.within(TOKENS.of(id.namespace), |tx| {
            let place = Place::Ordered(TOKEN_USES, &id.own);
            let is_newer = tx.get(place)?.and_then(|b| read_hour(&b)).is_none_or(|before| before < hour);
            if is_newer && tx.get(Place::Ordered(TOKEN, &id.own))?.is_some() {
                tx.put(place, hour.to_be_bytes().to_vec())?;
            }
            Ok(())
        }),
        Note::Thing(thing) if tx.is_sealed(&thing.scope.namespace) => Ok(()),
        Note::Thing(thing) => tx.within(thing.scope, |tx| {
            let place = Place::Id(LAST_USES, &thing.name);
            let before: Option<LastUse> = record::get(tx, place)?;
            if before.is_none_or(|before| before.hour < hour) && tx.get(thing.place())?.is_some() {
                record::put(tx, place, &LastUse { hour, name: thing.name.clone() })?;
            }
            Ok(())
        }),
    }
}

fn read_hour(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// The beginning of the hour in which a stored token was last used, as far as it was noted.
pub fn of_token(tx: &mut Tx, id: &TokenId) -> Result<Option<Timestamp>> {
    let found = tx.within(TOKENS.of(id.namespace), |tx| tx.get(Place::Ordered(TOKEN_USES, &id.own)))?;
    Ok(found.and_then(|b| read_hour(&b)).map(begin_of))
}

/// The same of a thing of the mount that `tx` is in.
pub fn of_thing(tx: &mut Tx, name: &str) -> Result<Option<Timestamp>> {
    let found: Option<LastUse> = record::get(tx, Place::Id(LAST_USES, name))?;
    Ok(found.map(|found| found.at()))
}

/// What was noted of the things of the mount that `tx` is in, in no order: those behind `after`, at most `limit`.
pub fn of_things(tx: &mut Tx, after: &str, limit: usize) -> Result<Vec<LastUse>> {
    let start = match after {
        "" => Vec::new(),
        after => [&tx.id(LAST_USES, after)?[..], &[0]].concat(),
    };
    let found = tx.ordered(LAST_USES, &start, &[], limit)?;
    found.iter().map(|(_, bytes)| record::read(bytes)).collect()
}

/// Write the note of a thing anew, where its mount is moved to.
pub fn place_anew(tx: &mut Tx, bytes: Vec<u8>) -> Result<()> {
    let name = record::read::<LastUse>(&bytes)?.name;
    tx.put(Place::Id(LAST_USES, &name), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{POLICIES, ROOT, SYSTEM};
    use crate::testing::unsealed;

    fn thing(name: &str) -> Thing {
        Thing::new(SYSTEM.of(ROOT), name, Place::Name(POLICIES, name))
    }

    fn at(hour: u64) -> Timestamp {
        Timestamp(hour * HOUR_NS + 17)
    }

    #[tokio::test]
    async fn a_thing_is_noted_once_an_hour_and_only_as_long_as_it_is_there() {
        let (core, open) = unsealed().await;
        let put = |tx: &mut Tx| tx.within(SYSTEM, |tx| tx.put(Place::Name(POLICIES, "there"), vec![1]));
        core.transact(&open, put).await.unwrap();
        for now in [at(500_000), at(500_000), at(500_001)] {
            open.last_uses.of_things(vec![thing("there"), thing("gone")], now);
        }
        assert_eq!(open.last_uses.lock().notes.len(), 4, "once an hour each");
        core.write_last_uses(&open).await.unwrap();
        let mut tx = core.reader(&open);
        tx.enter(SYSTEM.of(ROOT));
        assert_eq!(of_thing(&mut tx, "there").unwrap(), Some(begin_of(500_001)));
        assert_eq!(of_thing(&mut tx, "gone").unwrap(), None);
        // An older note comes late.
        open.last_uses.of_things(vec![thing("there")], at(400_000));
        core.write_last_uses(&open).await.unwrap();
        let mut tx = core.reader(&open);
        tx.enter(SYSTEM.of(ROOT));
        assert_eq!(of_thing(&mut tx, "there").unwrap(), Some(begin_of(500_001)));
    }

    #[tokio::test]
    async fn what_finds_no_room_is_lost_and_noted_at_the_next_use() {
        let (core, open) = unsealed().await;
        let many = (0..QUEUE).map(|n| thing(&format!("n{n}"))).collect();
        open.last_uses.of_things(many, at(500_000));
        open.last_uses.of_things(vec![thing("late")], at(500_000));
        assert_eq!(open.last_uses.lock().notes.len(), QUEUE);
        core.write_last_uses(&open).await.unwrap();
        open.last_uses.of_things(vec![thing("late")], at(500_000));
        assert_eq!(open.last_uses.lock().notes.len(), 1);
    }
}
