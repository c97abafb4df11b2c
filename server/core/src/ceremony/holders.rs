//! Who holds the shares that an act needs: those of the store, or of a namespace with a seal of its own.

use holdfast_hsm::memory::{Key, Secret};
use holdfast_seal::locks::{self, LockList, RecoveryForm};
use holdfast_seal::{SealError, shares};

use super::authority::required;
use crate::layout::{NamespaceId, ROOT};
use crate::namespaces::{self, Namespace, seal};
use crate::seal_state::{Refusal, failed, refuse};
use crate::{Core, Open};

/// Whose shares count.
pub(super) enum Holders {
    Store(LockList),
    /// One with a seal of its own, which is unsealed.
    Namespace(Box<Namespace>),
}

impl Holders {
    /// How many shares authorise an act; 0: there are none that could.
    pub fn required(&self) -> u8 {
        match self {
            Holders::Store(list) => required(list),
            Holders::Namespace(namespace) => namespace.seal.as_ref().map_or(0, |s| s.threshold),
        }
    }

    /// Whether a device opens what they hold, so that its root key has no shares.
    pub fn have_a_device(&self) -> bool {
        matches!(self, Holders::Store(list) if list.device_lock().is_some())
    }

    /// Whether there are shares, or could be, that only authorise.
    pub fn have_recovery(&self) -> bool {
        matches!(self, Holders::Store(list) if list.recovery.is_some() || list.device_lock().is_some())
    }

    /// Whether a device opens the store and nobody has shares yet.
    pub fn are_none_yet(&self) -> bool {
        self.have_a_device() && self.required() == 0
    }

    /// What tokens of their namespace end in.
    pub fn suffix(&self) -> String {
        match self {
            Holders::Store(_) => String::new(),
            Holders::Namespace(namespace) => format!(".{}", namespace.id),
        }
    }
}

impl Core {
    /// The holders of a namespace, which has to be unsealed; of the root: those of the store.
    pub(super) fn holders(&self, open: &Open, of: NamespaceId) -> Result<Holders, Refusal> {
        if of == ROOT {
            return Ok(Holders::Store(self.own_locks(open)?));
        }
        let namespace = namespaces::load(&mut self.reader(open), &of)?.ok_or_else(namespaces::gone)?;
        seal::sealable(&namespace)?;
        if open.barrier.load().is_sealed(&of) {
            return Err(seal::is_sealed().into());
        }
        Ok(Holders::Namespace(Box::new(namespace)))
    }

    /// Whether shares authorise an act. The key that they make, if a lock is wrapped with it.
    pub(super) fn authorise(
        &self,
        open: &Open,
        holders: &Holders,
        given: &[Secret<Vec<u8>>],
    ) -> Result<Option<Key>, Refusal> {
        match holders {
            Holders::Store(list) => self.authorise_of_store(open, list, given),
            Holders::Namespace(namespace) => {
                let cluster_id = open.barrier.load().keyring().cluster_id();
                let (key, _) = seal::join(seal::sealable(namespace)?, given, cluster_id)?;
                Ok(Some(key))
            }
        }
    }

    fn authorise_of_store(
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
                self.is_recovery_key(&open.barrier.load(), &key)?.map_err(wrong)?;
                Ok(None)
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
