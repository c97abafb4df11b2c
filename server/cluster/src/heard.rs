//! Whom a node hears: members, by its own list of them, and those of whom a member has told it, while its list may be
//! behind.

use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_core::cluster::{Member, Peer};

/// Who let this node in, or who the members are as one of them said.
#[derive(Default)]
pub struct Heard {
    told: Mutex<Vec<Peer>>,
}

impl Heard {
    fn told(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member said that these are the members.
    pub fn is_told(&self, peers: Vec<Peer>) {
        *self.told() = peers;
    }

    /// The log says who the members are, and is heard again.
    pub fn forget(&self) {
        self.told().clear();
    }

    /// Whether a key is a member's. `members`: the list as this node has it. Who surely leads knows best, and hears nobody
    /// beside it: what it was told before it led may name one that was removed since.
    pub fn knows(&self, key_hash: &str, members: &[Member], surely_leads: bool) -> bool {
        members.iter().any(|m| m.peer.key_hash == key_hash)
            || !surely_leads && self.told().iter().any(|p| p.key_hash == key_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(key: &str) -> Peer {
        Peer { key_hash: key.into(), ..Peer::default() }
    }

    #[test]
    fn who_surely_leads_hears_members_alone_whomever_it_was_told_of_before() {
        let members = ["a", "b"].map(|key| Member { id: key.into(), peer: peer(key), votes: true });
        let heard = Heard::default();
        // "c" was a member when somebody said so, and was removed before this node led.
        heard.is_told(vec![peer("a"), peer("c")]);
        assert!(heard.knows("c", &members, false), "the list of one that follows may be behind");
        assert!(!heard.knows("c", &members, true));
        for leads in [false, true] {
            assert!(heard.knows("a", &members, leads) && heard.knows("b", &members, leads));
            assert!(!heard.knows("d", &members, leads));
        }
        heard.forget();
        assert!(!heard.knows("c", &members, false));
    }
}
