//! Wrapping anew: each seal of the configuration, on each node, gets a lock around the present root key, and locks whose
//! seal is gone are taken away.
//!
//! The first is one commit under the present root key, the second another one under a new root key, so that who kept an
//! old lock opens nothing that is written from then on. In between, and wherever it is broken off, the locks of before
//! open the store, and those that were added do so too.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_sdk::{Map, Timestamp, Value};
use holdfast_seal::Lock;
use holdfast_seal::locks::{LockKind, LockList, Scope};

use super::locks::{Change, Doubt};
use super::rotation::Target;
use super::unsealed;
use crate::failpoint::failpoint;
use crate::layout::STORE;
use crate::lock_owners::OfSeal;
use crate::seal_state::{Refusal, lock, refuse};
use crate::tx::Tx;
use crate::{Core, Open, clock};

/// Wrapping anew that goes on, or went on last.
#[derive(Debug, Clone, Default)]
pub struct Rewrap {
    pub is_running: bool,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub seals: Vec<OfOne>,
    /// Why it ended early.
    pub error: Option<String>,
}

/// What became of a seal, or of a lock.
#[derive(Debug, Clone)]
pub struct OfOne {
    pub name: String,
    /// Whose it is, if a node's own.
    pub node: Option<String>,
    pub outcome: Became,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// It is around the present root key already.
    Good,
    /// It has another name or priority now.
    Renamed,
    /// It was made.
    Wrapped,
    /// It was taken away.
    Removed,
    /// It opens the store as before, and is to go.
    Kept,
    Failed,
}

impl Became {
    fn word(self) -> &'static str {
        match self {
            Became::Good => "good",
            Became::Renamed => "renamed",
            Became::Wrapped => "wrapped",
            Became::Removed => "removed",
            Became::Kept => "kept",
            Became::Failed => "failed",
        }
    }
}

impl Rewrap {
    /// As `sys/seal/rewrap` shows it.
    pub fn shown(&self) -> Map<String, Value> {
        let time = |t: Option<Timestamp>| t.map_or(Value::Null, |t| t.rfc3339().into());
        let failed = self.seals.iter().filter(|s| matches!(s.outcome, Became::Failed | Became::Kept)).count();
        let mut entries = Map::new();
        entries.insert("processed".into(), self.seals.len().into());
        entries.insert("succeeded".into(), (self.seals.len() - failed).into());
        entries.insert("failed".into(), failed.into());
        let one = |of: &OfOne| {
            let mut m = Map::new();
            m.insert("name".into(), of.name.clone().into());
            if let Some(node) = &of.node {
                m.insert("node".into(), node.clone().into());
            }
            m.insert("outcome".into(), of.outcome.word().into());
            if let Some(why) = &of.error {
                m.insert("error".into(), why.clone().into());
            }
            Value::Object(m)
        };
        let mut m = Map::new();
        m.insert("is_running".into(), self.is_running.into());
        m.insert("started_at".into(), time(self.started));
        m.insert("ended_at".into(), time(self.ended));
        m.insert("entries".into(), entries.into());
        m.insert("seals".into(), self.seals.iter().map(one).collect::<Vec<_>>().into());
        if let Some(why) = &self.error {
            m.insert("error".into(), why.clone().into());
        }
        m
    }
}

/// Locks as they are to be, and what is to be said of it.
struct Completed {
    list: LockList,
    /// Locks whose seal is gone.
    strays: BTreeSet<[u8; 16]>,
    said: Vec<OfOne>,
    is_changed: bool,
    /// Locks that a node has opened or made in this run.
    claimed: BTreeSet<[u8; 16]>,
    /// Seals of this node that have a lock around the present root key.
    own: usize,
}

impl Completed {
    fn of(list: LockList) -> Completed {
        Completed {
            list,
            strays: BTreeSet::new(),
            said: Vec::new(),
            is_changed: false,
            claimed: BTreeSet::new(),
            own: 0,
        }
    }
}

impl Core {
    /// How far it is.
    pub fn rewrapping(&self) -> Rewrap {
        lock(&self.seal.rewrap).clone()
    }

