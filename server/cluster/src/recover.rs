//! Members that are stopped, and cannot come back by themselves: the others are lost for good, or all of them are
//! somewhere else now. What is done here is done to one node's folder.

use std::path::{Path, PathBuf};

use holdfast_core::cluster::{Member, Peer};
use holdfast_storage::{Copied, Mark, Stopped, Whole, set_aside};

use crate::identity;
use crate::places::{self, Places};
use crate::raft::{Group, members_of};

/// A member's store that no server has open.
pub struct Recovery {
    folder: PathBuf,
    store: Stopped,
    pub node_id: String,
    /// The members, as far as this one has heard.
    pub members: Vec<Member>,
    /// The last entry of its log.
    pub last: Mark,
}

impl Recovery {
    /// Look at the store in `folder`.
    pub fn open(folder: &Path) -> Result<Recovery, String> {
        let store = Stopped::open(folder).map_err(|e| e.to_string())?;
        let members = store.members().map_err(|e| e.to_string())?;
        Ok(Recovery {
            folder: folder.to_owned(),
            node_id: identity::name_in(folder)?,
            members: members_of(&members).map_err(|e| format!("the members cannot be read: {e}"))?,
            last: store.last(),
            store,
        })
    }

    /// Those that this node would have to do without.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.id != self.node_id)
    }

    /// Let this node be the only member. Everything that its log holds counts from now on, agreed on or not.
    pub fn keep_only_this(self) -> Result<(), String> {
        let own = self.members.iter().find(|m| m.id == self.node_id);
        let own = own.ok_or_else(|| format!("{} is no member of its cluster: it was removed", self.node_id))?;
        let peer = Peer { never_votes: false, ..own.peer.clone() };
        let members = Group::first_members(&self.node_id, peer);
        self.store.set_members(&self.node_id, &members).map_err(|e| e.to_string())
    }

    /// Copy everything that it holds into a folder, as a store that is no member's.
    pub fn copy_to(&self, folder: &Path) -> Result<Copied, String> {
        Whole::Member(&self.store).copy_to(folder).map_err(|e| e.to_string())
    }

    /// Let this node look for the others at these addresses.
    pub fn look_at(self, new: Places) -> Result<(), String> {
        for id in new.keys() {
            if !self.others().any(|m| m.id == *id) {
                return Err(format!("there is no other member called {id:?}"));
            }
        }
        let mut all = places::said(&self.folder)?;
        all.extend(new);
        places::say(&self.folder, &all)
    }
}

/// Set the store in `folder` aside, so that the node joins anew at its next start. Returns where it is now.
///
/// The node's key goes first. Others count on what the holder of that key has said that it has stored, and for whom it
/// has voted: with an empty store under the same key, a member could help to elect one who lacks what was agreed on, and
/// a leader that has not heard of anything would send it what comes behind entries that are gone. With a new key it is
/// nobody's member, and is let in when the one with the former key was removed.
pub fn join_anew(folder: &Path) -> Result<PathBuf, String> {
    identity::name_in(folder)?;
    set_aside(folder, || identity::forget_key(folder)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use holdfast_storage::{Options, Store};

    use super::*;
    use crate::identity::{Identity, KeyKept};

    #[test]
    fn who_joins_anew_has_its_name_and_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let before = Identity::of(folder.path(), Some("n1"), &KeyKept::InFile).unwrap();
        let options =
            Options { folder: Some(folder.path().to_owned()), max_entry_bytes: 1 << 20, keep_free: Default::default() };
        let opened = Store::open_member(&options).unwrap();
        // A store that a server has open stays as it is, and so does the key.
        join_anew(folder.path()).unwrap_err();
        assert_eq!(Identity::of(folder.path(), None, &KeyKept::InFile).unwrap().key_hash, before.key_hash);
        drop(opened);
        let aside = join_anew(folder.path()).unwrap();
        assert!(aside.join("state.redb").exists() && !folder.path().join("state.redb").exists());
        let after = Identity::of(folder.path(), None, &KeyKept::InFile).unwrap();
        assert_eq!(after.id, "n1");
        assert_ne!(after.key_hash, before.key_hash);
        // The key is nowhere: nobody can be taken for the member that it was.
        let keys = |folder: &Path| {
            fs::read_dir(folder).unwrap().filter(|e| e.as_ref().unwrap().path().ends_with("key.pem")).count()
        };
        assert_eq!((keys(&aside), keys(&folder.path().join(identity::FOLDER))), (0, 1));
    }
}
