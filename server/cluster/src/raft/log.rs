//! The store's log as openraft calls it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use holdfast_storage::{Done, RaftLog, Replica};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::types::{self, Entry, LogId, Types, Vote};

/// Bytes of entries that are read for one message.
const MESSAGE_BYTES: usize = 2 << 20;

#[derive(Clone)]
pub struct LogStore {
    log: RaftLog,
    replica: Replica,
}

impl LogStore {
    pub fn new(replica: &Replica) -> LogStore {
        LogStore { log: replica.log().clone(), replica: replica.clone() }
    }

    fn read(&self, from: u64, to: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        self.log.read(from + 1, to.saturating_add(1), bytes)?.into_iter().map(types::entry).collect()
    }
}

/// Give an order that answers, and wait for the answer.
async fn finished(order: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, done) = oneshot::channel();
    order(Box::new(move |outcome| {
        let _nobody_waits = sender.send(outcome);
    }));
    done.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX - 1,
        };
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, MESSAGE_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(types::vote))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let (purged, last) = self.log.ends();
        Ok(LogState { last_purged_log_id: purged.map(types::log_id), last_log_id: last.map(types::log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        finished(|done| self.log.save_vote(types::keep_vote(vote), done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let records = entries.into_iter().map(|e| types::record(&e)).collect();
        self.log.append(records, Box::new(move |outcome| callback.io_completed(outcome)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        finished(|done| self.log.truncate_after(last.map_or(0, |id| types::mark(&id).index), done)).await
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
        let mark = types::mark(&id);
        // What is forgotten here must be on the disk there.
        if self.replica.checkpointed().index < mark.index {
            self.replica.checkpoint().await.map_err(io::Error::other)?;
        }
        finished(|done| self.log.purge(mark, done)).await
    }
}
