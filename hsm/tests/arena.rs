//! The arena's bound, in a process of its own: it is full for everyone while this runs.

use holdfast_hsm::memory::{Key, MemoryError, allow_unlocked, arena_usage};
use std::time::{Duration, Instant};

#[test]
fn a_full_arena_says_so_and_is_whole_again_afterwards() {
    allow_unlocked();
    let before = arena_usage();
    assert_eq!((before.slots_used, before.locked), (0, false), "the arena is made by the first key");
    let start = Instant::now();
    let first = Key::random(32).unwrap();
    assert!(start.elapsed() < Duration::from_millis(50), "making it costs a start next to nothing");

    // Small keys spill over into the larger slots, until there is none.
    let total = before.slots_total;
    let keys: Vec<Key> = (1..total).map(|_| Key::random(32).unwrap()).collect();
    assert_eq!(arena_usage().slots_used, total);
    let full = Key::random(1).unwrap_err();
    assert!(matches!(full, MemoryError::ArenaFull { bytes: 1, .. }), "{full}");
    assert!(full.to_string().contains(&total.to_string()), "{full}");
    assert!(first.try_clone().is_err());

    drop(keys);
    assert_eq!(arena_usage().slots_used, 1);
    let copy = first.try_clone().unwrap();
    assert!(copy.ct_eq(first.expose()));
    for class in arena_usage().classes {
        assert_eq!(Key::random(class.slot_bytes).unwrap().expose().len(), class.slot_bytes);
    }
}
