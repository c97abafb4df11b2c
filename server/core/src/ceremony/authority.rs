//! Whose shares count, and how many of them.

use holdfast_hsm::memory::{Key, Secret};
use holdfast_sdk::{Place, Transaction};
use holdfast_seal::locks::{self, LockKind, LockList, RecoveryForm};
use holdfast_seal::{Barrier, SealError, shares};

use crate::layout::{SETTINGS, STORE};
use crate::seal_state::{Refusal, failed, refuse};
use crate::tx::Tx;
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

    /// Whether shares authorise an act. The key that they make, if a lock is wrapped with it.
    pub(super) fn authorise(
        &self,
        open: &Open,
        list: &LockList,
        given: &[Secret<Vec<u8>>],
    ) -> Result<Option<Key>, Refusal> {
        let wrong = |e: SealError| match e {
            SealError::WrongShares => Refusal(400, format!("invalid key: {e}")),
            other => failed(other),
        };
        let threshold = required(list);
        let key = shares::join(given, threshold).map_err(wrong)?;
        match list.recovery.as_ref().map(|r| r.form) {
            Some(RecoveryForm::Authorise) => {
                let barrier = Barrier::clone(&open.barrier.load());
                let mut tx = Tx::read_only(self.store.view(), barrier.clone());
                let kept = tx.within(STORE, |tx| tx.get(Place::Ordered(SETTINGS, VERIFIER))).map_err(failed)?;
                let kept = Secret::new(kept.ok_or_else(|| failed("the check of the recovery key is missing"))?);
                if kept.ct_eq(verifier(&barrier, &key).map_err(failed)?) {
                    Ok(None)
                } else {
                    Err(wrong(SealError::WrongShares))
                }
            }
            Some(RecoveryForm::Escrow) | None => {
                let Some(lock) = list.shares_lock() else {
                    return refuse("the store has no shares that could authorise this");
                };
                let root = locks::open_with_key(lock, &list.cluster_id, &key).map_err(wrong)?;
                if root.ct_eq(open.root.load().expose()) { Ok(Some(key)) } else { Err(wrong(SealError::WrongShares)) }
            }
        }
    }
}
