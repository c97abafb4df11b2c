//! What an unsealed server does by itself: jobs, and ending what is due.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_sdk::Result;
use tokio::sync::Notify;

use crate::audit::Act;
use crate::caught::caught;
use crate::expiry::{self, Due};
use crate::jobs::Step;
use crate::layout::{EXPIRY, SYSTEM};
use crate::namespaces::seal;
use crate::sys::keys::rotate_when_due;
use crate::{Core, Open, intents, jobs, leases, tokens};

const TICK: Duration = Duration::from_millis(500);
/// A job that fails is tried again after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Start the loops; they end when the server is sealed or gone.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    tokio::spawn(run(Arc::downgrade(core), Arc::downgrade(open), core.job_stored.clone()));
}

/// Jobs that failed or wait: how often, and the boot time before which they are left alone.
type Pauses = HashMap<[u8; 16], (u32, Duration)>;

async fn run(core: Weak<Core>, open: Weak<Open>, job_stored: Arc<Notify>) {
    let mut pauses = Pauses::new();
    loop {
        {
            let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
            if open.closing.load(Ordering::SeqCst) {
                return;
            }
            if let Err(e) = expire(&core, &open).await {
                tracing::warn!(error = %e, "ending what is due failed; it is tried again");
            }
            if let Err(e) = rotate_when_due(&core, &open).await {
                tracing::warn!(error = %e, "making a new key term failed; it is tried again");
            }
            match work(&core, &open, &mut pauses).await {
                Ok(false) => {}
                Ok(true) => continue,
                Err(e) => tracing::warn!(error = %e, "jobs cannot be worked off; they are tried again"),
            }
        }
        // Nothing of the server is held meanwhile: loops would keep one another's server alive.
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = job_stored.notified() => {}
        }
    }
}

/// End what is due, batch by batch.
async fn expire(core: &Arc<Core>, open: &Arc<Open>) -> Result<()> {
    loop {
        // While the clock is in doubt nothing is ended that cannot be brought back.
        let Some(now) = core.clock.observe() else { return Ok(()) };
        let (ended, (tokens, leases)) = core
            .act(open, |tx, acts| {
                let due = expiry::due(tx, now)?;
                let mut ended = (0, 0);
                for (key, what) in &due {
                    let namespace = what.namespace();
                    if tx.is_sealed(&namespace) {
                        seal::park(tx, &namespace, EXPIRY, key, what.encode())?;
                        continue;
                    }
                    match what {
                        Due::Token(id) if tokens::lives_on(tx, id, now)? => {}
                        Due::Token(id) => {
                            acts.extend(tokens::load(tx, id)?.map(|token| Act::token_expired(namespace, &token)));
                            tokens::revoke_tree(tx, id)?;
                            ended.0 += 1;
                        }
                        Due::Lease(namespace, id) => {
                            let lease = tx.within(SYSTEM.of(*namespace), |tx| leases::take_out(tx, id))?;
                            acts.extend(lease.map(|lease| Act::lease_expired(*namespace, &lease)));
                            ended.1 += 1;
                        }
                    }
                    // Normally gone with what it ended.
                    expiry::remove(tx, key)?;
                }
                Ok((due.len(), ended))
            })
            .await?;
        core.metrics.tokens_expired.add(tokens);
        core.metrics.leases_expired.add(leases);
        if ended < expiry::BATCH || open.closing.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

/// One batch of each stored job. One that fails or waits is left alone for a pause that grows, and keeps no
/// other from its turn. True: there is more to do at once.
async fn work(core: &Arc<Core>, open: &Arc<Open>, pauses: &mut Pauses) -> Result<bool> {
    let mut tx = crate::tx::Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
    let stored = jobs::list(&mut tx)?;
    drop(tx);
    pauses.retain(|id, _| stored.iter().any(|(stored, _)| stored == id));
    let now = core.clock.boot();
    let mut more = false;
    for (id, job) in stored {
        if !job.is_blind() && open.barrier.load().is_sealed(&job.namespace()) {
            // It goes on when that is unsealed.
            continue;
        }
        if pauses.get(&id).is_some_and(|(_, until)| *until > now) {
            continue;
        }
        if open.closing.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let Some(space) = core.space_of(open, job.namespace())? else {
            // The job that ended its namespace left nothing for it to do.
            core.transact(open, |tx| jobs::forget(tx, &id)).await?;
            continue;
        };
        let router = if job.is_blind() { core.router(open)? } else { core.router_of(open, &space)? };
        let step = core.act(open, |tx, acts| {
            let step = jobs::step(core, tx, &router, &id)?;
            if step == Step::Done {
                acts.push(job.done(&id));
            }
            Ok(step)
        });
        match caught(pin!(step)).await {
            // What is done may have made other jobs.
            Ok(step @ (Step::Done | Step::More)) => {
                if step == Step::Done {
                    core.job_done.notify_waiters();
                }
                pauses.remove(&id);
                more = true;
            }
            Ok(Step::Waits) => {
                pauses.insert(id, (0, now + TICK));
            }
            Err(e) => {
                tracing::warn!(error = %e, "a job failed; it is tried again");
                let tries = pauses.get(&id).map_or(1, |(tries, _)| tries.saturating_add(1));
                pauses.insert(id, (tries, now + intents::pause(tries)?.min(LONGEST_PAUSE)));
                let text = e.to_string();
                let is_new = job.last_error.as_deref() != Some(&text);
                core.act(open, |tx, acts| {
                    acts.extend(is_new.then(|| job.done(&id).failed(&text)));
                    jobs::note_failure(tx, &id, &text)
                })
                .await?;
            }
        }
    }
    Ok(more)
}
