//! Power cuts at random moments, of runs in which the disk also fills up and fails: after each, the
//! store is opened again and compared with what its clients were told.
//!
//! A run that fails prints its seed; `HOLDFAST_CRASH_SEED` runs that one alone, and
//! `HOLDFAST_CRASH_RUNS` raises their number.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use holdfast_storage::disk::SimDisk;
use holdfast_storage::{CommitError, Key, Store, Value};
use support::{Random, everything, key, number, runtime, transact};

const PAIRS: u64 = 5;
const MAX_ENTRY: usize = 8 << 20;

/// What the clients of one store know. Each operation has a number and, if it is committed, leaves a
/// mark with its number, writes a pair of keys (or deletes both), and adds one to a counter.
#[derive(Default, Clone)]
struct Told {
    started: u64,
    /// Operation → log index.
    committed: BTreeMap<u64, u64>,
    failed: BTreeSet<u64>,
    /// Operation → the pair it writes, and whether it deletes it.
    does: BTreeMap<u64, (u64, bool)>,
}

fn mark(operation: u64) -> Key {
    key(&format!("mark/{operation:08}"))
}

fn pair(n: u64) -> [Key; 2] {
    [key(&format!("left/{n}")), key(&format!("right/{n}"))]
}

/// Clients that work until they are stopped or the store refuses for good.
async fn work(store: Arc<Store>, told: Arc<Mutex<Told>>, mut random: Random, operations: u64, padding: usize) {
    for _ in 0..operations {
        let (n, deletes) = (random.below(PAIRS), random.chance(15));
        let operation = {
            let mut told = told.lock().unwrap();
            told.started += 1;
            let operation = told.started;
            told.does.insert(operation, (n, deletes));
            operation
        };
        let length = if padding == 0 { random.below(300) as usize } else { padding };
        let padding = random.bytes(length);
        let reads = random.chance(50);
        let ended = transact(&store, |tx| {
            let keys = pair(n);
            // Both halves are one. (A run that is not committed may see them at different moments.)
            let halves = keys.each_ref().map(|k| if reads { tx.get(k).ok().flatten() } else { None });
            for k in &keys {
                if deletes { tx.delete(k) } else { tx.put(k, &operation.to_be_bytes()) }
            }
            tx.put(&mark(operation), &padding);
            tx.add(&key("count"), 1);
            Ok(halves)
        })
        .await;
        let mut told = told.lock().unwrap();
        match ended {
            Ok(ended) => {
                assert_eq!(ended.result[0], ended.result[1], "half of a commit was seen");
                told.committed.insert(operation, ended.index);
            }
            // Nobody knows.
            Err(CommitError::Unknown(_)) => {}
            Err(CommitError::Full(_) | CommitError::Failed(_) | CommitError::Closed) => {
                told.failed.insert(operation);
            }
            Err(other) => panic!("operation {operation}: {other}"),
        }
    }
}

/// Compare the store with what was told; from then on what it shows is what is true.
fn check(store: &Store, told: &mut Told) {
    let found: BTreeMap<Key, Value> = everything(store);
    let marks: BTreeSet<u64> = (1..=told.started).filter(|o| found.contains_key(&mark(*o))).collect();
    for (operation, index) in &told.committed {
        assert!(marks.contains(operation), "operation {operation} was acknowledged at index {index} and is gone");
    }
    for operation in &told.failed {
        assert!(!marks.contains(operation), "operation {operation} was answered as failed and is there");
    }
    let count = number(found.get(&key("count")).map(|v| &**v));
    assert_eq!(count, marks.len() as u64, "half of a commit is there: the counter and the marks differ");
    for n in 0..PAIRS {
        let [left, right] = pair(n).map(|k| found.get(&k).map(|v| number(Some(v))));
        assert_eq!(left, right, "the halves of pair {n} differ");
        // The last one that wrote the pair: the last acknowledged, or one of which nobody knows.
        let of_pair = marks.iter().filter(|o| told.does[o].0 == n);
        let last = of_pair.clone().filter_map(|o| Some((told.committed.get(o)?, *o))).max().map(|(_, o)| o);
        let shown = |o: u64| if told.does[&o].1 { None } else { Some(o) };
        let mut possible: Vec<Option<u64>> =
            of_pair.filter(|o| !told.committed.contains_key(o)).map(|o| shown(*o)).collect();
        possible.push(last.and_then(shown));
        assert!(possible.contains(&left), "pair {n} shows {left:?}, possible are {possible:?}");
    }
    // The next life starts from here: the last writers are known again by what is shown.
    let index = store.snapshot().index();
    told.failed.extend((1..=told.started).filter(|o| !marks.contains(o)));
    for operation in marks {
        told.committed.entry(operation).or_insert(0);
    }
    for n in 0..PAIRS {
        let shown = found.get(&pair(n)[0]).map(|v| number(Some(v)));
        let marks = told.committed.iter_mut().filter(|(o, _)| told.does[o].0 == n);
        for (operation, at) in marks {
            let deletes = told.does[operation].1;
            *at = if shown == Some(*operation) || (shown.is_none() && deletes) { index } else { 0 };
        }
    }
}

