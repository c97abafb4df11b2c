//! Whether the machine slept. The clock that measures how long something takes stands still meanwhile, and what was
//! heard before looks younger than it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::clock::Clocks;
use openraft::Instant as _;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use super::types::Types;

/// What openraft measures time with.
type Instant = InstantOf<Types>;

/// Sleep that is not noticed: less than is kept back of a leader's lease.
const UNNOTICED: Duration = Duration::from_millis(5);
/// Both clocks are read within this, or again.
const READ_WITHIN: Duration = Duration::from_millis(1);
const TRIES: u32 = 8;

/// What two clocks have said, of which one goes on while the machine sleeps.
pub struct Sleep {
    clocks: Arc<dyn Clocks>,
    begun: (Instant, Duration),
    /// By how much they are known to be apart, and when that was last found out to be more.
    apart: Mutex<(Duration, Option<Instant>)>,
}

/// The clocks could not be read at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsure;

impl Sleep {
    pub fn new(clocks: Arc<dyn Clocks>) -> Sleep {
        Sleep { begun: (Types::now(), clocks.boot()), apart: Mutex::default(), clocks }
    }

    /// Before when the machine last woke; `None`: it has not slept.
    pub fn woke(&self) -> Result<Option<Instant>, Unsure> {
        for _ in 0..TRIES {
            let before = Types::now();
            let boot = self.clocks.boot();
            let after = Types::now();
            if after - before <= READ_WITHIN {
                return Ok(self.seen(after, boot));
            }
        }
        Err(Unsure)
    }

    fn seen(&self, now: Instant, boot: Duration) -> Option<Instant> {
        // The one that stands still was read last: they are apart by this much at least.
        let apart = boot.saturating_sub(self.begun.1).saturating_sub(now.saturating_duration_since(self.begun.0));
        let mut known = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        if apart > known.0 + UNNOTICED {
            *known = (apart, Some(now));
        }
        known.1
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock::SystemClocks;

    use super::*;

    #[test]
    fn what_was_heard_before_a_sleep_is_known_to_be_older_than_it_looks() {
        let sleep = Sleep::new(Arc::new(SystemClocks));
        let (begun, boot) = sleep.begun;
        let at = |ms| begun + Duration::from_millis(ms);
        let boot_at = |ms| boot + Duration::from_millis(ms);
        assert_eq!(sleep.seen(at(100), boot_at(100)), None);
        // Too little to be noticed, and again: together it is.
        assert_eq!(sleep.seen(at(200), boot_at(204)), None);
        assert_eq!(sleep.seen(at(300), boot_at(308)), Some(at(300)));
        assert_eq!(sleep.seen(at(400), boot_at(408)), Some(at(300)));
        assert_eq!(sleep.seen(at(500), boot_at(3_600_000)), Some(at(500)));
        // A reader that was slower than another one takes nothing back.
        assert_eq!(sleep.seen(at(510), boot_at(600)), Some(at(500)));
    }

    #[test]
    fn a_machine_that_is_awake_has_not_slept() {
        assert_eq!(Sleep::new(Arc::new(SystemClocks)).woke(), Ok(None));
    }
}
