//! Acts outside, by target: how many may be under way, all together and at one target, so that one which hangs
//! leaves room for all others; and which targets do not answer at present.
//!
//! A target that took long and was not reached, several times in a row, is *shut*: who asks for an act there is
//! refused at once, until a pause is over; then one act is let in to try. A target that refuses at once delays
//! nobody and stays open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_sdk::{Error, Failure, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Acts at a time,
const AT_ONCE: usize = 256;
/// and at one target of a mount. More wait.
const AT_ONE_TARGET: usize = 32;
/// With so many targets remembered, those at which nothing happens are forgotten.
const REMEMBERED: usize = 256;
/// So many failures in a row shut a target.
const FAILURES: u32 = 4;
/// What fails sooner has delayed nobody.
const SLOW: Duration = Duration::from_secs(2);
/// How long a target is shut: at first, doubled with each try in vain, up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

type Target = ([u8; 16], String);

pub struct Targets {
    all: Arc<Semaphore>,
    each: Mutex<HashMap<Target, Known>>,
}

#[derive(Clone)]
struct Known {
    permits: Arc<Semaphore>,
    /// Slow failures in a row.
    failures: u32,
    /// The boot time before which it stays shut, if `failures` shut it.
    until: Duration,
    /// An act is trying whether it answers again.
    is_tried: bool,
}

impl Known {
    fn is_shut(&self) -> bool {
        self.failures >= FAILURES
    }

    fn is_idle(&self) -> bool {
        self.permits.available_permits() == AT_ONE_TARGET && Arc::strong_count(&self.permits) == 1
    }
}

/// One act that may go on; until it is dropped.
pub struct Permit {
    targets: Arc<Targets>,
    target: Target,
    tries: bool,
    begun: Instant,
    _all: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.tries
            && let Some(known) = self.targets.lock().get_mut(&self.target)
        {
            known.is_tried = false;
        }
    }
}

impl Permit {
    /// How the act ended, at a boot time.
    pub fn ended(self, end: End, boot: Duration) {
        self.targets.note(&self.target, end, self.begun.elapsed(), boot);
    }
}

/// What the end of an act says about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It has answered, whatever it said.
    Answered,
    Unreached,
}

impl End {
    pub fn of<T>(result: &Result<T>) -> End {
        match result {
            Err(Error::Unreachable(_)) => End::Unreached,
            _ => End::Answered,
        }
    }

    pub fn of_act<T>(result: &Result<T, Failure>) -> End {
        match result {
            Err(Failure::Nothing(Error::Unreachable(_)) | Failure::Uncertain(Error::Unreachable(_))) => End::Unreached,
            _ => End::Answered,
        }
    }
}

impl Default for Targets {
    fn default() -> Targets {
        Targets { all: Arc::new(Semaphore::new(AT_ONCE)), each: Mutex::default() }
    }
}

impl Targets {
    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Known>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuse what would only wait for a target that is shut.
    pub fn require_open(&self, mount: [u8; 16], target: &str, boot: Duration) -> Result<()> {
        match self.lock().get(&(mount, target.to_owned())) {
            Some(known) if known.is_shut() && (boot < known.until || known.is_tried) => Err(shut(target)),
            _ => Ok(()),
        }
    }

    /// Wait until an act at a mount's target may go on. `boot` tells the boot time.
    pub async fn enter(self: &Arc<Self>, mount: [u8; 16], target: &str, boot: impl Fn() -> Duration) -> Result<Permit> {
        let known = (mount, target.to_owned());
        // First at the target: who waits there takes no room from others.
        let one = self.permits(&known).acquire_owned().await.map_err(Error::internal)?;
        let all = self.all.clone().acquire_owned().await.map_err(Error::internal)?;
        // It may have been shut meanwhile.
        let tries = {
            let mut each = self.lock();
            match each.get_mut(&known) {
                Some(found) if found.is_shut() => {
                    if boot() < found.until || found.is_tried {
                        return Err(shut(target));
                    }
                    found.is_tried = true;
                    true
                }
                _ => false,
            }
        };
        Ok(Permit { targets: self.clone(), target: known, tries, begun: Instant::now(), _all: all, _one: one })
    }

    fn permits(&self, target: &Target) -> Arc<Semaphore> {
        let mut each = self.lock();
        if !each.contains_key(target) && each.len() >= REMEMBERED {
            each.retain(|_, known| !known.is_idle());
        }
        let new = || Known {
            permits: Arc::new(Semaphore::new(AT_ONE_TARGET)),
            failures: 0,
            until: Duration::ZERO,
            is_tried: false,
        };
        each.entry(target.clone()).or_insert_with(new).permits.clone()
    }

