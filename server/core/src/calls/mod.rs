//! Calls of a device: how many at a time, how long they wait for their turn, and whether the device is there.
//!
//! A device that went away is waited for a moment: one call at a time tries whether it is back, the others wait for what comes
//! of that. One that stays away keeps nobody waiting.

mod breaker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub(crate) use self::breaker::Absence;
use self::breaker::{Breaker, Way};
use crate::metrics::{Counter, Times};

/// Calls that wait for their turn. More are refused.
const WAITING: usize = 256;
/// How long a call waits for its turn, and for a device that went away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Of one device. `E` is what a call that failed says.
pub(crate) struct Calls<E> {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    breaker: Mutex<Breaker<E>>,
    /// Woken when a call has ended that the breaker learned from.
    learned: Notify,
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

/// Why a call did not get to the device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unasked<E> {
    /// As many wait as may.
    Crowded,
    /// Earlier calls have not ended in time.
    Busy,
    Away(Absence<E>),
}

impl<E: Clone> Calls<E> {
    /// So many calls may be under way: of a device that hangs, no more threads than these wait. Whether one that went away is
    /// back is tried no more seldom than this.
    pub fn new(at_once: usize, longest_pause: Duration) -> Arc<Calls<E>> {
        Arc::new(Calls {
            turns: Arc::new(Semaphore::new(at_once)),
            waiting: AtomicUsize::new(0),
            breaker: Mutex::new(Breaker::new(longest_pause)),
            learned: Notify::new(),
            figures: Figures::default(),
        })
    }

    /// Whether it did not answer when it was asked last.
    pub fn is_away(&self) -> bool {
        lock(&self.breaker).absence().is_some()
    }

    /// A call's turn, whatever is known of the device.
    pub async fn turn(self: &Arc<Self>, deadline: Instant) -> Result<Turn<E>, Unasked<E>> {
        let permit = self.permit(deadline).await?;
        Ok(Turn { calls: self.clone(), _permit: permit, tries: false, ended: false })
    }

    /// A call's turn, once the device is known to be there, or it is this call's to try whether it is.
    pub async fn enter(self: &Arc<Self>, deadline: Instant) -> Result<Turn<E>, Unasked<E>> {
        loop {
            let permit = self.permit(deadline).await?;
            let learned = self.learned.notified();
            let now = Instant::now();
            let way = lock(&self.breaker).enter(now);
            let tries = match way {
                Way::Go => false,
                Way::Try => true,
                Way::Refused(absence) => return Err(self.refused(Unasked::Away(absence))),
                Way::Wait(until) => {
                    // Others may be in the middle of what this one waits for.
                    drop(permit);
                    if now >= deadline {
                        return Err(self.refused(self.late()));
                    }
                    let _waits = self.wait()?;
                    tokio::select! {
                        () = tokio::time::sleep_until(until.min(deadline).into()) => {}
                        () = learned => {}
                    }
                    continue;
                }
            };
            return Ok(Turn { calls: self.clone(), _permit: permit, tries, ended: false });
        }
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Unasked<E>> {
        if let Ok(permit) = self.turns.clone().try_acquire_owned() {
            return Ok(permit);
        }
        if let Some(absence) = lock(&self.breaker).long_absence(Instant::now()).cloned() {
            return Err(self.refused(Unasked::Away(absence)));
        }
        let _waits = self.wait()?;
        let permit = tokio::time::timeout_at(deadline.into(), self.turns.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| self.refused(Unasked::Busy))
    }

    /// It is away, if not for long; or it has just come back.
    fn late(&self) -> Unasked<E> {
        lock(&self.breaker).absence().cloned().map_or(Unasked::Busy, Unasked::Away)
    }

    fn refused(&self, why: Unasked<E>) -> Unasked<E> {
        self.figures.refused.add(1);
        why
    }

    fn wait(&self) -> Result<Waits<'_>, Unasked<E>> {
        let waits = Waits(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            return Ok(waits);
        }
        Err(self.refused(Unasked::Crowded))
    }
}

