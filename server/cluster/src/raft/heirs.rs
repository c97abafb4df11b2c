//! To whom a leader hands over: to one that is up to date, and among those to the one whose turn is longest ago.
//!
//! Who has just handed the lead over had a reason, and who was just offered it and did not take it has one too. A turn is
//! the term in which a member led last, or was offered the lead, as this member has seen; it is forgotten with the process.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::types::NodeId;

/// Who lacks no more entries than this, of those that the furthest one has, is as good as that one: what is being written
/// arrives at one a moment before the other, and the rest before the lead is taken.
const AS_GOOD_AS: u64 = 100;

/// Turns that are kept: members come and go. Who is forgotten has its turn sooner.
const TURNS: usize = 100;

/// Whose turn was when.
#[derive(Default)]
pub struct Heirs {
    /// The last term whose leader was noted.
    noted: AtomicU64,
    turns: Mutex<BTreeMap<NodeId, u64>>,
}

impl Heirs {
    fn turns(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This member leads in this term. Called often; it is noted once.
    pub fn leads(&self, id: &NodeId, term: u64) {
        if self.noted.load(Ordering::Relaxed) < term {
            self.has_its_turn(id, term);
            self.noted.fetch_max(term, Ordering::Relaxed);
        }
    }

    /// A member is offered the lead of this term.
    pub fn has_its_turn(&self, id: &NodeId, term: u64) {
        let mut turns = self.turns();
        if turns.len() >= TURNS {
            turns.clear();
        }
        let turn = turns.entry(id.clone()).or_default();
        *turn = term.max(*turn);
    }

    /// The best of those that could lead, each with the index up to which it has the log.
    pub fn best(&self, able: Vec<(NodeId, u64)>) -> Option<NodeId> {
        let furthest = able.iter().map(|(_, matched)| *matched).max()?;
        let turns = self.turns();
        let turn = |id: &NodeId| turns.get(id).copied().unwrap_or(0);
        let near = able.iter().filter(|(_, matched)| furthest - matched <= AS_GOOD_AS);
        near.min_by_key(|(id, matched)| (turn(id), Reverse(*matched))).map(|(id, _)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId(name.into())
    }

    fn able(all: &[(&str, u64)]) -> Vec<(NodeId, u64)> {
        all.iter().map(|(name, matched)| (id(name), *matched)).collect()
    }

    #[test]
    fn members_that_are_as_far_take_turns() {
        let heirs = Heirs::default();
        let mut led = Vec::new();
        let mut leader = id("a");
        for term in 1..=7 {
            heirs.leads(&leader, term);
            led.push(leader.0.clone());
            let others: Vec<_> = ["a", "b", "c"].iter().filter(|n| id(n) != leader).map(|n| (*n, 500)).collect();
            leader = heirs.best(able(&others)).unwrap();
        }
        assert_eq!(led, ["a", "b", "c", "a", "b", "c", "a"]);
    }

    #[test]
    fn one_that_lags_is_no_heir_while_another_is_there_whoever_led_before() {
        let heirs = Heirs::default();
        heirs.leads(&id("b"), 3);
        assert_eq!(heirs.best(able(&[("b", 1000), ("c", 899)])), Some(id("b")));
        assert_eq!(heirs.best(able(&[("b", 1000), ("c", 900)])), Some(id("c")));
        assert_eq!(heirs.best(able(&[("c", 10)])), Some(id("c")));
        assert_eq!(heirs.best(Vec::new()), None);
    }

    #[test]
    fn one_that_was_offered_the_lead_and_did_not_take_it_is_asked_last() {
        let heirs = Heirs::default();
        let both = || able(&[("b", 10), ("c", 9)]);
        assert_eq!(heirs.best(both()), Some(id("b")), "it is further");
        heirs.has_its_turn(&id("b"), 4);
        assert_eq!(heirs.best(both()), Some(id("c")));
        heirs.has_its_turn(&id("c"), 5);
        assert_eq!(heirs.best(both()), Some(id("b")), "its turn is longer ago");
    }
}
