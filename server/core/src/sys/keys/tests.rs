use super::*;
use crate::testing::unsealed;

/// Whether a term that sealed so many entries got a successor.
async fn has_rotated(rotation: Rotation, sealed_entries: u64) -> bool {
    let (core, open) = unsealed().await;
    let save = |tx: &mut Tx| tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation));
    core.transact(&open, save).await.unwrap();
    let barrier = open.barrier.load_full();
    for n in 0..sealed_entries {
        barrier.seal(b"place", &n.to_be_bytes()).unwrap();
    }
    // The server looks by itself too, and may hold the count for a moment.
    for _ in 0..20 {
        rotate_when_due(&core, &open).await.unwrap();
        if open.barrier.load().keyring().active().0 > 1 {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_term_that_sealed_enough_gets_a_successor() {
    let rotation = |max_operations, enabled| Rotation { max_operations, interval_secs: 0, enabled };
    assert!(has_rotated(rotation(5000, true), 6000).await);
    assert!(!has_rotated(rotation(5000, true), 3000).await);
    assert!(!has_rotated(rotation(5000, false), 6000).await);
}

#[tokio::test]
async fn what_was_counted_is_stored_and_shown_once() {
    let (core, open) = unsealed().await;
    let barrier = open.barrier.load_full();
    for n in 0..3000u64 {
        barrier.seal(b"place", &n.to_be_bytes()).unwrap();
    }
    let count = || sealed(&mut Tx::read_only(core.store.view(), holdfast_seal::Barrier::clone(&barrier))).unwrap();
    let before = count();
    // The server counts by itself meanwhile: each entry is counted by one of them.
    tokio::join!(async { rotate_when_due(&core, &open).await.unwrap() }, async {
        rotate_when_due(&core, &open).await.unwrap();
    });
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while count() < before && std::time::Instant::now() < until {
        tokio::task::yield_now().await;
    }
    assert!(barrier.uncounted() < 10, "the count was not stored");
    // Storing it sealed an entry itself.
    assert!((before..before + 5).contains(&count()), "{before} and {}", count());
}
