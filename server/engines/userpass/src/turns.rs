//! Passwords are hashed on threads of their own, a few at a time: a flood of logins takes neither all cores
//! nor all memory.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use holdfast_sdk::{Error, Result};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Each one that is being computed holds 19 MiB and a core.
const MOST_AT_A_TIME: usize = 8;
/// Beyond these a login is turned away. At a hundred hashes a second and core it would have waited for seconds.
const WAITING: usize = 512;

/// One core stays with the rest of the server.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.saturating_sub(1).clamp(1, MOST_AT_A_TIME))
});
static PLACES: Semaphore = Semaphore::const_new(WAITING);

/// Compute when it is this one's turn.
///
/// # Errors
/// 503 if too many wait already.
pub async fn in_turn<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let _place = PLACES.try_acquire().map_err(|_| {
        Error::Unavailable("more passwords are being checked than this server can take; try again".into())
    })?;
    let turn = TURNS.acquire().await.map_err(Error::internal)?;
    // The turn goes with the work: that goes on if the caller is gone meanwhile.
    let done = spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.map_err(|e| Error::Internal(format!("a password could not be hashed: {e}")))?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_a_few_are_computed_at_a_time_and_a_flood_is_turned_away() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let tasks: Vec<_> = (0..WAITING + 50)
            .map(|_| {
                tokio::spawn(in_turn(|| {
                    MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                    NOW.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }))
            })
            .collect();
        let mut turned_away = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(()) => {}
                Err(Error::Unavailable(_)) => turned_away += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(turned_away, 50);
        assert!((1..=MOST_AT_A_TIME).contains(&MOST.load(Ordering::SeqCst)));
    }
}
