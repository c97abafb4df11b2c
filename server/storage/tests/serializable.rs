//! Transactions are serializable: whatever runs at once, the outcome is that of one after another.
//!
//! Random handlers (reads, ranges, writes that depend on what was read, merges, deletes, refusals)
//! run concurrently. Afterwards those that were committed are run one by one in the order of their
//! log indexes against a plain map: each must read what it read, so that write skew, phantoms and
//! reads of what was taken back are found, and the maps must be equal in the end.

mod support;

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_storage::disk::SimDisk;
use holdfast_storage::{CommitError, Key, Store, StoreError, Value};
use support::{Ended, Random, Tx, everything, key, number, transact};

#[derive(Debug, Clone)]
enum Step {
    Get(u64),
    /// From key to key (equal or beyond: to the end), and at most so many.
    Range(u64, u64, usize),
    /// What is put depends on all that was read so far.
    Put(u64),
    Delete(u64),
    Add(u64, u64),
    Count(u64),
    /// Fail if what was read so far says so.
    Refuse,
    /// Let others run.
    Pause,
}

type Handler = Vec<Step>;

/// What a handler saw, in order.
type Seen = Vec<Vec<(Key, Value)>>;

fn name(n: u64) -> Key {
    key(&format!("k{n}"))
}

fn counter(n: u64) -> Key {
    key(&format!("n{n}"))
}

fn handler(random: &mut Random, keys: u64) -> Handler {
    let read_only = random.chance(15);
    let length = 1 + random.below(6);
    let mut steps: Handler = (0..length)
        .map(|_| match random.below(if read_only { 45 } else { 100 }) {
            0..15 => Step::Get(random.below(keys)),
            15..30 => Step::Range(random.below(keys), random.below(keys + 1), random.below(4) as usize + 1),
            30..38 => Step::Count(random.below(2)),
            38..45 => Step::Pause,
            45..75 => Step::Put(random.below(keys)),
            75..85 => Step::Delete(random.below(keys)),
            85..96 => Step::Add(random.below(2), 1 + random.below(5)),
            _ => Step::Refuse,
        })
        .collect();
    if random.chance(30) {
        // Write skew in its plainest form: read one key, write another.
        let (a, b) = (random.below(keys), random.below(keys));
        steps = vec![Step::Get(a), Step::Pause, Step::Put(b)];
    }
    steps
}

/// What a handler runs on: the store, or the model.
trait Ground {
    fn get(&mut self, k: &Key) -> Result<Option<Value>, StoreError>;
    fn range(&mut self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError>;
    fn put(&mut self, k: &Key, v: &[u8]);
    fn delete(&mut self, k: &Key);
    fn add(&mut self, k: &Key, n: u64);
}

impl Ground for Tx {
    fn get(&mut self, k: &Key) -> Result<Option<Value>, StoreError> {
        Tx::get(self, k)
    }
    fn range(&mut self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        Tx::range(self, start, end, limit)
    }
    fn put(&mut self, k: &Key, v: &[u8]) {
        Tx::put(self, k, v);
    }
    fn delete(&mut self, k: &Key) {
        Tx::delete(self, k);
    }
    fn add(&mut self, k: &Key, n: u64) {
        Tx::add(self, k, n);
    }
}

/// A plain map, with a handler's own writes beside it until it ends.
struct Model<'a> {
    map: &'a BTreeMap<Key, Value>,
    written: BTreeMap<Key, Option<Value>>,
    added: BTreeMap<Key, u64>,
}

impl Ground for Model<'_> {
    fn get(&mut self, k: &Key) -> Result<Option<Value>, StoreError> {
        Ok(self.written.get(k).cloned().unwrap_or_else(|| self.map.get(k).cloned()))
    }
    fn range(&mut self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, StoreError> {
        let found = self.map.iter().filter(|(k, _)| &***k >= start && end.is_none_or(|e| &***k < e));
        Ok(found.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
    fn put(&mut self, k: &Key, v: &[u8]) {
        self.written.insert(k.clone(), Some(v.into()));
    }
    fn delete(&mut self, k: &Key) {
        self.written.insert(k.clone(), None);
    }
    fn add(&mut self, k: &Key, n: u64) {
        *self.added.entry(k.clone()).or_default() += n;
    }
}

/// `Err`: the handler refused, and writes nothing.
fn run(steps: &Handler, ground: &mut impl Ground) -> Result<Seen, Seen> {
    let mut seen: Seen = Vec::new();
    let digest = |seen: &Seen| {
        let mut hasher = DefaultHasher::new();
        seen.hash(&mut hasher);
        hasher.finish()
    };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Get(n) => {
                let value = ground.get(&name(*n)).expect("the store can be read");
                seen.push(value.map(|v| (name(*n), v)).into_iter().collect());
            }
            Step::Range(start, end, limit) => {
                let end = (end > start).then(|| name(*end));
                seen.push(ground.range(&name(*start), end.as_deref(), *limit).expect("the store can be read"));
            }
            // Additions of its own are not read back, so a handler that counts does it before.
            Step::Count(n) if !steps[..at].iter().any(|s| matches!(s, Step::Add(..))) => {
                let value = ground.get(&counter(*n)).expect("the store can be read");
                seen.push(value.map(|v| (counter(*n), v)).into_iter().collect());
            }
            Step::Count(_) => {}
            Step::Put(n) => ground.put(&name(*n), &(digest(&seen) ^ at as u64).to_be_bytes()),
            Step::Delete(n) => ground.delete(&name(*n)),
            Step::Add(n, by) => ground.add(&counter(*n), *by),
            Step::Refuse if digest(&seen) % 3 == 0 => return Err(seen),
            Step::Refuse => {}
            Step::Pause => std::thread::yield_now(),
        }
    }
    Ok(seen)
}