type Cut = Arc<Mutex<Option<(Told, SimDisk)>>>;

/// Cut the power just before the disk's `step`th change from now.
fn plan_cut(disk: &SimDisk, told: &Arc<Mutex<Told>>, step: u64, mut random: Random) -> Cut {
    let cut = Cut::default();
    let (slot, told, keep) = (cut.clone(), told.clone(), random.below(101));
    disk.before_step(disk.steps() + step, move |disk| {
        // Several threads write: what was told belongs to the moment of the cut.
        let (disk, told) = disk.power_cut_when(|| random.chance(keep), || told.lock().unwrap().clone());
        *slot.lock().unwrap() = Some((told, disk));
    });
    cut
}

/// The disk as it is after a cut, if there was one, else as it is.
fn after(cut: &Cut, disk: SimDisk, told: &Arc<Mutex<Told>>) -> SimDisk {
    match cut.lock().unwrap().take() {
        Some((then, disk)) => {
            *told.lock().unwrap() = then;
            disk
        }
        None => disk,
    }
}

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Some(Arc::new(disk.clone())), MAX_ENTRY).unwrap_or_else(|e| panic!("the store does not open: {e}"))
}

#[derive(Clone, Copy, PartialEq)]
enum Faults {
    None,
    Full,
    Writes,
    Sync,
}

/// One life of a store: recovery (perhaps with power cuts of its own), work, an end.
fn live(mut disk: SimDisk, told: &Arc<Mutex<Told>>, random: &mut Random, padding: usize) -> SimDisk {
    // The power may go while it recovers, more than once.
    while random.chance(40) {
        let step = random.below(40);
        let cut = plan_cut(&disk, told, step, Random::new(random.next()));
        drop(open(&disk));
        disk = after(&cut, disk, told);
    }
    let store = Arc::new(open(&disk));
    check(&store, &mut told.lock().unwrap());

    let faults = [Faults::None, Faults::None, Faults::Full, Faults::Writes, Faults::Sync][random.below(5) as usize];
    let steps = if random.chance(70) { random.below(60) } else { u64::MAX / 2 };
    let cut = plan_cut(&disk, told, steps, Random::new(random.next()));
    let (clients, operations) = (1 + random.below(4), if padding > 0 { 4 } else { 1 + random.below(12) });
    runtime().block_on(async {
        let tasks: Vec<_> = (0..clients)
            .map(|_| tokio::spawn(work(store.clone(), told.clone(), Random::new(random.next()), operations, padding)))
            .collect();
        for _ in 0..random.below(4) {
            if random.chance(40) {
                // It may be refused, fail, or be cut off like everything else.
                let _under_way = store.start_compaction();
            }
            tokio::time::sleep(std::time::Duration::from_micros(random.below(2000))).await;
            match faults {
                Faults::None => {}
                Faults::Full => disk.limit_room(random.chance(50).then(|| random.below(40 << 20))),
                Faults::Writes => disk.fail_write(random.chance(50)),
                Faults::Sync => disk.fail_sync(random.chance(30)),
            }
        }
        disk.limit_room(None);
        disk.fail_write(false);
        for task in tasks {
            task.await.unwrap();
        }
    });
    disk.fail_sync(false);
    if steps > 1000 && random.chance(60) {
        // The power goes during the checkpoint at the end.
        let cut = plan_cut(&disk, told, random.below(30), Random::new(random.next()));
        drop(store);
        return after(&cut, disk, told);
    }
    drop(store);
    after(&cut, disk, told)
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let told = Arc::new(Mutex::new(Told::default()));
    let mut disk = SimDisk::default();
    // Some runs fill log segments.
    let padding = if random.chance(4) { 3 << 20 } else { 0 };
    for _ in 0..3 {
        disk = live(disk, &told, &mut random, padding);
    }
    let store = open(&disk);
    check(&store, &mut told.lock().unwrap());
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {v}")))
}

/// Runs of one of two threads.
fn runs(half: u64) {
    if let Some(seed) = number_of("HOLDFAST_CRASH_SEED") {
        if half == 0 {
            run(seed);
        }
        return;
    }
    for seed in (0..number_of("HOLDFAST_CRASH_RUNS").unwrap_or(200)).filter(|s| s % 2 == half) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed} failed: HOLDFAST_CRASH_SEED={seed} cargo test -p holdfast-storage crash");
    }
}

#[test]
fn after_a_crash_what_was_acknowledged_is_there_and_nothing_else_even_seeds() {
    runs(0);
}

#[test]
fn after_a_crash_what_was_acknowledged_is_there_and_nothing_else_odd_seeds() {
    runs(1);
}
