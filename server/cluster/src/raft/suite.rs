//! openraft's own tests of a log and a state machine, against ours.

use std::sync::Arc;

use holdfast_storage::Store;
use holdfast_storage::disk::{Disk, SimDisk};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log::LogStore;
use super::machine::Machine;
use super::types::Types;

struct InMemory;
struct OnDisk;

async fn build(disk: Option<Arc<dyn Disk>>) -> (Store, LogStore, Machine) {
    let (store, replica) = Store::open_member_on(disk, 1 << 20).unwrap();
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

#[tokio::test]
async fn openrafts_suite_holds_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn openrafts_suite_holds_on_a_disk() {
    Suite::test_all(OnDisk).await.unwrap();
}
