//! Counts of one rule: each client has so many requests in an interval that begins with its first.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const SHARDS: usize = 16;
/// Clients that are counted at most in a shard; then those whose interval is over go, and if none is, the rule counts
/// new clients together.
const CLIENTS: usize = 4096;

/// How often room is made at most.
const SWEEP: Duration = Duration::from_secs(1);

pub struct Limiter {
    limit: u64,
    interval: Duration,
    block: Duration,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    clients: HashMap<String, Count>,
    /// When those whose interval is over were looked for last, while there was no room.
    swept: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    /// Boot time at which the interval began.
    began: Duration,
    taken: u64,
    /// The client stays out until then.
    blocked_until: Duration,
}

/// What is said to a request.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    pub left: u64,
    pub resets_in: Duration,
}

/// So many requests a rate allows: parts of one are rounded, and it is one at least.
pub fn whole(rate: f64) -> u64 {
    // What is too large or no number is the largest, or none.
    (rate.round() as u64).max(1)
}

impl Limiter {
    pub fn new(rate: f64, interval: Duration, block: Duration) -> Limiter {
        Limiter {
            limit: whole(rate),
            interval: interval.max(Duration::from_millis(1)),
            block,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Count a request of a client at a boot time.
    pub fn take(&self, client: &str, now: Duration) -> Verdict {
        let shard = &self.shards[self.hasher.hash_one(client) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let Shard { clients, swept } = &mut *shard;
        // Not for each that finds no room: whoever sends from many addresses would make all of them slow.
        if clients.len() >= CLIENTS && !clients.contains_key(client) && now >= *swept + SWEEP {
            clients.retain(|_, count| count.began + self.interval > now || count.blocked_until > now);
            *swept = now;
        }
        let full = clients.len() >= CLIENTS && !clients.contains_key(client);
        let name = if full { "" } else { client };
        let new = Count { began: now, taken: 0, blocked_until: Duration::ZERO };
        let count = clients.entry(name.to_owned()).or_insert(new);
        if count.blocked_until > now {
            return Verdict { allowed: false, left: 0, resets_in: count.blocked_until - now };
        }
        if now >= count.began + self.interval || count.blocked_until > Duration::ZERO {
            *count = new;
        }
        let resets_in = (count.began + self.interval).saturating_sub(now);
        if count.taken < self.limit {
            count.taken += 1;
            return Verdict { allowed: true, left: self.limit - count.taken, resets_in };
        }
        if self.block > Duration::ZERO {
            count.blocked_until = now + self.block;
            return Verdict { allowed: false, left: 0, resets_in: self.block };
        }
        Verdict { allowed: false, left: 0, resets_in }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(10_000 + ms)
    }

    #[test]
    fn each_client_has_its_own_count_and_a_new_one_when_the_interval_is_over() {
        let limiter = Limiter::new(2.0, at(1000) - at(0), Duration::ZERO);
        let takes = |client: &str, ms| limiter.take(client, at(ms)).allowed;
        assert!(takes("a", 0) && takes("a", 10) && !takes("a", 20));
        assert!(takes("b", 20));
        assert!(!takes("a", 999));
        assert!(takes("a", 1000) && takes("a", 1999) && !takes("a", 1999));
        let verdict = limiter.take("b", at(1019));
        assert_eq!(verdict, Verdict { allowed: true, left: 0, resets_in: Duration::from_millis(1) });
    }

    #[test]
    fn who_asks_for_too_much_stays_out_as_long_as_the_rule_says() {
        let limiter = Limiter::new(1.0, Duration::from_secs(1), Duration::from_secs(60));
        let takes = |ms| limiter.take("a", at(ms)).allowed;
        assert!(takes(0) && !takes(1));
        assert!(!takes(1_500) && !takes(60_000));
        assert!(takes(60_001) && !takes(60_002));
    }

    #[test]
    fn of_sixty_four_clients_at_once_no_more_get_through_than_the_rule_allows() {
        let limiter = Limiter::new(100.0, Duration::from_secs(600), Duration::ZERO);
        let allowed = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        if limiter.take("one address", at(0)).allowed {
                            allowed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(allowed.into_inner(), 100);
    }

    #[test]
    fn more_clients_than_there_is_room_for_are_counted_together() {
        let limiter = Limiter::new(1.0, Duration::from_secs(600), Duration::ZERO);
        let allowed = (0..CLIENTS * SHARDS * 5 / 4).filter(|n| limiter.take(&n.to_string(), at(0)).allowed).count();
        assert!(allowed <= (CLIENTS + 1) * SHARDS);
        assert!(limiter.take("late", at(600_000)).allowed);
    }
}
