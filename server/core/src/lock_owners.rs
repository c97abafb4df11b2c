//! Whose device a lock is of: only asking tells, since two tokens may have keys of one name.

use std::sync::Arc;

use holdfast_hsm::memory::Key;
use holdfast_seal::Lock;
use holdfast_seal::locks::{LockList, Scope};
use minicbor::{Decode, Encode};

use crate::seal_state::{Refusal, failed};
use crate::seals::{Seal, Seals};
use crate::{Core, clock};

/// Who can make a lock anew.
pub(crate) enum Owner {
    /// A seal of this node, whose device opens it.
    Here(Arc<Seal>),
    /// A seal of this node, whose device does not answer; and what it said.
    Away(String),
    /// Another node, if any.
    Elsewhere,
    /// No seal of the configuration, though it is this node's.
    Nobody,
}

/// What a node made of one of its seals, for a list of locks around a root key.
#[derive(Encode, Decode)]
pub(crate) struct OfSeal {
    /// The seal as people know it.
    #[n(0)]
    pub shown: String,
    #[n(1)]
    pub backend: String,
    #[n(2)]
    pub name: Option<String>,
    #[n(3)]
    pub priority: u32,
    /// The lock that is its by now.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub of: Option<[u8; 16]>,
    /// A lock that takes that one's place, or is added.
    #[n(5)]
    pub made: Option<Lock>,
    /// Why it has none around this root key.
    #[n(6)]
    pub trouble: Option<String>,
}

impl Core {
    /// Find out whose device a lock of this list is of.
    pub(crate) async fn owner_of(&self, seals: &Seals, list: &LockList, lock: &Lock) -> Owner {
        let node = self.node_id();
        let mut away = None;
        for seal in seals.present.iter().filter(|seal| seals.may_open(seal, lock, node)) {
            let refusal = match seal.open(lock, &list.cluster_id).await {
                Err(refusal) if !refusal.custodians => refusal,
                // It knows the lock, and would open it for its custodians.
                Ok(_) | Err(_) => return Owner::Here(seal.clone()),
            };
            let is_its = match seals.known_lock(seal, list, node) {
                Some(known) => known.id == lock.id,
                None => self.is_surely_own(&lock.scope),
            };
            if is_its {
                away.get_or_insert(refusal.text);
            }
        }
        match away {
            Some(why) => Owner::Away(why),
            None if lock.backend().is_some() && self.is_surely_own(&lock.scope) => Owner::Nobody,
            None => Owner::Elsewhere,
        }
    }

    /// For each seal of this node: the lock of the list that its device opens to the root key, else a new one.
    pub(crate) async fn complete_locks(&self, root: &Key, list: &LockList) -> Result<Vec<OfSeal>, Refusal> {
        let (seals, node) = (self.seals(), self.node_id());
        let mut done: Vec<OfSeal> = Vec::new();
        for seal in &seals.present {
            let known = seals.known_lock(seal, list, node).map(|lock| lock.id);
            let mut of = OfSeal {
                shown: seal.shown().to_owned(),
                backend: seal.device.backend().to_owned(),
                name: seal.name.clone(),
                priority: seal.priority,
                of: None,
                made: None,
                trouble: None,
            };
            let (mut opens, mut opens_stale) = (None, None);
            for lock in seals.locks_of(seal, list, node) {
                if done.iter().any(|other| other.of == Some(lock.id) && other.trouble.is_none()) {
                    continue;
                }
                match seal.open(lock, &list.cluster_id).await {
                    Ok(found) if found.ct_eq(root.expose()) => {
                        opens = Some(lock.id);
                        break;
                    }
                    // What it holds is told by the list alone, which the root key authenticates.
                    Err(refusal) if refusal.custodians && lock.stale_since.is_none() => {
                        opens = Some(lock.id);
                        break;
                    }
                    Err(refusal) if !refusal.custodians => {}
                    Ok(_) | Err(_) => opens_stale = opens_stale.or(Some(lock.id)),
                }
            }
            of.of = opens.or(opens_stale).or(known);
            if opens.is_none() {
                match self.device_lock(seal, root, list.cluster_id, clock::now()).await {
                    Ok(made) => {
                        let before = list.locks.iter().find(|lock| of.of == Some(lock.id));
                        let scope = before.map_or_else(|| self.scope_of_new(list), |lock| lock.scope.clone());
                        of.made = Some(Lock { scope, ..made });
                    }
                    Err(Refusal(_, text)) => of.trouble = Some(text),
                }
            }
            done.push(of);
        }
        if done.is_empty() { Err(failed("this node has no seal with a device")) } else { Ok(done) }
    }

    /// A lock that this node adds is its own where it has such; else it may be one that all can open.
    fn scope_of_new(&self, list: &LockList) -> Scope {
        match self.node_id() {
            Some(node) if list.locks.iter().any(|lock| lock.scope == Scope::Node(node.to_owned())) => {
                Scope::Node(node.to_owned())
            }
            _ => Scope::Cluster,
        }
    }
}
