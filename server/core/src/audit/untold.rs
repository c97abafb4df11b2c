//! Acts of the server whose lines no device has taken yet: in memory, to be offered again, and in the store, so that who
//! comes after a kill tells them, be it another node.
//!
//! What the store knows of an act's end goes there with the commit of the act itself ([`Core::act`]); what has none goes there when
//! no file took its lines at once. When a device has them, they are deleted by the next such commit, or within a
//! second. So every act is told at least once; what is told from the store is marked, and has the id that
//! it had before.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use holdfast_sdk::{Place, Result, Transaction as _, record};
use minicbor::{Decode, Encode};

use super::own::Act;
use super::{Broker, accepted};
use crate::layout::{OWN_ACTS, STORE};
use crate::tx::Tx;
use crate::{Core, Open, clock, random};

/// Acts whose lines no device has taken, that are kept.
const MOST: usize = 4096;
/// Late lines that are offered at once.
const LATE_AT_ONCE: usize = 128;
/// Records that are deleted with a commit which is made anyway.
const DELETED_BESIDE: usize = 64;
/// Records that are deleted in a commit of their own, and those that are read at once.
const DELETED_AT_ONCE: usize = 1024;
const READ_AT_ONCE: usize = 8;
/// What no device takes of what was found is offered again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a batch is in the store: the time of this unsealing, eight random bytes, and a number.
type At = [u8; 24];

/// Acts that are told together.
pub(crate) struct Batch {
    pub(super) acts: Vec<Act>,
    /// In the store, until a device has the lines.
    pub(super) place: Option<At>,
}

impl From<Vec<Act>> for Batch {
    fn from(acts: Vec<Act>) -> Batch {
        Batch { acts, place: None }
    }
}

#[derive(Encode, Decode)]
struct Kept {
    #[n(0)]
    acts: Vec<Act>,
}
holdfast_sdk::record!(Kept);

/// What one unsealing has not told yet.
pub struct Untold {
    /// The start of its places.
    session: [u8; 16],
    next: AtomicU64,
    late: Mutex<VecDeque<Batch>>,
    /// Places of what was told, to be deleted.
    told: Mutex<Vec<At>>,
}

