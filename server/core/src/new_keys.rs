//! Keys that the store is about to have, as the active node tells them to those that stand by.
//!
//! A node that stands by holds the root key: if it changed under it, the node would be sealed. So the active node
//! tells the new one before the members agree on it, closed with the present one: who is sealed, or was never
//! unsealed, cannot open it. It rests in memory until the locks that were applied are of it. A node with a device of
//! its own answers with the lock that this device has made of the new key.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_hsm::memory::Key;
use holdfast_seal::locks::{self, LockKind, LockList, ReadList, Scope};
use holdfast_seal::{Lock, SealDevice};
use minicbor::{Decode, Encode};

use crate::cluster::Cluster;
use crate::seal_state::{Refusal, failed, refuse};
use crate::{Core, Open, clock};

/// Keys that were told and are not the store's yet, at most: a change may be given up, and begun anew.
const OFFERED: usize = 4;

/// What the active node tells.
#[derive(Encode, Decode)]
struct Offer {
    #[cbor(n(0), with = "minicbor::bytes")]
    cluster_id: [u8; 16],
    /// The root key, closed with the present one.
    #[n(1)]
    root: Lock,
    /// The key that the shares make, closed in the same way.
    #[n(2)]
    shares_key: Option<Lock>,
    /// Present locks that the active node cannot make anew.
    #[n(3)]
    wanted: Vec<Lock>,
}

/// What another node answers.
#[derive(Encode, Decode)]
struct Taken {
    #[n(0)]
    made: Vec<Made>,
    /// Why it did not take the keys, or could not make its lock.
    #[n(1)]
    trouble: Option<String>,
}

#[derive(Encode, Decode)]
struct Made {
    /// The lock whose place it takes.
    #[cbor(n(0), with = "minicbor::bytes")]
    of: [u8; 16],
    #[n(1)]
    lock: Lock,
}

/// Keys that were told.
struct Keys {
    root: Key,
    shares_key: Option<Key>,
}

/// Keys that were told, oldest first.
#[derive(Default)]
pub(crate) struct Offered(Mutex<VecDeque<Keys>>);

impl Offered {
    fn keys(&self) -> MutexGuard<'_, VecDeque<Keys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, root: Key, shares_key: Option<Key>) {
        let mut keys = self.keys();
        if keys.len() == OFFERED {
            keys.pop_front();
        }
        keys.push_back(Keys { root, shares_key });
    }

    /// The keys that these locks are of, if they were told. Older ones are forgotten with it.
    pub fn take(&self, read: &ReadList) -> Option<(Key, Option<Key>)> {
        let mut keys = self.keys();
        let at = keys.iter().position(|k| read.verify(&k.root).is_ok())?;
        keys.drain(..=at).next_back().map(|k| (k.root, k.shares_key))
    }

    pub fn forget(&self) {
        self.keys().clear();
    }
}

impl Core {
    /// Tell the other members the keys that the store is about to have. Returns the locks that only they could make:
    /// the change must not go on without them. The caller holds the lock of acts.
    pub(crate) async fn tell_new_keys(
        &self,
        open: &Open,
        list: &LockList,
        (root, shares_key): (&Key, Option<&Key>),
        wanted: Vec<Lock>,
    ) -> Result<Vec<([u8; 16], Lock)>, Refusal> {
        let Some(cluster) = &self.options.cluster else {
            return match wanted.first() {
                Some(lock) => refuse(format!("{} can be made anew only with its device", whose(lock))),
                None => Ok(Vec::new()),
            };
        };
        let present = open.root.load_full();
        let close = |key: &Key| locks::lock_with_key(key, &present, &list.cluster_id, (1, 1), 0, 0).map_err(failed);
        let offer = Offer {
            cluster_id: list.cluster_id,
            root: close(root)?,
            shares_key: shares_key.map(close).transpose()?,
            wanted,
        };
        let answers = cluster.offer_keys(minicbor::to_vec(&offer).map_err(failed)?).await;
        let (mut made, mut troubles) = (Vec::new(), BTreeMap::new());
        for (id, answer) in answers {
            let taken = answer.and_then(|a| minicbor::decode::<Taken>(&a).map_err(|e| e.to_string()));
            let trouble = match taken {
                Ok(taken) => {
                    made.extend(taken.made.into_iter().filter_map(|m| Some((m.of, as_wanted(&offer, &id, m)?))));
                    taken.trouble
                }
                Err(e) => Some(format!("it is away: {e}")),
            };
            if let Some(trouble) = trouble {
                tracing::warn!(node = %id, "a member has not taken the new keys of the store: {trouble}");
                troubles.insert(id, trouble);
            }
        }
        for lock in &offer.wanted {
            if !made.iter().any(|(of, _)| *of == lock.id) {
                return refuse(not_made(lock, list, &**cluster, &troubles));
            }
        }
        // Should the store not say whether it took the change, this node may find it applied later.
        let again = |key: &Key| key.try_clone().map_err(failed);
        self.standings.offered.keep(again(root)?, shares_key.map(again).transpose()?);
        Ok(made)
    }

