//! Calls of a seal's device: how many at a time, how long they wait for their turn, and whether the device is there.
//!
//! What may be asked twice waits for a device that went away for a moment: one call at a time tries whether it is back,
//! the others wait for what comes of that. One that stays away keeps nobody waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_seal::DeviceRefusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{Counter, Times};

/// Calls of one device that may be under way: of one that hangs, no more threads than these wait.
const AT_ONCE: usize = 4;
/// Calls that wait for their turn. More are refused.
const WAITING: usize = 256;
/// How long a call waits for its turn, and for a device that went away.
const PATIENCE: Duration = Duration::from_secs(10);
/// A device that is away for longer keeps nobody waiting any more.
const GRACE: Duration = Duration::from_secs(10);
/// Between two tries: at first, doubled with each one in vain, up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Of one device.
pub(crate) struct Calls {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    away: Mutex<Option<Away>>,
    /// Held by who tries whether it is back.
    trying: tokio::sync::Mutex<()>,
    pub figures: Figures,
}

/// Calls that got to the device, and those that did not.
#[derive(Default)]
pub(crate) struct Figures {
    pub calls: Times,
    pub failures: Counter,
    /// It was away, or had too much to do.
    pub refused: Counter,
}

#[derive(Debug, Clone)]
struct Away {
    since: Instant,
    tries: u32,
    next: Instant,
    why: String,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: AtomicUsize::default(),
            away: Mutex::default(),
            trying: tokio::sync::Mutex::default(),
            figures: Figures::default(),
        }
    }
}

impl Calls {
    /// The turn of a call of this seal's device. It is held until the device has answered, also when nobody waits for
    /// that any more.
    pub async fn turn(&self, seal: &str) -> Result<OwnedSemaphorePermit, DeviceRefusal> {
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let now = Instant::now();
        if let Some(away) = self.away().filter(|away| away.is_for_long(now)) {
            return Err(self.refused(away.refusal(seal, now)));
        }
        let _waits = self.wait(seal)?;
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| {
            let text = format!(
                "the device of the seal {seal:?} has not answered to earlier calls within {} s: try again in a moment; \
                 sys/seal-backend-status says how it is",
                PATIENCE.as_secs()
            );
            self.refused(DeviceRefusal::new(text, true))
        })
    }

    /// A call has ended.
    pub fn note(&self, refused: Option<&DeviceRefusal>, took: Duration) {
        self.figures.calls.took(took);
        if refused.is_some_and(|refusal| !refusal.custodians) {
            self.figures.failures.add(1);
        }
        let now = Instant::now();
        let mut known = lock(&self.away);
        *known = refused.filter(|refusal| refusal.away).map(|refusal| {
            let (since, tries) = known.as_ref().map_or((now, 0), |away| (away.since, away.tries.saturating_add(1)));
            let pause = PAUSE.0.saturating_mul(1 << tries.min(10)).min(PAUSE.1);
            Away { since, tries, next: now + pause, why: refusal.text.clone() }
        });
    }

    /// Whether it did not answer when it was asked last.
    pub fn is_away(&self) -> bool {
        lock(&self.away).is_some()
    }

    /// Until when a call that can wait does so.
    pub fn deadline() -> Instant {
        Instant::now() + PATIENCE
    }

    /// Wait until it is known that the device is there, or it is this call's turn to try.
    pub async fn until_it_may_be_there(&self, seal: &str, deadline: Instant) -> Result<Go<'_>, DeviceRefusal> {
        let Some(away) = self.away() else { return Ok(Go { _tries: None }) };
        let gives_up = |away: &Away| self.refused(away.refusal(seal, Instant::now()));
        let tries = if away.is_for_long(Instant::now()) {
            self.trying.try_lock().ok()
        } else {
            let _waits = self.wait(seal)?;
            tokio::time::timeout_at(deadline.into(), self.trying.lock()).await.ok()
        };
        // Who had the turn before may have found it.
        let Some(away) = self.away() else { return Ok(Go { _tries: None }) };
        let now = Instant::now();
        if tries.is_none() || away.next > now && (away.is_for_long(now) || away.next > deadline) {
            return Err(gives_up(&away));
        }
        tokio::time::sleep_until(away.next.into()).await;
        Ok(Go { _tries: tries })
    }

    fn away(&self) -> Option<Away> {
        lock(&self.away).clone()
    }

    fn refused(&self, refusal: DeviceRefusal) -> DeviceRefusal {
        self.figures.refused.add(1);
        refusal
    }

    fn wait(&self, seal: &str) -> Result<Waits<'_>, DeviceRefusal> {
        let waits = Waits(self);
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            return Ok(waits);
        }
        let text = format!("the device of the seal {seal:?} has more to do than it can: try again later");
        Err(self.refused(DeviceRefusal::new(text, true)))
    }
}

