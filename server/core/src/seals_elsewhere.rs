//! How the seals of the other nodes are, whose devices only these can ask: each says what its own checks found.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_sdk::{Map, Timestamp, Value};
use holdfast_seal::LockList;
use minicbor::{Decode, Encode};

use crate::questions::Question;
use crate::seal_state::Refusal;
use crate::{Core, Open};

/// Tells the question from others that the active node asks.
pub(crate) const WORD: &str = "holdfast seal health";
/// Who looks at the seals waits no longer for a node that does not answer.
const WITHIN: Duration = Duration::from_secs(3);

/// What a node says of its seals.
#[derive(Encode, Decode)]
struct Told {
    #[n(0)]
    seals: Vec<ToldSeal>,
    /// Why it says nothing.
    #[n(1)]
    error: Option<String>,
}

#[derive(Encode, Decode)]
struct ToldSeal {
    #[n(0)]
    name: String,
    #[n(1)]
    backend: String,
    /// The lock that is known to be its.
    #[cbor(n(2), with = "minicbor::bytes")]
    lock: Option<[u8; 16]>,
    #[n(3)]
    place: String,
    /// Unix seconds, as the next two.
    #[n(4)]
    opened: Option<u64>,
    #[n(5)]
    checked: Option<u64>,
    #[n(6)]
    unhealthy_since: Option<u64>,
    #[n(7)]
    error: Option<String>,
    #[n(8)]
    took_micros: u64,
}

impl ToldSeal {
    fn shown(&self, node: &str) -> Value {
        let time = |secs: Option<u64>| secs.map_or(Value::Null, |s| Timestamp::from_secs(s).rfc3339().into());
        let mut m = Map::new();
        let mut set = |name: &str, value: Value| {
            m.insert(name.into(), value);
        };
        set("node", node.into());
        set("name", self.name.clone().into());
        set("healthy", self.unhealthy_since.is_none().into());
        set("last_opened", time(self.opened));
        set("last_checked", time(self.checked));
        set("last_check_ms", (self.took_micros as f64 / 1000.0).into());
        if !self.place.is_empty() {
            set("place", self.place.clone().into());
        }
        if self.unhealthy_since.is_some() {
            set("unhealthy_since", time(self.unhealthy_since));
            set("last_error", self.error.clone().unwrap_or_default().into());
        }
        Value::Object(m)
    }
}

/// What the other nodes said.
#[derive(Default)]
pub(crate) struct Elsewhere {
    seals: Vec<(String, ToldSeal)>,
    /// Who said nothing, and why.
    silent: BTreeMap<String, String>,
}

impl Elsewhere {
    /// What they say of a lock.
    pub fn of_lock(&self, id: &[u8; 16]) -> Vec<Value> {
        let of_it = self.seals.iter().filter(|(_, seal)| seal.lock.as_ref() == Some(id));
        of_it.map(|(node, seal)| seal.shown(node)).collect()
    }

    /// Their seals that have no lock yet.
    pub fn without_lock(&self) -> Vec<Value> {
        let bare = self.seals.iter().filter(|(_, seal)| seal.lock.is_none());
        bare.map(|(node, seal)| {
            let mut m = Map::new();
            m.insert("name".into(), seal.name.clone().into());
            m.insert("type".into(), seal.backend.clone().into());
            m.insert("node".into(), node.clone().into());
            m.insert("wrapped".into(), false.into());
            m.insert("checked_here".into(), false.into());
            m.insert("nodes".into(), vec![seal.shown(node)].into());
            Value::Object(m)
        })
        .collect()
    }

    /// Whether each node has answered, and each seal that it told of is well.
    pub fn is_healthy(&self) -> bool {
        self.silent.is_empty() && self.seals.iter().all(|(_, seal)| seal.unhealthy_since.is_none())
    }

    pub fn silent(&self) -> Map<String, Value> {
        self.silent.iter().map(|(node, why)| (node.clone(), why.clone().into())).collect()
    }
}

impl Core {
    /// Ask the other nodes how their seals are. None: there are no others.
    pub(crate) async fn seals_elsewhere(&self, list: &LockList, open: &Open) -> Result<Option<Elsewhere>, Refusal> {
        let Some(cluster) = &self.options.cluster else { return Ok(None) };
        let answers = cluster.ask_members(Question::ask(WORD, list, open)?, WITHIN).await;
        let mut all = Elsewhere::default();
        for (node, answer) in answers {
            match answer.map(|bytes| minicbor::decode::<Told>(&bytes)) {
                Ok(Ok(Told { seals, error: None })) => all.seals.extend(seals.into_iter().map(|s| (node.clone(), s))),
                Ok(Ok(Told { error: Some(why), .. })) => drop(all.silent.insert(node, why)),
                Ok(Err(_)) => drop(all.silent.insert(node, "its program does not tell of its seals".into())),
                Err(why) => drop(all.silent.insert(node, format!("it is away: {why}"))),
            }
        }
        Ok(Some(all))
    }

    /// The answer to the active node's question.
    pub(crate) fn answer_seal_health(&self, may_know: Result<(), String>) -> Option<Vec<u8>> {
        let list =
            may_know.and_then(|()| self.lock_list()).and_then(|read| read.ok_or_else(|| "it has no locks".into()));
        let told = match list {
            Ok(read) => {
                let (seals, node) = (self.seals(), self.node_id());
                let told = seals.present.iter().map(|seal| {
                    let seen = seal.seen();
                    ToldSeal {
                        name: seal.shown().to_owned(),
                        backend: seal.device.backend().to_owned(),
                        lock: seals.known_lock(seal, &read.list, node).map(|lock| lock.id),
                        place: seal.device.place(),
                        opened: seen.opened.map(|t| t.secs()),
                        checked: seen.checked.map(|t| t.secs()),
                        unhealthy_since: seen.unhealthy.as_ref().map(|(since, _)| since.secs()),
                        error: seen.unhealthy.map(|(_, why)| why),
                        took_micros: u64::try_from(seen.took.as_micros()).unwrap_or(u64::MAX),
                    }
                });
                Told { seals: told.collect(), error: None }
            }
            Err(why) => Told { seals: Vec::new(), error: Some(why) },
        };
        minicbor::to_vec(&told).ok()
    }
}
