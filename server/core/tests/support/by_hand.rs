//! Clocks that tests move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_core::clock::Clocks;
use holdfast_sdk::Timestamp;

const SECOND: u64 = 1_000_000_000;

pub struct ByHand {
    wall: AtomicU64,
    boot: AtomicU64,
}

impl Default for ByHand {
    fn default() -> ByHand {
        ByHand { wall: (1_800_000_000 * SECOND).into(), boot: (5000 * SECOND).into() }
    }
}

impl Clocks for ByHand {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }
    fn boot(&self) -> Duration {
        Duration::from_nanos(self.boot.load(Ordering::SeqCst))
    }
}

impl ByHand {
    /// Time goes on.
    pub fn pass(&self, secs: u64) {
        // A step that a thread sees half done is no jump: boot time is read around the wall's.
        self.boot.fetch_add(secs * SECOND, Ordering::SeqCst);
        self.wall.fetch_add(secs * SECOND, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn set_wall_by(&self, secs: i64) {
        let by = secs.unsigned_abs() * SECOND;
        match secs < 0 {
            true => self.wall.fetch_sub(by, Ordering::SeqCst),
            false => self.wall.fetch_add(by, Ordering::SeqCst),
        };
    }
}
