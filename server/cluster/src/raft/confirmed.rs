//! What members have confirmed to this one in the term in which it leads.
//!
//! What was confirmed is counted on: a member that has it no longer runs on an earlier copy of its store (an image of its
//! disk that was put back, a copy of its folder that took its place). openraft takes such an answer for a fault of the
//! program. Here it is noticed before openraft hears of it: to the leader such a member is one that cannot be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by all ways to members.
#[derive(Clone, Default)]
pub struct Confirmed(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Default)]
struct Known {
    term: u64,
    /// The last log index that it has confirmed in this term.
    index: u64,
    /// It has said since that it does not have that.
    lacks_it: bool,
}

impl Confirmed {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has the log up to an index, as it says to the leader of a term.
    pub fn has(&self, key_hash: &str, term: u64, index: u64) {
        let mut known = self.known();
        let known = known.entry(key_hash.to_owned()).or_default();
        if known.term != term {
            *known = Known { term, ..Known::default() };
        }
        if index >= known.index {
            known.index = index;
            known.lacks_it = false;
        }
    }

    /// A member says that it does not have an index. Whether it has confirmed that.
    pub fn lacks(&self, key_hash: &str, term: u64, index: u64) -> bool {
        let mut known = self.known();
        let Some(known) = known.get_mut(key_hash).filter(|k| k.term == term && index <= k.index) else { return false };
        if !known.lacks_it {
            tracing::error!(
                confirmed = known.index,
                lacks = index,
                "a member runs on an earlier copy of its store: it is counted on no longer"
            );
        }
        known.lacks_it = true;
        true
    }

    /// Whether a member runs on an earlier copy of its store.
    pub fn is_earlier_copy(&self, key_hash: &str, term: u64) -> bool {
        self.known().get(key_hash).is_some_and(|k| k.term == term && k.lacks_it)
    }

    /// It is a member no longer, or anew.
    pub fn forget(&self, key_hash: &str) {
        self.known().remove(key_hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_what_it_has_confirmed_is_known_until_it_has_it_again() {
        let confirmed = Confirmed::default();
        // A newcomer is asked from where on it has the log.
        assert!(!confirmed.lacks("a", 3, 7));
        confirmed.has("a", 3, 5);
        assert!(!confirmed.lacks("a", 3, 6), "it was not sent yet");
        assert!(confirmed.lacks("a", 3, 5) && confirmed.is_earlier_copy("a", 3));
        // A late answer says nothing.
        confirmed.has("a", 3, 4);
        assert!(confirmed.is_earlier_copy("a", 3));
        confirmed.has("a", 3, 5);
        assert!(!confirmed.is_earlier_copy("a", 3));
        // In another term others may have led.
        confirmed.lacks("a", 3, 2);
        assert!(!confirmed.lacks("a", 4, 2) && !confirmed.is_earlier_copy("a", 4));
        confirmed.forget("a");
        assert!(!confirmed.lacks("a", 3, 2));
    }
}