    /// Begin to wrap anew, in the background.
    pub fn begin_rewrap(self: &Arc<Self>) -> Result<Rewrap, Refusal> {
        let open = unsealed(self)?;
        if !self.has_device() {
            return refuse("shares open the store: there is no device that could wrap its root key");
        }
        self.knows_several_seals()?;
        {
            let mut state = lock(&self.seal.rewrap);
            if state.is_running {
                return refuse("the seals are being wrapped anew already");
            }
            *state = Rewrap { is_running: true, started: Some(clock::now()), ..Rewrap::default() };
        }
        let core = self.clone();
        tokio::spawn(async move {
            let ended = crate::failpoint::of_a_request(core.rewrap(&open)).await;
            let mut state = lock(&core.seal.rewrap);
            state.is_running = false;
            state.ended = Some(clock::now());
            if let Err(Refusal(_, why)) = ended {
                tracing::error!("the seals are not wrapped anew: {why}");
                state.error = Some(why);
            }
        });
        Ok(self.rewrapping())
    }

    async fn rewrap(self: &Arc<Self>, open: &Arc<Open>) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        let completed = self.complete(open).await?;
        lock(&self.seal.rewrap).seals.clone_from(&completed.said);
        let Completed { mut list, strays, said, is_changed, own, .. } = completed;
        if is_changed {
            let view = self.store.view();
            let (index, mut tx) = (view.index(), Tx::new(view, (**open.barrier.load()).clone()));
            tx.enter(STORE);
            failpoint!(self, "wrapped");
            if let Some(Doubt(why)) = self.commit_locks(open, tx, index, &mut list, None).await? {
                return Err(Refusal(503, format!("the store has not confirmed the new locks ({why}): run it again")));
            }
            self.tell_rewrapped(open, &said);
        }
        if strays.is_empty() {
            self.seal_health.check_now();
            return Ok(());
        }
        // The old ways are kept until all new ones are good.
        let missing = said.iter().find(|of| of.outcome == Became::Failed);
        let why = match missing {
            Some(of) => Some(format!("not all seals have a lock around the present root key ({})", of.name)),
            None if own == 0 => Some("no seal of this node opens the store".to_owned()),
            None => unproved(&list, &strays).map(|lock| {
                format!(
                    "the seal {} is not known to open the store: its custodians have not opened it yet. Start the server with \
                     it alone, let them sign, and run operator seal rewrap again",
                    lock.shown()
                )
            }),
        };
        let removed = match why {
            Some(why) => Err(why),
            None => {
                let mut fewer = list.clone();
                fewer.locks.retain(|lock| !strays.contains(&lock.id));
                assert!(fewer.device_lock().is_some(), "a store without a lock is lost");
                let change = Change { target: Target::Root, fresh: None, known: None, backup: None };
                match self.change_locks(open, fewer, change).await {
                    Ok(changed) => match changed.doubt {
                        None => Ok(()),
                        Some(why) => Err(format!("the store has not confirmed it ({why})")),
                    },
                    Err(Refusal(_, why)) => Err(why),
                }
            }
        };
        let gone = list.locks.iter().filter(|lock| strays.contains(&lock.id)).map(|lock| OfOne {
            name: lock.shown(),
            node: node_of(&lock.scope),
            outcome: if removed.is_ok() { Became::Removed } else { Became::Kept },
            error: removed.as_ref().err().cloned(),
        });
        let gone: Vec<OfOne> = gone.collect();
        self.tell_rewrapped(open, &gone);
        lock(&self.seal.rewrap).seals.extend(gone);
        self.seal_health.check_now();
        Ok(())
    }

    /// To the log, and to the audit log.
    fn tell_rewrapped(self: &Arc<Self>, open: &Arc<Open>, said: &[OfOne]) {
        for of in said {
            let OfOne { name, node, outcome, error } = of;
            let node = node.as_deref().unwrap_or("all");
            match outcome {
                Became::Failed | Became::Kept => {
                    let why = error.as_deref().unwrap_or_default();
                    tracing::warn!(seal = %name, node, "{}: {why}", outcome.word());
                }
                Became::Good => {}
                Became::Renamed | Became::Wrapped | Became::Removed => {
                    tracing::info!(seal = %name, node, "{}", outcome.word());
                    let cause = format!("the lock of the seal {name} was {}", outcome.word());
                    self.did(open, vec![self.about_node("sys/seal/rewrap", &cause)]);
                }
            }
        }
    }

    /// The list with a lock around the present root key for each seal of each node that can be asked.
    async fn complete(self: &Arc<Self>, open: &Arc<Open>) -> Result<Completed, Refusal> {
        let list = self.own_locks(open)?;
        let root = open.root.load_full();
        let mut done = Completed::of(list.clone());
        let own = self.complete_locks(&root, &list).await?;
        done.own = own.iter().filter(|of| of.trouble.is_none()).count();
        if done.own == 0 {
            let why = own.iter().filter_map(|of| of.trouble.as_deref()).collect::<Vec<_>>().join("; ");
            return Err(Refusal(503, format!("no seal of this node wraps the root key: {why}")));
        }
        let mut asked: Vec<(Option<String>, Vec<OfSeal>)> = vec![(self.node_id().map(str::to_owned), own)];
        for of in &asked[0].1 {
            take_in(&mut done, self.node_id(), of, true);
        }
        let mut silent = Vec::new();
        for (node, answer) in self.complete_others(open, &done.list).await? {
            match answer {
                Ok(seals) => {
                    for of in &seals {
                        take_in(&mut done, Some(&node), of, false);
                    }
                    asked.push((Some(node), seals));
                }
                Err(why) => {
                    done.said.push(OfOne {
                        name: "all".into(),
                        node: Some(node.clone()),
                        outcome: Became::Failed,
                        error: Some(why),
                    });
                    silent.push(node);
                }
            }
        }
        done.strays = strays(&list, &asked, !silent.is_empty());
        Ok(done)
    }
}

