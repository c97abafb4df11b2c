//! Compaction of this node's store, and of other nodes': each has files of its own, and the active node asks the one that is
//! meant, by its name.

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::{Error, Map, Result, Value};
use holdfast_storage::{CompactError, CompactionInfo, Phase};
use minicbor::{Decode, Encode};

use crate::Core;
use crate::questions::Question;

/// Tell the questions from others that the active node asks: begin one, say how far it is.
pub(crate) const BEGIN: &str = "holdfast compaction begin";
pub(crate) const LOOK: &str = "holdfast compaction look";
/// Who asks waits no longer for a node that does not answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What the node that is meant says.
#[derive(Encode, Decode)]
struct Told {
    /// How far it is, as the API shows it: JSON.
    #[n(0)]
    shown: String,
    /// Why none was begun, or nothing is told.
    #[n(1)]
    refused: Option<String>,
}

impl Core {
    /// Begin one here. Returns how far it is.
    pub(crate) fn compact(&self) -> Result<Map<String, Value>> {
        self.store.start_compaction().map_err(|e| match e {
            CompactError::InMemory | CompactError::Running => Error::bad_request(e.to_string()),
            CompactError::Closed => Error::Unavailable(e.to_string()),
            other => Error::Internal(other.to_string()),
        })?;
        Ok(self.compaction())
    }

    /// How far the present one is, or how the last one ended.
    pub(crate) fn compaction(&self) -> Map<String, Value> {
        shown(&self.store.compaction())
    }

    /// The same of a member, which is asked.
    pub(crate) async fn compaction_of(self: &Arc<Self>, node: &str, begin: bool) -> Result<Map<String, Value>> {
        if self.node_id() == Some(node) {
            return if begin { self.compact() } else { Ok(self.compaction()) };
        }
        let members = self.options.cluster.as_ref().map(|cluster| (cluster, cluster.members().0));
        let Some((cluster, _)) = members.filter(|(_, all)| all.iter().any(|m| m.id == node)) else {
            return Err(Error::bad_request(format!(
                "no member is called {node:?}: operator raft list-peers names them"
            )));
        };
        let open = self.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
        let read = self.lock_list().map_err(Error::Internal)?;
        let list = read.ok_or_else(|| Error::Internal("the store has no locks".into()))?.list;
        let question = Question::ask_one(if begin { BEGIN } else { LOOK }, node, &list, &open)?;
        let away = |why: &str| Error::Unavailable(format!("the node {node} was not asked: {why}"));
        let answer = cluster.ask_members(question, WITHIN).await.remove(node).ok_or_else(|| away("it left"))?;
        let told: Told = minicbor::decode(&answer.map_err(|why| away(&why))?)
            .map_err(|_| away("its program compacts for nobody but itself"))?;
        match told.refused {
            Some(why) => Err(Error::bad_request(format!("node {node}: {why}"))),
            None => serde_json::from_str(&told.shown).map_err(Error::internal),
        }
    }

    /// The answer to the active node's question, which goes to all and is meant for one.
    pub(crate) fn answer_compaction(
        &self,
        begin: bool,
        meant: Option<&str>,
        may_know: Result<(), String>,
    ) -> Option<Vec<u8>> {
        if meant != self.node_id() {
            return Some(Vec::new());
        }
        let told = may_know.and_then(|()| {
            let now = if begin { self.compact() } else { Ok(self.compaction()) };
            now.map_err(|e| e.to_string())
        });
        let told = match told {
            Ok(now) => Told { shown: Value::Object(now).to_string(), refused: None },
            Err(why) => Told { shown: String::new(), refused: Some(why) },
        };
        minicbor::to_vec(&told).ok()
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::None => "none",
        Phase::Copying => "copying",
        Phase::Finishing => "finishing",
        Phase::Done => "done",
        Phase::Failed => "failed",
    }
}

fn shown(info: &CompactionInfo) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("phase".into(), word(info.phase).into());
    m.insert("entries".into(), info.entries.into());
    m.insert("entries_copied".into(), info.entries_copied.into());
    m.insert("bytes_before".into(), info.bytes_before.into());
    m.insert("bytes_after".into(), info.bytes_after.into());
    m.insert("took_ms".into(), u64::try_from(info.took.as_millis()).unwrap_or(u64::MAX).into());
    m.insert("error".into(), info.error.clone().map_or(Value::Null, Value::from));
    m
}
