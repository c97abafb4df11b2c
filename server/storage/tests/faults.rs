//! A full disk, failing writes and syncs, a second opener, other formats, a damaged state file.

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{CommitError, Key, Options, Proposal, Store, StoreError, Value};
use support::{Random, add, blind, commit, everything, key, number, put, runtime, transact};

const MAX_ENTRY: usize = 32 << 20;

fn open(disk: &SimDisk) -> Result<Store, StoreError> {
    Store::open_on(Some(Arc::new(disk.clone())), MAX_ENTRY)
}

fn value(store: &Store, k: &str) -> Option<Value> {
    store.snapshot().get(k.as_bytes()).unwrap()
}

/// Commit again and again until the store accepts it.
async fn commit_soon(store: &Store, k: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match commit(store, vec![put(k, b"y")]).await {
            Ok(_) => return,
            Err(CommitError::Full(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_full_disk_is_said_and_writes_go_on_when_there_is_room() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        for room in [0, 1 << 20, (8 << 20) - 1] {
            disk.limit_room(Some(room));
            let refused = commit(&store, vec![put("a", b"2")]).await.unwrap_err();
            assert!(matches!(refused, CommitError::Full(_)), "{refused}");
            assert!(refused.to_string().contains("is full"), "{refused}");
            assert_eq!(value(&store, "a").as_deref(), Some(&b"1"[..]), "what was there is there");
            disk.limit_room(None);
            commit_soon(&store, "b").await;
        }
        commit(&store, vec![put("a", b"3")]).await.unwrap();
    });
    drop(store);
    let store = open(&disk.power_cut(|| false)).unwrap();
    assert_eq!(value(&store, "a").as_deref(), Some(&b"3"[..]));
}

#[test]
fn a_disk_that_fills_up_while_many_write_loses_nothing_that_was_acknowledged() {
    let disk = SimDisk::default();
    let store = Arc::new(open(&disk).unwrap());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    disk.limit_room(Some(60 << 20));
    runtime().block_on(async {
        let tasks: Vec<_> = (0..4u32)
            .map(|task| {
                let (store, acknowledged) = (store.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    for i in 0..30 {
                        let k = format!("{task}/{i}");
                        let big = vec![task as u8; 700 << 10];
                        match commit(&store, vec![put(&k, &big), add("count", 1)]).await {
                            Ok(_) => acknowledged.lock().unwrap().push(k),
                            Err(CommitError::Full(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                            Err(e) => panic!("{e}"),
                        }
                    }
                })
            })
            .collect();
        // State files grow with room that the reserve does not promise: then they wait for it.
        while tasks.iter().any(|t| !t.is_finished()) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            disk.limit_room(Some(30 << 20));
        }
        for task in tasks {
            task.await.unwrap();
        }
        disk.limit_room(None);
        commit_soon(&store, "after").await;
    });
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(!acknowledged.is_empty());
    let same = |store: &Store| {
        let found = everything(store);
        assert!(acknowledged.iter().all(|k| found.contains_key(k.as_bytes())));
        assert_eq!(number(found.get(&key("count")).map(|v| &**v)), found.len() as u64 - 2);
        assert_eq!(found.len(), acknowledged.len() + 2, "and nothing that was refused");
    };
    same(&store);
    let cut = disk.power_cut(|| false);
    drop(store);
    same(&open(&cut).unwrap());
    same(&open(&disk).unwrap());
}

#[test]
fn a_store_whose_disk_is_full_can_be_closed_and_opened_again() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        // Room for the log, and too little for a large value in the state file: it waits there.
        disk.limit_room(Some(46 << 20));
        let big = vec![7; 20 << 20];
        let ticket = store.propose(blind(&store, vec![put("big", &big)])).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(700), ticket.committed()).await;
        if let Ok(done) = waiting {
            // There was room after all; nothing to see here on this version of redb.
            done.unwrap();
        } else {
            let refused = commit(&store, vec![put("b", b"2")]).await.unwrap_err();
            assert!(matches!(refused, CommitError::Full(_)), "{refused}");
        }
    });
    // Closing gives up waiting; the log has it.
    drop(store);
    disk.limit_room(None);
    let store = open(&disk.power_cut(|| false)).unwrap();
    assert_eq!(value(&store, "a").as_deref(), Some(&b"1"[..]));
    assert_eq!(value(&store, "big").map(|v| v.len()), Some(20 << 20));
}

