//! Keys that the store is about to have, as the active node tells them to those that stand by.
//!
//! A node that stands by holds the root key: if it changed under it, the node would be sealed. So the active node
//! tells the new one before the members agree on it, closed with the present one: who is sealed, or was never
//! unsealed, cannot open it. It rests in memory until the locks that were applied are of it. A node with a device of
//! its own answers with the lock that this device has made of the new key.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_hsm::memory::Key;
use holdfast_seal::Lock;
use holdfast_seal::locks::{self, LockKind, LockList, ReadList, Scope};
use minicbor::{Decode, Encode};

use crate::ceremony::Away;
use crate::cluster::Cluster;
use crate::lock_owners::{OfSeal, Owner};
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
    /// Locks around this root key: each of the node's seals is to have one of them, or to make one.
    #[n(4)]
    complete: Option<Vec<Lock>>,
}

/// What another node answers.
#[derive(Encode, Decode)]
struct Taken {
    #[n(0)]
    made: Vec<Made>,
    /// Why it did not take the keys, or could not make its lock.
    #[n(1)]
    trouble: Option<String>,
    /// What its seals have and have made, where that was asked; of an earlier program: nothing.
    #[n(2)]
    seals: Option<Vec<OfSeal>>,
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
    /// Tell the other members the keys that the store is about to have. Returns the locks that only they could make: the
    /// change must not go on without them, save those that are `away` already, and those of a node that has made another
    /// one, which come to them. The caller holds the lock of acts.
    pub(crate) async fn tell_new_keys(
        &self,
        open: &Open,
        list: &LockList,
        (root, shares_key): (&Key, Option<&Key>),
        wanted: Vec<Lock>,
        away: &mut Away,
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
            complete: None,
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
            if made.iter().any(|(of, _)| *of == lock.id) {
                away.remove(&lock.id);
                continue;
            }
            let its_node_opens = lock.scope != Scope::Cluster && made.iter().any(|(_, m)| m.scope == lock.scope);
            match (&lock.scope, its_node_opens) {
                _ if away.contains_key(&lock.id) => {}
                (Scope::Node(id), true) => {
                    let why = troubles.get(id).map_or("its device did not make its lock", String::as_str);
                    away.insert(lock.id, format!("{id}: {why}"));
                }
                _ => return refuse(not_made(lock, list, &**cluster, &troubles)),
            }
        }
        // Should the store not say whether it took the change, this node may find it applied later.
        let again = |key: &Key| key.try_clone().map_err(failed);
        self.standings.offered.keep(again(root)?, shares_key.map(again).transpose()?);
        Ok(made)
    }

    /// Take the keys that the active node tells, and make the locks that only this node can.
    pub async fn take_new_keys(&self, offer: &[u8]) -> Vec<u8> {
        if let Some(answer) = self.answer_question(offer).await {
            return answer;
        }
        let taken = match self.take_namespace_keys(offer) {
            Some(taken) => taken.map(|()| Taken { made: Vec::new(), trouble: None, seals: None }),
            None => self.take_offer(offer).await,
        };
        minicbor::to_vec(taken.unwrap_or_else(|trouble| Taken {
            made: Vec::new(),
            trouble: Some(trouble),
            seals: None,
        }))
        .unwrap_or_default()
    }

    async fn take_offer(&self, offer: &[u8]) -> Result<Taken, String> {
        let offer: Offer = minicbor::decode(offer).map_err(|e| format!("it does not understand them: {e}"))?;
        let Some(present) = self.present_root().map_err(|e| e.to_string())? else { return Err("it is sealed".into()) };
        let opened = |lock: &Lock| {
            locks::open_with_key(lock, &offer.cluster_id, &present).map_err(|_| "it holds another root key".to_owned())
        };
        let root = opened(&offer.root)?;
        let shares_key = offer.shares_key.as_ref().map(opened).transpose()?;
        let Some(mut list) = self.lock_list()?.map(|read| read.list) else { return Err("it has no locks".into()) };
        if let Some(locks) = offer.complete {
            list.locks = locks;
            let seals = self.complete_locks(&present, &list).await.map_err(|Refusal(_, e)| e)?;
            return Ok(Taken { made: Vec::new(), trouble: None, seals: Some(seals) });
        }
        let (mut made, mut trouble) = (Vec::new(), None);
        let seals = self.seals();
        for wanted in &offer.wanted {
            let is_own = self.node_id().is_some_and(|id| wanted.scope == Scope::Node(id.to_owned()));
            let lock = match self.owner_of(&seals, &list, wanted).await {
                Owner::Here(seal) => self.device_lock(&seal, &root, offer.cluster_id, clock::now()).await,
                Owner::Away(why) if is_own => Err(Refusal(500, why)),
                Owner::Nobody => Err(Refusal(500, format!("no seal stanza names the lock {}", wanted.shown()))),
                Owner::Away(_) | Owner::Elsewhere => continue,
            };
            match lock {
                Ok(lock) => made.push(Made { of: wanted.id, lock }),
                Err(Refusal(_, why)) => trouble = Some(why),
            }
        }
        self.standings.offered.keep(root, shares_key);
        Ok(Taken { made, trouble, seals: None })
    }

    /// Ask the other members to have a lock around the root key for each of their seals. What each has and has made; or why
    /// it cannot be asked.
    pub(crate) async fn complete_others(
        &self,
        open: &Open,
        list: &LockList,
    ) -> Result<BTreeMap<String, Result<Vec<OfSeal>, String>>, Refusal> {
        let Some(cluster) = &self.options.cluster else { return Ok(BTreeMap::new()) };
        let present = open.root.load_full();
        let offer = Offer {
            cluster_id: list.cluster_id,
            // It stands for nothing but that this node holds the root key.
            root: locks::lock_with_key(&Key::random(32).map_err(failed)?, &present, &list.cluster_id, (1, 1), 0, 0)
                .map_err(failed)?,
            shares_key: None,
            wanted: Vec::new(),
            complete: Some(list.locks.iter().filter(|lock| lock.backend().is_some()).cloned().collect()),
        };
        let answers = cluster.offer_keys(minicbor::to_vec(&offer).map_err(failed)?).await;
        let read = |answer: Vec<u8>| {
            let taken: Taken = minicbor::decode(&answer).map_err(|e| e.to_string())?;
            match (taken.seals, taken.trouble) {
                (Some(seals), _) => Ok(seals),
                (None, Some(trouble)) => Err(trouble),
                (None, None) => Err("its program does not know several seals".to_owned()),
            }
        };
        let asked = answers.into_iter().map(|(id, answer)| {
            let answer = answer.map_err(|e| format!("it is away: {e}"));
            (id, answer.and_then(read))
        });
        Ok(asked.collect())
    }
}

/// A lock as it goes into the list, if it is one that was asked of this node.
fn as_wanted(offer: &Offer, node: &str, made: Made) -> Option<Lock> {
    let wanted = offer.wanted.iter().find(|l| l.id == made.of)?;
    let may = match &wanted.scope {
        Scope::Node(id) => id == node,
        Scope::Cluster => true,
    };
    let is_device = matches!(made.lock.kind, LockKind::Device { .. });
    (may && is_device).then(|| Lock { scope: wanted.scope.clone(), ..made.lock })
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
