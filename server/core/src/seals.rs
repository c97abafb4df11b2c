//! The seals of the configuration: the order in which they are asked, and which locks of the store are whose.
//!
//! A lock knows the name of its seal. One that was made before there were names is tried by each seal of its type that
//! has no lock of its name: a token does not open another one's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_hsm::memory::{Key, Secret};
use holdfast_sdk::Timestamp;
use holdfast_seal::locks::{LockList, Scope, wrap_context};
use holdfast_seal::{DeviceRefusal, Lock, SealDevice};

use crate::calls::{Calls, Figures, PATIENCE, Turn, Unasked};
use crate::clock;
use crate::entropy::judged;

/// Calls of one device that may be under way.
const AT_ONCE: usize = 4;
/// Whether a device that is away is back is tried no more seldom than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One seal of the configuration, and how its device is.
pub struct Seal {
    /// `None`: it is the only one, and its stanza has no name.
    pub name: Option<String>,
    /// The lower is asked first.
    pub priority: u32,
    pub device: Arc<dyn SealDevice>,
    calls: Arc<Calls<DeviceRefusal>>,
    seen: Mutex<Seen>,
}

/// What came of asking a seal's device last.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When it opened its lock last, and which one that is.
    pub opened: Option<Timestamp>,
    pub lock: Option<[u8; 16]>,
    pub checked: Option<Timestamp>,
    /// How long it took.
    pub took: Duration,
    /// Since when it does not, and why.
    pub unhealthy: Option<(Timestamp, String)>,
}

/// Those that the configuration names.
#[derive(Default)]
pub struct Seals {
    /// What opens the store, in the order in which it is asked; none: shares.
    pub present: Vec<Arc<Seal>>,
    /// What opened it before, where its stanza says that it is disabled.
    pub former: Option<Arc<Seal>>,
}

/// Who reads the configuration again.
pub trait SealSource: Send + Sync {
    /// The seals that it names by now. Those whose stanzas are as they were are the same.
    ///
    /// # Errors
    /// What cannot be read or followed, with its place.
    fn read(&self) -> Result<Seals, String>;
}

impl Seal {
    pub fn new(name: Option<String>, priority: u32, device: Arc<dyn SealDevice>) -> Arc<Seal> {
        Arc::new(Seal { name, priority, device, calls: Calls::new(AT_ONCE, LONGEST_PAUSE), seen: Mutex::default() })
    }

    /// A seal beside which there is no other.
    pub fn alone(device: Arc<dyn SealDevice>) -> Arc<Seal> {
        Seal::new(None, 0, device)
    }

    /// Its name, or its type where it has none.
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.device.backend())
    }

    /// Let the device do something, on a thread where it may block.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn SealDevice) -> Result<T, DeviceRefusal> + Send + 'static,
    ) -> Result<T, DeviceRefusal> {
        let turn = self.calls.turn(Instant::now() + PATIENCE).await.map_err(|why| self.unasked(why))?;
        self.carry_out(turn, work).await
    }

    /// The same for what may be asked twice: it waits for a device that is away for a moment.
    pub(crate) async fn ask_patiently<T: Send + 'static>(
        &self,
        work: impl Fn(&dyn SealDevice) -> Result<T, DeviceRefusal> + Send + Sync + 'static,
    ) -> Result<T, DeviceRefusal> {
        let (work, deadline) = (Arc::new(work), Instant::now() + PATIENCE);
        loop {
            let turn = self.calls.enter(deadline).await.map_err(|why| self.unasked(why))?;
            let work = work.clone();
            match self.carry_out(turn, move |device| work(device)).await {
                Err(refusal) if refusal.away && Instant::now() < deadline => {}
                done => return done,
            }
        }
    }

    async fn carry_out<T: Send + 'static>(
        &self,
        turn: Turn<DeviceRefusal>,
        work: impl FnOnce(&dyn SealDevice) -> Result<T, DeviceRefusal> + Send + 'static,
    ) -> Result<T, DeviceRefusal> {
        let (device, calls, began) = (self.device.clone(), self.calls.clone(), Instant::now());
        let asked = tokio::task::spawn_blocking(move || {
            let done = work(&*device);
            let refusal = done.as_ref().err();
            calls.figures.calls.took(began.elapsed());
            if refusal.is_some_and(|refusal| !refusal.custodians) {
                calls.figures.failures.add(1);
            }
            turn.ended(refusal.filter(|refusal| refusal.away));
            done
        });
        asked.await.map_err(|e| DeviceRefusal::new(e.to_string(), true)).and_then(|done| done)
    }

    fn unasked(&self, why: Unasked<DeviceRefusal>) -> DeviceRefusal {
        let seal = self.shown();
        match why {
            Unasked::Crowded => DeviceRefusal::new(
                format!("the device of the seal {seal:?} has more to do than it can: try again later"),
                true,
            ),
            Unasked::Busy => {
                let text = format!(
                    "the device of the seal {seal:?} has not answered to earlier calls within {} s: try again in a moment; \
                     sys/seal-backend-status says how it is",
                    PATIENCE.as_secs()
                );
                DeviceRefusal::new(text, true)
            }
            Unasked::Away(absence) => {
                let text = format!(
                    "the device of the seal {seal:?} is away for {} s, and is tried again in a moment \
                     (sys/seal-backend-status says how it is): {}",
                    absence.since.elapsed().as_secs(),
                    absence.error.text
                );
                DeviceRefusal { away: true, ..DeviceRefusal::new(text, true) }
            }
        }
    }

    /// Its calls, as the metrics have them.
    pub(crate) fn figures(&self) -> &Figures {
        &self.calls.figures
    }

    /// Let the device open a lock.
    pub(crate) async fn open(&self, lock: &Lock, cluster_id: &[u8; 16]) -> Result<Key, DeviceRefusal> {
        let (lock, cluster_id) = (lock.clone(), *cluster_id);
        self.ask(move |device| device.unwrap(&lock, &wrap_context(&cluster_id, &lock.id))).await
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The device is there, and waits for custodians.
    pub(crate) fn note_answer(&self, began: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.checked, seen.took) = (Some(clock::now()), began.elapsed());
        if seen.unhealthy.take().is_some() {
            tracing::info!(seal = self.shown(), "the seal's device is well again");
        }
    }

    /// What came of asking the device: the lock that it opened, or why it opens none.
    pub(crate) fn note(&self, outcome: Result<[u8; 16], String>, began: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        (seen.checked, seen.took) = (Some(now), began.elapsed());
        match outcome {
            Ok(lock) => {
                if seen.unhealthy.take().is_some() {
                    tracing::info!(seal = self.shown(), "the seal's device is well again");
                }
                (seen.opened, seen.lock) = (Some(now), Some(lock));
            }
            Err(why) => {
                if seen.unhealthy.as_ref().is_none_or(|(_, before)| *before != why) {
                    tracing::error!(seal = self.shown(), "the seal's device would not open the store: {why}");
                }
                let since = seen.unhealthy.as_ref().map_or(now, |(since, _)| *since);
                seen.unhealthy = Some((since, why));
            }
        }
    }
}

