//! Online compaction: the file shrinks, nobody who reads or writes notices, and no crash harms it.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{CommitError, CompactError, CompactionInfo, Key, Phase, Store, Value, Write};
use support::{Random, add, commit, everything, key, number, put, runtime};

const MAX_ENTRY: usize = 32 << 20;

type Entries = BTreeMap<Key, Value>;

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Some(Arc::new(disk.clone())), MAX_ENTRY).unwrap()
}

fn size(disk: &SimDisk) -> u64 {
    disk.open("state.redb", false).unwrap().len().unwrap()
}

fn name(i: u64) -> String {
    format!("k{i:06}")
}

fn fill_with(store: &Store, entries: u64, bytes: usize) {
    let mut random = Random::new(entries);
    runtime().block_on(async {
        for from in (0..entries).step_by(50) {
            let some = (from..(from + 50).min(entries)).map(|i| put(&name(i), &random.bytes(bytes))).collect();
            commit(store, some).await.unwrap();
        }
    });
}

/// A store of which most was deleted again.
fn fill(store: &Store, entries: u64, bytes: usize) {
    fill_with(store, entries, bytes);
    runtime().block_on(async {
        for from in (0..entries).step_by(50) {
            let some = (from..(from + 50).min(entries)).filter(|i| i % 10 != 0);
            commit(store, some.map(|i| Write::Delete(key(&name(i)))).collect()).await.unwrap();
        }
    });
}