impl Default for Untold {
    fn default() -> Untold {
        let (millis, random) = (clock::now().0 / 1_000_000, random::bytes::<8>().unwrap_or_default());
        let mut session = [0; 16];
        session[..8].copy_from_slice(&millis.to_be_bytes());
        session[8..].copy_from_slice(&random);
        Untold { session, next: AtomicU64::new(0), late: Mutex::default(), told: Mutex::default() }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Untold {
    /// Acts that wait to be offered again.
    pub fn count(&self) -> usize {
        lock(&self.late).iter().map(|batch| batch.acts.len()).sum()
    }

    /// Put acts into the store with what a transaction does. There is a bound: beyond it they are in memory alone.
    fn put(&self, tx: &mut Tx, acts: Vec<Act>) -> Result<Batch> {
        if acts.is_empty() || self.count() + acts.len() > MOST {
            return Ok(Batch::from(acts));
        }
        let mut at = [0; 24];
        at[..16].copy_from_slice(&self.session);
        at[16..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let kept = Kept { acts };
        tx.within(STORE, |tx| record::put(tx, Place::Ordered(OWN_ACTS, &at), &kept))?;
        Ok(Batch { acts: kept.acts, place: Some(at) })
    }

    /// Keep a batch for later. Returned is one that finds no room.
    pub(super) fn keep(&self, batch: Batch) -> Option<Batch> {
        let mut late = lock(&self.late);
        if late.iter().map(|b| b.acts.len()).sum::<usize>() + batch.acts.len() > MOST {
            return Some(batch);
        }
        late.push_back(batch);
        None
    }

    pub(super) fn take_late(&self) -> Vec<Batch> {
        let mut late = lock(&self.late);
        let (mut n, mut acts) = (0, 0);
        for batch in late.iter() {
            acts += batch.acts.len();
            if n > 0 && acts > LATE_AT_ONCE {
                break;
            }
            n += 1;
        }
        late.drain(..n).collect()
    }

    pub(super) fn take_all(&self) -> Vec<Batch> {
        lock(&self.late).drain(..).collect()
    }

    /// Nobody has to tell of it any more.
    pub(super) fn is_told(&self, place: Option<At>) {
        lock(&self.told).extend(place);
    }

    fn take_told(&self, most: usize) -> Vec<At> {
        let mut told = lock(&self.told);
        let n = told.len().min(most);
        told.drain(..n).collect()
    }

    fn give_back_told(&self, places: Vec<At>) {
        lock(&self.told).extend(places);
    }
}

/// Put an act into the store with what a transaction does, for the next unseal to tell.
pub(crate) fn put(tx: &mut Tx, act: Act) -> Result<()> {
    Untold::default().put(tx, vec![act]).map(drop)
}

fn delete(tx: &mut Tx, places: &[At]) -> Result<()> {
    tx.within(STORE, |tx| places.iter().try_for_each(|at| tx.delete(Place::Ordered(OWN_ACTS, at))))
}

impl Broker {
    /// Put acts into the store with what a transaction does, if anybody is to be told of them.
    pub(crate) fn keep(&self, tx: &mut Tx, acts: Vec<Act>) -> Result<Batch> {
        if self.devices().is_empty() { Ok(Batch::from(acts)) } else { self.untold.put(tx, acts) }
    }

    /// Nothing came of what was begun, and it is begun again: there is nothing to tell.
    pub(crate) fn was_not(&self, begun: &Batch) {
        self.untold.is_told(begun.place);
    }
}

/// Tell what an earlier unsealing has left, on this node or another.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    core.while_open(open, recover);
}

async fn recover(core: Weak<Core>, open: Weak<Open>) {
    let mut behind = Vec::new();
    loop {
        {
            let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
            match core.tell_kept(&open, &mut behind).await {
                Ok(Found::Nothing) => return,
                Ok(Found::Told) => continue,
                Ok(Found::NotTaken) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "what was done before the last kill is not told yet; it is tried again")
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

enum Found {
    Nothing,
    Told,
    NotTaken,
}

impl Core {
    /// Run a transaction in which the server does something by itself, and tell of it: what `run` puts into the list is
    /// committed with what it does, so that it is told whatever becomes of this process.
    pub(crate) async fn act<R>(
        self: &Arc<Self>,
        open: &Arc<Open>,
        mut run: impl FnMut(&mut Tx, &mut Vec<Act>) -> Result<R>,
    ) -> Result<R> {
        let told = open.audit.untold.take_told(DELETED_BESIDE);
        let done = self.transact(open, |tx| {
            let mut acts = Vec::new();
            let result = run(tx, &mut acts)?;
            delete(tx, &told)?;
            Ok((result, open.audit.keep(tx, acts)?))
        });
        match done.await {
            Ok((result, batch)) => {
                self.did(open, batch);
                Ok(result)
            }
            Err(e) => {
                open.audit.untold.give_back_told(told);
                Err(e)
            }
        }
    }

    /// Keep that something is about to be done which is not done by a commit of this kind. Whoever finds it in the
    /// store says that it was begun; [`Core::ended`] says what came of it.
    pub(crate) async fn begins(&self, open: &Open, act: &Act) -> Batch {
        let begun = act.clone().state("begun");
        let kept = self.transact(open, |tx| open.audit.keep(tx, vec![begun.clone()])).await;
        kept.unwrap_or_else(|e| {
            tracing::warn!(error = %e, path = %act.path, "that it is begun is not in the store");
            Batch::from(Vec::new())
        })
    }

    /// What came of an act that was begun.
    pub(crate) fn ended(self: &Arc<Self>, open: &Arc<Open>, begun: Batch, act: Act) {
        self.did(open, Batch { acts: vec![act], place: begun.place });
    }

    /// Put a batch that is not on its way to a file into the store, where this node may.
    pub(super) async fn keep_untold(&self, open: &Arc<Open>, batch: &mut Batch) {
        if !self.open.load().as_ref().is_some_and(|active| Arc::ptr_eq(active, open)) {
            return;
        }
        match self.transact(open, |tx| open.audit.keep(tx, batch.acts.clone())).await {
            Ok(kept) => batch.place = kept.place,
            Err(e) => tracing::warn!(error = %e, "what the server did by itself is in memory alone for now"),
        }
    }

    /// Delete from the store what was told.
    pub(crate) async fn forget_told(&self, open: &Open) {
        let told = open.audit.untold.take_told(DELETED_AT_ONCE);
        if told.is_empty() {
            return;
        }
        if let Err(e) = self.transact(open, |tx| delete(tx, &told)).await {
            tracing::debug!(error = %e, "acts that were told are in the store still");
            open.audit.untold.give_back_told(told);
        }
    }

    /// Tell some of what an earlier unsealing has left in the store.
    async fn tell_kept(&self, open: &Arc<Open>, behind: &mut Vec<u8>) -> Result<Found> {
        if open.audit.devices().is_empty() {
            // There may be one later.
            return Ok(Found::NotTaken);
        }
        let mut tx = self.reader(open);
        let found = tx.within(STORE, |tx| tx.ordered(OWN_ACTS, behind, &[], READ_AT_ONCE))?;
        let Some((last, _)) = found.last() else { return Ok(Found::Nothing) };
        let next = [last.as_slice(), &[0]].concat();
        let (mut acts, mut places): (Vec<Act>, Vec<At>) = Default::default();
        for (key, value) in &found {
            let Ok(at) = At::try_from(key.as_slice()) else { continue };
            if at.starts_with(&open.audit.untold.session) {
                continue;
            }
            match record::read::<Kept>(value) {
                Ok(kept) => {
                    acts.extend(kept.acts);
                    places.push(at);
                }
                // A later program tells it.
                Err(e) => tracing::warn!(error = %e, "an act that was not told yet cannot be read"),
            }
        }
        if !acts.is_empty() {
            self.name_namespaces(open, &mut acts);
            let taken = match open.audit.tell(&acts, true) {
                Ok(pending) => accepted(pending).await,
                Err(e) => Err(e),
            };
            if taken.is_err() {
                return Ok(Found::NotTaken);
            }
            self.metrics.own_lines.add(acts.len() as u64);
            self.metrics.own_lines_recovered.add(acts.len() as u64);
            self.transact(open, |tx| delete(tx, &places)).await?;
        }
        *behind = next;
        Ok(Found::Told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unsealed;

    fn acts(n: usize, path: &str) -> Vec<Act> {
        (0..n).map(|_| Act::new("revoke", path, "why")).collect()
    }

    #[test]
    fn what_is_kept_is_bounded_and_comes_in_order() {
        let untold = Untold::default();
        for _ in 0..MOST / 64 - 1 {
            assert!(untold.keep(acts(64, "a").into()).is_none());
        }
        assert!(untold.keep(acts(63, "b").into()).is_none());
        assert_eq!(untold.keep(acts(2, "c").into()).map(|b| b.acts.len()), Some(2));
        assert!(untold.keep(acts(1, "d").into()).is_none());
        let (mut count, mut last) = (0, String::new());
        while untold.count() > 0 {
            let taken: Vec<Act> = untold.take_late().into_iter().flat_map(|b| b.acts).collect();
            assert!(!taken.is_empty() && taken.len() <= LATE_AT_ONCE);
            count += taken.len();
            last = taken.last().map(|a| a.path.clone()).unwrap_or_default();
        }
        assert_eq!((count, last.as_str()), (MOST, "d"));
    }

    #[tokio::test]
    async fn an_act_is_in_the_store_as_it_was_and_only_while_there_is_room() {
        let (core, open) = unsealed().await;
        let act = Act::new("rotate", "a/b", "why").plain("name", "x").hashed("alias", "y").number("term", 7);
        let act = act.state("tried again").tries(3).failed(&"é".repeat(5000));
        let untold = Untold::default();
        let batch = core.transact(&open, |tx| untold.put(tx, vec![act.clone()])).await.unwrap();
        let at = batch.place.expect("there is room");
        let kept: Kept =
            core.reader(&open).within(STORE, |tx| record::get(tx, Place::Ordered(OWN_ACTS, &at))).unwrap().unwrap();
        let told = |act: &Act| {
            let mut out = Vec::new();
            minicbor::encode(act, &mut out).unwrap();
            out
        };
        assert_eq!(told(&kept.acts[0]), told(&act));
        while untold.keep(acts(64, "a").into()).is_none() {}
        let batch = core.transact(&open, |tx| untold.put(tx, vec![act.clone()])).await.unwrap();
        assert!(batch.place.is_none() && batch.acts.len() == 1);
    }
}
