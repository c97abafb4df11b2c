//! `sys/seal/plan`: what the seals that the configuration names by now would do, tried beforehand on each node. Nothing is
//! changed: neither a lock, nor which seals are in use. A key in a device is made for the trial alone, and destroyed.

use std::collections::BTreeMap;

use holdfast_hsm::memory::Key;
use holdfast_sdk::{Map, Value};
use holdfast_seal::locks::Scope;
use holdfast_seal::{Lock, LockList};
use minicbor::{Decode, Encode};

use crate::questions::Question;
use crate::seal_state::Refusal;
use crate::seals::{Seal, Seals};
use crate::{Core, Open};

/// Tells the question from others that the active node asks.
pub(crate) const WORD: &str = "holdfast seal plan";

/// What a node says of its configuration.
#[derive(Encode, Decode, Default)]
struct Planned {
    /// Why nothing could be tried.
    #[n(0)]
    error: Option<String>,
    #[n(1)]
    seals: Vec<PlannedSeal>,
    #[n(2)]
    locks: Vec<PlannedLock>,
    /// What a restart would do.
    #[n(3)]
    would: String,
    /// The store would open.
    #[n(4)]
    opens: bool,
    /// Ids of the locks that its seals open. None: its program did not tell yet.
    #[n(5)]
    opened: Option<Vec<u8>>,
    /// The seal without whose custodians, who have never opened the store, none of its seals is known to do so.
    #[n(6)]
    unproved: Option<String>,
}

#[derive(Encode, Decode)]
struct PlannedSeal {
    #[n(0)]
    name: String,
    #[n(1)]
    backend: String,
    #[n(2)]
    priority: u32,
    #[n(3)]
    place: String,
    /// It is in use already.
    #[n(4)]
    is_in_use: bool,
    #[n(5)]
    steps: Vec<PlannedStep>,
    #[n(6)]
    would: String,
}

#[derive(Encode, Decode)]
struct PlannedStep {
    #[n(0)]
    what: String,
    #[n(1)]
    is_good: bool,
    #[n(2)]
    said: String,
}

/// What would become of a present lock of the node.
#[derive(Encode, Decode)]
struct PlannedLock {
    #[n(0)]
    name: String,
    #[n(1)]
    would: String,
}

impl PlannedSeal {
    fn works(&self) -> bool {
        self.steps.iter().all(|step| step.is_good)
    }

    fn shown(&self) -> Value {
        let step = |step: &PlannedStep| {
            let mut m = Map::new();
            m.insert("what".into(), step.what.clone().into());
            m.insert("works".into(), step.is_good.into());
            m.insert(if step.is_good { "said" } else { "error" }.into(), step.said.clone().into());
            Value::Object(m)
        };
        let mut m = Map::new();
        m.insert("name".into(), self.name.clone().into());
        m.insert("type".into(), self.backend.clone().into());
        m.insert("priority".into(), self.priority.into());
        m.insert("place".into(), self.place.clone().into());
        m.insert("in_use".into(), self.is_in_use.into());
        m.insert("works".into(), self.works().into());
        m.insert("steps".into(), self.steps.iter().map(step).collect::<Vec<_>>().into());
        m.insert("would".into(), self.would.clone().into());
        Value::Object(m)
    }
}

impl Planned {
    fn failed(why: impl Into<String>) -> Planned {
        Planned { error: Some(why.into()), ..Planned::default() }
    }

    fn is_possible(&self) -> bool {
        self.opens && self.all_work()
    }

    fn all_work(&self) -> bool {
        self.error.is_none() && self.seals.iter().all(PlannedSeal::works)
    }

    fn may_open(&self, lock: &Lock) -> bool {
        self.opened.as_ref().is_none_or(|ids| ids.chunks_exact(lock.id.len()).any(|id| *id == lock.id))
    }

    fn tell_of(&mut self, lock: &Lock, stays: bool, all_work: bool, unproved: Option<&str>) {
        let would = match (stays, all_work, unproved) {
            (true, ..) => "stays".to_owned(),
            (false, true, None) => "is taken away by operator seal rewrap, with a new root key".to_owned(),
            (false, true, Some(seal)) => format!(
                "stays until the custodians of the seal {seal:?} have opened the store once; operator seal rewrap takes it away \
                 then, with a new root key"
            ),
            (false, false, _) => "stays until each seal works".to_owned(),
        };
        self.locks.push(PlannedLock { name: lock.shown(), would });
    }

