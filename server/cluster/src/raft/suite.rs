//! openraft's own tests of a log and a state machine, against ours.

use std::sync::Arc;

use holdfast_storage::Store;
use holdfast_storage::disk::{Disk, SimDisk};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log::LogStore;
use super::machine::Machine;
use super::sim::{Works, World};
use super::types::Types;

struct InMemory;
struct OnDisk;

async fn build(disk: Option<Arc<dyn Disk>>) -> (Store, LogStore, Machine) {
    let works = Arc::new(Works::of(World::here().unwrap().0, 0));
    let (store, replica) = Store::open_member_run_by(disk, 1 << 20, works).unwrap();
    (store, LogStore::new(&replica), Machine::new(replica))
}

impl StoreBuilder<Types, LogStore, Machine, Store> for InMemory {
    async fn build(&self) -> Result<(Store, LogStore, Machine), StorageError<Types>> {
        Ok(build(None).await)
    }
}

impl StoreBuilder<Types, LogStore, Machine, Store> for OnDisk {
    async fn build(&self) -> Result<(Store, LogStore, Machine), StorageError<Types>> {
        Ok(build(Some(Arc::new(SimDisk::default()))).await)
    }
}

#[test]
fn openrafts_suite_holds_in_memory() {
    World::new(1, 1).run(Suite::test_all(InMemory)).unwrap();
}

#[test]
fn openrafts_suite_holds_on_a_disk() {
    World::new(2, 1).run(Suite::test_all(OnDisk)).unwrap();
}
