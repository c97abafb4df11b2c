//! A store as a whole, read while no server has it open, and written into a folder that holds none.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, RealDisk};
use crate::replicated::{Committed, changes_of_entry};
use crate::state::{FILE, Snapshot, State, put_in_place};
use crate::stopped::Stopped;
use crate::store::identify;
use crate::{Key, Store, StoreError};

/// The file while it is written.
const UNFINISHED: &str = "state.redb.whole";
/// Bytes that are written in one step.
const STEP_BYTES: usize = 4 << 20;

/// What is copied.
pub enum Whole<'a> {
    /// A store that is no member's.
    Alone(&'a Store),
    /// A member's, with everything that its log holds, agreed on or not: it is its only member.
    Member(&'a Stopped),
}

/// What a folder got.
#[derive(Debug, PartialEq, Eq)]
pub struct Copied {
    pub entries: u64,
    /// The index of the last change. It is the same in the copy, so that what clients remember of it holds.
    pub version: u64,
}

impl Whole<'_> {
    /// Write it into a folder, as a store that is no member's. It is there whole or not at all.
    pub fn copy_to(&self, folder: &Path) -> Result<Copied, StoreError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder)?);
        let names = disk.list().map_err(StoreError::io("cannot list", folder))?;
        if names.iter().any(|n| n == FILE || n.starts_with("log-")) {
            return Err(StoreError::NotEmpty { path: folder.to_owned() });
        }
        let state = State::create(&*disk, UNFINISHED, &Arc::default())?;
        let copied = match self {
            Whole::Alone(store) => {
                let snapshot = store.snapshot();
                Copied { entries: copy(&snapshot, &state)?, version: snapshot.index() }
            }
            Whole::Member(stopped) => copy_member(stopped, &state)?,
        };
        // A store without a first change is none.
        let copied = Copied { version: copied.version.max(1), ..copied };
        state.apply(std::iter::empty(), copied.version)?;
        state.checkpoint()?;
        drop(state);
        // Its own name, and not the source's: nobody takes the log of one for the other's.
        identify(&*disk)?;
        put_in_place(&*disk, UNFINISHED).map_err(StoreError::io("cannot name", disk.path(FILE)))?;
        Ok(copied)
    }
}

fn copy(from: &Snapshot, to: &State) -> Result<u64, StoreError> {
    let (mut last, mut entries): (Option<Key>, u64) = (None, 0);
    loop {
        let start = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let chunk = from.chunk(start, STEP_BYTES)?;
        let Some((key, _)) = chunk.last() else { return Ok(entries) };
        last = Some(key.clone());
        entries += chunk.len() as u64;
        let changes: Vec<_> = chunk.into_iter().map(|(k, v)| (k, Some(v))).collect();
        to.apply(changes.iter(), 0)?;
    }
}

fn copy_member(stopped: &Stopped, to: &State) -> Result<Copied, StoreError> {
    let (snapshot, applied) = stopped.applied()?;
    copy(&snapshot, to)?;
    let mut version = snapshot.index();
    let path = stopped.folder();
    for at in applied.index + 1..=stopped.last().index {
        let record = stopped.entry(at)?;
        let entry = Committed { mark: record.mark, payload: record.payload };
        if let Some((of_entry, changes)) = changes_of_entry(&entry, &path)? {
            version = version.max(of_entry);
            to.apply(changes.iter(), version)?;
        }
    }
    Ok(Copied { entries: to.snapshot()?.len()?, version })
}