/// A call that is at the device. It is held until the device has answered, also when nobody waits for that any more.
pub(crate) struct Turn<E> {
    calls: Arc<Calls<E>>,
    _permit: OwnedSemaphorePermit,
    /// It tries whether the device is back.
    tries: bool,
    ended: bool,
}

impl<E> Turn<E> {
    /// The call has ended: what it says of the device's being away; None: the device has answered. True: it went away with this.
    pub fn ended(mut self, gone: Option<&E>) -> bool
    where
        E: Clone,
    {
        self.ended = true;
        let went_away = lock(&self.calls.breaker).note(Instant::now(), gone, self.tries);
        self.calls.learned.notify_waiters();
        went_away
    }
}

impl<E> Drop for Turn<E> {
    fn drop(&mut self) {
        if !self.ended && self.tries {
            lock(&self.calls.breaker).give_up();
            self.calls.learned.notify_waiters();
        }
    }
}

/// A call that waits, for as long as it is there.
struct Waits<'c>(&'c AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::breaker::GRACE;
    use super::*;

    const AT_ONCE: usize = 4;
    const GONE: &str = "the token is not there";

    /// Of a device that went away so long ago, and may be tried.
    fn away_since(ago: Duration) -> Arc<Calls<&'static str>> {
        let calls = Calls::new(AT_ONCE, Duration::from_secs(2));
        let since = Instant::now().checked_sub(ago).unwrap();
        lock(&calls.breaker).note(since, Some(&GONE), false);
        calls
    }

    #[tokio::test]
    async fn one_tries_whether_it_is_back_and_the_others_wait_for_what_comes_of_it() {
        let calls = away_since(Duration::from_secs(1));
        let deadline = Instant::now() + PATIENCE;
        let tries = calls.enter(deadline).await.unwrap();
        assert!(tries.tries);
        let other = calls.enter(deadline);
        tokio::pin!(other);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut other).await.is_err());
        assert!(!tries.ended(None));
        assert!(!other.await.unwrap().tries);
        assert!(!calls.is_away());
    }

    #[tokio::test]
    async fn one_that_stays_away_keeps_nobody_waiting() {
        let calls = away_since(GRACE);
        let begun = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        // It is time for a try; whoever comes meanwhile, or before the next one, is refused.
        let tries = calls.enter(deadline).await.unwrap();
        let Err(Unasked::Away(absence)) = calls.enter(deadline).await else { panic!("it is away") };
        assert_eq!(absence.error, GONE);
        assert!(!tries.ended(Some(&GONE)));
        assert!(calls.enter(deadline).await.is_err());
        assert_eq!(calls.figures.refused.get(), 2);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_fifth_call_waits_for_its_turn_unless_the_device_has_been_away_for_long() {
        let calls = Calls::<&str>::new(AT_ONCE, Duration::from_secs(2));
        let deadline = Instant::now() + PATIENCE;
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(calls.turn(deadline).await.unwrap());
        }
        let fifth = {
            let calls = calls.clone();
            tokio::spawn(async move { calls.turn(deadline).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert!(!fifth.is_finished());
        turns.pop();
        fifth.await.unwrap().unwrap();
        turns.push(calls.turn(deadline).await.unwrap());
        let since = Instant::now().checked_sub(GRACE).unwrap();
        lock(&calls.breaker).note(since, Some(&GONE), false);
        assert!(matches!(calls.turn(deadline).await, Err(Unasked::Away(_))));
    }

    #[tokio::test]
    async fn a_try_whose_call_is_dropped_leaves_the_next_one_to_another() {
        let calls = away_since(GRACE);
        let deadline = Instant::now() + PATIENCE;
        drop(calls.enter(deadline).await.unwrap());
        assert!(calls.enter(deadline).await.unwrap().tries);
    }
}