fn until_over(store: &Store) -> CompactionInfo {
    let begin = Instant::now();
    loop {
        let info = store.compaction();
        if !matches!(info.phase, Phase::Copying | Phase::Finishing) {
            return info;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{info:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn compact(store: &Store) -> CompactionInfo {
    store.start_compaction().unwrap();
    let info = until_over(store);
    assert_eq!((info.phase, &info.error), (Phase::Done, &None));
    info
}

#[test]
fn the_file_shrinks_and_holds_what_it_held() {
    let disk = SimDisk::default();
    let store = open(&disk);
    fill(&store, 4000, 8000);
    let before = everything(&store);
    assert_eq!(before.len(), 400);
    let info = compact(&store);
    assert_eq!((info.entries, info.entries_copied), (400, 400));
    assert_eq!(info.bytes_after, size(&disk));
    let live: u64 = before.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
    assert!(info.bytes_after < info.bytes_before / 4 && info.bytes_after < 3 * live, "{info:?}, {live} bytes live");
    assert_eq!(everything(&store), before);
    runtime().block_on(commit(&store, vec![put("after", b"1"), Write::Delete(key(&name(0)))])).unwrap();
    // Once more, and by hand after that: the second finds little to do.
    let again = compact(&store);
    assert!(again.bytes_after <= info.bytes_after + (1 << 20), "{info:?} {again:?}");
    let kept = everything(&store);
    drop(store);
    assert_eq!(everything(&open(&disk)), kept);
    assert_eq!(everything(&open(&disk.power_cut(|| false))), kept);
    assert!(!disk.list().unwrap().iter().any(|n| n.contains("copy")), "{:?}", disk.list());
}

#[test]
fn a_real_file_gives_its_room_back_to_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let options = holdfast_storage::Options {
        folder: Some(folder.path().into()),
        max_entry_bytes: MAX_ENTRY,
        keep_free: Default::default(),
    };
    let store = Store::open(&options).unwrap();
    fill(&store, 4000, 8000);
    let before = everything(&store);
    let length = || std::fs::metadata(folder.path().join("state.redb")).unwrap().len();
    let info = compact(&store);
    assert_eq!(info.bytes_after, length());
    assert!(info.bytes_after < info.bytes_before / 4, "{info:?}");
    drop(store);
    let store = Store::open(&options).unwrap();
    assert_eq!(everything(&store), before);
}

/// Writers of counters and of pairs that always agree; readers that look at whole snapshots.
#[test]
fn readers_and_writers_go_on_during_compactions_and_nothing_is_lost() {
    let disk = SimDisk::default();
    let store = Arc::new(open(&disk));
    fill(&store, 3000, 4000);
    let (told, stop) = (Mutex::new(Entries::new()), AtomicBool::new(false));
    let (mut rounds, mut reads) = (0, 0);
    let (written, read) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let (store, told, stop) = (&store, &told, &stop);
                scope.spawn(move || {
                    let (mut random, mut written) = (Random::new(writer), 0u64);
                    while !stop.load(Ordering::SeqCst) {
                        // Own keys all over the store, so that each is behind the cursor or before it.
                        let k = format!("k{:06}-{writer}", random.below(3000));
                        let n = random.below(6000) as usize;
                        let value = random.chance(80).then(|| random.bytes(n));
                        let write = match &value {
                            Some(v) => put(&k, v),
                            None => Write::Delete(key(&k)),
                        };
                        let stamp = written.to_be_bytes();
                        let [left, right] = ["a", "z"].map(|side| put(&format!("{side}-pair-{writer}"), &stamp));
                        runtime().block_on(commit(store, vec![write, left, right, add("m-count", 1)])).unwrap();
                        let mut told = told.lock().unwrap();
                        match value {
                            Some(v) => told.insert(key(&k), v.into()),
                            None => told.remove(&key(&k)),
                        };
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let snapshot = store.snapshot();
                for writer in 0..3 {
                    let [left, right] =
                        ["a", "z"].map(|side| snapshot.get(format!("{side}-pair-{writer}").as_bytes()).unwrap());
                    assert_eq!(left, right);
                }
                assert_eq!(snapshot.range(b"k", Some(b"l"), 50).unwrap().len(), 50);
                reads += 1;
            }
            reads
        });
        let begin = Instant::now();
        while rounds < 5 || begin.elapsed() < Duration::from_secs(2) {
            compact(&store);
            rounds += 1;
        }
        stop.store(true, Ordering::SeqCst);
        (writers.into_iter().map(|w| w.join().unwrap()).sum::<u64>(), reader.join().unwrap())
    });
    assert!(written > 50 && read > 50, "{written} writes and {read} reads in {rounds} compactions");
    let same = |store: &Store| {
        let found = everything(store);
        assert_eq!(number(found.get(&key("m-count")).map(|v| &**v)), written);
        let own: Entries = found.into_iter().filter(|(k, _)| k.starts_with(b"k") && k.contains(&b'-')).collect();
        assert!(own == *told.lock().unwrap(), "what was told and what is there differ");
    };
    same(&store);
    drop(store);
    same(&open(&disk.power_cut(|| false)));
}

#[test]
fn a_snapshot_from_before_shows_what_it_showed() {
    let disk = SimDisk::default();
    let store = open(&disk);
    fill(&store, 500, 4000);
    let (snapshot, before) = (store.snapshot(), everything(&store));
    compact(&store);
    runtime().block_on(commit(&store, vec![put(&name(0), b"changed")])).unwrap();
    compact(&store);
    let shown: Entries = snapshot.range(b"", None, usize::MAX).unwrap().into_iter().collect();
    assert_eq!(shown, before);
    // Though the store is closed.
    drop(store);
    assert_eq!(snapshot.get(name(0).as_bytes()).unwrap(), before.get(&key(&name(0))).cloned());
}

/// The power goes just before a step of a compaction under way; what was acknowledged then is there.
fn cut_at(step: u64, seed: u64) -> bool {
    let mut random = Random::new(seed);
    let disk = SimDisk::default();
    let store = Arc::new(open(&disk));
    fill_with(&store, 200, 6000);
    let acknowledged = Arc::new(Mutex::new(everything(&store)));
    let cut = Arc::new(Mutex::new(None));
    let keep = random.below(101);
    let (slot, told, mut dice) = (cut.clone(), acknowledged.clone(), random.clone());
    disk.before_step(disk.steps() + step, move |disk| {
        let told = told.lock().unwrap().clone();
        *slot.lock().unwrap() = Some((told, disk.power_cut(|| dice.chance(keep))));
    });
    store.start_compaction().unwrap();
    let mut started = Vec::new();
    runtime().block_on(async {
        for i in 0..20u64 {
            let (k, v) = (name(random.below(200)), i.to_be_bytes());
            started.push((key(&k), Value::from(&v[..])));
            commit(&store, vec![put(&k, &v)]).await.unwrap();
            acknowledged.lock().unwrap().insert(key(&k), Value::from(&v[..]));
        }
    });
    until_over(&store);
    drop(store);
    let Some((told, after)) = cut.lock().unwrap().take() else { return false };
    let found = everything(&open(&after));
    for (k, v) in &told {
        let shown = found.get(k).unwrap_or_else(|| panic!("step {step}, seed {seed}: {k:?} is gone"));
        // A later write of which nobody was told yet may be there.
        assert!(shown == v || started.contains(&(k.clone(), shown.clone())), "step {step}, seed {seed}: {k:?}");
    }
    assert!(found.keys().all(|k| told.contains_key(k) || started.iter().any(|(s, _)| s == k)));
    assert!(!after.list().unwrap().iter().any(|n| n.contains("copy")), "{:?}", after.list());
    true
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_file_or_the_new_one_whole() {
    let mut cuts = 0;
    for run in 0..160 {
        cuts += u64::from(cut_at(4 * run + run % 4, run));
    }
    assert!(cuts > 140, "{cuts} power cuts");
}

#[test]
fn a_compaction_without_room_is_given_up_and_harms_nothing() {
    for room in [10 << 20, 49 << 20, 52 << 20] {
        let disk = SimDisk::default();
        let store = open(&disk);
        fill(&store, 2000, 8000);
        runtime().block_on(async {
            for from in 0..40u64 {
                let some = (0..50).map(|i| put(&format!("more{}", from * 50 + i), &[3; 8000])).collect();
                commit(&store, some).await.unwrap();
            }
        });
        let before = everything(&store);
        disk.limit_room(Some(room));
        store.start_compaction().unwrap();
        let info = until_over(&store);
        assert_eq!(info.phase, Phase::Failed);
        assert!(
            info.error.as_deref().unwrap().contains("room") || info.error.as_deref().unwrap().contains("full"),
            "{info:?}"
        );
        assert!(!disk.list().unwrap().iter().any(|n| n.contains("copy")), "{:?}", disk.list());
        assert_eq!(everything(&store), before);
        disk.limit_room(None);
        runtime().block_on(commit(&store, vec![put("after", b"1")])).unwrap();
        compact(&store);
        drop(store);
        assert_eq!(everything(&open(&disk)).len(), before.len() + 1);
    }
}

#[test]
fn a_copy_that_cannot_be_written_is_thrown_away_and_the_store_goes_on() {
    let disk = SimDisk::default();
    let store = open(&disk);
    fill(&store, 2000, 8000);
    let before = everything(&store);
    disk.fail_write(true);
    store.start_compaction().unwrap();
    let info = until_over(&store);
    assert_eq!(info.phase, Phase::Failed);
    assert!(info.error.as_deref().unwrap().contains("nothing was changed"), "{info:?}");
    disk.fail_write(false);
    runtime().block_on(commit(&store, vec![put("after", b"1")])).unwrap();
    compact(&store);
    assert_eq!(everything(&store).len(), before.len() + 1);
}

#[test]
fn a_compaction_under_way_ends_with_the_store_and_a_second_is_refused() {
    let disk = SimDisk::default();
    let store = open(&disk);
    fill(&store, 3000, 8000);
    let before = everything(&store);
    store.start_compaction().unwrap();
    assert!(matches!(store.start_compaction(), Err(CompactError::Running)));
    let begin = Instant::now();
    store.close();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(matches!(store.start_compaction(), Err(CompactError::Closed)));
    let refused = runtime().block_on(commit(&store, vec![put("a", b"1")]));
    assert!(matches!(refused, Err(CommitError::Closed)));
    drop(store);
    assert_eq!(everything(&open(&disk)), before);
    let in_memory = Store::open_on(None, MAX_ENTRY).unwrap();
    assert!(matches!(in_memory.start_compaction(), Err(CompactError::InMemory)));
}
