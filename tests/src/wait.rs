//! Waiting for what another process does.

use std::thread;
use std::time::{Duration, Instant};

/// Ask until there is an answer, at most for `limit`; then the test fails, saying `what` did not come.
pub fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
