//! The checksums of the state machine's blocks: what a start has to read, and what is found when.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{Key, Store, StoreError, Value, Write};
use support::{Random, commit, everything, put, runtime};

const FILE: &str = "state.redb";
const SUMS: &str = "state.redb.sums";

fn open(disk: &SimDisk) -> Result<Store, StoreError> {
    Store::open_on(Some(Arc::new(disk.clone())), 32 << 20)
}

/// Some 30 MB, written in no order, so that redb's cache does not hold it.
fn filled() -> (SimDisk, BTreeMap<Key, Value>) {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        let mut random = Random::new(11);
        for _ in 0..150u64 {
            let writes = (0..40).map(|_| put(&format!("{:08}", random.below(10_000)), &random.bytes(5000)));
            commit(&store, writes.collect()).await.unwrap();
        }
    });
    let all = everything(&store);
    drop(store);
    (disk, all)
}

#[test]
fn a_start_reads_everything_only_where_checksums_are_missing() {
    let (disk, all) = filled();
    let store = open(&disk).unwrap();
    assert!(!store.was_checked(), "after a clean stop");
    runtime()
        .block_on(commit(&store, vec![put("more", b"1"), Write::Delete(all.keys().next().unwrap().clone())]))
        .unwrap();
    // As after kill -9, and after a loss of power: the log is replayed.
    for keep in [true, false] {
        let again = open(&disk.power_cut(|| keep)).unwrap();
        assert!(!again.was_checked(), "after a crash");
        assert_eq!(everything(&again), everything(&store));
    }
    drop(store);
    // A program without checksums wrote it, or somebody took them away.
    disk.remove(SUMS).unwrap();
    let store = open(&disk).unwrap();
    assert!(store.was_checked());
    let found = everything(&store);
    drop(store);
    let store = open(&disk).unwrap();
    assert!(!store.was_checked(), "all is known from then on");
    assert_eq!(everything(&store), found);
}

#[test]
fn checksums_of_an_earlier_state_are_not_believed() {
    let (disk, _) = filled();
    let file = disk.open(SUMS, false).unwrap();
    let mut old = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut old).unwrap();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        let mut random = Random::new(12);
        for i in 0..400u64 {
            commit(&store, vec![put(&format!("{:08}", i * 7), &random.bytes(5000))]).await.unwrap();
        }
    });
    let all = everything(&store);
    drop(store);
    // A program that knows nothing of checksums wrote in between.
    disk.tamper(SUMS, |bytes| *bytes = old);
    let store = open(&disk).unwrap();
    assert!(store.was_checked());
    assert_eq!(everything(&store), all);
}

#[test]
fn damaged_checksums_are_no_damage() {
    let (disk, all) = filled();
    let mut random = Random::new(13);
    for round in 0..12 {
        let disk = disk.power_cut(|| true);
        disk.tamper(SUMS, |bytes| match round {
            0 => bytes.clear(),
            1 => bytes.truncate(700),
            2 => bytes.extend_from_slice(&[7; 1000]),
            _ => {
                let bit = random.below(bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        });
        let store = open(&disk).unwrap();
        assert_eq!(everything(&store), all, "round {round}");
        drop(store);
        assert_eq!(everything(&open(&disk).unwrap()), all, "round {round}, once more");
    }
}

#[test]
fn a_block_that_the_disk_changed_is_named_and_never_shown() {
    let (disk, all) = filled();
    let value = all.values().nth(all.len() / 2).unwrap().clone();
    let k = all.keys().nth(all.len() / 2).unwrap();
    // In the middle of one value: nothing else of the store is hit.
    disk.tamper(FILE, |bytes| {
        let found: Vec<_> = bytes.windows(64).enumerate().filter(|(_, w)| *w == &value[2000..2064]).collect();
        let places: Vec<usize> = found.into_iter().map(|(at, _)| at).collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at] ^= 1;
        }
    });
    let refused = match open(&disk) {
        Err(e) => e,
        Ok(store) => store.snapshot().get(k).unwrap_err(),
    };
    // redb looks at all pages when it opens a file, in debug builds.
    let said = refused.to_string();
    assert!(said.contains("is not as it was written") || said.contains("is damaged"), "{said}");
    // It stays so, whatever was written meanwhile.
    assert!(open(&disk).and_then(|store| store.snapshot().get(k)).is_err());
}

#[test]
fn the_daily_round_reads_everything_and_finds_what_a_disk_has_changed() {
    let (disk, all) = filled();
    let store = open(&disk).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait_until = |what: &str, is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let before = disk.bytes_read(FILE);
    store.scrub_now();
    wait_until("the round does not end", &|| store.scrubs() > 0);
    let bytes: u64 = all.values().map(|v| v.len() as u64).sum();
    // Some of it is in redb's cache.
    assert!(disk.bytes_read(FILE) - before > bytes / 5, "{} of {bytes}", disk.bytes_read(FILE) - before);
    assert_eq!(store.unreadable(), None);
    disk.tamper(FILE, |bytes| {
        for block in bytes.chunks_exact_mut(4096).skip(1) {
            block[2000] ^= 0x10;
        }
    });
    store.scrub_now();
    wait_until("the damage is not found", &|| store.unreadable().is_some());
    let said = store.unreadable().unwrap();
    assert!(said.contains("is not as it was written"), "{said}");
    // From then on nothing is answered, the sound parts neither.
    assert!(store.snapshot().range(b"", None, usize::MAX).is_err());
    assert_eq!(store.scrubs(), 1);
}
