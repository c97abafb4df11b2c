#![forbid(unsafe_code)]
//! Where bytes rest.
//!
//! A [`Store`] is an ordered map of keys to values with serializable transactions and group
//! commit. Keys and values are ciphertext (or ids) when they arrive here: this crate knows no
//! secret, no mount and no token.
//!
//! ```text
//! Store::propose ─ validate, number ─▶ queue ─▶ log thread: append, one fdatasync ─▶ redb ─▶ publish
//! ```
//!
//! * [`log`]: segment files, the only thing that is synced for a commit.
//! * [`state`]: redb, committed without a sync of its own and checkpointed; replayed after a crash.
//! * [`pipeline`]: optimistic validation, the overlay of proposals in flight, latches.
//! * [`sums`]: a checksum of each of redb's blocks, so that nothing has to be read at a start; [`scrub`] reads all of it later.
//! * [`RaftLog`], [`Replica`]: the same for a store that is one of several, which agree on each group.
//! * [`compaction`]: the state machine's file shrinks while the store serves.
//! * [`executor`]: who runs all that: threads, or a simulation.
//! * [`disk`]: files as the log and redb use them.
//! * [`sim`]: a disk in memory that fails, and forgets what was not synced, for tests.
//!
//! The store fails closed: after a failed sync nobody knows what the disk holds, so what was being
//! written is answered [`CommitError::Unknown`], and everything after it is refused until the store
//! is opened again and reads what is there. A full disk is no such failure: writes are refused with
//! [`CommitError::Full`] and go on by themselves.

mod changes;
pub mod compaction;
pub mod disk;
mod error;
pub mod executor;
pub mod level;
pub mod log;
mod member_writer;
mod node_records;
pub mod pipeline;
mod raft_log;
mod redb_file;
mod replicated;
mod scrub;
pub mod sim;
pub mod state;
mod stopped;
mod store;
mod sums;
mod whole;
mod writer;

pub use compaction::{CompactError, CompactionInfo, Phase};
pub use disk::KeepFree;
pub use error::{CommitError, StoreError};
pub use member_writer::members_parts;
pub use pipeline::{Latch, Proposal, Resolve, Ticket, View, Write};
pub use raft_log::{Done, RaftLog, Record, Vote};
pub use replicated::{Agreeing, Agreement, Answer, Committed, Disagreement, Frozen, Received, Replica, payload};
pub use state::{Mark, RESTORE_KEY, STAGED, Snapshot, panics_are_errors, staged_key};
pub use stopped::{Stopped, set_aside};
pub use store::{Applied, Options, Store, StoreInfo};
pub use whole::{Copied, Whole};

/// A storage key: opaque, ordered bytes, shared between a proposal, what is remembered of it, and whoever is told.
pub type Key = std::sync::Arc<[u8]>;
/// A stored value, shared between the log, the overlay and the state machine.
pub type Value = std::sync::Arc<[u8]>;

/// The end of the range of keys that start with `prefix`; `None`: there is no such end.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_start_with_it() {
        assert_eq!(prefix_end(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