    fn shown(&self, node: Option<&str>) -> Value {
        let mut m = Map::new();
        if let Some(node) = node {
            m.insert("node".into(), node.into());
        }
        m.insert("possible".into(), self.is_possible().into());
        if let Some(why) = &self.error {
            m.insert("error".into(), why.clone().into());
        }
        m.insert("would".into(), self.would.clone().into());
        m.insert("seals".into(), self.seals.iter().map(PlannedSeal::shown).collect::<Vec<_>>().into());
        let lock = |lock: &PlannedLock| {
            let mut m = Map::new();
            m.insert("name".into(), lock.name.clone().into());
            m.insert("would".into(), lock.would.clone().into());
            Value::Object(m)
        };
        m.insert("locks".into(), self.locks.iter().map(lock).collect::<Vec<_>>().into());
        Value::Object(m)
    }
}

impl Core {
    /// Try the seals that the configurations of this node and the others name by now.
    pub(crate) async fn plan_seals(&self, open: &Open) -> Result<Map<String, Value>, Refusal> {
        let list = self.own_locks(open)?;
        let mut all: BTreeMap<Option<String>, Planned> = BTreeMap::new();
        all.insert(self.node_id().map(str::to_owned), self.plan_here().await);
        if let Some(cluster) = &self.options.cluster {
            for (node, answer) in cluster.offer_keys(Question::ask(WORD, &list, open)?).await {
                let planned = match answer.map(|bytes| minicbor::decode::<Planned>(&bytes)) {
                    Ok(Ok(planned)) => planned,
                    Ok(Err(_)) => Planned::failed("its program does not know several seals"),
                    Err(e) => Planned::failed(format!("it is away: {e}")),
                };
                all.insert(Some(node), planned);
            }
        }
        if !self.is_surely_own(&Scope::Cluster) {
            tell_of_shared(&list, &mut all);
        }
        let mut m = Map::new();
        m.insert("possible".into(), all.values().all(Planned::is_possible).into());
        m.insert("nodes".into(), all.iter().map(|(node, p)| p.shown(node.as_deref())).collect::<Vec<_>>().into());
        Ok(m)
    }

    /// The answer to the active node's question.
    pub(crate) async fn answer_plan(&self, may_know: Result<(), String>) -> Option<Vec<u8>> {
        let planned = match may_know {
            Ok(()) => self.plan_here().await,
            Err(why) => Planned::failed(why),
        };
        minicbor::to_vec(&planned).ok()
    }

    /// Try what this node's configuration names by now.
    async fn plan_here(&self) -> Planned {
        let Some(source) = self.options.seal_source.clone() else {
            return Planned::failed("this server was started without a configuration that could be read again");
        };
        let seals = match tokio::task::spawn_blocking(move || source.read()).await {
            Ok(Ok(seals)) => seals,
            Ok(Err(why)) => return Planned::failed(why),
            Err(e) => return Planned::failed(e.to_string()),
        };
        let planned = match (self.lock_list(), self.present_root()) {
            (Ok(Some(read)), Ok(Some(root))) => self.plan_with(&seals, &read.list, &root).await,
            _ => Planned::failed("it is sealed"),
        };
        let in_use = self.seals();
        for seal in seals.present.iter().chain(&seals.former).filter(|seal| !in_use.has(seal)) {
            // It is not wanted before the change.
            let resting = seal.ask(|device| {
                device.log_out();
                Ok(())
            });
            if let Err(refusal) = resting.await {
                tracing::warn!(seal = seal.shown(), "its device does not rest after the plan: {refusal}");
            }
        }
        planned
    }

