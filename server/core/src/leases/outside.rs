//! What is done outside for a lease while a client waits: its end, and its renewal.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_sdk::lease::{Granted, Limits};
use holdfast_sdk::{Backend, Error, Means, Outside, Result, Timestamp, Work};
use tokio::task::JoinSet;

use super::{EngineLease, Of, engine, engine_leases_below, find};
use crate::caught::caught;
use crate::failpoint::failpoint;
use crate::intents;
use crate::layout::{NamespaceId, SYSTEM, Scope};
use crate::targets::{End, within};
use crate::tx::Tx;
use crate::undo::took_too_long;
use crate::{Core, Open};

/// How long one call outside may take while a client waits.
const TIME_OUT: Duration = Duration::from_secs(30);
/// Leases that one request ends at a time.
const AT_ONCE: usize = 16;

/// A lease's engine, and what reaching its target needs. None: nothing is outside.
struct Reached {
    backend: Arc<dyn Backend>,
    means: Option<Means>,
}

async fn reach(core: &Arc<Core>, open: &Arc<Open>, space: NamespaceId, lease: &EngineLease) -> Result<Reached> {
    let gone = || Error::bad_request(format!("the mount of the lease {:?} is gone", lease.id));
    let backend = core.backend_of(open, space, &lease.mount)?.ok_or_else(gone)?;
    let outside = lease.outside();
    if outside.target.is_empty() {
        return Ok(Reached { backend, means: None });
    }
    let means = core
        .transact(open, |tx| {
            tx.enter(Scope::mount(space, lease.mount));
            backend.reach(tx, &outside)
        })
        .await?;
    Ok(Reached { backend, means: Some(means) })
}

/// Do something outside, bounded in number and in time, and not past a seal.
async fn bounded(
    core: &Core,
    open: &Arc<Open>,
    mount: [u8; 16],
    target: &str,
    work: Work<'_, Result<()>>,
) -> Result<()> {
    let boot = || core.clock.boot();
    let limited = async {
        let late = || Error::Unavailable(took_too_long(target));
        let entered = tokio::time::timeout(TIME_OUT, core.targets.enter(mount, target, boot)).await;
        let permit = entered.map_err(|_| late())??;
        let ended = within(TIME_OUT, caught(pin!(work))).await;
        permit.ended(ended.as_ref().map_or(End::Unreached, End::of), boot());
        ended.unwrap_or_else(|| Err(late()))
    };
    tokio::select! {
        () = core.closing(open) => Err(Error::Unavailable("Vault is sealed".into())),
        ended = limited => ended,
    }
}

/// Undo what a lease stands for, then forget it. If it fails, the lease is as it was; if it breaks off, the lease ends
/// by the intent that was stored before.
pub async fn revoke_now(core: &Arc<Core>, open: &Arc<Open>, space: NamespaceId, lease: &EngineLease) -> Result<()> {
    let Reached { backend, means } = reach(core, open, space, lease).await?;
    let outside = lease.outside();
    let mut intended = None;
    if let Some(means) = &means {
        intended = intend(core, open, space, lease).await?;
        let undone = bounded(core, open, lease.mount, &outside.target, backend.undo(&outside, means)).await;
        failpoint!(core, "acted");
        if let Err(e) = undone {
            stays(core, open, space, intended.as_ref()).await;
            return Err(e);
        }
    }
    core.transact(open, |tx| {
        tx.enter(SYSTEM.of(space));
        if let Some(intent) = &intended {
            intents::drop_open(tx, intent)?;
        }
        let Some(Of::Engine(lease)) = find(tx, &lease.id)? else { return Ok(()) };
        tx.within(Scope::mount(space, lease.mount), |tx| backend.lease_ended(tx, &outside))?;
        engine::forget(tx, &lease)
    })
    .await?;
    core.metrics.leases_revoked.add(1);
    Ok(())
}

/// Store that a lease is about to end, unless an intent ends it already.
async fn intend(
    core: &Arc<Core>,
    open: &Arc<Open>,
    space: NamespaceId,
    lease: &EngineLease,
) -> Result<Option<intents::Key>> {
    core.transact(open, |tx| {
        tx.enter(SYSTEM.of(space));
        core.targets.require_open(lease.mount, &lease.outside().target, core.clock.boot())?;
        match find(tx, &lease.id)? {
            Some(Of::Engine(lease)) if lease.ending().is_none() => {
                // It waits for its turn, then it is tried.
                let deadline = intents::after(core.clock.cluster(), TIME_OUT * 2 + intents::GRACE);
                intents::await_end(tx, &lease, deadline).map(Some)
            }
            _ => Ok(None),
        }
    })
    .await
}

