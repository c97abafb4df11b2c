//! Whether a device takes hardly any time for a call.

use std::time::Duration;

/// Calls after which a device that was quick once, and then was not, is believed again; twice as many each further time.
const FIRST_DOUBT: u32 = 1;
const LONGEST_DOUBT: u32 = 1024;
/// Quick calls in a row after which nothing is held against a device.
const TRUSTED: u32 = 16;

/// Learns from how long calls take whether the next one is to be made as one that takes hardly any time: alone, and waited
/// for at once.
///
/// Of calls that were made together, only what each took on average is known: a library that does one at a time is quick
/// then, and so is a device that is slow and does several at once. That shows when one is made alone, and is remembered.
#[derive(Debug)]
pub struct Quickness {
    limit: Duration,
    is_quick: bool,
    /// Quick calls since it was not.
    good: u32,
    /// Calls that are still made the other way.
    doubt: u32,
    next_doubt: u32,
}

impl Quickness {
    /// Calls that take less than `limit` are quick.
    pub fn below(limit: Duration) -> Quickness {
        Quickness { limit, is_quick: false, good: 0, doubt: 0, next_doubt: FIRST_DOUBT }
    }

    /// Whether the next call should be made alone.
    pub fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// A call has ended that was made beside others, itself included.
    pub fn took(&mut self, time: Duration, together: usize) {
        let each = time / u32::try_from(together.max(1)).unwrap_or(u32::MAX);
        if self.is_quick {
            if each < self.limit {
                self.good += 1;
                if self.good >= TRUSTED {
                    self.next_doubt = FIRST_DOUBT;
                }
                return;
            }
            *self = Quickness {
                limit: self.limit,
                is_quick: false,
                good: 0,
                doubt: self.next_doubt,
                next_doubt: (self.next_doubt * 2).min(LONGEST_DOUBT),
            };
        } else if self.doubt > 0 {
            self.doubt -= 1;
        } else {
            self.is_quick = each < self.limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);
    const QUICK: Duration = Duration::from_micros(40);

    #[test]
    fn a_library_that_does_one_thing_at_a_time_is_quick_whoever_asks() {
        let mut device = Quickness::below(LIMIT);
        assert!(!device.is_quick());
        device.took(8 * QUICK, 8);
        assert!(device.is_quick());
        // Something else had the processor for once.
        device.took(20 * QUICK, 1);
        assert!(!device.is_quick());
        device.took(QUICK, 1);
        device.took(QUICK, 1);
        assert!(device.is_quick());
    }

    #[test]
    fn a_slow_device_that_does_several_things_at_once_is_seldom_taken_for_a_quick_one() {
        let mut device = Quickness::below(LIMIT);
        let mut alone = 0;
        for _ in 0..10_000 {
            let together = if device.is_quick() { 1 } else { 8 };
            alone += usize::from(together == 1);
            device.took(6 * LIMIT, together);
        }
        assert!(alone < 20, "{alone}");
    }

    #[test]
    fn a_few_slow_calls_long_ago_are_not_held_against_a_device() {
        let mut device = Quickness::below(LIMIT);
        for _ in 0..100 {
            device.took(QUICK, 1);
            device.took(20 * LIMIT, 1);
            (0..40).for_each(|_| device.took(QUICK, 1));
            assert!(device.is_quick());
        }
    }
}
