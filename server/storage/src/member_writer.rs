//! What the log thread of a cluster's member does: it applies what was agreed on, makes it durable, and takes
//! whole state machines from elsewhere.

use std::sync::Arc;

use crate::pipeline::lock;
use crate::replicated::{Committed, Frozen, Received, Shared, Work, changes_of_entry, payload};
use crate::state::{Change, FILE, Mark, RESTORE_KEY, put_in_place};
use crate::writer::{Failure, Writer};
use crate::{Key, StoreError};

/// Bytes that an entry takes in the log beside its payload, about.
const ENTRY_OVERHEAD: u64 = 40;

impl Writer {
    /// Do what is asked for. False: there was nothing.
    pub(crate) fn work(&mut self, member: &Arc<Shared>) -> bool {
        let mut did_something = false;
        loop {
            let Some(work) = lock(&member.work).pop_front() else { return did_something };
            did_something = true;
            match work {
                Work::Apply(entries, answer) => {
                    let outcome = self.apply_entries(member, &entries);
                    if let Err(e) = &outcome {
                        self.fail(Vec::new(), Failure::Broken { reason: e.to_string(), unknown: true });
                    }
                    let _nobody_waits = answer.send(outcome);
                }
                Work::Checkpoint(answer) => {
                    if self.unsaved > 0 || *lock(&member.checkpointed) != lock(&member.state).0 {
                        self.checkpoint();
                    }
                    let (applied, durable) = (lock(&member.state).0, *lock(&member.checkpointed));
                    // Whoever asks is about to forget the entries: one that failed is no checkpoint of before.
                    let _nobody_waits = answer.send(match durable == applied {
                        true => Ok(durable),
                        false => Err(StoreError::State("it could not be brought to the disk".into())),
                    });
                }
                Work::Snapshot(answer) => {
                    let (mark, members) = lock(&member.state).clone();
                    let _nobody_waits =
                        answer.send(self.state.snapshot().map(|s| Frozen { snapshot: s, mark, members }));
                }
                Work::Install(received, answer) => {
                    let _nobody_waits = answer.send(self.install(member, *received));
                }
            }
        }
    }

    fn apply_entries(&mut self, member: &Arc<Shared>, entries: &[Committed]) -> Result<(), StoreError> {
        let Some(mark) = entries.last().map(|e| e.mark) else { return Ok(()) };
        let path = self.disk.as_ref().map(|d| d.path("log")).unwrap_or_default();
        let mut version = self.inner.current.load().index();
        let mut changes: Vec<Change> = Vec::new();
        let mut members = None;
        for entry in entries {
            if let Some((at, of_entry)) = changes_of_entry(entry, &path)? {
                version = version.max(at);
                changes.extend(of_entry);
            }
            if let Some(found) = entry.payload.strip_prefix(&[payload::MEMBERS]) {
                members = Some(members_from(entry.mark, found));
                // The first member of a cluster begins with it.
                version = version.max(1);
            }
        }
        if changes.iter().any(|(key, _)| **key == *RESTORE_KEY) {
            // What is copied meanwhile is of a store that goes.
            self.inner.compaction.give_up();
        }
        self.state.apply_replicated(changes.iter(), version, Some(mark), members.as_deref())?;
        let snapshot = self.state.snapshot()?;
        self.unsaved += entries.iter().map(|e| e.payload.len() as u64 + ENTRY_OVERHEAD).sum::<u64>();
        {
            let mut state = lock(&member.state);
            state.0 = mark;
            if let Some(members) = members {
                state.1 = members;
            }
        }
        let keys: Vec<Key> = changes.into_iter().map(|(k, _)| k).collect();
        if let Some(hook) = self.inner.applied.get() {
            hook(&keys, version);
        }
        {
            let mut shared = self.inner.pipeline.shared();
            if mark.term != shared.term {
                shared.give_up_readers();
            }
            self.inner.publish(&mut shared, snapshot, &keys);
        }
        *lock(&member.published) = mark;
        self.inner.compaction.note(keys.iter());
        // What opens the store must be there after a loss of power, before anybody leads.
        if keys.iter().any(|k| k.first() == Some(&0) || **k == *RESTORE_KEY) {
            self.checkpoint();
        }
        Ok(())
    }

    fn install(&mut self, member: &Arc<Shared>, received: Received) -> Result<(), StoreError> {
        let Received { state, mut file, version, mark, members } = received;
        // What is copied meanwhile is of a state machine that goes.
        self.inner.compaction.give_up();
        let version = version.max(self.inner.current.load().index());
        state.apply_replicated(std::iter::empty(), version, Some(mark), Some(&members))?;
        state.take_node_records_of(&self.state)?;
        state.checkpoint()?;
        if let Some(disk) = &self.disk {
            let path = disk.path(FILE);
            put_in_place(&**disk, &file.name).map_err(StoreError::io("cannot replace", &path))?;
            file.disk = None;
        }
        let snapshot = state.snapshot()?;
        self.state = state;
        *lock(&member.state) = (mark, members);
        if let Some(hook) = self.inner.applied.get() {
            // Everything may be another than it was.
            hook(&[RESTORE_KEY.into()], version);
        }
        {
            let mut shared = self.inner.pipeline.shared();
            // It is of others, whatever its version.
            shared.give_up_readers();
            self.inner.publish(&mut shared, snapshot, &[]);
        }
        *lock(&member.published) = mark;
        self.is_durable(mark.index);
        Ok(())
    }
}

/// Members with the place in the log from which on they are.
fn members_from(mark: Mark, members: &[u8]) -> Vec<u8> {
    [&mark.term.to_le_bytes()[..], &mark.index.to_le_bytes(), members].concat()
}

/// What [`members_from`] was made of.
pub fn members_parts(kept: &[u8]) -> Option<(Mark, &[u8])> {
    let (term, rest) = kept.split_first_chunk::<8>()?;
    let (index, members) = rest.split_first_chunk::<8>()?;
    Some((Mark { term: u64::from_le_bytes(*term), index: u64::from_le_bytes(*index) }, members))
}

/// Where a member's state machine is when it is opened.
pub(crate) fn opened(member: &Shared, found: Option<(Mark, Vec<u8>)>) {
    if let Some((mark, members)) = found {
        *lock(&member.checkpointed) = mark;
        *lock(&member.published) = mark;
        *lock(&member.state) = (mark, members);
    }
}