fn node_of(scope: &Scope) -> Option<String> {
    match scope {
        Scope::Node(id) => Some(id.clone()),
        Scope::Cluster => None,
    }
}

/// Take into the list what a node made of one of its seals, if it may.
fn take_in(done: &mut Completed, node: Option<&str>, of: &OfSeal, is_own: bool) {
    let may_be = |scope: &Scope| match scope {
        Scope::Node(id) => Some(id.as_str()) == node,
        Scope::Cluster => true,
    };
    let place = done.list.locks.iter().position(|l| of.of == Some(l.id) && l.backend().is_some() && may_be(&l.scope));
    let weak = of.made.as_ref().and_then(|made| done.list.minimum.allows(made).err());
    let outcome = match (&of.made, place) {
        _ if weak.is_some() => Became::Failed,
        (Some(made), place) if matches!(made.kind, LockKind::Device { .. }) && may_be(&made.scope) => {
            // What another node has just opened or made is that one's, whatever its scope and name.
            match place.filter(|place| !done.claimed.contains(&done.list.locks[*place].id)) {
                Some(place) => {
                    let scope = done.list.locks[place].scope.clone();
                    done.list.locks[place] = Lock { scope, stale_since: None, ..made.clone() };
                }
                // What another node adds is of its own.
                None if is_own => done.list.locks.push(made.clone()),
                None => {
                    let scope = node.map_or(Scope::Cluster, |id| Scope::Node(id.to_owned()));
                    done.list.locks.push(Lock { scope, ..made.clone() });
                }
            }
            done.is_changed = true;
            done.claimed.insert(made.id);
            Became::Wrapped
        }
        (None, Some(place)) if of.trouble.is_none() => {
            let lock = &mut done.list.locks[place];
            done.claimed.insert(lock.id);
            // Its device has just opened it; where custodians are asked, only what it says of the lock is known.
            if !lock.proved && !lock.needs_custodians() {
                (lock.proved, done.is_changed) = (true, true);
            }
            // What all share has its names from the active node.
            let names_it = is_own || lock.scope != Scope::Cluster;
            let is_same = lock.name == of.name && lock.priority == of.priority;
            if names_it && !is_same {
                (lock.name, lock.priority) = (of.name.clone(), of.priority);
                done.is_changed = true;
                Became::Renamed
            } else {
                Became::Good
            }
        }
        _ => Became::Failed,
    };
    let error = of.trouble.clone().or(weak);
    done.said.push(OfOne { name: of.shown.clone(), node: node.map(str::to_owned), outcome, error });
}