#[test]
fn after_a_failed_sync_the_outcome_is_unknown_and_nothing_more_is_written() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        commit(&store, vec![put("before", b"1")]).await.unwrap();
        disk.fail_sync(true);
        let unknown = commit(&store, vec![put("during", b"2")]).await.unwrap_err();
        assert!(matches!(unknown, CommitError::Unknown(_)), "{unknown}");
        assert!(unknown.to_string().contains("it is not known whether"), "{unknown}");
        disk.fail_sync(false);
        // The disk says that it is well again; what it lost, it does not say.
        for _ in 0..3 {
            let refused = commit(&store, vec![put("after", b"3")]).await.unwrap_err();
            assert!(matches!(refused, CommitError::Failed(_)), "{refused}");
            assert!(refused.to_string().contains("until the store is opened again"), "{refused}");
        }
        // Reads go on, and show nothing of which it is not known whether it happened.
        assert_eq!(value(&store, "before").as_deref(), Some(&b"1"[..]));
        assert_eq!(value(&store, "during"), None);
        let ended = transact(&store, |tx| Ok(tx.get(&key("during")).unwrap())).await.unwrap();
        assert_eq!(ended.result, None);
    });
    drop(store);
    // Read from the disk, it is lost; read from the page cache, it is there, for good.
    let cut = disk.power_cut(|| true);
    let lost = open(&cut).unwrap();
    assert_eq!((value(&lost, "before").is_some(), value(&lost, "during")), (true, None));
    disk.keep_cache();
    let kept = open(&disk).unwrap();
    assert_eq!(value(&kept, "during").as_deref(), Some(&b"2"[..]));
    let cut = open(&disk.power_cut(|| false)).unwrap();
    assert_eq!(value(&cut, "during").as_deref(), Some(&b"2"[..]));
    runtime().block_on(async { commit(&kept, vec![put("after", b"4")]).await.unwrap() });
    for store in [&kept, &lost, &cut] {
        assert_eq!(value(store, "before").as_deref(), Some(&b"1"[..]));
    }
}

#[test]
fn of_a_group_whose_sync_failed_each_is_told_what_became_of_it() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let (in_group, behind, readers) = runtime().block_on(async {
        commit(&store, vec![put("before", b"1")]).await.unwrap();
        // While the sync of the first is being refused, others are queued behind it.
        let mut later = Vec::new();
        let failing = disk.clone();
        disk.before_step(disk.steps() + 1, move |_| {
            failing.fail_sync(true);
            std::thread::sleep(Duration::from_millis(200));
        });
        let first = store.propose(blind(&store, vec![put("first", b"x")])).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let view = store.view_in_flight();
        assert!(view.get(b"first").unwrap().is_some());
        let (reads, view_index) = (vec![(key("first"), view.index())], view.index());
        let reader = store.propose(Proposal { view_index, reads, ..Proposal::default() }).unwrap();
        for i in 0..3 {
            let ticket = store.propose(blind(&store, vec![put(&format!("behind{i}"), b"x")])).unwrap();
            later.push(ticket);
        }
        let first = first.committed().await.unwrap_err();
        let mut behind = Vec::new();
        for ticket in later {
            behind.push(ticket.committed().await.unwrap_err());
        }
        (first, behind, reader.committed().await.unwrap_err())
    });
    assert!(matches!(in_group, CommitError::Unknown(_)), "{in_group}");
    assert!(behind.iter().all(|e| matches!(e, CommitError::Failed(_))), "{behind:?}");
    assert!(matches!(readers, CommitError::Retry), "{readers}");
    disk.fail_sync(false);
    drop(store);
    let store = open(&disk).unwrap();
    assert!((0..3).all(|i| value(&store, &format!("behind{i}")).is_none()), "what was answered as failed is not there");
}

