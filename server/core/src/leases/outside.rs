//! What is done outside for a lease while a client waits: its end, and its renewal.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::lease::{Granted, Limits};
use holdfast_sdk::{Backend, Error, Means, Outside, Result, Work};
use tokio::task::JoinSet;

use super::{EngineLease, Of, engine, find};
use crate::caught::caught;
use crate::layout::{NamespaceId, SYSTEM, Scope};
use crate::targets::{End, within};
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

/// Undo what a lease stands for, then forget it. If it fails, the lease is as it was.
pub async fn revoke_now(core: &Arc<Core>, open: &Arc<Open>, space: NamespaceId, lease: &EngineLease) -> Result<()> {
    let Reached { backend, means } = reach(core, open, space, lease).await?;
    let outside = lease.outside();
    if let Some(means) = &means {
        bounded(core, open, lease.mount, &outside.target, backend.undo(&outside, means)).await?;
    }
    core.transact(open, |tx| {
        tx.enter(SYSTEM.of(space));
        let Some(Of::Engine(lease)) = find(tx, &lease.id)? else { return Ok(()) };
        tx.within(Scope::mount(space, lease.mount), |tx| backend.lease_ended(tx, &outside))?;
        engine::forget(tx, &lease)
    })
    .await?;
    core.metrics.leases_revoked.add(1);
    Ok(())
}

/// Undo and forget many. Returns those that failed, with the reasons.
pub async fn revoke_all(
    core: &Arc<Core>,
    open: &Arc<Open>,
    space: NamespaceId,
    leases: Vec<EngineLease>,
) -> Vec<(String, Error)> {
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
    let now = core.clock.now();
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