/// Leave to ask the device. While it is held by one that tries, the others wait.
pub(crate) struct Go<'c> {
    _tries: Option<tokio::sync::MutexGuard<'c, ()>>,
}

/// A call that waits, for as long as it is there.
struct Waits<'c>(&'c Calls);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Away {
    fn is_for_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= GRACE
    }

    fn refusal(&self, seal: &str, now: Instant) -> DeviceRefusal {
        let text = format!(
            "the device of the seal {seal:?} is away for {} s, and is tried again in a moment (sys/seal-backend-status \
             says how it is): {}",
            now.saturating_duration_since(self.since).as_secs(),
            self.why
        );
        DeviceRefusal { away: true, ..DeviceRefusal::new(text, true) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> DeviceRefusal {
        DeviceRefusal { away: true, ..DeviceRefusal::new("the token is not there", true) }
    }

    fn away_since(calls: &Calls, ago: Duration) {
        calls.note(Some(&gone()), Duration::ZERO);
        let since = Instant::now().checked_sub(ago).unwrap();
        if let Some(away) = &mut *lock(&calls.away) {
            (away.since, away.next) = (since, since);
        }
    }

    #[tokio::test]
    async fn one_tries_whether_it_is_back_and_the_others_wait_for_what_comes_of_it() {
        let calls = Calls::default();
        away_since(&calls, Duration::ZERO);
        let deadline = Calls::deadline();
        let tries = calls.until_it_may_be_there("main", deadline).await.unwrap();
        assert!(tries._tries.is_some());
        let other = calls.until_it_may_be_there("main", deadline);
        tokio::pin!(other);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut other).await.is_err());
        calls.note(None, Duration::ZERO);
        drop(tries);
        assert!(other.await.unwrap()._tries.is_none());
        assert!(!calls.is_away());
        assert_eq!((calls.figures.calls.count.get(), calls.figures.failures.get()), (2, 1));
    }

    #[tokio::test]
    async fn one_that_stays_away_keeps_nobody_waiting() {
        let calls = Calls::default();
        away_since(&calls, GRACE);
        let begun = Instant::now();
        let deadline = Calls::deadline();
        // It is time for a try; whoever comes meanwhile, or before the next one, is refused.
        let tries = calls.until_it_may_be_there("main", deadline).await.unwrap();
        let said = calls.until_it_may_be_there("main", deadline).await.err().unwrap();
        assert!(said.away && said.text.contains("is not there"), "{said}");
        calls.note(Some(&gone()), Duration::ZERO);
        drop(tries);
        assert!(calls.until_it_may_be_there("main", deadline).await.is_err());
        assert_eq!(calls.figures.refused.get(), 2);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_fifth_call_waits_for_its_turn_unless_the_device_has_been_away_for_long() {
        let calls = Arc::new(Calls::default());
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(calls.turn("main").await.unwrap());
        }
        let fifth = {
            let calls = calls.clone();
            tokio::spawn(async move { calls.turn("main").await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert!(!fifth.is_finished());
        turns.pop();
        fifth.await.unwrap().unwrap();
        turns.push(calls.turn("main").await.unwrap());
        away_since(&calls, GRACE);
        assert!(calls.turn("main").await.unwrap_err().away);
    }
}
