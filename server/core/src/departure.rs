//! A node that is a member no longer opens nothing that is written from now on: its lock goes, and the root key that it
//! knew is changed.

use std::sync::Arc;

use holdfast_seal::locks::{LockKind, LockList, Scope};

use crate::Core;
use crate::layout::ROOT;
use crate::lock_owners::Owner;
use crate::seal_state::{Refusal, refuse};

impl Core {
    /// It was removed. Returns what the operator is to know. Nodes that share their locks know what shares or a device
    /// that is still theirs opens: of such a node nothing changes.
    pub(crate) async fn node_left(self: &Arc<Self>, node: &str) -> Result<Vec<String>, Refusal> {
        if self.node_id() == Some(node) {
            let text =
                "the node that was removed led: remove it once more, so that the next leader takes its lock away";
            return Ok(vec![text.to_owned()]);
        }
        if !self.forget_locks_of(node).await? {
            return Ok(Vec::new());
        }
        match self.replace_root_key(ROOT).await {
            Ok(changed) => Ok(changed.warnings()),
            Err(Refusal(_, why)) => {
                let text =
                    format!("the root key that {node} knew is still in use: {why}; then sys/rotate/root changes it");
                tracing::warn!("{text}");
                Ok(vec![text])
            }
        }
    }

    /// Whether there was one.
    async fn forget_locks_of(&self, node: &str) -> Result<bool, Refusal> {
        let Some(open) = self.open() else { return Err(Refusal(503, "Vault is sealed".into())) };
        let list = self.own_locks(&open)?;
        let mut gone = Vec::new();
        for lock in &list.locks {
            let is_its = match &lock.scope {
                Scope::Node(of) => of == node,
                Scope::Cluster => self.was_the_founders(&list, lock).await,
            };
            if is_its {
                gone.push(lock.id);
            }
        }
        if gone.len() == list.locks.len() {
            return refuse("no lock would be left that opens the store");
        }
        let mut forgot = false;
        self.change_list(None, |list| {
            let before = list.locks.len();
            list.locks.retain(|lock| !gone.contains(&lock.id));
            forgot = list.locks.len() < before;
            forgot
        })
        .await?;
        Ok(forgot)
    }

    /// The first node's lock says only that it is the cluster's. Where all members have locks of their own, and no seal of
    /// this node is meant, its device left with it.
    async fn was_the_founders(&self, list: &LockList, lock: &holdfast_seal::Lock) -> bool {
        let Some(cluster) = &self.options.cluster else { return false };
        let has_own = |id: &str| list.locks.iter().any(|l| l.scope == Scope::Node(id.to_owned()));
        matches!(lock.kind, LockKind::Device { .. })
            && cluster.members().0.iter().all(|member| has_own(&member.id))
            && matches!(self.owner_of(&self.seals(), list, lock).await, Owner::Elsewhere)
    }
}
