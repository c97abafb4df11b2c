//! The names in a folder.

use std::ops::ControlFlow;

use holdfast_sdk::{Error, Result};
use holdfast_seal::barrier::Segments;
use holdfast_storage::{Snapshot, prefix_end};

use super::store_error;

/// Collects the names of keys that start with the same bytes: a table, and the segments of a folder.
pub(super) struct Listing {
    /// Bytes of each key before its segment.
    pub prefix: usize,
    pub segments: Segments,
    pub names: Vec<String>,
}

impl Listing {
    /// Take in all keys of applied state from `start` on. Folders are stepped over.
    pub fn read(&mut self, applied: &Snapshot, mut start: Vec<u8>, end: Option<&[u8]>) -> Result<()> {
        loop {
            let (mut next, mut failure) = (None, None);
            let visited = applied.keys(&start, end, |key| match self.take(key) {
                // What is no folder has nothing below it.
                Ok(Some(through)) if self.names.last().is_some_and(|n| n.ends_with('/')) => {
                    next = prefix_end(&key[..through]);
                    ControlFlow::Break(())
                }
                Ok(_) => ControlFlow::Continue(()),
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            });
            visited.map_err(store_error)?;
            match (failure, next) {
                (Some(e), _) => return Err(e),
                (None, Some(behind)) => start = behind,
                (None, None) => return Ok(()),
            }
        }
    }

    /// Take in the name of a key. Returns how much of it is the name's place: all below begin with it.
    pub fn take(&mut self, key: &[u8]) -> Result<Option<usize>> {
        let Some((length, rest)) = key.get(self.prefix..).and_then(<[u8]>::split_first_chunk::<2>) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(segment) = rest.get(..length).filter(|_| length > 0) else { return Ok(None) };
        self.names.push(self.segments.decrypt(segment).map_err(Error::internal)?);
        Ok(Some(self.prefix + 2 + length))
    }
}