#[test]
fn a_write_that_failed_is_not_there_and_the_next_one_is() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        for _ in 0..5 {
            disk.fail_write(true);
            let failed = commit(&store, vec![put("a", b"2"), put("b", b"2")]).await.unwrap_err();
            assert!(matches!(failed, CommitError::Failed(_) | CommitError::Unknown(_)), "{failed}");
            disk.fail_write(false);
            assert_eq!(value(&store, "a").as_deref(), Some(&b"1"[..]));
            commit(&store, vec![put("c", b"3")]).await.unwrap();
        }
    });
    let index = store.snapshot().index();
    let store = open(&disk.power_cut(|| false)).unwrap();
    assert_eq!(store.snapshot().index(), index, "what failed has its place in the log");
    assert_eq!(value(&store, "a").as_deref(), Some(&b"1"[..]));
    assert_eq!((value(&store, "b"), value(&store, "c").is_some()), (None, true));
}

#[test]
fn a_transaction_that_read_what_was_taken_back_is_not_committed() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = told.clone();
    store.on_applied(Box::new(move |keys, index| hears.lock().unwrap().push((keys.to_vec(), index))));
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        let slow = disk.clone();
        disk.before_step(disk.steps(), move |_| {
            std::thread::sleep(Duration::from_millis(200));
            slow.fail_write(true);
        });
        let doomed = store.propose(blind(&store, vec![put("a", b"2")])).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let view = store.view_in_flight();
        assert_eq!(view.get(b"a").unwrap().as_deref(), Some(&b"2"[..]), "read before it was taken back");
        let ranged = view.range(b"a", Some(b"b"), 9).unwrap();
        assert_eq!(ranged.len(), 1);
        doomed.committed().await.unwrap_err();
        disk.fail_write(false);
        // Others commit meanwhile, with indexes that must not hide it.
        for i in 0..3 {
            commit(&store, vec![put("other", &[i])]).await.unwrap();
        }
        let stands_on_key = Proposal {
            view_index: view.index(),
            reads: vec![(key("a"), view.index())],
            writes: vec![put("copy", b"2")],
            ..Proposal::default()
        };
        let stands_on_range = Proposal {
            view_index: view.index(),
            ranges: vec![(b"a".to_vec(), Some(b"b".to_vec()))],
            writes: vec![put("copy", b"2")],
            ..Proposal::default()
        };
        let only_reads =
            Proposal { view_index: view.index(), reads: vec![(key("a"), view.index())], ..Proposal::default() };
        for proposal in [stands_on_key, stands_on_range, only_reads] {
            let refused = store.propose(proposal).err().expect("it read what did not happen");
            assert!(matches!(&refused, CommitError::Conflict(keys) if keys[..] == [key("a")]), "{refused}");
        }
        // Run again, it reads what is true.
        let ended = transact(&store, |tx| {
            let a = tx.get(&key("a")).unwrap().unwrap();
            tx.put(&key("copy"), &a);
            Ok(())
        });
        ended.await.unwrap();
    });
    assert_eq!(value(&store, "copy").as_deref(), Some(&b"1"[..]));
    // Caches were told to forget it, at an index behind all that had read it.
    let told = told.lock().unwrap().clone();
    let of_a: Vec<u64> = told.iter().filter(|(keys, _)| keys.contains(&key("a"))).map(|(_, i)| *i).collect();
    assert_eq!(of_a.len(), 2, "{told:?}");
    assert!(told.windows(2).all(|w| w[0].1 < w[1].1), "{told:?}");
}

#[test]
fn a_failed_checkpoint_stops_the_store_and_loses_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async { commit(&store, vec![put("a", b"1")]).await.unwrap() });
    disk.fail_sync(true);
    drop(store);
    disk.fail_sync(false);
    for disk in [disk.power_cut(|| false), disk.power_cut(|| true), disk] {
        assert_eq!(value(&open(&disk).unwrap(), "a").as_deref(), Some(&b"1"[..]));
    }
}

