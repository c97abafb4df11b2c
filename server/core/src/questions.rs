//! What the active node asks the others: what a plan of seals would do there, how their seals are, and one of them to compact
//! its store. A node answers who shows that it holds the root key.

use holdfast_hsm::memory::Key;
use holdfast_seal::Lock;
use holdfast_seal::locks::{self, LockList};
use minicbor::{Decode, Encode};

use crate::seal_state::{Refusal, failed};
use crate::{Core, Open, compaction, seal_plan, seals_elsewhere};

#[derive(Encode, Decode)]
pub(crate) struct Question {
    /// Tells it from others that the active node asks.
    #[n(0)]
    word: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    cluster_id: [u8; 16],
    /// Any key, closed with the root key: who asks holds that.
    #[n(2)]
    proof: Lock,
    /// The name of the node that is meant, where it is one.
    #[n(3)]
    meant: Option<String>,
}

impl Question {
    /// A question, as it goes to the members.
    pub fn ask(word: &str, list: &LockList, open: &Open) -> Result<Vec<u8>, Refusal> {
        Question::encode(word, None, list, open)
    }

    /// One that is meant for a single node.
    pub fn ask_one(word: &str, node: &str, list: &LockList, open: &Open) -> Result<Vec<u8>, Refusal> {
        Question::encode(word, Some(node.to_owned()), list, open)
    }

    fn encode(word: &str, meant: Option<String>, list: &LockList, open: &Open) -> Result<Vec<u8>, Refusal> {
        let key = Key::random(32).map_err(failed)?;
        let proof = locks::lock_with_key(&key, &open.root.load(), &list.cluster_id, (1, 1), 0, 0).map_err(failed)?;
        minicbor::to_vec(&Question { word: word.to_owned(), cluster_id: list.cluster_id, proof, meant }).map_err(failed)
    }
}

impl Core {
    /// The answer to the active node's question; none: it has asked something else.
    pub(crate) async fn answer_question(&self, message: &[u8]) -> Option<Vec<u8>> {
        let question: Question = minicbor::decode(message).ok()?;
        let is_asked = |word: &str| question.word == word;
        let words = [seal_plan::WORD, seals_elsewhere::WORD, compaction::BEGIN, compaction::LOOK];
        if !words.into_iter().any(is_asked) {
            return None;
        }
        let may_know = match self.present_root() {
            Ok(Some(root)) if locks::open_with_key(&question.proof, &question.cluster_id, &root).is_ok() => Ok(()),
            Ok(Some(_)) => Err("it holds another root key".to_owned()),
            Ok(None) => Err("it is sealed".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        if is_asked(seal_plan::WORD) {
            self.answer_plan(may_know).await
        } else if is_asked(seals_elsewhere::WORD) {
            self.answer_seal_health(may_know)
        } else {
            self.answer_compaction(is_asked(compaction::BEGIN), question.meant.as_deref(), may_know)
        }
    }
}
