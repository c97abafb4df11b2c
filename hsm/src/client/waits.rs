//! Where a call may wait for long.
//!
//! A call to a device that answers within microseconds is made by the thread that wants it: to hand it to another one and
//! back takes longer than the call. Should it wait for long all the same, whoever the thread belongs to hears of it first
//! and can put another one in its place (tokio's `block_in_place`).

use std::cell::Cell;

/// Called around a wait.
pub type Around = fn(&mut dyn FnMut());

thread_local! {
    static AROUND: Cell<Option<Around>> = const { Cell::new(None) };
}

/// Carries `act` out with `around` called around each of its waits that may be long.
pub fn announced<T>(around: Around, act: impl FnOnce() -> T) -> T {
    struct Before(Option<Around>);
    impl Drop for Before {
        fn drop(&mut self) {
            AROUND.set(self.0);
        }
    }
    let _before = Before(AROUND.replace(Some(around)));
    act()
}

/// A wait that may be long.
pub(super) fn for_long<T>(wait: impl FnOnce() -> T) -> T {
    // Once it is announced, the thread may wait as it likes.
    let Some(around) = AROUND.replace(None) else { return wait() };
    let (mut wait, mut waited) = (Some(wait), None);
    around(&mut || waited = wait.take().map(|wait| wait()));
    AROUND.set(Some(around));
    // Whoever is told of a wait has to let it happen.
    waited.expect("a wait that is announced is carried out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn waits_are_announced_once_and_only_where_somebody_wants_to_know() {
        static TOLD: AtomicU32 = AtomicU32::new(0);
        let around: Around = |wait| {
            TOLD.fetch_add(1, Ordering::Relaxed);
            wait();
        };
        assert_eq!(for_long(|| 1), 1);
        assert_eq!(announced(around, || for_long(|| for_long(|| 2)) + for_long(|| 3)), 5);
        assert_eq!((for_long(|| 4), TOLD.load(Ordering::Relaxed)), (4, 2));
    }
}
