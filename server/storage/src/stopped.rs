//! A member's store that no server has open: what it holds, and how its members are set anew where they cannot
//! agree on it any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use crate::disk::{Disk, RealDisk};
use crate::executor::{Executor, Threads};
use crate::raft_log::{RaftLog, Record, Vote};
use crate::replicated::payload;
use crate::state::{FILE, Mark, Snapshot, State};
use crate::store::identify;
use crate::{StoreError, member_writer};

/// Of a store's folder, what belongs to the node and not to its store.
const OF_THE_NODE: &[&str] = &["node", "lock"];
/// Folders of stores that were set aside begin with it.
const ASIDE: &str = "set-aside-";

/// The store, locked against servers.
pub struct Stopped {
    disk: Arc<dyn Disk>,
    state: State,
    log: RaftLog,
    /// Where the state machine is on the disk.
    applied: Mark,
    members: Vec<u8>,
}

impl Stopped {
    /// Open a member's store.
    pub fn open(folder: &Path) -> Result<Stopped, StoreError> {
        let none = || StoreError::NoMember { path: folder.to_owned() };
        // Nothing is made where nothing is.
        if !folder.join(FILE).exists() {
            return Err(none());
        }
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder)?);
        let identity = identify(&*disk)?;
        let state = State::open(Some(&*disk))?.0;
        let (applied, members) = state.replicated()?.ok_or_else(none)?;
        let threads: Arc<dyn Executor> = Arc::new(Threads::default());
        let log = RaftLog::open(Some(disk.clone()), identity, &threads)?;
        Ok(Stopped { disk, state, log, applied, members })
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.disk.path("")
    }

    /// The state machine as it is on the disk, and where it is in the log.
    pub(crate) fn applied(&self) -> Result<(Arc<Snapshot>, Mark), StoreError> {
        Ok((self.state.snapshot()?, self.applied))
    }

    /// An entry of its log.
    pub(crate) fn entry(&self, index: u64) -> Result<Record, StoreError> {
        let found =
            self.log.read(index, index + 1, 0).map_err(StoreError::io("cannot read the log in", self.folder()))?;
        found.into_iter().next().ok_or_else(|| StoreError::Damaged {
            path: self.folder(),
            detail: format!("entry {index} is missing in the log"),
        })
    }

    /// The last entry of its log.
    pub fn last(&self) -> Mark {
        self.log.ends().1.unwrap_or(self.applied).max(self.applied)
    }

    pub fn vote(&self) -> Option<Vote> {
        self.log.vote()
    }

    /// The members by the last entry that names them, agreed on or not, in the form of whoever agrees.
    pub fn members(&self) -> Result<Vec<u8>, StoreError> {
        let fail = StoreError::io("cannot read the log in", self.disk.path(""));
        let first = self.applied.index + 1;
        // From the end: the last one counts.
        for at in (first..=self.last().index).rev() {
            match self.log.read(at, at + 1, 0) {
                Ok(found) => {
                    if let Some(members) = found.first().and_then(|r| r.payload.strip_prefix(&[payload::MEMBERS])) {
                        return Ok(members.to_vec());
                    }
                }
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(member_writer::members_parts(&self.members).map(|(_, members)| members.to_vec()).unwrap_or_default())
    }

    /// Let everything that its log holds count, and these be the members from here on, as `node` alone says in a
    /// term that nobody has seen.
    pub fn set_members(self, node: &str, members: &[u8]) -> Result<(), StoreError> {
        let fail = StoreError::io("cannot write the log in", self.disk.path(""));
        let last = self.last();
        let term = last.term.max(self.log.vote().map_or(0, |v| v.term)) + 1;
        let mark = Mark { term, index: last.index + 1 };
        let payload = [&[payload::MEMBERS][..], members].concat().into();
        let (sender, done) = channel();
        let again = sender.clone();
        let vote = Vote { term, node: node.to_owned(), committed: false };
        self.log.save_vote(vote, Box::new(move |outcome| drop(again.send(outcome))));
        let record = Record { mark, payload };
        self.log.append(vec![record], Box::new(move |outcome| drop(sender.send(outcome))));
        let written = done.iter().collect::<Result<(), _>>();
        self.log.close();
        written.map_err(fail)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.log.close();
    }
}

/// Put all that a stopped store has in a folder beside, so that the node can join anew. Its name stays. `first` is done
/// when nobody else has the store, before anything is moved. Returns the folder.
pub fn set_aside(folder: &Path, first: impl FnOnce() -> io::Result<()>) -> Result<PathBuf, StoreError> {
    let _nobody_else: RealDisk = RealDisk::open(folder)?;
    first().map_err(StoreError::io("cannot prepare to set aside the store in", folder))?;
    let aside = (1..).map(|n| folder.join(format!("{ASIDE}{n}"))).find(|p| !p.exists());
    let aside = aside.unwrap_or_else(|| folder.join(ASIDE));
    let fail = |what| StoreError::io(what, &aside);
    fs::create_dir(&aside).map_err(fail("cannot create"))?;
    for entry in fs::read_dir(folder).map_err(fail("cannot list the folder of"))? {
        let name = entry.map_err(fail("cannot list the folder of"))?.file_name();
        let stays = name.to_str().is_some_and(|n| OF_THE_NODE.contains(&n) || n.starts_with(ASIDE));
        if !stays {
            fs::rename(folder.join(&name), aside.join(&name)).map_err(fail("cannot move files to"))?;
        }
    }
    for folder in [&*aside, folder] {
        fs::File::open(folder).and_then(|f| f.sync_all()).map_err(fail("cannot sync"))?;
    }
    Ok(aside)
}
