//! Runs in which certain things go wrong one after the other: what others have reported of their clusters.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::cluster::Change;
use holdfast_storage::{Proposal, Write};

use super::node::{Cluster, Death, Flaw};
use super::world::World;
use super::{checks, faults};
use crate::raft::Settings;

/// Few entries are kept, so that who was away needs a snapshot.
const KEPT: u64 = 10;

/// Three nodes, all well.
fn tell<F: Future<Output = ()>>(seed: u64, count: usize, story: impl FnOnce(Arc<Cluster>) -> F) {
    let world = World::new(seed, count);
    let settings = Settings {
        node_id: String::new(),
        joined_with: None,
        performance_multiplier: 5,
        snapshot_threshold: 20,
        trailing_logs: KEPT,
        trailing_log_bytes: 1 << 20,
    };
    let cluster = Cluster::new(world.clone(), count, Flaw::None, settings);
    world.run(async {
        cluster.found().await;
        world.spawn(None, checks::watch(cluster.clone()));
        story(cluster.clone()).await;
        faults::heal(&cluster).await;
        checks::settled(&cluster).await;
    });
    cluster.forget();
    world.dissolve();
    let (wrong, said) = (cluster.wrong(), cluster.said());
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), said.join("\n"));
}

async fn wait(cluster: &Cluster, ms: u64) {
    cluster.world.sleep_of(None, Duration::from_millis(ms)).await;
}

/// Until it is so, or for a minute.
async fn until(cluster: &Cluster, what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        wait(cluster, 100).await;
    }
    let said = cluster.said();
    panic!("it never came to be: {what}\n{}", said.join("\n"));
}

fn applied(cluster: &Cluster, node: usize) -> u64 {
    cluster.running(node).and_then(|r| r.replica.state()).map_or(0, |(mark, _)| mark.index)
}

/// One of others than these who is active.
async fn leader_but(cluster: &Cluster, but: &[usize]) -> usize {
    let other = || (0..cluster.count()).find(|n| !but.contains(n) && is_active(cluster, *n));
    until(cluster, "another leader", || other().is_some()).await;
    other().unwrap_or_default()
}

fn is_active(cluster: &Cluster, node: usize) -> bool {
    cluster.running(node).is_some_and(|r| cluster.world.as_node(node, || r.is_active()))
}

/// Write something at a node, which may answer or not.
async fn write(cluster: &Cluster, node: usize, key: u64) -> bool {
    let Some(running) = cluster.running(node) else { return false };
    let (said, heard) = tokio::sync::oneshot::channel();
    cluster.world.spawn(Some(node), async move {
        let put = Write::Put(format!("\x01{key}").into_bytes().into(), vec![7; 200].into());
        let proposal = Proposal { view_index: running.store.view().index(), writes: vec![put], ..Proposal::default() };
        let done = match running.store.propose(proposal) {
            Ok(ticket) => ticket.committed().await.is_ok(),
            Err(_) => false,
        };
        let _nobody_waits = said.send(done);
    });
    let late = cluster.world.sleep_of(None, Duration::from_secs(15));
    matches!(futures_util::future::select(heard, late).await, futures_util::future::Either::Left((Ok(true), _)))
}

async fn write_many(cluster: &Cluster, node: usize, keys: std::ops::Range<u64>) {
    for key in keys {
        assert!(write(cluster, node, key).await, "node {node} did not write {key}");
    }
}

