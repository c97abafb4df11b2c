//! Keeps the replicated log small in bytes.
//!
//! openraft counts entries (`trailing_logs`); with entries of 1 MiB ten thousand of them are 10 GiB, which take room on the
//! disk and are read at each start. Members that were away for longer than what is kept get a snapshot.

use std::time::Duration;

use holdfast_storage::RaftLog;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use super::machine::Machine;
use super::types::Types;

const LOOK: Duration = Duration::from_secs(2);

/// Look after the log of a member for as long as it takes part: with more than `most` bytes it is cut so that half of
/// that is left.
pub async fn keep_small(raft: Raft<Types, Machine>, log: RaftLog, most: u64) {
    let mut metrics = raft.server_metrics();
    loop {
        // The store is somebody else's from the moment on that the member has stopped.
        let next = Types::now() + LOOK;
        while let Ok(changed) = Types::timeout_at(next, metrics.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        let Some(last) = log.surplus(most, most / 2) else { continue };
        // openraft counts from 0.
        let last = last - 1;
        let snapshot = raft.metrics().borrow_watched().snapshot.as_ref().map(|id| id.index);
        let asked = match snapshot {
            Some(index) if index >= last => raft.trigger().purge_log(last).await,
            // Only what the state machine has on the disk may go.
            _ => raft.trigger().snapshot().await,
        };
        if asked.is_err() {
            return;
        }
    }
}
