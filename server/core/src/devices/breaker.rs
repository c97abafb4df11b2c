//! Whether a device is there: who asks for one that went away waits a while, and is refused at once when it stays away.
//!
//! One call at a time tries whether it is back; the others wait for what comes of that.

use std::time::{Duration, Instant};

use holdfast_hsm::device::DeviceError;

/// A device that is away for longer keeps nobody waiting any more.
const GRACE: Duration = Duration::from_secs(10);
/// Between two tries: at first, doubled with each one in vain, up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What a call is told before it goes to the device.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    Go,
    /// Go, and tell the others whether it is back.
    Try,
    /// Somebody tries, or will at this time.
    Wait(Instant),
    Refused(DeviceError),
}

/// The state of one device.
#[derive(Debug, Default)]
pub struct Breaker(Option<Away>);

#[derive(Debug)]
struct Away {
    since: Instant,
    tries: u32,
    next: Instant,
    is_tried: bool,
    error: DeviceError,
}

/// Whether an error says that the device, or the way to it, is gone. What it has answered tells that it is there.
pub fn is_away(error: &DeviceError) -> bool {
    error.class.is_away()
}

impl Breaker {
    pub fn enter(&mut self, now: Instant) -> Way {
        let Some(away) = &mut self.0 else { return Way::Go };
        if !away.is_tried && now >= away.next {
            away.is_tried = true;
            return Way::Try;
        }
        if now.saturating_duration_since(away.since) >= GRACE {
            return Way::Refused(away.error.clone());
        }
        // The end of the grace is a time to look again, too.
        Way::Wait(if away.is_tried { away.since + GRACE } else { away.next })
    }

    /// A call has ended: what the device said, if it failed.
    pub fn note(&mut self, now: Instant, failed: Option<&DeviceError>, tried: bool) {
        let Some(error) = failed.filter(|error| is_away(error)) else {
            self.0 = None;
            return;
        };
        match &mut self.0 {
            None => {
                self.0 =
                    Some(Away { since: now, tries: 0, next: now + PAUSE.0, is_tried: false, error: error.clone() });
            }
            // What was sent before it went away says nothing new.
            Some(_) if !tried => {}
            Some(away) => {
                away.tries = away.tries.saturating_add(1);
                let pause = PAUSE.0.saturating_mul(1 << away.tries.min(10)).min(PAUSE.1);
                away.next = now + pause;
                away.is_tried = false;
                away.error = error.clone();
            }
        }
    }

    /// Who tried has given up before an answer: the next one tries.
    pub fn give_up(&mut self) {
        if let Some(away) = &mut self.0 {
            away.is_tried = false;
        }
    }

    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_hsm::device::DeviceErrorClass as Class;

    use super::*;

    fn gone() -> DeviceError {
        DeviceError::new(Class::Gone, "the token is not there")
    }

    #[test]
    fn who_asks_for_a_device_that_went_away_waits_while_one_tries() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.enter(start), Way::Go);
        breaker.note(start, Some(&gone()), false);
        assert!(breaker.is_open());
        assert_eq!(breaker.enter(start), Way::Wait(start + PAUSE.0));
        let later = start + PAUSE.0;
        assert_eq!(breaker.enter(later), Way::Try);
        // The next one waits for what comes of it.
        assert_eq!(breaker.enter(later), Way::Wait(start + GRACE));
        breaker.note(later, None, true);
        assert_eq!(breaker.enter(later), Way::Go);
    }

    #[test]
    fn a_device_that_stays_away_keeps_nobody_waiting() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.note(start, Some(&gone()), false);
        let (mut now, mut tries) = (start, 0);
        while now < start + Duration::from_secs(120) {
            if breaker.enter(now) == Way::Try {
                breaker.note(now, Some(&gone()), true);
                tries += 1;
            }
            now += Duration::from_millis(50);
        }
        assert!((10..25).contains(&tries), "{tries} tries in two minutes");
        assert_eq!(breaker.enter(now), Way::Refused(gone()));
    }

    #[test]
    fn a_try_that_is_given_up_leaves_the_next_one_to_another() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.note(start, Some(&gone()), false);
        assert_eq!(breaker.enter(start + PAUSE.0), Way::Try);
        breaker.give_up();
        assert_eq!(breaker.enter(start + PAUSE.0), Way::Try);
    }

    #[test]
    fn what_a_device_answers_tells_that_it_is_there() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.note(start, Some(&gone()), false);
        assert_eq!(breaker.enter(start + PAUSE.0), Way::Try);
        breaker.note(start + PAUSE.0, Some(&DeviceError::new(Class::KeyMissing, "no such key")), true);
        assert!(!breaker.is_open());
    }
}