#[test]
fn a_failing_state_file_answers_unknown_and_what_the_log_has_is_there_at_the_next_start() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        // Large enough that the state file is written to before its checkpoint.
        let big = vec![1; 30 << 20];
        let mut ended = None;
        for step in [4, 6, 8] {
            let failing = disk.clone();
            disk.before_step(disk.steps() + step, move |_| failing.fail_write(true));
            match commit(&store, vec![put("big", &big)]).await {
                Ok(_) => disk.fail_write(false),
                Err(e) => {
                    ended = Some(e);
                    break;
                }
            }
        }
        disk.fail_write(false);
        let Some(e) = ended else { return };
        assert!(matches!(e, CommitError::Unknown(_) | CommitError::Failed(_)), "{e}");
    });
    let cut = disk.power_cut(|| false);
    drop(store);
    for disk in [cut, disk] {
        let store = open(&disk).unwrap();
        assert_eq!(value(&store, "a").as_deref(), Some(&b"1"[..]));
    }
}

#[test]
fn a_store_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        Options { folder: Some(folder.path().join("store")), max_entry_bytes: 1 << 20, keep_free: Default::default() };
    let store = Store::open(&options).unwrap();
    assert!(matches!(Store::open(&options), Err(StoreError::InUse(path)) if path == folder.path().join("store")));
    runtime().block_on(async { commit(&store, vec![put("a", b"1")]).await.unwrap() });
    drop(store);
    let store = Store::open(&options).unwrap();
    assert_eq!(value(&store, "a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn real_files_are_private_and_survive_a_process_that_just_ends() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let options = Options { folder: Some(path.clone()), max_entry_bytes: 1 << 20, keep_free: Default::default() };
    let store = Store::open(&options).unwrap();
    runtime().block_on(async {
        for i in 0..20 {
            commit(&store, vec![put("k", &[i]), add("n", 1)]).await.unwrap();
        }
    });
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        // As a crash leaves it: no checkpoint, nothing closed.
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let again =
        Store::open(&Options { folder: Some(copy), max_entry_bytes: 1 << 20, keep_free: Default::default() }).unwrap();
    assert_eq!(value(&again, "k").as_deref(), Some(&[19u8][..]));
    assert_eq!(number(value(&again, "n").as_deref()), 20);
}

#[test]
fn a_later_format_is_refused_with_both_numbers() {
    let disk = SimDisk::default();
    drop(open(&disk).unwrap());
    let set_format = |disk: &SimDisk, format: u32, more: usize| {
        disk.tamper("format", |bytes| {
            bytes[8..12].copy_from_slice(&format.to_le_bytes());
            let sum = crc32fast::hash(&bytes[..28]);
            bytes[28..32].copy_from_slice(&sum.to_le_bytes());
            bytes.resize(32 + more, 9);
        });
    };
    for more in [0, 100] {
        let disk = disk.power_cut(|| true);
        set_format(&disk, 2, more);
        let before = disk.dump();
        let refused = open(&disk).err().unwrap();
        assert!(matches!(refused, StoreError::Format { found: 2, known: 1, .. }), "{refused}");
        assert_eq!(disk.dump(), before, "nothing was changed");
    }
    for damage in [0, 9, 15, 30] {
        let disk = disk.power_cut(|| true);
        disk.tamper("format", |bytes| bytes[damage] ^= 4);
        assert!(matches!(open(&disk), Err(StoreError::Damaged { path, .. }) if path == disk.path("format")));
    }
    let without = disk.power_cut(|| true);
    without.remove("format").unwrap();
    assert!(matches!(open(&without), Err(StoreError::Damaged { path, .. }) if path == disk.path("format")));
}

#[test]
fn a_store_without_its_state_file_is_rebuilt_from_the_log_or_refused() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        let whole_log = disk.power_cut(|| true);
        whole_log.remove("state.redb").unwrap();
        assert_eq!(value(&open(&whole_log).unwrap(), "a").as_deref(), Some(&b"1"[..]));
        for i in 0..4 {
            commit(&store, vec![put(&format!("big{i}"), &vec![1; 7 << 20])]).await.unwrap();
        }
    });
    drop(store);
    disk.remove("state.redb").unwrap();
    let refused = open(&disk).err().expect("the log begins in the middle");
    assert!(
        matches!(&refused, StoreError::Damaged { detail, .. } if detail.contains("are missing before it")),
        "{refused}"
    );
}