struct Committed {
    steps: Handler,
    ended: Ended<Result<Seen, Seen>>,
}

async fn client(store: Arc<Store>, mut random: Random, handlers: u64, keys: u64, history: Arc<Mutex<Vec<Committed>>>) {
    for _ in 0..handlers {
        let steps = handler(&mut random, keys);
        let ended = transact(&store, |tx| match run(&steps, tx) {
            Ok(seen) => Ok(Ok(seen)),
            Err(seen) => Err(Err(seen)),
        })
        .await;
        match ended {
            Ok(ended) => history.lock().unwrap().push(Committed { steps, ended }),
            // While this store is open, none of these ever happened.
            Err(CommitError::Full(_) | CommitError::Failed(_) | CommitError::Unknown(_)) => {
                tokio::time::sleep(Duration::from_micros(random.below(500))).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Replay what was committed in the order of indexes and compare each handler's reads.
fn compare_with_a_serial_run(mut history: Vec<Committed>, found: BTreeMap<Key, Value>) {
    // Those who only read stand behind the last index that they could see.
    history.sort_by_key(|c| (c.ended.index, !c.ended.wrote));
    let mut map: BTreeMap<Key, Value> = BTreeMap::new();
    let mut last = 0;
    for Committed { steps, ended } in history {
        let mut model = Model { map: &map, written: BTreeMap::new(), added: BTreeMap::new() };
        let replayed = run(&steps, &mut model);
        assert_eq!(ended.result, replayed, "at index {} {steps:?} read what no serial run would show", ended.index);
        if !ended.wrote {
            continue;
        }
        assert!(ended.index > last, "two commits have the index {last}");
        last = ended.index;
        let Model { written, added, .. } = model;
        for (k, v) in written {
            match v {
                Some(v) => map.insert(k, v),
                None => map.remove(&k),
            };
        }
        for (k, n) in added {
            let sum = number(map.get(&k).map(|v| &**v)) + n;
            map.insert(k, Value::from(&sum.to_be_bytes()[..]));
        }
    }
    assert_eq!(map, found, "the store ends elsewhere than a serial run");
}

/// Returns how many were committed.
fn run_at_once(seed: u64, disk: Option<&SimDisk>, faults: bool) -> usize {
    let mut random = Random::new(seed);
    let store = Store::open_on(disk.map(|d| Arc::new(d.clone()) as _), 1 << 20).unwrap();
    let store = Arc::new(store);
    let history = Arc::new(Mutex::new(Vec::new()));
    let (clients, keys) = (2 + random.below(7), 2 + random.below(5));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let random = Random::new(random.next());
                tokio::spawn(client(store.clone(), random, 25, keys, history.clone()))
            })
            .collect();
        while let (true, Some(disk)) = (faults && tasks.iter().any(|t| !t.is_finished()), disk) {
            tokio::time::sleep(Duration::from_micros(random.below(1500))).await;
            match random.below(3) {
                0 => disk.fail_write(true),
                1 => disk.limit_room(Some(random.below(16 << 20))),
                _ => {}
            }
            tokio::time::sleep(Duration::from_micros(random.below(300))).await;
            disk.fail_write(false);
            disk.limit_room(None);
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let history = std::mem::take(&mut *history.lock().unwrap());
    let committed = history.len();
    compare_with_a_serial_run(history, everything(&store));
    committed
}

/// Run many, and say which failed.
fn seeds(count: u64, run: impl Fn(u64) -> usize + std::panic::RefUnwindSafe) -> usize {
    let one = |seed| match std::panic::catch_unwind(|| run(seed)) {
        Ok(committed) => committed,
        Err(_) => panic!("seed {seed} failed"),
    };
    (0..count).map(one).sum()
}

#[test]
fn concurrent_transactions_in_memory_have_a_serial_order() {
    assert!(seeds(60, |seed| run_at_once(seed, None, false)) > 60 * 50);
}

#[test]
fn concurrent_transactions_on_a_disk_have_a_serial_order() {
    assert!(seeds(40, |seed| run_at_once(seed, Some(&SimDisk::default()), false)) > 40 * 50);
}

#[test]
fn concurrent_transactions_have_a_serial_order_while_the_disk_refuses_some_of_them() {
    assert!(seeds(60, |seed| run_at_once(seed, Some(&SimDisk::default()), true)) > 60 * 20);
}