/// F071: openraft #1808.
#[test]
fn members_that_a_snapshot_has_overtaken_are_forgotten() {
    tell(71, 5, |cluster| async move {
        let old = leader_but(&cluster, &[]).await;
        let others: Vec<usize> = (0..5).filter(|n| *n != old).collect();
        // It appends a change of members that reaches nobody.
        cluster.network.separate(&[old], 5);
        let running = cluster.running(old).unwrap();
        let lonely = Change::Remove(cluster.name(others[0]));
        cluster.world.spawn(Some(old), async move {
            let _nobody_agrees = running.group.change(lonely).await;
        });
        until(&cluster, "a list of members that nobody else has", || {
            let all = |n: usize| cluster.running(n).map(|r| cluster.world.as_node(n, || r.group.members().1));
            all(old) > all(others[1])
        })
        .await;
        // The others forget all that it would need.
        let new = leader_but(&cluster, &[old]).await;
        write_many(&cluster, new, 0..80).await;
        cluster.network.heal();
        until(&cluster, "a snapshot", || applied(&cluster, old) >= applied(&cluster, new)).await;
        let members = |n: usize| {
            let running = cluster.running(n).unwrap();
            cluster.world.as_node(n, || running.group.members())
        };
        assert_eq!(members(old), members(new));
        // Of the members that it had in mind it would need two; of those that there are it needs three.
        let friend = others.iter().copied().find(|n| *n != new).unwrap();
        cluster.network.separate(&[old, friend], 5);
        wait(&cluster, 5000).await;
        assert!(!is_active(&cluster, old) && !is_active(&cluster, friend));
        write_many(&cluster, leader_but(&cluster, &[old, friend]).await, 100..110).await;
    });
}

/// F073: openraft #1706.
#[test]
fn who_gets_a_slow_snapshot_while_much_is_written_catches_up() {
    tell(73, 3, |cluster| async move {
        let leader = leader_but(&cluster, &[]).await;
        let away = (leader + 1) % 3;
        cluster.look_after_it(away, false);
        cluster.kill(away, Death::Kill);
        write_many(&cluster, leader, 0..60).await;
        // Each part of it takes so long that far more is written meanwhile than is kept.
        cluster.network.trouble().chunk_ms = 150;
        cluster.look_after_it(away, true);
        let mut caught_up = false;
        for key in 1000..2500 {
            assert!(write(&cluster, leader, key % 100).await);
            wait(&cluster, 30).await;
            let (there, here) = (applied(&cluster, away), applied(&cluster, leader));
            if here - there < KEPT && here > 150 {
                caught_up = true;
                break;
            }
        }
        assert!(caught_up, "{} of {}", applied(&cluster, away), applied(&cluster, leader));
    });
}

/// F070: Vault #11983.
#[test]
fn a_snapshot_over_a_slow_link_arrives_and_is_sent_anew_after_an_interruption() {
    tell(70, 3, |cluster| async move {
        let leader = leader_but(&cluster, &[]).await;
        let empty = (leader + 1) % 3;
        assert!(cluster.change(Change::Remove(cluster.name(empty))).await);
        cluster.lose_disk(empty);
        write_many(&cluster, leader, 0..100).await;
        // As a whole it takes far longer than any timer of an election or a message.
        cluster.network.trouble().chunk_ms = 400;
        let lets_in = cluster.clone();
        cluster.world.spawn(None, async move { lets_in.let_in(empty, true).await });
        wait(&cluster, 8000).await;
        assert_eq!(applied(&cluster, empty), 0, "it is under way");
        cluster.network.trouble().cut.push((leader, empty));
        wait(&cluster, 2000).await;
        cluster.network.trouble().cut.clear();
        until(&cluster, "a node that has all", || applied(&cluster, empty) > 100).await;
        assert!(is_active(&cluster, leader), "it leads as before");
    });
}

