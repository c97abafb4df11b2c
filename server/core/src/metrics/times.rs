//! How long something takes: how often, how long together, and quantiles of the last one to two minutes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Counter;

/// Steps of an octave: a quantile is at most about a tenth above the truth.
const STEPS: usize = 8;
/// From about a microsecond to about two minutes; what is beyond counts at the ends.
const FIRST_OCTAVE: u32 = 10;
const OCTAVES: usize = 27;
const BUCKETS: usize = OCTAVES * STEPS;
/// A window lasts so long, at least.
const TURN: Duration = Duration::from_secs(60);

/// The quantiles that are shown.
pub const QUANTILES: [(&str, f64); 3] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)];

/// Taking a time costs three additions; nothing is locked.
pub struct Times {
    pub count: Counter,
    sum_ns: Counter,
    windows: [[AtomicU32; BUCKETS]; 2],
    /// Which window is written to.
    second: AtomicBool,
    turned: Mutex<Instant>,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            count: Counter::default(),
            sum_ns: Counter::default(),
            windows: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0))),
            second: AtomicBool::new(false),
            turned: Mutex::new(*START),
        }
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Times {
    pub fn took(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count.add(1);
        self.sum_ns.add(ns);
        let window = usize::from(self.second.load(Ordering::Relaxed));
        self.windows[window][bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn since(&self, start: Instant) {
        self.took(start.elapsed());
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.get())
    }

    /// The quantiles of [`QUANTILES`]; none: nothing happened lately.
    pub fn quantiles(&self) -> Option<[Duration; 3]> {
        self.turn();
        let counts: Vec<u64> =
            (0..BUCKETS).map(|b| self.windows.iter().map(|w| u64::from(w[b].load(Ordering::Relaxed))).sum()).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return None;
        }
        Some(QUANTILES.map(|(_, q)| {
            let wanted = ((all as f64 * q).ceil() as u64).max(1);
            let mut seen = 0;
            let at = counts.iter().position(|n| {
                seen += n;
                seen >= wanted
            });
            Duration::from_nanos(upper_end(at.unwrap_or(BUCKETS - 1)))
        }))
    }

    /// Write to the other window if this one is old. Who looks turns them.
    fn turn(&self) {
        let mut turned = self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        if turned.elapsed() < TURN {
            return;
        }
        *turned = Instant::now();
        let next = !self.second.load(Ordering::Relaxed);
        for bucket in &self.windows[usize::from(next)] {
            bucket.store(0, Ordering::Relaxed);
        }
        self.second.store(next, Ordering::Relaxed);
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.max(1 << FIRST_OCTAVE);
    let octave = 63 - ns.leading_zeros();
    let step = (ns >> (octave - STEPS.ilog2())) as usize & (STEPS - 1);
    ((octave - FIRST_OCTAVE) as usize * STEPS + step).min(BUCKETS - 1)
}

/// The longest time that a bucket holds, in nanoseconds.
fn upper_end(bucket: usize) -> u64 {
    let octave = FIRST_OCTAVE + (bucket / STEPS) as u32;
    let step = (bucket % STEPS) as u64 + 1;
    (1 << octave) + (step << (octave - STEPS.ilog2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_tenth_and_counts_exact() {
        let times = Times::default();
        assert!(times.quantiles().is_none());
        for ms in 1..=1000 {
            times.took(Duration::from_millis(ms));
        }
        let found = times.quantiles().unwrap();
        for ((_, q), found) in QUANTILES.iter().zip(found) {
            let (right, found) = (q * 1.0, found.as_secs_f64());
            assert!(found >= right * 0.99 && found <= right * 1.13, "{q}: {found}");
        }
        assert_eq!((times.count.get(), times.sum()), (1000, Duration::from_millis(500_500)));
    }

    #[test]
    fn what_is_beyond_the_ends_counts_there() {
        for ns in [0, 1, 1023, 1 << 40, u64::MAX] {
            assert!(bucket(ns) < BUCKETS);
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for b in 1..BUCKETS {
            assert_eq!(bucket(upper_end(b - 1)), b, "each bucket begins where the one before ends");
        }
    }

    #[test]
    fn a_look_after_a_while_begins_a_new_window_and_a_second_one_forgets_the_first() {
        let times = Times::default();
        let age = |times: &Times| *times.turned.lock().unwrap() = Instant::now().checked_sub(TURN).unwrap();
        times.took(Duration::from_secs(1));
        age(&times);
        assert!(times.quantiles().is_some(), "the window before still counts");
        age(&times);
        assert!(times.quantiles().is_none());
        assert_eq!(times.count.get(), 1);
    }
}
