//! Reads of a node that stands by, up to a state that the active node has named: one question for all that wait.
//!
//! Whoever comes while a question is under way waits for the next one. An answer counts only for reads that began
//! before it was asked for: then everything that was answered to anybody before the read began is at or below the index
//! that is named, and is applied here before the read goes on. With `stale_reads` an answer counts for a while longer.
//! See docs/decisions/0009-standby-reads.md.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use holdfast_core::clock::{Clocks, SystemClocks};
use holdfast_core::cluster::{Cluster, Later, ReadPoint};
use holdfast_sdk::Timestamp;
use tokio::sync::oneshot;

use crate::node::Node;

/// A read waits no longer until it is passed on; and no question to the active node, or its own to a majority, does.
pub const READ_WITHIN: Duration = Duration::from_secs(1);
/// After a question that was not answered, reads are passed on at once for so long.
const QUIET: Duration = Duration::from_millis(500);
/// Reads that wait at most; others are passed on.
const WAITING: usize = 16_384;

/// The reads that wait.
pub struct Rounds {
    /// For how long an answer counts beyond the reads that waited for it.
    stale: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A question is under way.
    asking: bool,
    /// Who waits for the next one.
    next: Vec<oneshot::Sender<Option<ReadPoint>>>,
    quiet_until: Option<Instant>,
    last: Option<Answered>,
}

/// An answer whose index was applied.
#[derive(Clone, Copy)]
struct Answered {
    point: ReadPoint,
    /// When it was asked for, by the clock that goes on while a machine sleeps.
    asked: Duration,
}

impl Rounds {
    pub fn new(stale: Duration) -> Rounds {
        Rounds { stale, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was answered is applied here: those who waited for it go on.
    fn reached(&self, waiting: Vec<oneshot::Sender<Option<ReadPoint>>>, answered: Answered) {
        {
            let mut state = self.state();
            if state.last.is_none_or(|last| last.asked < answered.asked) {
                state.last = Some(answered);
            }
        }
        tell(waiting, Some(answered.point));
    }

    /// An earlier answer, while it counts. True: it is time to ask again.
    fn counts_yet(&self, state: &State, boot: Duration) -> Option<(ReadPoint, bool)> {
        let Answered { point, asked } = state.last.filter(|_| !self.stale.is_zero())?;
        let age = boot.saturating_sub(asked);
        let later = |t: Timestamp| Timestamp(t.0.saturating_add(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)));
        let point = ReadPoint { now: later(point.now), cluster: later(point.cluster) };
        (age < self.stale).then_some((point, age >= self.stale / 4))
    }
}

impl Node {
    /// A state that is applied here and holds all that was answered before now.
    pub(crate) fn wait_for_point(self: &Arc<Self>) -> Later<Option<ReadPoint>> {
        let mut state = self.rounds.state();
        let known = self.rounds.counts_yet(&state, SystemClocks.boot());
        let is_quiet = state.quiet_until.is_some_and(|until| Instant::now() < until);
        let asks = !is_quiet && known.is_none_or(|(_, asks_again)| asks_again);
        let waiting = match known {
            None if asks && state.next.len() < WAITING => {
                let (sender, answer) = oneshot::channel();
                state.next.push(sender);
                Some(answer)
            }
            _ => None,
        };
        if asks && !std::mem::replace(&mut state.asking, true) {
            self.handle().spawn(ask(Arc::downgrade(self)));
        }
        drop(state);
        match (known, waiting) {
            (Some((point, _)), _) => Box::pin(std::future::ready(Some(point))),
            (None, Some(answer)) => Box::pin(async move { answer.await.ok().flatten() }),
            (None, None) => Box::pin(std::future::ready(None)),
        }
    }

    /// As the leader, for another member that says in `head` what it has applied.
    pub(crate) async fn lead_point(&self, head: &[u8]) -> Option<(u64, ReadPoint)> {
        let group = self.group()?;
        let has = head.try_into().ok().map(u64::from_be_bytes);
        let index = tokio::time::timeout(READ_WITHIN, group.read_index(has)).await.ok()??;
        // It was active when a majority had answered: its own term's entry is applied here, and nobody has sealed it.
        Some((index, self.front()?.point_of_read()?))
    }

    /// Whether readers of this store see the log up to there.
    fn has_applied(&self, index: u64) -> bool {
        self.applied().1 >= index
    }