/// Seed 125 of an earlier day. The founder was removed, lost its disk and joined anew: lists of members from before name its
/// name as the only one that votes, and a leader that was only just elected may send it one.
#[test]
fn who_joined_anew_under_its_name_elects_itself_by_no_list_from_before() {
    for seed in 0..8 {
        tell(900 + seed, 3, |cluster| async move {
            const FOUNDER: usize = 0;
            assert_eq!(leader_but(&cluster, &[]).await, FOUNDER);
            write_many(&cluster, FOUNDER, 0..5).await;
            assert!(cluster.change(Change::Remove(cluster.name(FOUNDER))).await);
            leader_but(&cluster, &[FOUNDER]).await;
            cluster.look_after_it(FOUNDER, false);
            cluster.lose_disk(FOUNDER);
            cluster.let_in(FOUNDER, true).await;
            for node in 0..3 {
                cluster.look_after_it(node, false);
                cluster.kill(node, Death::PowerCut);
            }
            // One that has all and has applied little of it yet, and the one that has nothing.
            cluster.look_after_it(FOUNDER, true);
            cluster.look_after_it(1, true);
            assert_eq!(leader_but(&cluster, &[]).await, 1);
            wait(&cluster, 3000).await;
            assert!(is_active(&cluster, 1) && !is_active(&cluster, FOUNDER));
        });
    }
}

/// Two leaders, one after the other, send one node a snapshot at the same time.
#[test]
fn two_snapshots_at_a_time_do_not_mix() {
    for seed in 0..8 {
        tell(800 + seed, 3, |cluster| async move {
            let leader = leader_but(&cluster, &[]).await;
            let away = (leader + 1) % 3;
            cluster.look_after_it(away, false);
            cluster.kill(away, Death::Kill);
            write_many(&cluster, leader, 0..80).await;
            cluster.network.trouble().chunk_ms = 300;
            cluster.look_after_it(away, true);
            wait(&cluster, 3000).await;
            // The one that sends is cut off, and another one begins to send before the first one gives up.
            cluster.network.separate(&[leader], 3);
            let new = leader_but(&cluster, &[leader]).await;
            write_many(&cluster, new, 100..140).await;
            until(&cluster, "a node that has all", || applied(&cluster, away) >= applied(&cluster, new)).await;
        });
    }
}

/// A member that was killed and is back at once does not break what it has promised to the leader.
#[test]
fn a_leader_is_not_sure_beside_the_next_one_though_a_member_was_restarted() {
    for seed in 0..10 {
        tell(500 + seed, 3, |cluster| async move {
            let leader = leader_but(&cluster, &[]).await;
            let (restarted, deaf) = ((leader + 1) % 3, (leader + 2) % 3);
            // One has not heard of the leader for long: it would vote, and be voted for.
            cluster.network.trouble().cut.extend([(leader, deaf), (deaf, leader), (restarted, deaf)]);
            wait(&cluster, 3000).await;
            // The other one forgets that it has, and hears the first one now.
            cluster.look_after_it(restarted, false);
            cluster.kill(restarted, Death::PowerCut);
            cluster.start(restarted, false);
            cluster.network.trouble().cut =
                vec![(leader, deaf), (deaf, leader), (leader, restarted), (restarted, leader)];
            cluster.look_after_it(restarted, true);
            let new = leader_but(&cluster, &[leader]).await;
            assert_ne!(new, leader);
        });
    }
}

/// Seed 3675. A leader that is cut off goes on sending to a member that was removed meanwhile, lost its disk, and waits
/// to join anew: with an empty store it would contradict all that it had confirmed.
#[test]
fn a_leader_of_before_does_not_reach_who_has_the_place_of_a_removed_member() {
    tell(3675, 5, |cluster| async move {
        let old = leader_but(&cluster, &[]).await;
        write_many(&cluster, old, 0..30).await;
        cluster.network.separate(&[old], 5);
        let new = leader_but(&cluster, &[old]).await;
        let removed = (0..5).find(|n| ![old, new].contains(n)).unwrap();
        assert!(cluster.change(Change::Remove(cluster.name(removed))).await);
        cluster.lose_disk(removed);
        // These two hear each other, and nobody else hears them.
        cluster.network.heal();
        cluster.network.separate(&[old, removed], 5);
        until(&cluster, "an empty node", || cluster.running(removed).is_some()).await;
        wait(&cluster, 2000).await;
        let empty = cluster.running(removed).unwrap();
        assert_eq!((applied(&cluster, removed), empty.replica.log().vote().map_or(0, |v| v.term)), (0, 0));
    });
}