impl Seals {
    /// One seal, beside which there is no other.
    pub fn only(device: Arc<dyn SealDevice>) -> Seals {
        Seals { present: vec![Seal::alone(device)], former: None }
    }

    /// So many bytes of the generator of the first device that has one. Those that are there are asked before one that is
    /// away is waited for. None: no device has one.
    pub(crate) async fn random(&self, bytes: usize) -> Result<Option<Secret<Vec<u8>>>, DeviceRefusal> {
        let draw = move |device: &dyn SealDevice| judged(device, bytes);
        let mut refused = None;
        if self.present.len() > 1 {
            for seal in self.present.iter().filter(|seal| !seal.calls.is_away()) {
                match seal.ask(draw).await {
                    Ok(None) => {}
                    Ok(drawn) => return Ok(drawn),
                    Err(refusal) => refused = Some(refusal),
                }
            }
        }
        for seal in self.present.iter().filter(|seal| self.present.len() == 1 || seal.calls.is_away()) {
            match seal.ask_patiently(draw).await {
                Ok(None) => {}
                Ok(drawn) => return Ok(drawn),
                Err(refusal) => refused = Some(refusal),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// Whether this very seal is one of them.
    pub(crate) fn has(&self, seal: &Arc<Seal>) -> bool {
        self.present.iter().chain(&self.former).any(|other| Arc::ptr_eq(other, seal))
    }

    /// Whether a device opens the store, by the configuration.
    pub fn have_a_device(&self) -> bool {
        !self.present.is_empty()
    }

    /// The locks that one of them may open on this node, the likeliest first.
    pub(crate) fn locks_of<'l>(&self, seal: &Seal, list: &'l LockList, node: Option<&str>) -> Vec<&'l Lock> {
        let mut locks = list.device_locks_of(node);
        locks.retain(|lock| self.may_open(seal, lock, node));
        let is_its_by_name = |lock: &&Lock| seal.name.is_some() && lock.name == seal.name;
        if locks.iter().any(|lock| is_its_by_name(lock) && lock.scope.is_surely_of(node)) {
            locks.retain(is_its_by_name);
        }
        let is_of_other_name = |lock: &Lock| seal.name.is_some() && lock.name != seal.name;
        locks.sort_by_key(|lock| (is_of_other_name(lock), lock.scope == Scope::Cluster, !seal.device.names(lock)));
        locks
    }

    /// Whether a lock is one that a seal's device should be asked to open: of its type, of this node or the cluster, and
    /// not by its name that of another seal.
    pub(crate) fn may_open(&self, seal: &Seal, lock: &Lock, node: Option<&str>) -> bool {
        let is_anothers = lock.name.is_some()
            && lock.name != seal.name
            && self
                .present
                .iter()
                .any(|other| other.name == lock.name && lock.backend() == Some(other.device.backend()));
        lock.backend() == Some(seal.device.backend()) && lock.may_be_of(node) && !is_anothers
    }

    /// The lock that is known to be a seal's: by its name, because its device opened it, or because there is no other
    /// seal.
    pub(crate) fn known_lock<'l>(&self, seal: &Seal, list: &'l LockList, node: Option<&str>) -> Option<&'l Lock> {
        let locks = self.locks_of(seal, list, node);
        let opened = seal.seen().lock;
        let named = locks.iter().find(|lock| seal.name.is_some() && lock.name == seal.name);
        let known = named.or_else(|| locks.iter().find(|lock| opened == Some(lock.id)));
        known.or_else(|| locks.first().filter(|_| self.present.len() == 1)).copied()
    }
}
