//! Chores: what mounts do outside by themselves when it is time, each as a request that acts outside does.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use holdfast_sdk::{Backend, Done, Error, Failure, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::audit::Act;
use crate::caught::caught;
use crate::intents::{self, MAX_TIME_OUT};
use crate::router::{self, Handler, Mount};
use crate::targets::{End, within};
use crate::tx::Tx;
use crate::undo::took_too_long;
use crate::{Core, Open};

/// Chores at a time.
const AT_ONCE: usize = 16;
const TICK: Duration = Duration::from_millis(500);

/// A mount's chore.
type Name = ([u8; 16], String);

#[derive(Default)]
struct Running(Mutex<HashSet<Name>>);

impl Running {
    fn begins(&self, name: &Name) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone())
    }

    fn ended(&self, name: &Name) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Start the loop; it ends when the server is sealed or gone.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    tokio::spawn(run(Arc::downgrade(core), Arc::downgrade(open)));
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    let (running, permits) = (Arc::new(Running::default()), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        {
            let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
            if open.closing.load(Ordering::SeqCst) {
                return;
            }
            if let Err(e) = begin_due(&core, &open, &running, &permits) {
                tracing::warn!(error = %e, "chores of mounts cannot be looked at; it is tried again");
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

fn begin_due(core: &Arc<Core>, open: &Arc<Open>, running: &Arc<Running>, permits: &Arc<Semaphore>) -> Result<()> {
    // While the clock is in doubt nothing is due.
    let Some(now) = core.clock.observe() else { return Ok(()) };
    let mut tx = Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
    let elsewhere = busy_elsewhere(core, open, &mut tx)?;
    for mount in core.router(open)?.mounts().chain(&elsewhere).filter(|mount| !mount.entry.moving) {
        let Handler::Engine(backend) = &mount.handler else { continue };
        tx.enter(mount.scope);
        for chore in backend.chores(&mut tx, now, AT_ONCE)? {
            let name = (mount.entry.uuid, chore);
            let Ok(permit) = permits.clone().try_acquire_owned() else { return Ok(()) };
            if running.begins(&name) {
                let (core, open) = (Arc::downgrade(core), Arc::downgrade(open));
                tokio::spawn(run_one(core, open, mount.clone(), running.clone(), name, permit));
            }
        }
    }
    Ok(())
}

/// Mounts of other namespaces than the root that may have something to do. All others of these are not looked at.
fn busy_elsewhere(core: &Arc<Core>, open: &Open, tx: &mut Tx) -> Result<Vec<Arc<Mount>>> {
    let mut found = Vec::new();
    for (namespace, mount) in router::busy(tx)? {
        let Some(space) = core.space_of(open, namespace)?.filter(|s| !s.is_sealed(&open.barrier.load())) else {
            continue;
        };
        found.extend(core.router_of(open, &space)?.mounts().find(|m| m.entry.uuid == mount).cloned());
    }
    Ok(found)
}

async fn run_one(
    core: Weak<Core>,
    open: Weak<Open>,
    mount: Arc<Mount>,
    running: Arc<Running>,
    name: Name,
    _permit: OwnedSemaphorePermit,
) {
    if let (Some(core), Some(open)) = (core.upgrade(), open.upgrade())
        && let Handler::Engine(backend) = &mount.handler
        && let Err(e) = caught(pin!(carry_out(&core, &open, &mount, backend, &name.1))).await
    {
        tracing::warn!(mount = %mount.full_path, error = %e, "a chore of a mount failed; it is tried again");
    }
    running.ended(&name);
}

async fn carry_out(
    core: &Arc<Core>,
    open: &Arc<Open>,
    mount: &Mount,
    backend: &Arc<dyn Backend>,
    name: &str,
) -> Result<()> {
    let began = core.clock.boot();
    let begun = core
        .transact(open, |tx| {
            tx.enter(mount.scope);
            if !router::is_in_service(tx, &mount.entry)? {
                return Ok(None);
            }
            let Some(act) = backend.begin_chore(tx, name, core.clock.cluster())? else { return Ok(None) };
            let key = intents::add(tx, mount, "", &act, core.clock.cluster())?;
            Ok(Some((key, act)))
        })
        .await?;
    let Some((key, act)) = begun else { return Ok(()) };
    let outside = act.outside;
    let limit = act.time_out.min(MAX_TIME_OUT);
    let work = async {
        let boot = || core.clock.boot();
        let enter = core.targets.enter(mount.entry.uuid, &outside.target, boot);
        let waited = tokio::time::timeout(limit, enter).await;
        let late = || Error::Unavailable(took_too_long(&outside.target));
        let permit = waited.map_err(|_| Failure::Nothing(late()))?.map_err(Failure::Nothing)?;
        // A process that was stopped may come here when its intent is undone already.
        let left = limit.saturating_sub(boot().saturating_sub(began));
        if left.is_zero() {
            return Err(Failure::Nothing(late()));
        }
        let acted = within(left, backend.effect(&outside, &act.means)).await;
        permit.ended(acted.as_ref().map_or(End::Unreached, End::of_act), boot());
        acted.unwrap_or_else(|| Err(Failure::Uncertain(late())))
    };
    let effected = tokio::select! {
        // The intent is looked at again when the server is unsealed.
        () = core.closing(open) => return Ok(()),
        ended = work => ended,
    };
    match effected {
        Ok(result) => {
            core.metrics.acts.add(1);
            let done = Done { outside: outside.clone(), means: act.means, result };
            let committed = core.act(open, |tx, acts| {
                tx.enter(mount.scope);
                intents::complete(tx, mount, &key)?;
                backend.end_chore(tx, name, core.clock.cluster(), Ok(&done))?;
                acts.push(told(mount, name));
                Ok(())
            });
            match committed.await {
                Ok(()) => Ok(()),
                Err(e) => {
                    core.act(open, |tx, acts| {
                        tx.enter(mount.scope);
                        acts.push(told(mount, name).failed(&e.to_string()));
                        intents::give_back(tx, mount, &key, &outside, &e.to_string(), core.clock.cluster())
                    })
                    .await?;
                    Err(e)
                }
            }
        }
        Err(failure) => {
            core.metrics.act_failures.add(1);
            let uncertain = matches!(failure, Failure::Uncertain(_));
            let why = failure.into_error().to_string();
            core.act(open, |tx, acts| {
                tx.enter(mount.scope);
                match uncertain {
                    true => intents::give_back(tx, mount, &key, &outside, &why, core.clock.cluster())?,
                    false => intents::drop_open(tx, &key)?,
                }
                backend.end_chore(tx, name, core.clock.cluster(), Err(&why))?;
                acts.push(told(mount, name).failed(&why));
                Ok(())
            })
            .await
        }
    }
}

/// A chore as the audit log tells it.
fn told(mount: &Mount, name: &str) -> Act {
    let act = Act::new("rotate", format!("{}{name}", mount.full_path), "it was time by the schedule of the mount");
    act.within(mount.scope.namespace).of_mount(&mount.full_path)
}
