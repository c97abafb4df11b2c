//! Whose shares count, and how many of them.

use std::sync::Arc;

use holdfast_hsm::memory::{Key, Secret};
use holdfast_sdk::{Place, Transaction};
use holdfast_seal::locks::{self, LockKind, LockList, ReadList, RecoveryForm};
use holdfast_seal::{Barrier, Keyring, SealError, shares};

use crate::layout::{KEYRING, SETTINGS, STORE};
use crate::seal_state::{Refusal, failed};
use crate::tx::Tx;
use crate::{Core, Open};

/// Where the check of the recovery key is, in the form `authorise`.
pub const VERIFIER: &[u8] = b"recovery-verifier";

/// How many shares authorise an act; 0: there are none that could.
pub fn required(list: &LockList) -> u8 {
    counts(list).1
}

/// How many shares there are, and how many authorise an act.
pub fn counts(list: &LockList) -> (u8, u8) {
    match (&list.recovery, list.shares_lock().map(|l| &l.kind)) {
        (Some(recovery), _) => (recovery.shares, recovery.threshold),
        (None, Some(LockKind::Shares { shares, threshold })) => (*shares, *threshold),
        _ => (0, 0),
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

    /// Open the root key of a store that is sealed, as its holders agree: by their shares where these are a lock, else by
    /// the device, when they are found to be the right ones. Returns the key that the shares make, too.
    pub(crate) async fn open_by_holders(
        &self,
        read: &ReadList,
        given: &[Secret<Vec<u8>>],
    ) -> Result<(Key, Key), Refusal> {
        let wrong = |e: SealError| match e {
            SealError::WrongShares => Refusal(400, format!("unable to retrieve stored keys: invalid key: {e}")),
            other => failed(other),
        };
        let key = shares::join(given, required(&read.list)).map_err(wrong)?;
        let root = match read.list.shares_lock() {
            // Escrowed shares open the store where its device is gone for good.
            Some(lock) => locks::open_with_key(lock, &read.list.cluster_id, &key).map_err(wrong)?,
            None => self.open_with_a_device(&read.list).await?,
        };
        read.verify(&root).map_err(failed)?;
        if read.list.recovery.as_ref().is_some_and(|r| r.form == RecoveryForm::Authorise) {
            let record = self.store.snapshot().get(KEYRING).map_err(failed)?;
            let record = record.ok_or_else(|| failed("the keyring is missing: restore the store from a backup"))?;
            let keyring = Keyring::open(&record, &root, read.list.cluster_id).map_err(failed)?;
            self.is_recovery_key(&Barrier::new(Arc::new(keyring)), &key)?.map_err(wrong)?;
        }
        Ok((root, key))
    }

    /// Let that device of the configuration open one of this node's locks which can: the one before comes first.
    async fn open_with_a_device(&self, list: &LockList) -> Result<Key, Refusal> {
        let locks = list.device_locks_of(self.node_id());
        let Some(backend) = locks.first().and_then(|lock| lock.backend()) else {
            return Err(failed("the store has no lock of this node's device"));
        };
        let (seals, mut said) = (self.seals(), format!("the configuration has no seal {backend:?}: give its stanza"));
        for seal in seals.former.iter().chain(&seals.present) {
            let own = locks.iter().filter(|l| l.stale_since.is_none() && l.backend() == Some(seal.device.backend()));
            for lock in own {
                match seal.open(lock, &list.cluster_id).await {
                    Ok(root) => return Ok(root),
                    Err(e) => said = e.text,
                }
            }
        }
        Err(Refusal(503, format!("the seal {backend:?} that locks the store does not open it: {said}")))
    }

    /// Whether this is the key that the recovery shares make, in the form `authorise`.
    pub(crate) fn is_recovery_key(&self, barrier: &Barrier, key: &Key) -> Result<Result<(), SealError>, Refusal> {
        let mut tx = Tx::read_only(self.store.view(), barrier.clone());
        let kept = tx.within(STORE, |tx| tx.get(Place::Ordered(SETTINGS, VERIFIER))).map_err(failed)?;
        let kept = Secret::new(kept.ok_or_else(|| failed("the check of the recovery key is missing"))?);
        let is_it = kept.ct_eq(verifier(barrier, key).map_err(failed)?);
        Ok(if is_it { Ok(()) } else { Err(SealError::WrongShares) })
    }
}
