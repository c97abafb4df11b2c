//! A store of a feature level that a program does not know.

use std::sync::Arc;

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::level::{self, LEVEL_KEY};
use holdfast_storage::{Proposal, Store, StoreError, Write};

const ENTRY: usize = 1 << 20;

fn open(disk: &SimDisk) -> Result<Store, StoreError> {
    Store::open_on(Some(Arc::new(disk.clone()) as Arc<dyn Disk>), ENTRY)
}

async fn put(store: &Store, key: &[u8], value: holdfast_storage::Value) -> bool {
    let writes = vec![Write::Put(key.into(), value)];
    let proposal = Proposal { view_index: store.view().index(), writes, ..Proposal::default() };
    store.propose(proposal).expect("it is taken").committed().await.is_ok()
}

/// One test: what a program knows is said for the whole process.
#[tokio::test]
async fn a_level_that_is_not_known_is_neither_applied_nor_opened_and_nothing_of_it_is_changed() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    assert_eq!(level::of(&store.snapshot()).unwrap(), level::FIRST);
    assert!(put(&store, b"a", b"1"[..].into()).await);
    assert!(put(&store, LEVEL_KEY, level::value(level::known())).await);
    assert_eq!(level::of(&store.snapshot()).unwrap(), level::known());
    drop(store);

    let known = level::known();
    level::hold_back(known - 1);
    let refused = open(&disk).err().expect("it is refused");
    assert!(matches!(refused, StoreError::Level { found, known: k } if (found, k) == (known, known - 1)), "{refused}");

    level::hold_back(known);
    let store = open(&disk).unwrap();
    assert!(!put(&store, LEVEL_KEY, level::value(known + 1)).await, "a level of a later program");
    drop(store);
    // The log has it: only a program that knows it may go on.
    let refused = open(&disk).err().expect("it is refused");
    assert!(matches!(refused, StoreError::Level { found, .. } if found == known + 1), "{refused}");
}
