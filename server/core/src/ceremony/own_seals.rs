//! New shares of a namespace with a seal of its own, and a new root key of it.

use std::sync::Arc;

use holdfast_sdk::{Place, record};
use holdfast_seal::Barrier;
use holdfast_storage::{CommitError, Proposal};

use super::locks::{Change, Changed};
use crate::layout::{SETTINGS, SYSTEM};
use crate::namespaces::{self, Namespace, seal};
use crate::seal_state::{Refusal, failed};
use crate::tx::Tx;
use crate::{Core, Open, clock};

/// Its record may change meanwhile: its metadata, or a lock of its API.
const ATTEMPTS: usize = 8;

impl Core {
    /// Whoever calls holds the lock of acts, so that nothing else changes a seal or its keyring.
    pub(super) async fn change_own_seal(
        self: &Arc<Self>,
        open: &Arc<Open>,
        namespace: &Namespace,
        change: Change,
    ) -> Result<Changed, Refusal> {
        let barrier = Barrier::clone(&open.barrier.load());
        let (present, cluster_id) = (seal::sealable(namespace)?, barrier.keyring().cluster_id());
        self.allows_own_seals()?;
        let number = present.number;
        let ring = barrier.ring(number).ok_or_else(seal::is_sealed)?;
        let former = seal::present_key(self, present, cluster_id)?.ok_or_else(seal::is_sealed)?;
        let (key, counts) = match change.fresh {
            Some(fresh) => (fresh.key, (fresh.shares, fresh.threshold)),
            None => (former.try_clone().map_err(failed)?, (present.shares, present.threshold)),
        };
        let fresh = seal::OwnSeal::new(number, counts, &ring.keyring, &key, clock::now()).map_err(failed)?;
        // What nobody could open is not stored.
        fresh.open(&key, cluster_id).map_err(failed)?;
        // The other nodes know the new key before the commit, beside the former one: whoever takes the lead goes on.
        let keys = &self.standings.own_keys;
        let told_at = self.store.view().index();
        keys.keep(number, key, told_at);
        self.tell_namespace_keys(open).await;
        for _ in 0..ATTEMPTS {
            let view = self.store.view();
            let mut tx = Tx::new(view, barrier.clone());
            let mut now = namespaces::load(&mut tx, &namespace.uuid)?.ok_or_else(namespaces::gone)?;
            now.seal = Some(fresh.clone());
            namespaces::save(&mut tx, &now)?;
            if let Some(backup) = &change.backup {
                let place = Place::Ordered(SETTINGS, change.target.backup_place());
                tx.within(SYSTEM.of(namespace.uuid), |tx| record::put(tx, place, backup))?;
            }
            let proposal: Proposal = tx.into_proposal().map_err(failed)?;
            let committed = match self.store.propose(proposal) {
                Ok(ticket) => ticket.committed().await,
                Err(e) => Err(e),
            };
            match committed {
                Ok(_) => {
                    tracing::info!(namespace = %namespace.path, "the seal of a namespace was changed");
                    return Ok(Changed::default());
                }
                Err(CommitError::Unknown(why)) => {
                    return Ok(Changed { doubt: Some(why.to_string()), left: Vec::new() });
                }
                Err(CommitError::Conflict(_) | CommitError::Retry | CommitError::Crowded(_)) => {}
                Err(e) => {
                    keys.keep(number, former, told_at);
                    return Err(failed(e));
                }
            }
        }
        keys.keep(number, former, told_at);
        Err(failed("the namespace changes all the time; its shares are as they were: try again"))
    }
}