/// Locks that nobody's seal is of. Where a node is silent, what may be its is not among them. (What may be a seal's whose
/// device does not answer is; but then none is taken away.)
fn strays(before: &LockList, asked: &[(Option<String>, Vec<OfSeal>)], some_are_silent: bool) -> BTreeSet<[u8; 16]> {
    let claimed: BTreeSet<[u8; 16]> = asked.iter().flat_map(|(_, seals)| seals.iter().filter_map(|of| of.of)).collect();
    let is_nobodys = |lock: &&Lock| {
        let all_asked = match lock.scope {
            Scope::Cluster => !some_are_silent,
            Scope::Node(_) => asked.iter().any(|(node, _)| lock.may_be_of(node.as_deref())),
        };
        lock.backend().is_some() && !claimed.contains(&lock.id) && all_asked
    };
    before.locks.iter().filter(is_nobodys).map(|lock| lock.id).collect()
}

/// A lock beside which the strays have to stay: its custodians alone open it, have never done so, and nothing else that
/// stays is known to open the store where a stray does.
fn unproved<'l>(list: &'l LockList, strays: &BTreeSet<[u8; 16]>) -> Option<&'l Lock> {
    let (going, staying): (Vec<&Lock>, Vec<&Lock>) =
        list.locks.iter().filter(|lock| lock.backend().is_some()).partition(|lock| strays.contains(&lock.id));
    let is_of = |lock: &Lock, place: &Scope| lock.scope == Scope::Cluster || lock.scope == *place;
    let is_known =
        |place: &Scope| staying.iter().any(|lock| lock.proved && lock.stale_since.is_none() && is_of(lock, place));
    let touches = |lock: &Lock| going.iter().any(|gone| is_of(gone, &lock.scope) || is_of(lock, &gone.scope));
    staying
        .iter()
        .find(|lock| lock.needs_custodians() && !lock.proved && touches(lock) && !is_known(&lock.scope))
        .copied()
}

#[cfg(test)]
mod tests {
    use holdfast_seal::locks::Minimum;

    use super::*;

    fn lock(id: u8, backend: &str, mechanism: &str) -> Lock {
        Lock {
            id: [id; 16],
            kind: LockKind::Device { backend: backend.into() },
            scope: Scope::Cluster,
            priority: 0,
            key_label: "k".into(),
            key_id: "01".into(),
            mechanism: mechanism.into(),
            public_part: None,
            ciphertext: vec![1],
            proved: false,
            created: 1,
            name: None,
            stale_since: None,
        }
    }

    fn completed(minimum: Minimum, locks: Vec<Lock>) -> Completed {
        let list =
            LockList { cluster_id: [7; 16], cluster_name: "c".into(), generation: 1, minimum, locks, recovery: None };
        Completed::of(list)
    }

    fn of_seal(of: Option<u8>, made: Option<Lock>) -> OfSeal {
        let of = of.map(|id| [id; 16]);
        OfSeal { shown: "s".into(), backend: "pkcs11".into(), name: None, priority: 0, of, made, trouble: None }
    }

    #[test]
    fn a_lock_that_its_device_has_opened_is_proved_and_one_of_custodians_is_not() {
        let asks = "TPM2_SEAL+POLICY_SIGNED/AES-256-GCM";
        let mut done = completed(Minimum::Any, vec![lock(1, "pkcs11", "CKM_AES_GCM"), lock(2, "tpm", asks)]);
        take_in(&mut done, None, &of_seal(Some(2), None), true);
        assert!(!done.list.locks[1].proved && !done.is_changed, "custodians were not asked");
        take_in(&mut done, None, &of_seal(Some(1), None), true);
        assert!(done.list.locks[0].proved && done.is_changed);
        assert!(done.said.iter().all(|of| of.outcome == Became::Good), "{:?}", done.said);
    }