    async fn leaders_point(&self) -> io::Result<Option<(u64, ReadPoint)>> {
        let leader = self.lead().leader.filter(|(id, _)| *id != self.identity().id);
        let Some((_, leader)) = leader else { return Ok(None) };
        let (_, has) = self.applied();
        let asked = self.links().read_index(&leader, has);
        let answer = tokio::time::timeout(READ_WITHIN, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(decode(&answer))
    }
}

/// Ask until nobody waits.
async fn ask(node: Weak<Node>) {
    let mut first = true;
    loop {
        let Some(node) = node.upgrade() else { return };
        let waiting = {
            let mut state = node.rounds.state();
            let waiting = std::mem::take(&mut state.next);
            // The first round may be for nobody: to know a state before it is asked for.
            if waiting.is_empty() && !first {
                state.asking = false;
                return;
            }
            waiting
        };
        first = false;
        let asked = SystemClocks.boot();
        let answer = node.leaders_point().await.unwrap_or_else(|e| {
            tracing::debug!(error = %e, "the active node named no state to read from; reads are passed on");
            None
        });
        match answer {
            // Where nothing was written lately it is applied already, and no task of its own is to wait for it.
            Some((index, point)) if node.has_applied(index) => node.rounds.reached(waiting, Answered { point, asked }),
            Some((index, point)) => {
                tokio::spawn(async move {
                    let applied = match node.group() {
                        Some(group) => tokio::time::timeout(READ_WITHIN, group.is_applied(index)).await == Ok(true),
                        None => false,
                    };
                    match applied {
                        true => node.rounds.reached(waiting, Answered { point, asked }),
                        false => tell(waiting, None),
                    }
                });
            }
            None => {
                let mut state = node.rounds.state();
                state.quiet_until = Some(Instant::now() + QUIET);
                // They would wait for the same.
                let others = std::mem::take(&mut state.next);
                drop(state);
                tell(waiting, None);
                tell(others, None);
            }
        }
    }
}

fn tell(waiting: Vec<oneshot::Sender<Option<ReadPoint>>>, point: Option<ReadPoint>) {
    for sender in waiting {
        let _has_gone = sender.send(point);
    }
}

/// `index u64 | now u64 | cluster time u64`, big-endian; nothing where this node names no state.
pub fn encode(point: Option<(u64, ReadPoint)>) -> Vec<u8> {
    let Some((index, ReadPoint { now, cluster })) = point else { return Vec::new() };
    [index, now.0, cluster.0].iter().flat_map(|n| n.to_be_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Option<(u64, ReadPoint)> {
    let (index, rest) = bytes.split_first_chunk::<8>()?;
    let (now, rest) = rest.split_first_chunk::<8>()?;
    let cluster: [u8; 8] = rest.try_into().ok()?;
    let time = |bytes: [u8; 8]| Timestamp(u64::from_be_bytes(bytes));
    Some((u64::from_be_bytes(*index), ReadPoint { now: time(*now), cluster: time(cluster) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: ReadPoint = ReadPoint { now: Timestamp(7_000_000_000), cluster: Timestamp(6_000_000_000) };

    #[test]
    fn what_the_active_node_names_comes_as_it_was_sent_and_no_other_bytes_do() {
        let sent = encode(Some((5, POINT)));
        assert_eq!(decode(&sent), Some((5, POINT)));
        assert_eq!(encode(None), b"");
        for cut in 0..sent.len() {
            assert_eq!(decode(&sent[..cut]), None);
        }
        assert_eq!(decode(&[&sent[..], &[0]].concat()), None);
    }

    #[test]
    fn an_earlier_answer_counts_for_as_long_as_reads_may_be_stale_and_never_otherwise() {
        let at = Duration::from_secs;
        let state = State { last: Some(Answered { point: POINT, asked: at(100) }), ..State::default() };
        let exact = Rounds::new(Duration::ZERO);
        assert!(exact.counts_yet(&state, at(100)).is_none());
        let stale = Rounds::new(at(8));
        assert!(stale.counts_yet(&State::default(), at(100)).is_none());
        assert_eq!(stale.counts_yet(&state, at(100)), Some((POINT, false)));
        let (point, asks_again) = stale.counts_yet(&state, at(107)).unwrap();
        // Its clocks have gone on meanwhile: a token may have ended.
        assert_eq!((point.now.secs(), point.cluster.secs(), asks_again), (14, 13, true));
        // A machine that slept knows nothing any more, whatever it counted itself.
        assert!(stale.counts_yet(&state, at(108)).is_none());
        assert!(stale.counts_yet(&state, at(4000)).is_none());
    }
}