    /// Take the keys that the active node tells, and make the locks that only this node can.
    pub async fn take_new_keys(&self, offer: &[u8]) -> Vec<u8> {
        let taken = match self.take_namespace_keys(offer) {
            Some(taken) => taken.map(|()| Taken { made: Vec::new(), trouble: None }),
            None => self.take_offer(offer).await,
        };
        minicbor::to_vec(taken.unwrap_or_else(|trouble| Taken { made: Vec::new(), trouble: Some(trouble) }))
            .unwrap_or_default()
    }

    async fn take_offer(&self, offer: &[u8]) -> Result<Taken, String> {
        let offer: Offer = minicbor::decode(offer).map_err(|e| format!("it does not understand them: {e}"))?;
        let Some(present) = self.present_root().map_err(|e| e.to_string())? else { return Err("it is sealed".into()) };
        let opened = |lock: &Lock| {
            locks::open_with_key(lock, &offer.cluster_id, &present).map_err(|_| "it holds another root key".to_owned())
        };
        let mut root = opened(&offer.root)?;
        let shares_key = offer.shares_key.as_ref().map(opened).transpose()?;
        let (mut made, mut trouble) = (Vec::new(), None);
        for wanted in &offer.wanted {
            match self.is_of_own_device(wanted, &offer.cluster_id).await {
                Ok(false) => continue,
                Ok(true) => {}
                Err(e) => {
                    trouble = Some(e);
                    continue;
                }
            }
            let lock;
            (lock, root) = self.device_lock(root, offer.cluster_id, clock::now()).await.map_err(|Refusal(_, e)| e)?;
            made.push(Made { of: wanted.id, lock });
        }
        self.standings.offered.keep(root, shares_key);
        Ok(Taken { made, trouble })
    }

    /// Whether a lock is one of this node's device. Err: it is, and the device does not open it at present.
    pub(crate) async fn is_of_own_device(&self, lock: &Lock, cluster_id: &[u8; 16]) -> Result<bool, String> {
        let LockKind::Device { backend } = &lock.kind else { return Ok(false) };
        let Some(device) = self.options.device.clone() else { return Ok(false) };
        let own = match &lock.scope {
            Scope::Node(id) if Some(id.as_str()) != self.node_id() => return Ok(false),
            Scope::Node(_) => true,
            Scope::Cluster => false,
        };
        if device.backend() != backend {
            let other = format!("its lock is of the device {backend:?}, and it has {:?}", device.backend());
            return if own { Err(other) } else { Ok(false) };
        }
        match opens(device, lock.clone(), *cluster_id).await? {
            Ok(_) => Ok(true),
            // A lock of the cluster's may be of another node's device.
            Err(e) if e.retry && !own => Ok(false),
            Err(e) => Err(e.text),
        }
    }
}

async fn opens(
    device: Arc<dyn SealDevice>,
    lock: Lock,
    cluster_id: [u8; 16],
) -> Result<Result<Key, holdfast_seal::DeviceRefusal>, String> {
    let opening =
        tokio::task::spawn_blocking(move || device.unwrap(&lock, &locks::wrap_context(&cluster_id, &lock.id)));
    opening.await.map_err(|e| e.to_string())
}

/// A lock as it goes into the list, if it is one that was asked of this node.
fn as_wanted(offer: &Offer, node: &str, made: Made) -> Option<Lock> {
    let wanted = offer.wanted.iter().find(|l| l.id == made.of)?;
    let may = match &wanted.scope {
        Scope::Node(id) => id == node,
        Scope::Cluster => true,
    };
    let is_device = matches!(made.lock.kind, LockKind::Device { .. });
    (may && is_device).then(|| Lock { scope: wanted.scope.clone(), priority: wanted.priority, ..made.lock })
}

fn whose(lock: &Lock) -> String {
    match &lock.scope {
        Scope::Node(id) => format!("the lock of the node {id}"),
        Scope::Cluster => "the lock of the node that initialised the cluster".to_owned(),
    }
}

/// Which node keeps a lock from being made anew, and why.
fn not_made(lock: &Lock, list: &LockList, cluster: &dyn Cluster, troubles: &BTreeMap<String, String>) -> String {
    let has_own = |id: &String| list.locks.iter().any(|l| l.scope == Scope::Node(id.clone()));
    let mut away: Vec<String> = troubles
        .iter()
        .filter(|(id, _)| match &lock.scope {
            Scope::Node(own) => own == *id,
            Scope::Cluster => !has_own(id),
        })
        .map(|(id, trouble)| format!("{id}: {trouble}"))
        .collect();
    if let (true, Scope::Node(id)) = (away.is_empty(), &lock.scope) {
        let is_member = cluster.members().0.iter().any(|m| m.id == *id);
        let text = if is_member { "it did not make its lock" } else { "it is a member no longer" };
        away.push(format!("{id}: {text}"));
    }
    let away = if away.is_empty() { "no member has it".to_owned() } else { away.join("; ") };
    format!("{} can be made anew only with its device ({away}): bring it back, or remove the node", whose(lock))
}