    async fn plan_with(&self, seals: &Seals, list: &LockList, root: &Key) -> Planned {
        let (in_use, node) = (self.seals(), self.node_id());
        let mut planned = Planned::default();
        let (mut opened, mut opening): (Vec<[u8; 16]>, Vec<&str>) = (Vec::new(), Vec::new());
        let (mut is_known, mut unproved) = (false, None);
        for seal in &seals.present {
            let tried = seal.ask(|device| Ok(device.trial())).await;
            let steps = match tried {
                Ok(steps) => steps.into_iter().map(|step| (step.what, step.said)).collect(),
                Err(refusal) => vec![("ask", Err(refusal.text))],
            };
            let mut steps: Vec<PlannedStep> = steps
                .into_iter()
                .map(|(what, said)| PlannedStep {
                    what: what.to_owned(),
                    is_good: said.is_ok(),
                    said: said.unwrap_or_else(|why| why),
                })
                .collect();
            if let Err(said) = list.minimum.allows_backend(seal.device.backend()) {
                steps.push(PlannedStep { what: "minimum".to_owned(), is_good: false, said });
            }
            let works = steps.iter().all(|step| step.is_good);
            let its = if works { its_lock(seals, seal, list, node, root).await } else { None };
            let would = match &its {
                _ if !works => "it would not open the store".to_owned(),
                Some((lock, true)) if lock.name == seal.name => {
                    format!("it opens the store, by the lock {}", lock.shown())
                }
                Some((lock, true)) => {
                    format!(
                        "it opens the store, by the lock {}, which operator seal rewrap gives its name",
                        lock.shown()
                    )
                }
                Some((_, false)) => {
                    "operator seal rewrap makes its lock anew, which holds a former root key".to_owned()
                }
                None => "operator seal rewrap makes a lock for it".to_owned(),
            };
            if let Some((lock, opens)) = its {
                opened.push(lock.id);
                opening.extend(opens.then_some(seal.shown()));
                match lock.needs_custodians() && !lock.proved {
                    true => unproved = Some(seal.shown().to_owned()),
                    false => is_known |= opens,
                }
            }
            planned.seals.push(PlannedSeal {
                name: seal.shown().to_owned(),
                backend: seal.device.backend().to_owned(),
                priority: seal.priority,
                place: seal.device.place(),
                is_in_use: in_use.has(seal),
                steps,
                would,
            });
        }
        let all_work = planned.all_work();
        planned.unproved = unproved.filter(|_| !is_known);
        for lock in list.device_locks_of(node).into_iter().filter(|l| self.is_surely_own(&l.scope)) {
            let unproved = planned.unproved.clone();
            planned.tell_of(lock, opened.contains(&lock.id), all_work, unproved.as_deref());
        }
        planned.opened = Some(opened.concat());
        planned.opens = !opening.is_empty();
        planned.would = match (opening.is_empty(), &seals.former) {
            (false, _) => format!("after a restart the store opens by {}", opening.join(", ")),
            (true, Some(former)) => format!(
                "after a restart the store waits for its holders to move it away from the seal {:?}: operator unseal -migrate",
                former.shown()
            ),
            (true, None) if seals.present.is_empty() => {
                "after a restart the store would stay sealed: the configuration names no device. To move it to shares, keep \
                 the stanza with disabled = \"true\" and run operator unseal -migrate"
                    .to_owned()
            }
            (true, None) => "after a restart the store would stay sealed: none of these seals opens a lock of it. Keep the \
                             stanza of one that does until operator seal rewrap has made the new locks"
                .to_owned(),
        };
        planned
    }
}

/// Whether a lock that the nodes of a cluster share stays is decided by all of them. Each that answers tells of it.
fn tell_of_shared(list: &LockList, all: &mut BTreeMap<Option<String>, Planned>) {
    let all_work = all.values().all(Planned::all_work);
    let unproved = all.values().find_map(|planned| planned.unproved.clone());
    for lock in list.locks.iter().filter(|l| l.scope == Scope::Cluster && l.backend().is_some()) {
        let stays = all.values().any(|planned| planned.error.is_none() && planned.may_open(lock));
        for planned in all.values_mut().filter(|planned| planned.error.is_none()) {
            planned.tell_of(lock, stays, all_work, unproved.as_deref());
        }
    }
}

/// The lock that a seal's device opens, and whether what comes out is the present root key.
async fn its_lock<'l>(
    seals: &Seals,
    seal: &Seal,
    list: &'l LockList,
    node: Option<&str>,
    root: &Key,
) -> Option<(&'l Lock, bool)> {
    let mut stale = None;
    for lock in seals.locks_of(seal, list, node) {
        match seal.open(lock, &list.cluster_id).await {
            Ok(found) if found.ct_eq(root.expose()) => return Some((lock, true)),
            Err(refusal) if refusal.custodians && lock.stale_since.is_none() => return Some((lock, true)),
            Err(refusal) if !refusal.custodians => {}
            Ok(_) | Err(_) => stale = stale.or(Some((lock, false))),
        }
    }
    stale
}
