#![forbid(unsafe_code)]
//! Whether a history of one key could have been made by one register that does one thing at a time (Herlihy and
//! Wing's linearizability), found as Wing and Gong do, with states that were seen before left out (Lowe).
//!
//! The register is a key of kv version 2: a version that each write raises, and a value that a deletion takes away.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Read,
    /// Write a value, where the version is this, if one is named.
    Put {
        value: u64,
        cas: Option<u64>,
    },
    Delete,
}

/// What it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Version 0: there is nothing.
    Found {
        version: u64,
        value: Option<u64>,
    },
    Written {
        version: u64,
    },
    Deleted,
    /// The version was another one.
    Refused,
    /// It may have been done, now or later, or never.
    Unknown,
}

/// One thing that a client did, with the times of asking and of the answer since the history began.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    pub begin: Duration,
    pub end: Duration,
    pub asked: Asked,
    pub answered: Answered,
    /// Through which node.
    pub node: usize,
    /// It was read by that node itself, while it stood by.
    pub standing_by: bool,
}

impl Act {
    /// The highest version at which this can still happen.
    fn highest_before(&self) -> u64 {
        match self.answered {
            Answered::Found { version, .. } => version,
            Answered::Written { version } => version.saturating_sub(1),
            Answered::Deleted | Answered::Refused | Answered::Unknown => u64::MAX,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Act { begin, end, asked, answered, node, standing_by } = self;
        let by = if *standing_by { ", which stands by" } else { "" };
        write!(
            f,
            "{:10.4} to {:10.4} s, node {node}{by}: {asked:?} {answered:?}",
            begin.as_secs_f64(),
            end.as_secs_f64()
        )
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Register {
    version: u64,
    value: Option<u64>,
}

impl Register {
    /// The register after an act; `None`: the act cannot have happened here.
    fn after(self, act: &Act) -> Option<Register> {
        let Register { version, .. } = self;
        let unknown = act.answered == Answered::Unknown;
        match act.asked {
            Asked::Read => {
                let Answered::Found { version, value } = act.answered else { return unknown.then_some(self) };
                (self == Register { version, value }).then_some(self)
            }
            Asked::Put { cas: Some(cas), .. } if cas != version => {
                (unknown || act.answered == Answered::Refused).then_some(self)
            }
            Asked::Put { value, .. } => {
                let next = Register { version: version + 1, value: Some(value) };
                (unknown || act.answered == Answered::Written { version: next.version }).then_some(next)
            }
            Asked::Delete => (unknown || act.answered == Answered::Deleted).then_some(Register { value: None, ..self }),
        }
    }
}

/// Which acts are in their place already: a bit for each.
type Placed = Box<[u64]>;

/// One way to go on: the acts in their place, and the register behind them.
struct Way {
    placed: Placed,
    register: Register,
}

/// The same, where a node that stands by may have read what was true so long before it was asked.
pub fn is_stale_by(acts: &[Act], bound: Duration) -> bool {
    let earlier = |act: &Act| Act { begin: act.begin.saturating_sub(bound), ..*act };
    let acts: Vec<Act> = acts.iter().map(|a| if a.standing_by { earlier(a) } else { *a }).collect();
    is_linearizable(&acts)
}

/// Whether there is an order of the acts, each between its asking and its answer, in which each answer is right.
/// Unknown ones may come at any time behind their asking, or never.
pub fn is_linearizable(acts: &[Act]) -> bool {
    let mut acts = acts.to_vec();
    acts.sort_by_key(|a| a.begin);
    let is_known = |i: usize| acts[i].answered != Answered::Unknown;
    let known = (0..acts.len()).filter(|i| is_known(*i)).count();
    let begin = Way { placed: vec![0; acts.len().div_ceil(64)].into(), register: Register::default() };
    let mut seen = HashSet::from([(begin.placed.clone(), begin.register)]);
    let mut ways = vec![begin];
    while let Some(Way { placed, register }) = ways.pop() {
        let is_placed = |i: usize| placed[i / 64] >> (i % 64) & 1 == 1;
        if (0..acts.len()).filter(|i| is_known(*i) && is_placed(*i)).count() == known {
            return true;
        }
        // Nothing may stand before what had ended when it was asked for.
        let open = (0..acts.len()).filter(|i| !is_placed(*i));
        let first_end = open.clone().filter(|i| is_known(*i)).map(|i| acts[i].end).min().unwrap_or(Duration::MAX);
        let next = || open.clone().take_while(|i| acts[*i].begin <= first_end);
        // A read that is right here may as well stand here: it changes nothing.
        let right =
            next().find(|i| acts[*i].asked == Asked::Read && is_known(*i) && register.after(&acts[*i]).is_some());
        for i in right.map_or_else(|| next().collect(), |i| vec![i]) {
            let Some(register) = register.after(&acts[i]) else { continue };
            // A version never falls: what saw an earlier one has no place any more.
            if open.clone().any(|other| other != i && register.version > acts[other].highest_before()) {
                continue;
            }
            let mut placed = placed.clone();
            placed[i / 64] |= 1 << (i % 64);
            if seen.insert((placed.clone(), register)) {
                ways.push(Way { placed, register });
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(begin: u64, end: u64, asked: Asked, answered: Answered) -> Act {
        Act {
            begin: Duration::from_millis(begin),
            end: Duration::from_millis(end),
            asked,
            answered,
            node: 0,
            standing_by: false,
        }
    }

    fn put(begin: u64, end: u64, value: u64, version: u64) -> Act {
        act(begin, end, Asked::Put { value, cas: None }, Answered::Written { version })
    }

    fn lost(begin: u64, value: u64) -> Act {
        act(begin, begin + 1, Asked::Put { value, cas: None }, Answered::Unknown)
    }

    fn cas(begin: u64, end: u64, value: u64, cas: u64, answered: Answered) -> Act {
        act(begin, end, Asked::Put { value, cas: Some(cas) }, answered)
    }

    fn read(begin: u64, end: u64, version: u64, value: Option<u64>) -> Act {
        act(begin, end, Asked::Read, Answered::Found { version, value })
    }

    #[test]
    fn histories_of_one_register_are_taken() {
        for good in [
            vec![],
            vec![read(0, 1, 0, None)],
            vec![put(0, 1, 7, 1), read(2, 3, 1, Some(7))],
            // A read beside a write sees it or does not.
            vec![put(0, 9, 7, 1), read(1, 2, 0, None), read(3, 4, 1, Some(7))],
            // Two writes at a time, in either order.
            vec![put(0, 9, 7, 2), put(0, 9, 8, 1), read(10, 11, 2, Some(7))],
            // Nobody knows of a write: it is seen late, or never.
            vec![lost(0, 7), read(5, 6, 0, None), read(7, 8, 1, Some(7))],
            vec![lost(0, 7), put(5, 6, 8, 1), read(7, 8, 1, Some(8))],
            vec![lost(0, 7), put(5, 6, 8, 2), read(7, 8, 2, Some(8))],
            vec![put(0, 1, 7, 1), cas(2, 3, 8, 1, Answered::Written { version: 2 }), read(4, 5, 2, Some(8))],
            vec![put(0, 1, 7, 1), cas(2, 3, 8, 0, Answered::Refused), read(4, 5, 1, Some(7))],
            vec![
                put(0, 1, 7, 1),
                act(2, 3, Asked::Delete, Answered::Deleted),
                read(4, 5, 1, None),
                put(6, 7, 8, 2),
                read(8, 9, 2, Some(8)),
            ],
        ] {
            assert!(is_linearizable(&good), "{good:?}");
        }
    }

    #[test]
    fn histories_that_no_register_makes_are_found_out() {
        for (bad, why) in [
            (vec![read(0, 1, 1, Some(7))], "a value that nobody wrote"),
            (vec![put(0, 1, 7, 1), read(2, 3, 0, None)], "a write that was acknowledged and lost"),
            (vec![put(0, 1, 7, 1), put(2, 3, 8, 2), read(4, 5, 1, Some(7))], "a stale read"),
            (vec![put(0, 9, 7, 1), read(1, 2, 1, Some(7)), read(3, 4, 0, None)], "a value that is seen and unseen"),
            (vec![put(0, 1, 7, 1), put(2, 3, 8, 1)], "two writes of one version"),
            (vec![put(0, 1, 7, 1), put(2, 3, 8, 3)], "a version that nobody wrote"),
            (
                vec![
                    put(0, 1, 7, 1),
                    cas(2, 9, 8, 1, Answered::Written { version: 2 }),
                    cas(2, 9, 9, 1, Answered::Written { version: 2 }),
                ],
                "two that have won",
            ),
            (vec![put(0, 1, 7, 1), cas(2, 3, 8, 1, Answered::Refused)], "a refusal without a cause"),
            (vec![lost(0, 7), read(2, 3, 1, Some(7)), read(4, 5, 0, None)], "a write that is taken back"),
            (vec![read(0, 1, 1, Some(7)), lost(5, 7)], "a write that is seen before it is asked for"),
            (
                vec![put(0, 1, 7, 1), act(2, 3, Asked::Delete, Answered::Deleted), read(4, 5, 1, Some(7))],
                "a deletion that is lost",
            ),
        ] {
            assert!(!is_linearizable(&bad), "{why}");
        }
    }

    #[test]
    fn reads_of_nodes_that_stand_by_may_be_as_stale_as_they_are_allowed_and_no_staler() {
        let by_standby = |begin, end, version, value| Act { standing_by: true, ..read(begin, end, version, value) };
        let written = [put(0, 10, 7, 1), put(20, 30, 8, 2)];
        let with = |read: Act| [&written[..], &[read]].concat();
        let bound = Duration::from_millis(100);
        // What was true 90 ms before it was asked for, and what was 110 ms before.
        for (begin, may) in [(120, true), (130, true), (131, false), (500, false)] {
            let acts = with(by_standby(begin, begin + 5, 1, Some(7)));
            assert_eq!(is_stale_by(&acts, bound), may, "asked at {begin}");
            assert!(!is_linearizable(&acts));
        }
        // The active node reads what is true.
        assert!(!is_stale_by(&with(read(40, 45, 1, Some(7))), bound));
        // What nobody wrote, what is not written yet, and what was taken back is wrong however stale.
        for never in [by_standby(40, 45, 1, Some(9)), by_standby(0, 15, 2, Some(8)), by_standby(40, 45, 3, Some(8))] {
            assert!(!is_stale_by(&with(never), Duration::from_secs(3600)), "{never}");
        }
        // Each may see another state, an older one behind a newer one too: nothing was promised.
        let acts = [&written[..], &[by_standby(40, 45, 2, Some(8)), by_standby(50, 55, 1, Some(7))]].concat();
        assert!(is_stale_by(&acts, bound));
    }

    #[test]
    fn one_stale_read_is_found_among_many_acts_that_overlap() {
        let mut acts = Vec::new();
        for n in 0..60 {
            acts.push(put(n * 10, n * 10 + 25, n, n + 1));
            acts.push(read(n * 10 + 26, n * 10 + 29, n + 1, Some(n)));
            acts.push(lost(n * 10 + 1, 1000 + n));
        }
        // The next write may have come before each of these reads or not: as they stand, it had not.
        acts.truncate(150);
        assert!(is_linearizable(&acts));
        let last = acts.iter().filter(|a| a.asked == Asked::Read).map(|a| a.end).max().unwrap();
        acts.push(Act {
            begin: last + Duration::from_millis(40),
            end: last + Duration::from_millis(50),
            ..read(0, 0, 3, Some(2))
        });
        assert!(!is_linearizable(&acts));
    }
}
