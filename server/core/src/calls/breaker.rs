//! Whether a device is there: who asks for one that went away waits a while, and is refused at once when it stays away.
//!
//! One call at a time tries whether it is back; the others wait for what comes of that.

use std::time::{Duration, Instant};

/// A device that is away for longer keeps nobody waiting any more.
pub const GRACE: Duration = Duration::from_secs(10);
/// Between the first two tries; doubled with each one in vain.
const PAUSE: Duration = Duration::from_millis(250);

/// What a call is told before it goes to the device.
#[derive(Debug, PartialEq, Eq)]
pub enum Way<E> {
    Go,
    /// Go, and tell the others whether it is back.
    Try,
    /// Somebody tries, or will at this time.
    Wait(Instant),
    Refused(Absence<E>),
}

/// Since when a device is away, and what it said when it was asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence<E> {
    pub since: Instant,
    pub error: E,
}

/// The state of one device.
#[derive(Debug)]
pub struct Breaker<E> {
    away: Option<Away<E>>,
    longest_pause: Duration,
}

#[derive(Debug)]
struct Away<E> {
    absence: Absence<E>,
    tries: u32,
    next: Instant,
    is_tried: bool,
}

impl<E: Clone> Breaker<E> {
    /// Tries are no further apart than this.
    pub fn new(longest_pause: Duration) -> Breaker<E> {
        Breaker { away: None, longest_pause }
    }

    pub fn enter(&mut self, now: Instant) -> Way<E> {
        let Some(away) = &mut self.away else { return Way::Go };
        if !away.is_tried && now >= away.next {
            away.is_tried = true;
            return Way::Try;
        }
        if away.is_for_long(now) {
            return Way::Refused(away.absence.clone());
        }
        // The end of the grace is a time to look again, too.
        Way::Wait(if away.is_tried { away.absence.since + GRACE } else { away.next })
    }

    /// A call has ended: what it says of the device's being away; None: it has answered. True: it went away with this.
    pub fn note(&mut self, now: Instant, gone: Option<&E>, tried: bool) -> bool {
        let Some(error) = gone else {
            self.away = None;
            return false;
        };
        match &mut self.away {
            None => {
                let absence = Absence { since: now, error: error.clone() };
                self.away = Some(Away { absence, tries: 0, next: now + PAUSE, is_tried: false });
                return true;
            }
            // What was sent before it went away says nothing new.
            Some(_) if !tried => {}
            Some(away) => {
                away.tries = away.tries.saturating_add(1);
                away.next = now + PAUSE.saturating_mul(1 << away.tries.min(10)).min(self.longest_pause);
                away.is_tried = false;
                away.absence.error = error.clone();
            }
        }
        false
    }

    /// How it is away, if it is.
    pub fn absence(&self) -> Option<&Absence<E>> {
        self.away.as_ref().map(|away| &away.absence)
    }

    /// The same if it has been for so long that nobody waits for it.
    pub fn long_absence(&self, now: Instant) -> Option<&Absence<E>> {
        self.away.as_ref().filter(|away| away.is_for_long(now)).map(|away| &away.absence)
    }
}

impl<E> Breaker<E> {
    /// Who tried has given up before an answer: the next one tries.
    pub fn give_up(&mut self) {
        if let Some(away) = &mut self.away {
            away.is_tried = false;
        }
    }
}

impl<E> Away<E> {
    fn is_for_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.absence.since) >= GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);
    const GONE: &str = "the token is not there";

    #[test]
    fn who_asks_for_a_device_that_went_away_waits_while_one_tries() {
        let start = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        assert_eq!(breaker.enter(start), Way::Go);
        assert!(breaker.note(start, Some(&GONE), false));
        assert!(breaker.absence().is_some());
        assert_eq!(breaker.enter(start), Way::Wait(start + PAUSE));
        let later = start + PAUSE;
        assert_eq!(breaker.enter(later), Way::Try);
        // The next one waits for what comes of it.
        assert_eq!(breaker.enter(later), Way::Wait(start + GRACE));
        assert!(!breaker.note(later, None, true));
        assert_eq!(breaker.enter(later), Way::Go);
    }

    #[test]
    fn a_device_that_stays_away_keeps_nobody_waiting() {
        let start = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        breaker.note(start, Some(&GONE), false);
        let (mut now, mut tries) = (start, 0);
        while now < start + Duration::from_secs(120) {
            if breaker.enter(now) == Way::Try {
                assert!(!breaker.note(now, Some(&GONE), true), "it was away before");
                tries += 1;
            }
            now += Duration::from_millis(50);
        }
        assert!((10..25).contains(&tries), "{tries} tries in two minutes");
        assert_eq!(breaker.enter(now), Way::Refused(Absence { since: start, error: GONE }));
    }

    #[test]
    fn a_try_that_is_given_up_leaves_the_next_one_to_another() {
        let start = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        breaker.note(start, Some(&GONE), false);
        assert_eq!(breaker.enter(start + PAUSE), Way::Try);
        breaker.give_up();
        assert_eq!(breaker.enter(start + PAUSE), Way::Try);
    }

    #[test]
    fn what_was_sent_before_it_went_away_says_nothing_new() {
        let start = Instant::now();
        let mut breaker = Breaker::new(LONGEST);
        breaker.note(start, Some(&GONE), false);
        breaker.note(start + PAUSE, Some(&"later"), false);
        assert_eq!(breaker.absence(), Some(&Absence { since: start, error: GONE }));
        assert_eq!(breaker.enter(start + PAUSE), Way::Try);
    }
}
