use super::*;
use crate::testing::unsealed;

async fn term_after(rotation: Rotation, sealed_entries: u64) -> u32 {
    let (core, open) = unsealed().await;
    let save = |tx: &mut Tx| tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation));
    core.transact(&open, save).await.unwrap();
    let barrier = open.barrier.load_full();
    for n in 0..sealed_entries {
        barrier.seal(b"place", &n.to_be_bytes()).unwrap();
    }
    rotate_when_due(&core, &open).await.unwrap();
    open.barrier.load().keyring().active().0
}

#[tokio::test]
async fn a_term_that_sealed_enough_gets_a_successor() {
    let rotation = |max_operations, enabled| Rotation { max_operations, interval_secs: 0, enabled };
    assert_eq!(term_after(rotation(5000, true), 6000).await, 2);
    assert_eq!(term_after(rotation(5000, true), 3000).await, 1);
    assert_eq!(term_after(rotation(5000, false), 6000).await, 1);
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
    rotate_when_due(&core, &open).await.unwrap();
    assert!(barrier.uncounted() < 10, "the count was not stored");
    // Storing it sealed an entry itself.
    assert!((before..before + 3).contains(&count()), "{before} and {}", count());
}
