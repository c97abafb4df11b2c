//! What must hold, meanwhile and at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_storage::{Key, Mark, Value};

use super::node::{Cluster, lock};

const LOOK: Duration = Duration::from_millis(50);
/// All is the same everywhere so long after all is well again.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Look at all nodes from time to time, as nobody in the world can.
pub async fn watch(cluster: Arc<Cluster>) {
    let mut leaders: BTreeMap<u64, usize> = BTreeMap::new();
    let mut seen = vec![0; cluster.count()];
    loop {
        cluster.world.sleep_of(None, LOOK).await;
        one_leader(&cluster, &mut leaders);
        for (node, seen) in seen.iter_mut().enumerate() {
            one_log(&cluster, node, seen);
        }
    }
}

/// In a term one leads, and nobody is sure of it beside another one.
fn one_leader(cluster: &Cluster, leaders: &mut BTreeMap<u64, usize>) {
    let mut sure = Vec::new();
    for node in 0..cluster.count() {
        let Some(running) = cluster.running(node) else { continue };
        let lead = cluster.world.as_node(node, || running.group.lead());
        if lead.here {
            let first = *leaders.entry(lead.term).or_insert(node);
            if first != node {
                cluster.is_wrong(format!("nodes {first} and {node} both lead in term {}", lead.term));
            }
        }
        // One that does not run tells nobody.
        if lead.sure && !cluster.world.is_frozen(node) {
            sure.push((node, lead.term));
        }
    }
    if sure.len() > 1 {
        cluster.is_wrong(format!("nodes that are sure to lead at one time, with their terms: {sure:?}"));
    }
}

/// What one has applied at a place of the log every other one has applied there.
fn one_log(cluster: &Cluster, node: usize, seen: &mut u64) {
    let Some(running) = cluster.running(node) else {
        // What it has when it comes back is looked at again.
        *seen = 0;
        return;
    };
    let Some((applied, _)) = running.replica.state() else { return };
    let entries = match running.replica.log().read(*seen + 1, applied.index + 1, usize::MAX) {
        Ok(entries) => entries,
        Err(e) => return cluster.say(format!("node {node}'s log cannot be read: {e}")),
    };
    let mut agreed = lock(&cluster.agreed);
    for record in entries {
        let Mark { term, index } = record.mark;
        *seen = (*seen).max(index);
        let is = (term, crc32(&record.payload));
        let was = *agreed.entry(index).or_insert(is);
        if was != is {
            let what = format!("node {node} has applied {is:?} at {index}, where another one has applied {was:?}");
            cluster.is_wrong(what);
        }
    }
}

/// A checksum that tells two payloads apart.
fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

type Entries = Vec<(Key, Value)>;

/// Wait until all have the same, and say what differs if they never do.
pub async fn settled(cluster: &Arc<Cluster>) {
    let until = cluster.world.now() + SETTLED_WITHIN;
    loop {
        let states: Vec<Option<(Mark, Vec<u8>, Entries)>> = (0..cluster.count())
            .map(|node| {
                let running = cluster.running(node)?;
                let (mark, members) = running.replica.state()?;
                Some((mark, members, running.store.snapshot().range(b"", None, usize::MAX).ok()?))
            })
            .collect();
        let marks: Vec<Option<Mark>> = states.iter().map(|s| s.as_ref().map(|(mark, ..)| *mark)).collect();
        let last = cluster.active().and_then(|n| Some(cluster.running(n)?.group.lead().last));
        let all_there = last.is_some() && marks.iter().all(|m| m.is_some_and(|m| Some(m.index) == last));
        if all_there {
            if states.windows(2).any(|two| two[0] != two[1]) {
                cluster.is_wrong("nodes at one place of the log hold different things".into());
            }
            return;
        }
        if cluster.world.now() > until {
            for node in 0..cluster.count() {
                let lead = cluster.running(node).map(|r| cluster.world.as_node(node, || r.group.lead()));
                cluster.say(format!("node {node}: {lead:?}"));
            }
            return cluster.is_wrong(format!("not all come to the end of the log ({last:?}): {marks:?}"));
        }
        cluster.world.sleep_of(None, Duration::from_millis(200)).await;
    }
}
