//! Undoing what requests began outside and did not finish.
//!
//! Each target has a queue of its own, so that one that hangs holds nobody else up; undoings are bounded in
//! number, all together and for each target. A target at which several fail in a row is left alone for a
//! pause that grows, and then tried with one. Nothing of the unsealed server is held while one waits outside.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use holdfast_sdk::{Backend, Error, Means, Result};
use tokio::sync::{Notify, Semaphore};

use crate::audit::Act;
use crate::caught::caught;
use crate::intents::{self, Due, Intent, Key, UNDO_TIME_OUT};
use crate::layout::{INTENTS_DUE, NamespaceId, SYSTEM, Scope};
use crate::router::Handler;
use crate::targets::{End, within};
use crate::tx::Tx;
use crate::{Core, Open, expiry, jobs};

/// Undoings at a time,
const AT_ONCE: usize = 128;
/// and on one target of a mount.
const ON_ONE_TARGET: usize = 8;
/// So many failures in a row mean that a target does not work at present.
const FAILURES: u32 = 4;
/// It is tried again after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Due intents looked at in one round,
const LOOKED_AT: usize = 1024;
/// and those that may wait for one target.
const QUEUED: usize = 128;
/// If there may be more due than are looked at, those whose targets are busy make way for so long.
const MAKE_WAY: Duration = Duration::from_secs(5);
/// With so many targets remembered, those that are not busy are forgotten.
const REMEMBERED: usize = 1024;
const TICK: Duration = Duration::from_millis(500);

/// A mount's target.
type Target = ([u8; 16], String);

/// Targets at which something is undone, or does not work.
struct Targets {
    known: Mutex<HashMap<Target, Known>>,
    permits: Semaphore,
}

#[derive(Default)]
struct Known {
    queue: VecDeque<(NamespaceId, Key)>,
    /// Queued or running.
    inside: HashSet<Key>,
    running: usize,
    /// Failures in a row, and the boot time before which it is left alone.
    failures: u32,
    until: Duration,
}

impl Known {
    fn may_run(&self) -> usize {
        if self.failures < FAILURES { ON_ONE_TARGET } else { 1 }
    }
}

impl Targets {
    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Put a due intent into its target's queue. False: there is no room, or the target is left alone.
    fn offer(&self, target: &Target, (namespace, key): (NamespaceId, Key), boot: Duration) -> bool {
        let mut all = self.lock();
        if all.len() >= REMEMBERED {
            all.retain(|_, known| !known.inside.is_empty() || known.until > boot);
        }
        let known = all.entry(target.clone()).or_default();
        if known.inside.contains(&key) {
            return true;
        }
        if known.until > boot || known.queue.len() >= QUEUED {
            return false;
        }
        known.queue.push_back((namespace, key));
        known.inside.insert(key);
        true
    }

    /// Take the next from a target's queue, if it may run.
    fn next(self: &Arc<Self>, target: &Target) -> Option<Running> {
        let mut all = self.lock();
        let known = all.get_mut(target)?;
        if known.running >= known.may_run() {
            return None;
        }
        let (namespace, key) = known.queue.pop_front()?;
        known.running += 1;
        Some(Running { targets: self.clone(), target: target.clone(), namespace, key, ended: None })
    }

    /// How many are queued or running.
    fn inside(&self) -> usize {
        self.lock().values().map(|known| known.inside.len()).sum()
    }

    fn has_nothing_left(&self, target: &Target) -> bool {
        self.lock().get(target).is_none_or(|known| known.queue.is_empty())
    }
}

/// One that runs; it counts until it is dropped.
struct Running {
    targets: Arc<Targets>,
    target: Target,
    namespace: NamespaceId,
    key: Key,
    /// Whether it went well, and the boot time then; none if that is no word about the target.
    ended: Option<(bool, Duration)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.targets.lock();
        let Some(known) = all.get_mut(&self.target) else { return };
        known.running -= 1;
        known.inside.remove(&self.key);
        match self.ended {
            Some((true, _)) => known.failures = 0,
            Some((false, boot)) => {
                known.failures = known.failures.saturating_add(1);
                if known.failures >= FAILURES {
                    let pause = intents::pause(known.failures - FAILURES + 1).unwrap_or(LONGEST_PAUSE);
                    known.until = boot + pause.min(LONGEST_PAUSE);
                    for (_, key) in std::mem::take(&mut known.queue) {
                        known.inside.remove(&key);
                    }
                }
            }
            None => {}
        }
        if known.inside.is_empty() && known.failures == 0 {
            all.remove(&self.target);
        }
    }
}

