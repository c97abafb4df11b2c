//! A store that is opened on a full or failing disk says so, loses nothing, and never takes it for damage.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{CommitError, Key, Store, StoreError, Value};
use support::{Random, commit, everything, put, runtime};

const MAX_ENTRY: usize = 32 << 20;

fn open(disk: &SimDisk) -> Result<Store, StoreError> {
    Store::open_on(Some(Arc::new(disk.clone())), MAX_ENTRY)
}

/// A disk whose server just ended, with what is stored on it: some of it in the log alone.
fn left_behind(seed: u64) -> (SimDisk, Vec<(Key, Value)>) {
    let (disk, mut random) = (SimDisk::default(), Random::new(seed));
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        for i in 0..40 {
            let n = 1 + random.below(60_000) as usize;
            commit(&store, vec![put(&format!("k{}", i % 30), &random.bytes(n))]).await.unwrap();
        }
    });
    let kept = everything(&store).into_iter().collect();
    (disk.power_cut(|| random.chance(50)), kept)
}

fn is_said(e: &StoreError) {
    let text = e.to_string();
    assert!(matches!(e, StoreError::Full { .. }), "{e:?}");
    assert!(text.contains("/sim") && text.contains("full") && text.contains("free some space"), "{text}");
    assert!(!text.contains("backup") && !text.contains("damaged"), "{text}");
}

#[test]
fn a_store_on_a_full_disk_opens_or_says_that_it_is_full_and_nothing_is_lost() {
    let (mut refused, mut opened) = (0, 0);
    for seed in 0..40 {
        let (disk, kept) = left_behind(seed);
        let mut random = Random::new(seed);
        for _ in 0..4 {
            disk.limit_room(Some(random.below(if seed % 2 == 0 { 4 << 20 } else { 20_000 })));
            match open(&disk) {
                Ok(store) => {
                    opened += 1;
                    assert!(everything(&store).into_iter().eq(kept.iter().cloned()), "seed {seed}");
                    let written = runtime().block_on(commit(&store, vec![put("new", &[7; 30_000])]));
                    assert!(matches!(written, Err(CommitError::Full(_))), "seed {seed}: {written:?}");
                }
                Err(e) => {
                    refused += 1;
                    is_said(&e);
                }
            }
        }
        disk.limit_room(None);
        let store = open(&disk).unwrap();
        assert!(everything(&store).into_iter().eq(kept.iter().cloned()), "seed {seed}");
    }
    assert!(refused > 20 && opened > 20, "{refused} refused, {opened} opened");
}

#[test]
fn power_that_goes_while_a_store_is_opened_on_a_full_disk_loses_nothing() {
    for seed in 0..20 {
        let (mut disk, kept) = left_behind(seed);
        let mut random = Random::new(seed);
        for _ in 0..3 {
            disk.limit_room(Some(random.below(1 << 20)));
            drop(open(&disk));
            disk = disk.power_cut(|| random.chance(50));
        }
        let store = open(&disk).unwrap();
        assert!(everything(&store).into_iter().eq(kept), "seed {seed}");
    }
}

#[test]
fn a_new_store_on_a_full_disk_is_made_when_there_is_room() {
    for room in [0, 10, 100, 5000, 100_000, 1 << 20, 3 << 20] {
        let disk = SimDisk::default();
        disk.limit_room(Some(room));
        match open(&disk) {
            Ok(_) => assert!(room > 5000),
            Err(e) => is_said(&e),
        }
        disk.limit_room(None);
        let store = open(&disk).unwrap();
        runtime().block_on(commit(&store, vec![put("a", b"1")])).unwrap();
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_not_taken_for_a_damaged_store() {
    let (disk, kept) = left_behind(1);
    disk.fail_write(true);
    let Err(e) = open(&disk) else { panic!("it opened") };
    assert!(matches!(&e, StoreError::Io { .. }), "{e:?}");
    assert!(e.to_string().contains("/sim") && e.to_string().contains("write refused by the simulated disk"), "{e}");
    disk.fail_write(false);
    disk.fail_sync(true);
    if let Err(e) = open(&disk) {
        assert!(matches!(&e, StoreError::Io { .. }), "{e:?}");
    }
    disk.fail_sync(false);
    assert!(everything(&open(&disk).unwrap()).into_iter().eq(kept));
}

#[test]
fn a_truncated_state_file_is_damage_still() {
    let (disk, kept) = left_behind(2);
    drop(open(&disk).unwrap());
    for length in [0, 100, 5000, 40_000] {
        let file = disk.open("state.redb", false).unwrap();
        if file.len().unwrap() < length {
            continue;
        }
        let copy = disk.power_cut(|| true);
        copy.tamper("state.redb", |bytes| bytes.truncate(length as usize));
        match open(&copy) {
            Err(StoreError::Damaged { .. }) => {}
            Err(e) => panic!("{length} bytes: {e:?}"),
            // An empty one is made again from the log, if that has everything.
            Ok(store) => assert!(length == 0 && everything(&store).into_iter().eq(kept.iter().cloned())),
        }
    }
}

#[test]
fn a_server_that_waits_for_room_is_ended_and_its_store_opens_again() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let acknowledged = runtime().block_on(async {
        disk.limit_room(Some(30 << 20));
        let mut acknowledged = 0;
        let value = vec![9; 1 << 20];
        while let Ok(Ok(_)) = tokio::time::timeout(
            Duration::from_millis(500),
            commit(&store, vec![put(&format!("{acknowledged:03}"), &value)]),
        )
        .await
        {
            acknowledged += 1;
        }
        acknowledged
    });
    assert!(acknowledged > 0);
    // Killed: what the disk has is what it is.
    let killed = disk.power_cut(|| true);
    killed.limit_room(Some(0));
    drop(store);
    if let Err(e) = open(&killed) {
        is_said(&e);
    }
    killed.limit_room(None);
    let found = everything(&open(&killed).unwrap());
    for i in 0..acknowledged {
        assert!(found.contains_key(format!("{i:03}").as_bytes()), "{i} of {acknowledged}");
    }
}