#[test]
fn a_state_file_with_flipped_bits_gives_an_error_or_what_was_stored() {
    let disk = SimDisk::default();
    let mut model: BTreeMap<Key, Value> = BTreeMap::new();
    let store = open(&disk).unwrap();
    let mut random = Random::new(5);
    runtime().block_on(async {
        for i in 0..20 {
            let writes = (0..25).map(|j| {
                let (k, v) = (format!("{:04}", (i * 25 + j) * 7919 % 10_000), random.bytes(j * 9));
                model.insert(key(&k), v.as_slice().into());
                put(&k, &v)
            });
            let writes = writes.collect();
            commit(&store, writes).await.unwrap();
        }
    });
    drop(store);
    // Once as it is, and once without the log, so that nothing is put right from there.
    let names = disk.list().unwrap();
    let log = names.iter().find(|n| n.starts_with("log-")).unwrap();
    let length = disk.open("state.redb", false).unwrap().len().unwrap();
    let (mut refused, mut same) = (0, 0);
    for round in 0..160 {
        let disk = disk.power_cut(|| true);
        if round % 2 == 0 {
            disk.remove(log).unwrap();
        }
        disk.tamper("state.redb", |bytes| {
            for _ in 0..1 + round % 3 {
                // The header, and the pages that are in use, at the front of the file.
                let reach = if round % 4 == 0 { 512 } else { length.min(400_000) };
                let bit = random.below(reach * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<bool, StoreError> {
            let store = open(&disk)?;
            let snapshot = store.snapshot();
            let found: BTreeMap<Key, Value> = snapshot.range(b"", None, usize::MAX)?.into_iter().collect();
            for (k, v) in &model {
                if snapshot.get(k)?.as_ref() != Some(v) {
                    return Ok(false);
                }
            }
            Ok(found == model)
        }));
        match outcome.unwrap_or_else(|_| panic!("round {round}: a panic reached the caller")) {
            Ok(true) => same += 1,
            Ok(false) => panic!("round {round}: something else than was stored is shown"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10 && same > 10, "{refused} refused, {same} the same");
}

#[test]
fn a_state_file_that_goes_bad_while_it_is_open_panics_nobody() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    runtime().block_on(async {
        for i in 0..40u32 {
            commit(&store, vec![put(&format!("{i:04}"), &vec![i as u8; 1 << 20])]).await.unwrap();
        }
    });
    // More than redb's cache holds.
    drop(store);
    let store = open(&disk).unwrap();
    let mut random = Random::new(3);
    disk.tamper("state.redb", |bytes| {
        for _ in 0..2000 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 0x55;
        }
    });
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let snapshot = store.snapshot();
        for i in 0..40u32 {
            let _error_or_data = snapshot.get(format!("{i:04}").as_bytes());
        }
        let _error_or_data = snapshot.range(b"", None, 100);
        runtime().block_on(async {
            for i in 0..10u32 {
                let _error_or_done = commit(&store, vec![put(&format!("{i:04}"), b"new")]).await;
            }
        });
    }));
    assert!(outcome.is_ok(), "a panic reached the caller");
}

#[test]
fn closing_answers_everybody() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let answered = AtomicU64::new(0);
    runtime().block_on(async {
        let tickets: Vec<_> =
            (0..50).map(|i| store.propose(blind(&store, vec![put(&format!("{i}"), b"x")])).unwrap()).collect();
        store.close();
        for ticket in tickets {
            ticket.committed().await.unwrap();
            answered.fetch_add(1, Ordering::SeqCst);
        }
        assert!(matches!(commit(&store, vec![put("late", b"x")]).await, Err(CommitError::Closed)));
    });
    assert_eq!(answered.load(Ordering::SeqCst), 50);
    assert_eq!(everything(&open(&disk).unwrap()).len(), 50);
}
