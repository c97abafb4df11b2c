//! Undoing what requests began outside and did not finish.
//!
//! Each undoing is a task of its own, so that a target that hangs holds nobody else up; they are bounded in
//! number, all together and for each target. Nothing of the unsealed server is held while one waits outside.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use holdfast_sdk::{Backend, Error, Result};
use tokio::sync::Notify;

use crate::caught::caught;
use crate::intents::{self, Key, UNDO_TIME_OUT};
use crate::layout::Scope;
use crate::router::Handler;
use crate::tx::Tx;
use crate::{Core, Open, jobs};

/// Undoings at a time,
const AT_ONCE: usize = 32;
/// and on one target of a mount.
const ON_ONE_TARGET: usize = 4;
/// Due intents looked at in one round.
const LOOKED_AT: usize = 1024;
const TICK: Duration = Duration::from_millis(500);

/// Undoings under way, with their targets.
#[derive(Default)]
struct Running(Mutex<HashMap<Key, String>>);

/// One of them; it counts until it is dropped.
struct Begun {
    key: Key,
    running: Arc<Running>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begin one, if there is room for it.
    fn begin(self: &Arc<Self>, key: Key, target: &str) -> Option<Begun> {
        let mut running = self.lock();
        let beside = running.iter().filter(|(k, t)| k.mount() == key.mount() && *t == target).count();
        if running.len() >= AT_ONCE || beside >= ON_ONE_TARGET || running.contains_key(&key) {
            return None;
        }
        running.insert(key, target.to_owned());
        Some(Begun { key, running: self.clone() })
    }
}

/// Start the loop; it ends when the server is sealed or gone.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    tokio::spawn(run(Arc::downgrade(core), Arc::downgrade(open), core.intent_due.clone()));
}

async fn run(core: Weak<Core>, open: Weak<Open>, intent_due: Arc<Notify>) {
    let running = Arc::new(Running::default());
    loop {
        {
            let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
            if open.closing.load(Ordering::SeqCst) {
                return;
            }
            if let Err(e) = begin_due(&core, &open, &running) {
                tracing::warn!(error = %e, "intents cannot be read; it is tried again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = intent_due.notified() => {}
        }
    }
}

fn begin_due(core: &Arc<Core>, open: &Arc<Open>, running: &Arc<Running>) -> Result<()> {
    // A wall clock that jumps makes no deadline pass, and holds no undoing up.
    let now = core.clock.cluster();
    let mut tx = Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
    for (key, target) in intents::due(&mut tx, now, LOOKED_AT)? {
        if let Some(begun) = running.begin(key, &target) {
            let (core, open) = (Arc::downgrade(core), Arc::downgrade(open));
            tokio::spawn(async move {
                if let Err(e) = undo(core, open, &begun.key).await {
                    tracing::warn!(error = %e, "the outcome of an undoing is not stored; it is tried again");
                }
            });
        }
    }
    Ok(())
}

async fn undo(weak_core: Weak<Core>, weak_open: Weak<Open>, key: &Key) -> Result<()> {
    let (Some(core), Some(open)) = (weak_core.upgrade(), weak_open.upgrade()) else { return Ok(()) };
    let backend = core.backend_of(&open, &key.mount())?;
    let begun = core
        .transact(&open, |tx| {
            let now = core.clock.cluster();
            let Some(intent) = intents::begin_undo(tx, key, now)? else { return Ok(None) };
            let Some(backend) = &backend else { return Ok(Some((intent, Err(no_mount())))) };
            tx.enter(Scope::mount(key.mount()));
            let means = backend.reach(tx, &intent.outside());
            Ok(Some((intent, means)))
        })
        .await?;
    let Some((intent, means)) = begun else { return Ok(()) };
    let closing = core.closing(&open);
    drop(open);
    drop(core);
    let outcome = match (&backend, means) {
        (Some(backend), Ok(means)) => {
            let outside = intent.outside();
            let limited = tokio::time::timeout(UNDO_TIME_OUT, caught(backend.undo(&outside, &means)));
            tokio::select! {
                () = closing => return Ok(()),
                ended = limited => ended.unwrap_or_else(|_| Err(Error::Unavailable(took_too_long(&intent.target)))),
            }
        }
        (_, Err(e)) => Err(e),
        (None, _) => Err(no_mount()),
    };
    let (Some(core), Some(open)) = (weak_core.upgrade(), weak_open.upgrade()) else { return Ok(()) };
    match &outcome {
        Ok(()) => core.metrics.intents_undone.add(1),
        Err(_) => core.metrics.undo_failures.add(1),
    }
    core.transact(&open, |tx| {
        let now = core.clock.cluster();
        match &outcome {
            Ok(()) => intents::undone(tx, key, now).map(drop),
            Err(e) => intents::failed(tx, key, &e.to_string(), now),
        }
    })
    .await
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
    fn backend_of(self: &Arc<Self>, open: &Arc<Open>, mount: &[u8; 16]) -> Result<Option<Arc<dyn Backend>>> {
        let router = self.router(open)?;
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