/// Start the loop; it ends when the server is sealed or gone.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    tokio::spawn(run(Arc::downgrade(core), Arc::downgrade(open), core.intent_due.clone()));
}

async fn run(core: Weak<Core>, open: Weak<Open>, intent_due: Arc<Notify>) {
    let targets = Arc::new(Targets { known: Mutex::default(), permits: Semaphore::new(AT_ONCE) });
    // What was given up is tried once more at every unseal.
    let mut given_up = Some(Vec::new());
    loop {
        {
            let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
            if open.closing.load(Ordering::SeqCst) {
                return;
            }
            if let Some(after) = given_up.take() {
                given_up = take_up_again(&core, &open, after).await;
            }
            if let Err(e) = begin_due(&core, &open, &targets).await {
                tracing::warn!(error = %e, "intents cannot be looked at; it is tried again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = intent_due.notified() => {}
        }
    }
}

/// Take up a batch of what was given up, behind a key. Returns where to go on, if there is more.
async fn take_up_again(core: &Core, open: &Open, after: Vec<u8>) -> Option<Vec<u8>> {
    let again = core.transact(open, |tx| {
        let now = core.clock.cluster();
        if intents::take_up_again_elsewhere(tx, now)? {
            return Ok(Some(after.clone()));
        }
        intents::take_up_again(tx, &after, now)
    });
    match again.await {
        Ok(next) => next,
        Err(e) => {
            tracing::warn!(error = %e, "what was given up cannot be taken up again; it is tried again");
            Some(after)
        }
    }
}

async fn begin_due(core: &Arc<Core>, open: &Arc<Open>, targets: &Arc<Targets>) -> Result<()> {
    // A wall clock that jumps makes no deadline pass, and holds no undoing up.
    let (now, boot) = (core.clock.cluster(), core.clock.boot());
    let (due, all) = {
        let mut tx = Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
        let all = expiry::due_in(&mut tx, INTENTS_DUE, now, LOOKED_AT)?.len();
        (intents::due(&mut tx, now, LOOKED_AT)?, all)
    };
    if due.len() < all {
        core.transact(open, |tx| intents::park_due(tx, now, LOOKED_AT)).await?;
    }
    let full = all == LOOKED_AT;
    let mut left = Vec::new();
    for Due { namespace, key, target } in due {
        let target = (key.mount(), target);
        if targets.offer(&target, (namespace, key), boot) {
            run_next(&Arc::downgrade(core), &Arc::downgrade(open), targets, &target);
        } else {
            left.push((namespace, key));
        }
    }
    core.metrics.undo_queue.set(targets.inside() as u64);
    if full && !left.is_empty() {
        core.transact(open, |tx| intents::make_way(tx, &left, now, MAKE_WAY)).await?;
    }
    Ok(())
}

/// Begin what a target has room for.
fn run_next(core: &Weak<Core>, open: &Weak<Open>, targets: &Arc<Targets>, target: &Target) {
    while let Some(running) = targets.next(target) {
        tokio::spawn(run_one(core.clone(), open.clone(), running));
    }
}

async fn run_one(core: Weak<Core>, open: Weak<Open>, mut running: Running) {
    let (targets, target) = (running.targets.clone(), running.target.clone());
    let Ok(_permit) = targets.permits.acquire().await else { return };
    match undo(core.clone(), open.clone(), running.namespace, &running.key).await {
        Ok(good) => {
            let Some(core) = core.upgrade() else { return };
            running.ended = Some((good, core.clock.boot()));
            drop(running);
            if targets.has_nothing_left(&target) {
                core.intent_due.notify_one();
            }
        }
        Err(e) => {
            // The store's trouble, not the target's.
            tracing::warn!(error = %e, "the outcome of an undoing is not stored; it is tried again");
            drop(running);
        }
    }
    run_next(&core, &open, &targets, &target);
}

/// False: it is still to be undone.
async fn undo(weak_core: Weak<Core>, weak_open: Weak<Open>, namespace: NamespaceId, key: &Key) -> Result<bool> {
    let (Some(core), Some(open)) = (weak_core.upgrade(), weak_open.upgrade()) else { return Ok(true) };
    let backend = core.backend_of(&open, namespace, &key.mount())?;
    let begun = core
        .transact(&open, |tx| {
            tx.enter(SYSTEM.of(namespace));
            let now = core.clock.cluster();
            let Some(intent) = intents::begin_undo(tx, key, now)? else { return Ok(None) };
            let Some(backend) = &backend else { return Ok(Some((intent, Err(no_mount())))) };
            if intent.target.is_empty() {
                // A lease on what the engine's own records are all of.
                return Ok(Some((intent, Ok(Arc::new(()) as Means))));
            }
            tx.enter(Scope::mount(namespace, key.mount()));
            let means = backend.reach(tx, &intent.outside());
            Ok(Some((intent, means)))
        })
        .await?;
    let Some((intent, means)) = begun else { return Ok(true) };
    let closing = core.closing(&open);
    drop(open);
    drop(core);
    let outcome = match (&backend, means) {
        (Some(_), Ok(_)) if intent.target.is_empty() => Ok(()),
        (Some(backend), Ok(means)) => {
            let outside = intent.outside();
            let begun = Instant::now();
            let mut undone = pin!(backend.undo(&outside, &means));
            let ended = tokio::select! {
                () = closing => return Ok(true),
                ended = within(UNDO_TIME_OUT, caught(undone.as_mut())) => ended,
            };
            if let Some(core) = weak_core.upgrade() {
                let end = ended.as_ref().map_or(End::Unreached, End::of);
                core.targets.note(&(key.mount(), intent.target.clone()), end, begun.elapsed(), core.clock.boot());
            }
            ended.unwrap_or_else(|| Err(Error::Unavailable(took_too_long(&intent.target))))
        }
        (_, Err(e)) => Err(e),
        (None, _) => Err(no_mount()),
    };
    let (Some(core), Some(open)) = (weak_core.upgrade(), weak_open.upgrade()) else { return Ok(true) };
    match &outcome {
        Ok(()) if intent.is_of_lease() => core.metrics.leases_revoked.add(1),
        Ok(()) => core.metrics.intents_undone.add(1),
        Err(_) => core.metrics.undo_failures.add(1),
    }
    let ended = core.act(&open, |tx, acts| {
        tx.enter(SYSTEM.of(namespace));
        let now = core.clock.cluster();
        let given_up = match &outcome {
            Ok(()) => {
                if let Some(backend) = backend.as_ref().filter(|_| intent.is_of_lease()) {
                    tx.within(Scope::mount(namespace, key.mount()), |tx| backend.lease_ended(tx, &intent.outside()))?;
                }
                intents::undone(tx, key, now)?;
                false
            }
            Err(e) => intents::failed(tx, key, &e.to_string(), now)?,
        };
        acts.push(told(namespace, &intent, &outcome, given_up));
        Ok(())
    });
    ended.await?;
    Ok(outcome.is_ok())
}

/// An undoing as the audit log tells it.
fn told(namespace: NamespaceId, intent: &Intent, outcome: &Result<()>, given_up: bool) -> Act {
    let act = match intent.lease() {
        Some(lease) => {
            Act::new("revoke", "sys/leases/revoke", "the end of the lease has begun").plain("lease_id", lease)
        }
        None => {
            let cause = "what a request or a chore made outside is undone: it did not end well";
            Act::new("rollback", "sys/intents", cause).plain("name", &intent.name)
        }
    };
    let act = act.within(namespace).of_mount(&intent.mount_path);
    match outcome {
        Ok(()) => act.state("done"),
        Err(e) => {
            let state = if given_up { "given up" } else { "tried again" };
            act.state(state).tries(u64::from(intent.tries()) + 1).failed(&e.to_string())
        }
    }
}

fn no_mount() -> Error {
    Error::Internal(
        "its mount is gone, and no job knows it: forget it at sys/intents when you have looked yourself".into(),
    )
}

pub(crate) fn took_too_long(target: &str) -> String {
    format!("{target:?} did not answer in time")
}

impl Core {
    /// The engine of a mount, in service or disabled and not yet cleaned up.
    pub(crate) fn backend_of(
        self: &Arc<Self>,
        open: &Arc<Open>,
        namespace: NamespaceId,
        mount: &[u8; 16],
    ) -> Result<Option<Arc<dyn Backend>>> {
        let Some(space) = self.space_of(open, namespace)? else { return Ok(None) };
        if space.is_sealed(&open.barrier.load()) {
            return Err(Error::Unavailable("namespace is sealed".into()));
        }
        let router = self.router_of(open, &space)?;
        if let Some(found) = router.mounts().find(|m| m.entry.uuid == *mount) {
            return Ok(match &found.handler {
                Handler::Engine(backend) => Some(backend.clone()),
                _ => None,
            });
        }
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        let entry = jobs::disabled_mount(&mut tx, mount)?;
        entry.map(|e| self.backend(&e)).transpose()
    }
}
