//! What an unsealed server does by itself: jobs, and ending what is due.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_sdk::Result;

use crate::expiry::{self, Due};
use crate::sys::keys::rotate_when_due;
use crate::{Core, Open, clock, jobs, tokens};

const TICK: Duration = Duration::from_millis(500);

/// Start the loops; they end when the server is sealed or gone.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    tokio::spawn(run(Arc::downgrade(core), Arc::downgrade(open)));
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
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
            if let Err(e) = work(&core, &open).await {
                tracing::warn!(error = %e, "a job failed; it is tried again");
            }
        }
        let Some(core) = core.upgrade() else { return };
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = core.job_stored.notified() => {}
        }
    }
}

/// End what is due, batch by batch.
async fn expire(core: &Core, open: &Open) -> Result<()> {
    loop {
        let ended = core
            .transact(open, |tx| {
                let due = expiry::due(tx, clock::now())?;
                for (key, what) in &due {
                    match what {
                        Due::Token(id) => tokens::revoke_tree(tx, id)?,
                    }
                    // Normally gone with what it ended.
                    expiry::remove(tx, key)?;
                }
                Ok(due.len())
            })
            .await?;
        core.metrics.tokens_expired.add(ended as u64);
        if ended < expiry::BATCH || open.closing.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

/// Work off stored jobs, a batch of each in turn.
async fn work(core: &Arc<Core>, open: &Arc<Open>) -> Result<()> {
    loop {
        let mut tx = crate::tx::Tx::read_only(core.store.view(), (**open.barrier.load()).clone());
        let stored = jobs::list(&mut tx)?;
        drop(tx);
        if stored.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        for (id, _) in stored {
            if open.closing.load(Ordering::SeqCst) {
                return Ok(());
            }
            // One job that fails does not keep the others from their turn.
            let router = core.router(open)?;
            if let Err(e) = core.transact(open, |tx| jobs::step(tx, &router, &id)).await {
                let text = e.to_string();
                core.transact(open, |tx| jobs::note_failure(tx, &id, &text)).await?;
                failed = Some(e);
            }
        }
        if let Some(e) = failed {
            return Err(e);
        }
    }
}