    /// The first node's locks are everybody's by their scope, and seals of different nodes have the same name.
    #[test]
    fn what_one_node_has_made_is_not_overwritten_by_another_that_has_a_seal_of_the_same_name() {
        let mut done = completed(Minimum::Any, Vec::new());
        take_in(&mut done, Some("n0"), &of_seal(None, Some(lock(1, "pkcs11", "CKM_AES_GCM"))), true);
        take_in(&mut done, Some("n1"), &of_seal(Some(1), Some(lock(2, "pkcs11", "CKM_AES_GCM"))), false);
        let ids = |done: &Completed| done.list.locks.iter().map(|l| (l.id[0], l.scope.clone())).collect::<Vec<_>>();
        let n1 = Scope::Node("n1".into());
        assert_eq!(ids(&done), [(1, Scope::Cluster), (2, n1.clone())]);
        // Nor what it has opened; what nobody has opened is made anew in its place.
        let mut done = completed(Minimum::Any, vec![lock(1, "pkcs11", "CKM_AES_GCM")]);
        take_in(&mut done, Some("n0"), &of_seal(Some(1), None), true);
        take_in(&mut done, Some("n1"), &of_seal(Some(1), Some(lock(2, "pkcs11", "CKM_AES_GCM"))), false);
        assert_eq!(ids(&done), [(1, Scope::Cluster), (2, n1)]);
        let mut done = completed(Minimum::Any, vec![lock(1, "pkcs11", "CKM_AES_GCM")]);
        take_in(&mut done, Some("n0"), &of_seal(Some(1), Some(lock(3, "pkcs11", "CKM_AES_GCM"))), true);
        assert_eq!(ids(&done), [(3, Scope::Cluster)]);
    }

    #[test]
    fn what_opens_a_store_stays_beside_a_lock_that_custodians_have_never_opened() {
        let asks = "TPM2_SEAL+POLICY_SIGNED/AES-256-GCM";
        let of = |node: &str, lock: Lock| Lock { scope: Scope::Node(node.into()), ..lock };
        let proved = |lock: Lock| Lock { proved: true, ..lock };
        let (old, new, other) =
            (lock(1, "pkcs11", "CKM_AES_GCM"), lock(2, "tpm", asks), lock(3, "yubihsm", "X/AES-CCM"));
        let blocks = |locks: Vec<Lock>| unproved(&completed(Minimum::Any, locks).list, &[[1; 16]].into()).map(|l| l.id);
        assert_eq!(blocks(vec![old.clone(), new.clone()]), Some([2; 16]));
        assert_eq!(blocks(vec![old.clone(), proved(new.clone())]), None);
        // Another seal that stays opens it.
        assert_eq!(blocks(vec![old.clone(), new.clone(), proved(other.clone())]), None);
        let stale = Lock { stale_since: Some(1), ..proved(other.clone()) };
        assert_eq!(blocks(vec![old.clone(), new.clone(), stale]), Some([2; 16]));
        // Each node has its own: another one's is no way in.
        let locks = |third: Lock| vec![of("a", old.clone()), of("a", new.clone()), third];
        assert_eq!(blocks(locks(of("b", proved(other.clone())))), Some([2; 16]));
        assert_eq!(blocks(locks(of("a", proved(other.clone())))), None);
        assert_eq!(blocks(vec![of("a", old.clone()), of("a", proved(other)), of("b", new.clone())]), None);
        // What all share is every node's.
        assert_eq!(blocks(vec![old, of("b", new)]), Some([2; 16]));
    }

    #[test]
    fn a_lock_that_a_node_made_and_that_is_less_than_the_minimum_is_left_out() {
        let mut done = completed(Minimum::Device, vec![lock(1, "pkcs11", "CKM_AES_GCM")]);
        take_in(&mut done, Some("n2"), &of_seal(None, Some(lock(3, "static", "XAES-256-GCM"))), false);
        assert_eq!((done.list.locks.len(), done.is_changed), (1, false));
        assert!(done.said[0].outcome == Became::Failed && done.said[0].error.is_some(), "{:?}", done.said);
        take_in(&mut done, Some("n2"), &of_seal(None, Some(lock(4, "yubihsm", "YUBIHSM_WRAP_DATA/AES-CCM"))), false);
        assert_eq!(done.list.locks[1].scope, Scope::Node("n2".into()));
    }
}
