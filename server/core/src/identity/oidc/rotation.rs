//! Keys of identity tokens are rotated when it is time: by cluster time, on the active node, in every namespace.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_sdk::{Result, Timestamp};
use tokio::sync::Semaphore;

use super::keys::{self, NamedKey};
use super::store;
use crate::audit::Act;
use crate::caught::caught;
use crate::layout::{NamespaceId, OIDC_KEYS_DUE, SYSTEM};
use crate::namespaces::seal;
use crate::tx::Tx;
use crate::{Core, Open, expiry};

/// Keys that are looked at in one round.
const AT_ONCE: usize = 16;
const TICK: Duration = Duration::from_millis(500);

/// Note when a key is to be rotated, in place of what was noted before.
pub fn schedule(tx: &mut Tx, key: &NamedKey, now: Timestamp) -> Result<Vec<u8>> {
    forget(tx, key)?;
    let what = [&tx.namespace()[..], key.name.as_bytes()].concat();
    expiry::put_in(tx, OIDC_KEYS_DUE, now.plus_secs(key.rotation_secs), what)
}

pub fn forget(tx: &mut Tx, key: &NamedKey) -> Result<()> {
    if key.due.is_empty() { Ok(()) } else { expiry::remove_in(tx, OIDC_KEYS_DUE, &key.due) }
}

/// Start the loop; it ends when the server is sealed or gone.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    tokio::spawn(run(Arc::downgrade(core), Arc::downgrade(open)));
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    // One at a time: nobody waits for them.
    let slow = Arc::new(Semaphore::new(1));
    loop {
        let more = {
            let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
            if open.closing.load(Ordering::SeqCst) {
                return;
            }
            match caught(pin!(round(&core, &open, &slow))).await {
                Ok(rotated) => rotated == AT_ONCE,
                Err(e) => {
                    tracing::warn!(error = %e, "keys of identity tokens cannot be rotated; it is tried again");
                    false
                }
            }
        };
        if !more {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Rotate what is due; how many those were.
async fn round(core: &Arc<Core>, open: &Arc<Open>, slow: &Arc<Semaphore>) -> Result<usize> {
    // While the clock is in doubt nothing is due.
    let Some(now) = core.clock.observe() else { return Ok(0) };
    let due = expiry::due_in(&mut core.reader(open), OIDC_KEYS_DUE, now, AT_ONCE)?;
    for (index, what) in &due {
        if open.closing.load(Ordering::SeqCst) {
            return Ok(0);
        }
        let known = what.split_first_chunk::<16>().and_then(|(n, name)| Some((*n, std::str::from_utf8(name).ok()?)));
        let done = match known {
            Some((namespace, _)) if open.barrier.load().is_sealed(&namespace) => {
                core.transact(open, |tx| seal::park(tx, &namespace, OIDC_KEYS_DUE, index, what.clone())).await
            }
            Some(which) => rotate(core, open, slow, which, index, now).await,
            None => core.transact(open, |tx| expiry::remove_in(tx, OIDC_KEYS_DUE, index)).await,
        };
        // One that fails keeps no other from its turn.
        if let Err(e) = done {
            tracing::warn!(error = %e, "a key of identity tokens cannot be rotated; it is tried again");
        }
    }
    Ok(due.len())
}

async fn rotate(
    core: &Arc<Core>,
    open: &Arc<Open>,
    slow: &Arc<Semaphore>,
    (namespace, name): (NamespaceId, &str),
    index: &[u8],
    now: Timestamp,
) -> Result<()> {
    let found = of(&mut core.reader(open), namespace, name)?.filter(|key| key.due == index);
    let made = match &found {
        Some(key) => Some(keys::make(slow.clone(), key.algorithm, 1).await?),
        None => None,
    };
    let rotated = core.act(open, |tx, acts| {
        // It may have been rotated by hand, or deleted, with its namespace even.
        let key = of(tx, namespace, name)?.filter(|key| key.due == index);
        let (Some(mut key), Some(made)) = (key, &made) else {
            return expiry::remove_in(tx, OIDC_KEYS_DUE, index);
        };
        key.rotate(made.one(key.algorithm)?, key.verification_secs, now);
        tx.within(SYSTEM.of(namespace), |tx| key.save(tx, now))?;
        let path = format!("identity/oidc/key/{name}/rotate");
        let act = Act::new("rotate", path, "the key is as old as its rotation_period");
        acts.push(act.within(namespace).of_mount("identity/"));
        Ok(())
    });
    rotated.await
}

fn of(tx: &mut Tx, namespace: NamespaceId, name: &str) -> Result<Option<NamedKey>> {
    tx.within(SYSTEM.of(namespace), |tx| store::load(tx, name))
}