/// The end of a lease has failed: it is as it was. What a seal broke off goes on by its intent.
async fn stays(core: &Arc<Core>, open: &Arc<Open>, space: NamespaceId, intended: Option<&intents::Key>) {
    let Some(intent) = intended.filter(|_| !open.closing.load(Ordering::SeqCst)) else { return };
    let dropped = core.transact(open, |tx| {
        tx.enter(SYSTEM.of(space));
        intents::drop_open(tx, intent)
    });
    if let Err(e) = dropped.await {
        tracing::warn!(error = %e, "a revocation that failed is tried again after its deadline all the same");
    }
}

/// A lease that could not be revoked, and why.
pub type Failed = (String, Error);

/// Undo and forget many. Returns those that failed, with the reasons.
pub async fn revoke_all(
    core: &Arc<Core>,
    open: &Arc<Open>,
    space: NamespaceId,
    leases: Vec<EngineLease>,
) -> Vec<Failed> {
    let (mut left, mut running, mut failed) = (leases.into_iter(), JoinSet::new(), Vec::new());
    loop {
        while running.len() < AT_ONCE
            && let Some(lease) = left.next()
        {
            let (core, open) = (core.clone(), open.clone());
            running.spawn(async move {
                let ended = revoke_now(&core, &open, space, &lease).await;
                (lease.id, ended)
            });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((id, Err(e)))) => failed.push((id, e)),
            Some(Err(e)) => failed.push((String::new(), Error::internal(e))),
        }
    }
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    failed
}

/// Undo and forget, part by part, what is below a path and was there at `before`. After a part with failures, `goes_on`
/// says whether the next one is tried all the same. Returns how many were tried, and those that failed. If it is
/// dropped in between, what it has begun goes on by its intents.
pub async fn revoke_below(
    core: &Arc<Core>,
    open: &Arc<Open>,
    space: NamespaceId,
    path: &str,
    before: Timestamp,
    mut goes_on: impl FnMut(&[Failed]) -> bool,
) -> Result<(usize, Vec<Failed>)> {
    let (mut behind, mut tried) = (None, 0);
    loop {
        let part = {
            let mut tx = Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
            tx.enter(SYSTEM.of(space));
            engine_leases_below(&mut tx, path, behind.as_deref())?
        };
        let leases: Vec<_> = part.leases.into_iter().filter(|lease| lease.issued() <= before).collect();
        tried += leases.len();
        let failed = revoke_all(core, open, space, leases).await;
        if !failed.is_empty() && !goes_on(&failed) {
            return Ok((tried, failed));
        }
        match part.after {
            Some(after) => behind = Some(after),
            None => return Ok((tried, Vec::new())),
        }
    }
}

/// Let a lease and what it stands for live on. The lease was looked up by the caller.
pub async fn renew(
    core: &Arc<Core>,
    open: &Arc<Open>,
    space: NamespaceId,
    lease: EngineLease,
    increment_secs: u64,
) -> Result<Granted> {
    let failed = |e: Error| Error::bad_request(format!("failed to renew entry: {e}"));
    let router = core.router_in(open, space)?;
    let mount = router.mounts().find(|m| m.entry.uuid == lease.mount);
    let mount = mount.ok_or_else(|| Error::bad_request("the mount of the lease is disabled"))?;
    let Reached { backend, means } = reach(core, open, space, &lease).await.map_err(failed)?;
    let outside: Outside = lease.outside();
    let ceilings = mount.entry.limits(core.options.limits);
    let limits = Limits { default_secs: ceilings.default_secs, max_secs: ceilings.max_secs };
    let now = core.clock.cluster();
    let granted = core
        .transact(open, |tx| {
            tx.enter(mount.scope);
            let terms = backend.lease_terms(tx, &outside)?;
            Ok(limits.renewed(terms, increment_secs, lease.issued(), now))
        })
        .await
        .map_err(failed)?;
    if granted.ttl_secs == 0 {
        return Err(Error::bad_request("past the max TTL, cannot renew"));
    }
    let end = now.plus_secs(granted.ttl_secs);
    if let Some(means) = &means {
        let work = backend.extend(&outside, means, end);
        bounded(core, open, lease.mount, &outside.target, work).await.map_err(failed)?;
    }
    core.transact(open, |tx| {
        tx.enter(SYSTEM.of(space));
        match find(tx, &lease.id)? {
            // It may have been revoked meanwhile; what was made is gone then, or goes.
            Some(Of::Engine(lease)) if lease.lives(now) => lease.renew(tx, end, now),
            _ => Err(Error::bad_request("lease not found")),
        }
    })
    .await?;
    core.metrics.leases_renewed.add(1);
    Ok(granted)
}
