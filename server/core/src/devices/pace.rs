//! Which thread waits for a device, by how long its calls have taken.
//!
//! A call of a device blocks. To hand it to a thread that may block, and what comes of it back, wakes two threads, which
//! costs as much as a signature by a token of software or by an HSM in the machine. Where the last call took hardly any
//! time, the next one is made by the thread that wants it; if it waits for long all the same, the runtime gets another
//! thread in its place ([`tokio::task::block_in_place`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_hsm::{Quickness, waits};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Calls that take less are made one after the other, by one thread at a time: who waits for them keeps a processor busy.
const QUICK: Duration = Duration::from_micros(150);
/// Calls that take less are made by the thread that wants them.
const SHORT: Duration = Duration::from_millis(2);
/// For so long a quick call waits for those before it. They take longer than they did then.
const PATIENCE: Duration = Duration::from_millis(5);

pub(super) struct Pace {
    learned: Mutex<Learned>,
    at_work: AtomicUsize,
    /// For who makes a quick call.
    quick: Semaphore,
}

struct Learned {
    quickness: Quickness,
    /// How long the last call took.
    last: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        let learned = Learned { quickness: Quickness::below(QUICK), last: Duration::MAX };
        Pace { learned: Mutex::new(learned), at_work: AtomicUsize::new(0), quick: Semaphore::new(1) }
    }
}

impl Pace {
    /// Carries a call out and learns from it how long it took.
    pub(super) fn times<T>(&self, call: impl FnOnce() -> T) -> (T, Duration) {
        struct AtWork<'p>(&'p AtomicUsize);
        impl Drop for AtWork<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let together = self.at_work.fetch_add(1, Ordering::Relaxed) + 1;
        let _at_work = AtWork(&self.at_work);
        let begun = Instant::now();
        let result = call();
        let took = begun.elapsed();
        self.took(took, together);
        (result, took)
    }

    fn took(&self, time: Duration, together: usize) {
        let mut learned = self.learned();
        learned.last = time;
        learned.quickness.took(time, together);
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a call out; an error says that it has panicked.
    pub(super) async fn carry_out<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (is_quick, last) = {
            let learned = self.learned();
            (learned.quickness.is_quick(), learned.last)
        };
        // With a single thread nobody could take its place.
        let has_threads = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        if is_quick && has_threads {
            let turn = match self.quick.try_acquire() {
                Ok(turn) => Some(turn),
                Err(_) => tokio::time::timeout(PATIENCE, self.quick.acquire()).await.ok().and_then(Result::ok),
            };
            if let Some(_turn) = turn {
                return here(call);
            }
        } else if last < SHORT && has_threads {
            return here(call);
        }
        tokio::task::spawn_blocking(call).await.map_err(|e| e.to_string())
    }
}

fn here<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let announced = || waits::announced(|wait| tokio::task::block_in_place(wait), call);
    catch_unwind(AssertUnwindSafe(announced)).map_err(|_| "the call has panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn thread_of(pace: &Pace) -> impl Future<Output = Result<thread::ThreadId, String>> {
        pace.carry_out(|| thread::current().id())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_thread_that_wants_it_makes_a_call_of_a_device_that_takes_no_time() {
        let pace = Pace::default();
        let ran = tokio::spawn(async move {
            let unknown = thread_of(&pace).await.unwrap() == thread::current().id();
            pace.took(Duration::from_micros(50), 1);
            let quick = thread_of(&pace).await.unwrap() == thread::current().id();
            pace.took(Duration::from_micros(600), 1);
            let short = thread_of(&pace).await.unwrap() == thread::current().id();
            pace.took(Duration::from_millis(20), 1);
            let slow = thread_of(&pace).await.unwrap() == thread::current().id();
            [unknown, quick, short, slow]
        });
        assert_eq!(ran.await.unwrap(), [false, true, true, false]);
    }

    #[tokio::test]
    async fn where_there_is_one_thread_it_is_not_blocked() {
        let pace = Pace::default();
        pace.took(Duration::from_micros(50), 1);
        assert_ne!(thread_of(&pace).await.unwrap(), thread::current().id());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_finds_a_quick_device_stuck_goes_another_way_and_a_panic_is_an_error() {
        let pace = std::sync::Arc::new(Pace::default());
        pace.took(Duration::from_micros(50), 1);
        let turn = pace.quick.acquire().await.unwrap();
        let begun = Instant::now();
        assert_ne!(thread_of(&pace).await.unwrap(), thread::current().id());
        assert!(begun.elapsed() >= PATIENCE);
        drop(turn);
        let panicked = pace.carry_out(|| -> () { panic!("as a test wants it") }).await;
        assert!(panicked.is_err());
        thread_of(&pace).await.unwrap();
    }
}
