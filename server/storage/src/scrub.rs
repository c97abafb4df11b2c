//! The whole state machine is read from time to time, so that what a disk has changed is found before somebody needs it.
//!
//! Reading is enough: each block is compared with its checksum when it comes from the disk ([`crate::sums`]). What
//! redb's cache holds is not read again.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::pipeline::lock;
use crate::store::Inner;
use crate::{Key, StoreError};

/// After the start others have more to do.
const FIRST_AFTER: Duration = Duration::from_secs(5 * 60);
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Keys that are read at a time.
const STEP: usize = 500;
/// A step of the time is spent on reading, so many on resting.
const RESTS: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Order {
    #[default]
    Wait,
    Now,
    Stop,
}

#[derive(Default)]
pub(crate) struct Scrub {
    order: Mutex<Order>,
    ordered: Condvar,
    rounds: AtomicU64,
    /// What a round could not read.
    unreadable: OnceLock<String>,
}

impl Scrub {
    /// Whole rounds since the store was opened.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    /// Why the store could not be read as a whole.
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.get().map(String::as_str)
    }

    pub fn begin_now(&self) {
        self.put(Order::Now);
    }

    pub fn stop(&self) {
        self.put(Order::Stop);
    }

    fn put(&self, order: Order) {
        let mut now = lock(&self.order);
        if *now != Order::Stop {
            *now = order;
        }
        self.ordered.notify_all();
    }

    /// Wait so long, or until there is an order.
    fn rest(&self, most: Duration) -> Order {
        let order = lock(&self.order);
        let (mut order, _) =
            self.ordered.wait_timeout_while(order, most, |o| *o == Order::Wait).unwrap_or_else(|e| e.into_inner());
        match *order {
            Order::Stop => Order::Stop,
            _ => std::mem::take(&mut *order),
        }
    }
}

/// The thread's work.
pub(crate) fn run(inner: &Inner) {
    let mut pause = FIRST_AFTER;
    while inner.scrub.rest(pause) != Order::Stop {
        pause = EVERY;
        match round(inner) {
            Ok(true) => {
                inner.scrub.rounds.fetch_add(1, Ordering::SeqCst);
            }
            Ok(false) => return,
            // Whoever found a wrong block has said what to do.
            Err(e) => {
                tracing::error!(error = %e, "the state machine cannot be read as a whole");
                let _the_first_says_it = inner.scrub.unreadable.set(e.to_string());
            }
        }
    }
}

/// Read everything once. Returns whether it came to the end.
fn round(inner: &Inner) -> Result<bool, StoreError> {
    let mut start: Vec<u8> = Vec::new();
    loop {
        let began = Instant::now();
        let (mut left, mut last): (usize, Option<Key>) = (STEP, None);
        inner.current.load_full().keys(&start, None, |key| {
            left -= 1;
            match left {
                0 => {
                    last = Some(key.into());
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        })?;
        let Some(last) = last else { return Ok(true) };
        start = [&*last, &[0]].concat();
        if inner.scrub.rest((began.elapsed() * RESTS).min(LONGEST_REST)) == Order::Stop {
            return Ok(false);
        }
    }
}
