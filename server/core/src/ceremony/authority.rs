//! Whose shares count, and how many of them.

use holdfast_hsm::memory::{Key, Secret};
use holdfast_seal::locks::{LockKind, LockList};
use holdfast_seal::{Barrier, SealError};

use crate::seal_state::{Refusal, failed};
use crate::{Core, Open};

/// Where the check of the recovery key is, in the form `authorise`.
pub const VERIFIER: &[u8] = b"recovery-verifier";

/// How many shares authorise an act; 0: there are none that could.
pub fn required(list: &LockList) -> u8 {
    match (&list.recovery, list.shares_lock().map(|l| &l.kind)) {
        (Some(recovery), _) => recovery.threshold,
        (None, Some(LockKind::Shares { threshold, .. })) => *threshold,
        _ => 0,
    }
}

/// What is kept of the recovery key: enough to know it again, and no way back to it.
pub fn verifier(barrier: &Barrier, key: &Key) -> Result<Vec<u8>, SealError> {
    let text = Secret::new(hex::encode(key.expose()));
    // Neither of the domain's bytes is a namespace's: it is the root's keyring that answers.
    barrier.id(b"recovery verifier", text.expose()).map(|id| id.to_vec())
}

impl Core {
    /// The lock list, found to be the one that this server wrote.
    pub(crate) fn own_locks(&self, open: &Open) -> Result<LockList, Refusal> {
        let read = self.lock_list().map_err(failed)?.ok_or_else(|| failed("the lock list is missing"))?;
        read.verify(&open.root.load()).map_err(failed)?;
        Ok(read.list)
    }
}
