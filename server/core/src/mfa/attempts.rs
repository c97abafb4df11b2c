//! How often somebody has tried to guess a code. In memory only: a restart forgets it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use holdfast_sdk::Timestamp;

use crate::layout::NamespaceId;

/// Counts at a time; the oldest make way.
const MOST: usize = 100_000;

/// An entity, by its namespace and id, and a method.
pub type Who = (NamespaceId, [u8; 16], [u8; 16]);

/// By whom: the number of tries, and when they are forgotten.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<Who, (u64, Timestamp)>>);

impl Attempts {
    /// Count a try. Err: it is one too many, and this is how many there were.
    pub fn begin(&self, who: Who, allowed: u64, window_secs: u64, now: Timestamp) -> Result<(), u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(&who) {
            all.retain(|_, (_, end)| *end > now);
            if all.len() >= MOST
                && let Some(first) = all.iter().min_by_key(|(_, (_, end))| *end).map(|(who, _)| *who)
            {
                all.remove(&first);
            }
        }
        let (tries, end) = all.entry(who).or_insert((0, now.plus_secs(window_secs)));
        if *end <= now {
            (*tries, *end) = (0, now.plus_secs(window_secs));
        }
        *tries = tries.saturating_add(1);
        if *tries > allowed { Err(*tries) } else { Ok(()) }
    }

    /// The try was right.
    pub fn succeeded(&self, who: &Who) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_limited_in_a_window_and_forgotten_behind_it() {
        let (attempts, who, now) = (Attempts::default(), ([0; 16], [1; 16], [2; 16]), Timestamp(1_000_000_000));
        for _ in 0..3 {
            assert_eq!(attempts.begin(who, 3, 30, now), Ok(()));
        }
        assert_eq!(attempts.begin(who, 3, 30, now.plus_secs(29)), Err(4));
        assert_eq!(attempts.begin(([0; 16], [9; 16], [2; 16]), 3, 30, now), Ok(()));
        assert_eq!(attempts.begin(who, 3, 30, now.plus_secs(30)), Ok(()));
        attempts.succeeded(&who);
        for _ in 0..3 {
            assert_eq!(attempts.begin(who, 3, 30, now.plus_secs(31)), Ok(()));
        }
    }
}
