//! What a node keeps for itself beside the entries: there once it was kept, whatever becomes of the file, and nobody else's.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{Committed, Mark, Phase, Store, StoreError, payload, staged_key};
use support::{Random, commit, everything, put, runtime};

const ENTRY: usize = 1 << 20;
const NAME: &str = "counter";

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Some(Arc::new(disk.clone())), ENTRY).unwrap()
}

fn found(store: &Store) -> u64 {
    store.node_record(NAME).unwrap().map_or(0, |record| u64::from_le_bytes(record.try_into().unwrap()))
}

async fn keep(store: &Store, n: u64) -> Result<(), StoreError> {
    store.keep_node_record(NAME, n.to_le_bytes().to_vec()).await
}

#[test]
fn a_record_is_there_after_a_loss_of_power_and_is_no_entry() {
    let disk = SimDisk::default();
    let store = open(&disk);
    assert_eq!(store.node_record(NAME).unwrap(), None);
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        let before = everything(&store);
        let index = store.snapshot().index();
        keep(&store, 7).await.unwrap();
        assert_eq!((everything(&store), store.snapshot().index()), (before, index));
    });
    assert_eq!(found(&store), 7);
    let after = open(&disk.power_cut(|| false));
    assert_eq!(found(&after), 7);
    after.close();
    assert!(matches!(runtime().block_on(keep(&after, 8)), Err(StoreError::Closed)));
}

/// Power goes before each step in turn. The record is the one that was kept last or the one under way, and is never
/// ahead of the entries that were there when it was kept.
#[test]
fn wherever_power_goes_the_last_record_or_the_next_one_is_there_and_what_was_before_it() {
    let mut cuts = 0;
    for step in 0..60 {
        let disk = SimDisk::default();
        let store = open(&disk);
        let told = Arc::new(Mutex::new(0));
        let cut = Arc::new(Mutex::new(None));
        let (slot, at, mut dice) = (cut.clone(), told.clone(), Random::new(step));
        let keeps = dice.below(101);
        disk.before_step(disk.steps() + step, move |disk| {
            let told = *at.lock().unwrap();
            *slot.lock().unwrap() = Some((told, disk.power_cut(|| dice.chance(keeps))));
        });
        runtime().block_on(async {
            for n in 1..=6 {
                commit(&store, vec![put(&format!("entry {n}"), b"x")]).await.unwrap();
                keep(&store, n).await.unwrap();
                *told.lock().unwrap() = n;
            }
        });
        drop(store);
        let Some((told, after)) = cut.lock().unwrap().take() else { continue };
        let store = open(&after);
        let now = found(&store);
        assert!(now == told || now == told + 1, "step {step}: {now} where {told} was kept");
        assert!(everything(&store).len() as u64 >= now, "step {step}: entries are missing that were there before it");
        cuts += 1;
    }
    assert!(cuts > 30, "{cuts} power cuts");
}

#[test]
fn a_compaction_takes_it_along() {
    let disk = SimDisk::default();
    let store = open(&disk);
    runtime().block_on(async {
        commit(&store, vec![put("a", b"1")]).await.unwrap();
        keep(&store, 3).await.unwrap();
    });
    store.start_compaction().unwrap();
    while matches!(store.compaction().phase, Phase::Copying | Phase::Finishing) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(store.compaction().phase, Phase::Done);
    assert_eq!(found(&store), 3);
    assert_eq!(found(&open(&disk.power_cut(|| false))), 3);
    runtime().block_on(keep(&store, 4)).unwrap();
    store.close();
    drop(store);
    assert_eq!(found(&open(&disk)), 4);
}

#[test]
fn a_snapshot_from_elsewhere_and_a_restore_leave_it_as_it_is() {
    let disk = SimDisk::default();
    let (store, replica) = Store::open_member_on(Some(Arc::new(disk.clone()) as Arc<dyn Disk>), ENTRY).unwrap();
    let versioned = |index: u64, changes: &[(&[u8], &[u8])]| {
        let mut bytes = vec![payload::VERSIONED];
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&(changes.len() as u32).to_le_bytes());
        for (key, value) in changes {
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.push(1);
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        Committed { mark: Mark { term: 3, index }, payload: bytes.into() }
    };
    runtime().block_on(async {
        replica.found(Vec::new()).await.unwrap();
        keep(&store, 5).await.unwrap();
        let mut received = replica.receive().unwrap();
        received.put(vec![(b"\x01theirs"[..].into(), b"1"[..].into())]).unwrap();
        received.is_version(100);
        received.place(Mark { term: 3, index: 50 }, Vec::new());
        replica.install(received).await.unwrap();
        assert_eq!((found(&store), everything(&store).len()), (5, 1));
        let id = [9; 16];
        let staged = versioned(101, &[(&staged_key(&id, b"\x01restored"), b"2")]);
        let restore = versioned(102, &[(holdfast_storage::RESTORE_KEY, &id)]);
        replica.apply(vec![staged, restore]).await.unwrap();
    });
    let keys: Vec<_> = everything(&store).into_keys().collect();
    assert_eq!((found(&store), keys), (5, vec![b"\x01restored"[..].into()]));
    drop((store, replica));
    let (again, _) = Store::open_member_on(Some(Arc::new(disk) as Arc<dyn Disk>), ENTRY).unwrap();
    assert_eq!(found(&again), 5);
}