    /// An act elsewhere has told something about a target.
    pub fn note(&self, target: &Target, end: End, took: Duration, boot: Duration) {
        let mut each = self.lock();
        let Some(known) = each.get_mut(target) else { return };
        match end {
            End::Unreached if took >= SLOW => {
                known.failures = known.failures.saturating_add(1);
                if known.is_shut() {
                    let doubled = PAUSE.0.saturating_mul(1 << (known.failures - FAILURES).min(8));
                    known.until = boot + doubled.min(PAUSE.1);
                }
            }
            // What is refused at once keeps nobody waiting.
            End::Answered | End::Unreached => known.failures = 0,
        }
    }

    /// Targets that are shut at present.
    pub fn shut(&self) -> usize {
        self.lock().values().filter(|known| known.is_shut()).count()
    }
}

/// What `work` returns, unless its time is over first. Its time is looked at before each of its steps: a process that
/// was stopped meanwhile takes none of them any more.
pub async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = tokio::time::sleep(time) => None,
        ended = work => Some(ended),
    }
}

fn shut(target: &str) -> Error {
    Error::Unavailable(format!("{target:?} does not answer at present; it is tried again in a moment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: [u8; 16] = [1; 16];

    fn target(name: &str) -> Target {
        (MOUNT, name.to_owned())
    }

    fn at(secs: u64) -> impl Fn() -> Duration {
        move || Duration::from_secs(secs)
    }

    async fn fail_slowly(targets: &Arc<Targets>, name: &str, secs: u64) {
        let permit = targets.enter(MOUNT, name, at(secs)).await.unwrap();
        targets.note(&target(name), End::Unreached, SLOW, at(secs)());
        drop(permit);
    }

    #[tokio::test]
    async fn a_target_that_hangs_is_shut_and_tried_by_one_at_a_time() {
        let targets = Arc::new(Targets::default());
        for _ in 0..FAILURES {
            assert_eq!(targets.shut(), 0);
            fail_slowly(&targets, "dead", 100).await;
        }
        assert_eq!(targets.shut(), 1);
        assert!(targets.require_open(MOUNT, "dead", at(100)()).is_err());
        assert!(targets.enter(MOUNT, "dead", at(100)).await.is_err());
        assert!(targets.enter(MOUNT, "other", at(100)).await.is_ok());
        // The pause is over.
        assert!(targets.require_open(MOUNT, "dead", at(101)()).is_ok());
        let trying = targets.enter(MOUNT, "dead", at(101)).await.unwrap();
        assert!(targets.require_open(MOUNT, "dead", at(101)()).is_err());
        assert!(targets.enter(MOUNT, "dead", at(101)).await.is_err());
        // It was given up: the next one tries.
        drop(trying);
        fail_slowly(&targets, "dead", 101).await;
        assert!(targets.enter(MOUNT, "dead", at(102)).await.is_err());
        let trying = targets.enter(MOUNT, "dead", at(103)).await.unwrap();
        trying.ended(End::Answered, at(103)());
        assert_eq!(targets.shut(), 0);
        assert!(targets.enter(MOUNT, "dead", at(103)).await.is_ok());
    }

    #[tokio::test]
    async fn a_target_that_refuses_at_once_stays_open() {
        let targets = Arc::new(Targets::default());
        for _ in 0..2 * FAILURES {
            targets.enter(MOUNT, "away", at(1)).await.unwrap().ended(End::Unreached, at(1)());
        }
        assert_eq!(targets.shut(), 0);
    }

    #[tokio::test]
    async fn who_waits_when_a_target_is_shut_is_told_so() {
        let targets = Arc::new(Targets::default());
        let mut inside = Vec::new();
        for _ in 0..AT_ONE_TARGET {
            inside.push(targets.enter(MOUNT, "dead", at(1)).await.unwrap());
        }
        let waits = tokio::spawn({
            let targets = targets.clone();
            async move { targets.enter(MOUNT, "dead", at(1)).await.is_err() }
        });
        for _ in 0..FAILURES {
            targets.note(&target("dead"), End::Unreached, SLOW, at(1)());
        }
        drop(inside);
        assert!(waits.await.unwrap());
    }

    #[tokio::test]
    async fn targets_are_forgotten_when_nothing_happens_there() {
        let targets = Arc::new(Targets::default());
        let busy = targets.enter(MOUNT, "busy", at(1)).await.unwrap();
        for n in 0..2 * REMEMBERED {
            drop(targets.enter(MOUNT, &n.to_string(), at(1)).await.unwrap());
        }
        assert!(targets.lock().len() <= REMEMBERED);
        assert!(targets.lock().contains_key(&target("busy")));
        drop(busy);
    }
}
