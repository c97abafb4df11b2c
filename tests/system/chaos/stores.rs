//! What the stores of all nodes hold, compared when their servers have ended. A node that stands by passes on what it
//! does not know, so that no client of it sees that it has lost a token or a mount.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use holdfast_storage::disk::RealDisk;
use holdfast_storage::state::State;
use holdfast_storage::{Key, Value};
use holdfast_tests::until;

use crate::cluster::nodes::{Nodes, WITHIN};

/// Who ends last may have written something by itself that the others miss. What is lost is missing each time.
const LOOKS: usize = 3;
/// So many entries that differ are told.
const TOLD: usize = 5;
const INDEX: &str = "holdfast_storage_applied_index ";

type Entries = BTreeMap<Key, Value>;

/// What a node that does not run has stored for all, in the state machine's own form.
pub fn entries(folder: &Path) -> Entries {
    let disk = RealDisk::open(folder).expect("a folder that no server has open");
    let (state, _) = State::open(Some(&disk)).expect("a state machine that opens");
    let all = state.snapshot().and_then(|s| s.range(b"", None, usize::MAX)).expect("entries that can be read");
    all.into_iter().collect()
}

/// Take entries from what a node that does not run has stored, which no server would do.
pub fn lose<'k>(folder: &Path, keys: impl Iterator<Item = &'k Key>) {
    let disk = RealDisk::open(folder).expect("a folder that no server has open");
    let (state, index) = State::open(Some(&disk)).expect("a state machine that opens");
    let gone: Vec<_> = keys.map(|key| (key.clone(), None)).collect();
    state.apply(gone.iter(), index).and_then(|()| state.checkpoint()).expect("entries that can be removed");
}

/// End all nodes, and say in what their stores differ. If they do not, none of them runs afterwards.
pub fn differences(nodes: &mut Nodes) -> Vec<String> {
    for look in 1.. {
        until_level(nodes);
        nodes.stop_all();
        let stores: Vec<Entries> = (0..nodes.count()).map(|n| entries(&nodes.stored(n))).collect();
        let found = compared(&stores);
        if found.is_empty() || look == LOOKS {
            eprintln!("{} entries in each store, look {look}", stores[0].len());
            return found;
        }
        nodes.start_all_again();
        nodes.until_all_vote();
    }
    unreachable!("there is a last look")
}

/// Wait until all have applied the same.
pub fn until_level(nodes: &Nodes) {
    let index = |n: usize| {
        let page = nodes.client(n).try_call("GET", "sys/metrics?format=prometheus", None).ok()?;
        page.text().lines().find_map(|l| l.strip_prefix(INDEX)?.parse::<f64>().ok())
    };
    until(WITHIN, "nodes that have applied the same", || {
        let all: Option<Vec<f64>> = (0..nodes.count()).map(index).collect();
        all?.windows(2).all(|two| two[0].total_cmp(&two[1]).is_eq()).then_some(())
    });
}

fn compared(stores: &[Entries]) -> Vec<String> {
    let (first, others) = stores.split_first().expect("a node");
    let mut found = Vec::new();
    for (other, n) in others.iter().zip(1..) {
        let keys: BTreeSet<&Key> = first.keys().chain(other.keys()).collect();
        let differ: Vec<&Key> = keys.into_iter().filter(|key| first.get(*key) != other.get(*key)).collect();
        let told = differ.iter().take(TOLD).map(|key| {
            let has = |store: &Entries| store.get(*key).map_or("nothing".into(), |v| format!("{} bytes", v.len()));
            format!("{}: {} and {}", hex::encode(&key[..key.len().min(24)]), has(first), has(other))
        });
        let told: Vec<String> = told.collect();
        if !told.is_empty() {
            found.push(format!(
                "the stores of nodes 0 and {n} differ in {} entries: {}",
                differ.len(),
                told.join("; ")
            ));
        }
    }
    found
}
