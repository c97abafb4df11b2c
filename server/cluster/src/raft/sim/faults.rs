//! What goes wrong, as the seed has it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::cluster::Change;

use super::node::{Cluster, Death, lock};

/// Let things go wrong for so long, at nodes and between them at once.
pub async fn suffer(cluster: &Arc<Cluster>, time: Duration) {
    let until = cluster.world.now() + time;
    let (ended, ends) = tokio::sync::oneshot::channel();
    let between = cluster.clone();
    cluster.world.spawn(None, async move {
        while between.world.now() < until {
            trouble_between(&between).await;
        }
        between.network.heal();
        let _nobody_waits = ended.send(());
    });
    while cluster.world.now() < until {
        trouble_at_one(cluster).await;
    }
    let _gone = ends.await;
}

async fn pause(cluster: &Cluster, from_ms: u64, to_ms: u64) {
    let time = cluster.world.ms(from_ms, to_ms);
    cluster.world.sleep(time).await;
}

fn any(cluster: &Cluster) -> usize {
    cluster.world.below(cluster.count() as u64) as usize
}

/// The one that leads, more often than not.
fn someone(cluster: &Cluster) -> usize {
    let any = any(cluster);
    if cluster.world.chance(50) { cluster.active().unwrap_or(any) } else { any }
}

/// Some of them, by chance.
fn some(cluster: &Cluster) -> Vec<usize> {
    let count = cluster.count();
    let first = someone(cluster);
    let more = cluster.world.below(count as u64 / 2 + 1) as usize;
    (first..first + 1 + more).map(|n| n % count).collect()
}

async fn trouble_between(cluster: &Cluster) {
    pause(cluster, 100, 2500).await;
    let network = &cluster.network;
    let count = cluster.count();
    match cluster.world.below(7) {
        0 => {
            let part = some(cluster);
            cluster.say(format!("{part:?} and the others do not hear each other"));
            network.separate(&part, count);
        }
        1 => {
            let alone = cluster.active().unwrap_or(0);
            cluster.say(format!("{alone}, which leads, is alone"));
            network.separate(&[alone], count);
        }
        2 => {
            let deaf = someone(cluster);
            cluster.say(format!("{deaf} hears nobody"));
            network.trouble().cut.extend((0..count).map(|n| (n, deaf)));
        }
        3 => {
            let dumb = someone(cluster);
            cluster.say(format!("{dumb} is not heard"));
            network.trouble().cut.extend((0..count).map(|n| (dumb, n)));
        }
        4 => {
            let loss = 5 + cluster.world.below(40);
            cluster.say(format!("{loss} of 100 messages are lost"));
            network.trouble().loss = loss;
        }
        5 => {
            let delay_ms = 20 + cluster.world.below(600);
            cluster.say(format!("messages take up to {delay_ms} ms"));
            network.trouble().delay_ms = delay_ms;
        }
        _ => {
            let chunk_ms = 50 + cluster.world.below(500);
            cluster.say(format!("snapshots are slow: {chunk_ms} ms"));
            network.trouble().chunk_ms = chunk_ms;
        }
    }
    pause(cluster, 200, 4000).await;
    cluster.say("messages come again".into());
    network.heal();
}

async fn trouble_at_one(cluster: &Arc<Cluster>) {
    pause(cluster, 50, 1500).await;
    let node = someone(cluster);
    let world = &cluster.world;
    // More kinds only where they are asked for, so that seeds stay what they were.
    let kinds = if cluster.disks_fill_up.load(Ordering::SeqCst) { 17 } else { 16 };
    match world.below(kinds) {
        0 => cluster.kill(node, Death::Kill),
        1 => cluster.kill(node, Death::PowerCut),
        2..5 => {
            let death = if world.chance(30) { Death::Kill } else { Death::PowerCut };
            cluster.kill_at_a_step(node, death, world.below(40));
            pause(cluster, 100, 2000).await;
        }
        5 => {
            for node in 0..cluster.count() {
                cluster.kill(node, Death::PowerCut);
            }
        }
        6 => {
            cluster.say(format!("node {node} is stopped"));
            cluster.stop(node).await;
        }
        7 => {
            cluster.say(format!("node {node} stands still"));
            world.freeze(node, true);
            pause(cluster, 100, 5000).await;
            world.freeze(node, false);
        }
        8 => {
            cluster.say(format!("node {node} sleeps"));
            world.freeze(node, true);
            world.stop_clock(node, true);
            pause(cluster, 100, 5000).await;
            world.stop_clock(node, false);
            world.freeze(node, false);
        }
        9 => {
            let faster = world.below(80_000) as i64 - 40_000;
            cluster.say(format!("node {node}'s clock goes faster by {faster} millionths"));
            world.pace(node, faster);
        }
        10 => {
            let takes = Duration::from_millis(20 + world.below(800));
            cluster.say(format!("node {node}'s disk takes up to {takes:?}"));
            cluster.disk_takes(node, Some(takes));
            pause(cluster, 200, 4000).await;
            cluster.disk_takes(node, None);
        }
        11 => {
            cluster.say(format!("node {node}'s disk fails"));
            let syncs = world.chance(50);
            cluster.disk_fails(node, syncs, !syncs);
            pause(cluster, 50, 1500).await;
            cluster.disk_fails(node, false, false);
        }
        12 => hand_over(cluster, node).await,
        13 => {
            let name = cluster.name(node);
            if cluster.change(Change::Demote(name.clone())).await {
                pause(cluster, 100, 2000).await;
                cluster.change(Change::Promote(name)).await;
            }
        }
        14 => replace(cluster, node).await,
        16 => {
            // At once, or by what is written from now on: the store keeps the last megabytes for what cannot wait.
            let left = if world.chance(50) { world.below(20_000) } else { (8 << 20) + world.below(1 << 20) };
            cluster.say(format!("node {node}'s disk has room for {left} bytes"));
            cluster.has_room_for(node, Some(left));
            pause(cluster, 200, 4000).await;
            cluster.has_room_for(node, None);
        }
        _ => {
            cluster.say(format!("node {node} is sealed for a while"));
            let sealed = cluster.running(node);
            if let Some(running) = &sealed {
                running.group.may_lead(false);
            }
            pause(cluster, 100, 3000).await;
            if let Some(running) = &sealed {
                running.group.may_lead(true);
            }
        }
    }
}

async fn hand_over(cluster: &Arc<Cluster>, node: usize) {
    let Some(running) = cluster.running(node) else { return };
    cluster.say(format!("node {node} hands over"));
    let (done, waits) = tokio::sync::oneshot::channel();
    cluster.world.spawn(Some(node), async move {
        running.store.stand_by();
        *lock(&running.active) = None;
        let _nobody_waits = done.send(running.group.hand_over(|_| true).await);
    });
    let late = cluster.world.sleep(Duration::from_secs(6));
    futures_util::future::select(waits, late).await;
}

/// A member is removed, loses its disk, and joins anew.
async fn replace(cluster: &Arc<Cluster>, node: usize) {
    if !cluster.change(Change::Remove(cluster.name(node))).await {
        return;
    }
    pause(cluster, 0, 1000).await;
    cluster.lose_disk(node);
    pause(cluster, 0, 2000).await;
    cluster.let_in(node, true).await;
}

/// Everything is well again.
pub async fn heal(cluster: &Arc<Cluster>) {
    cluster.network.heal();
    for node in 0..cluster.count() {
        cluster.world.freeze(node, false);
        cluster.world.stop_clock(node, false);
        cluster.disk_takes(node, None);
        cluster.has_room_for(node, None);
        cluster.look_after_it(node, true);
    }
    // Whoever is no member, or has no vote, because a change of that was broken off, is let in again.
    for node in 0..cluster.count() {
        cluster.let_in(node, true).await;
    }
}
