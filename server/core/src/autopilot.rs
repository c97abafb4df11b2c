//! Looking after the members of a cluster: newcomers get a vote when they have kept up for a while, and members
//! that are gone for long are removed, where that is asked for. The active node does it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};
use serde::{Deserialize, Serialize};

use crate::audit::Act;
use crate::cluster::{Change, Cluster, Lead, Member};
use crate::layout::{SETTINGS, STORE};
use crate::seal_state::Refusal;
use crate::tx::Tx;
use crate::{Core, Open};

const NAME: &[u8] = b"raft-autopilot";
/// How often the members are looked at, where the configuration does not say it.
const LOOK: Duration = Duration::from_secs(2);
/// Before the feature level rises, all members have been able to follow for so many looks.
const LOOKS_BEFORE_A_RISE: u32 = 5;

/// `sys/storage/raft/autopilot/configuration`; durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub cleanup_dead_servers: bool,
    pub dead_server_last_contact_threshold: u64,
    pub last_contact_threshold: u64,
    pub max_trailing_logs: u64,
    pub min_quorum: u64,
    pub server_stabilization_time: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        const SECOND: u64 = 1_000_000_000;
        Settings {
            cleanup_dead_servers: false,
            dead_server_last_contact_threshold: 24 * 3600 * SECOND,
            last_contact_threshold: 10 * SECOND,
            max_trailing_logs: 1000,
            min_quorum: 0,
            server_stabilization_time: 10 * SECOND,
        }
    }
}

pub(crate) fn load(tx: &mut Tx) -> Result<Settings> {
    let found = tx.within(STORE, |tx| tx.get(Place::Ordered(SETTINGS, NAME)))?;
    found.map_or(Ok(Settings::default()), |b| serde_json::from_slice(&b).map_err(Error::internal))
}

pub(crate) fn save(tx: &mut Tx, settings: &Settings) -> Result<()> {
    let bytes = serde_json::to_vec(settings).map_err(Error::internal)?;
    tx.within(STORE, |tx| tx.put(Place::Ordered(SETTINGS, NAME), bytes))
}

/// How a member does.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    pub member: Member,
    pub leads: bool,
    pub healthy: bool,
    /// Since it last answered; `None`: never, since this node leads.
    pub silent: Option<Duration>,
    pub last_index: u64,
    pub last_term: u64,
    /// Since when it is as it is.
    pub since: Timestamp,
}

/// Since when members are healthy, or not.
#[derive(Default)]
pub(crate) struct Watched(Mutex<BTreeMap<String, (bool, Timestamp)>>);

impl Watched {
    /// How the members do, as the leader sees it.
    pub fn look(&self, cluster: &dyn Cluster, settings: &Settings, now: Timestamp) -> Vec<Health> {
        let (members, _) = cluster.members();
        let lead: Lead = cluster.lead();
        let progress = cluster.progress();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| members.iter().any(|m| m.id == *id));
        let patience = Duration::from_nanos(settings.last_contact_threshold);
        let judged = members.into_iter().map(|member| {
            let leads = member.id == cluster.node_id();
            let (silent, last_index, last_term) = match progress.get(&member.id) {
                // Whoever leads has begun with an entry of its own term.
                _ if leads => (Some(Duration::ZERO), lead.last, lead.term),
                Some(p) => (p.silent, p.matched, p.term),
                None => (None, 0, 0),
            };
            let healthy = silent.is_some_and(|s| s < patience)
                && lead.last.saturating_sub(last_index) <= settings.max_trailing_logs;
            let entry = known.entry(member.id.clone()).or_insert((healthy, now));
            if entry.0 != healthy {
                *entry = (healthy, now);
            }
            let since = entry.1;
            Health { member, leads, healthy, silent, last_index, last_term, since }
        });
        judged.collect()
    }
}

/// How many of the voters may fail.
pub(crate) fn tolerance(all: &[Health]) -> usize {
    let voters = all.iter().filter(|h| h.member.votes).count();
    let healthy = all.iter().filter(|h| h.member.votes && h.healthy).count();
    healthy.saturating_sub(voters / 2 + 1)
}

/// Look after the members for as long as this node is active.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    if core.options.cluster.is_some() {
        core.while_open(open, run);
    }
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    let (mut all_can, mut every) = ((0, 0), LOOK);
    loop {
        tokio::time::sleep(every).await;
        let (Some(core), Some(unsealed)) = (core.upgrade(), open.upgrade()) else { return };
        let Some(cluster) = core.options.cluster.clone() else { return };
        every = cluster.looked_after_every().unwrap_or(LOOK);
        let mut tx = Tx::read_only(core.store.view(), (**unsealed.barrier.load()).clone());
        let settings = match load(&mut tx) {
            Ok(s) => s,
            Err(e) => {
                tracing::warn!(error = %e, "the members cannot be looked after");
                continue;
            }
        };
        drop((tx, unsealed));
        // A member that went back to an earlier program has said so by then.
        let level = core.level_of_all(&*cluster);
        all_can = if all_can.0 == level { (level, all_can.1 + 1) } else { (level, 0) };
        if all_can.1 >= LOOKS_BEFORE_A_RISE {
            core.raise_level(level).await;
        }
        if cluster.is_short_of_room() && cluster.hand_over().await {
            tracing::warn!("the disk of this node is nearly full: another node leads now");
            continue;
        }
        let all = core.watched.look(&*cluster, &settings, core.clock.cluster());
        if let Some(change) = due(&all, &settings, core.clock.cluster()) {
            tracing::info!(?change, "the members change");
            let act = told(&change);
            let begun = match open.upgrade() {
                Some(open) => Some(core.begins(&open, &act).await),
                None => None,
            };
            let gone = match &change {
                Change::Remove(id) => Some(id.clone()),
                _ => None,
            };
            let act = match cluster.change(change).await {
                Ok(()) => {
                    if let Some(id) = gone
                        && let Err(Refusal(_, why)) = core.node_left(&id).await
                    {
                        tracing::warn!(node = %id, "the lock of the member that was removed is still there: {why}");
                    }
                    act
                }
                Err(e) => {
                    tracing::warn!(error = %e, "the members could not be changed; it is tried again");
                    act.failed(&e.to_string())
                }
            };
            if let (Some(open), Some(begun)) = (open.upgrade(), begun) {
                core.ended(&open, begun, act);
            }
        }
    }
}

/// A change of the members as the audit log tells it.
fn told(change: &Change) -> Act {
    let (path, cause, member) = match change {
        Change::Remove(id) => ("sys/storage/raft/remove-peer", "the member is gone for too long", id),
        Change::Promote(id) => ("sys/storage/raft/promote", "the member has kept up for long enough", id),
        Change::Demote(id) => ("sys/storage/raft/demote", "the member is to have no vote", id),
        Change::Add(id, _) | Change::Correct(id, _) => {
            ("sys/storage/raft/configuration", "the member is somewhere else", id)
        }
    };
    Act::new("update", path, cause).plain("server_id", member)
}

/// The one change that is due, if there is one.
fn due(all: &[Health], settings: &Settings, now: Timestamp) -> Option<Change> {
    let stable = |h: &&Health| h.healthy && now.0.saturating_sub(h.since.0) >= settings.server_stabilization_time;
    let newcomer = all.iter().filter(|h| !h.member.votes && !h.member.peer.never_votes).find(stable);
    if let Some(h) = newcomer {
        return Some(Change::Promote(h.member.id.clone()));
    }
    if !settings.cleanup_dead_servers {
        return None;
    }
    let voters = all.iter().filter(|h| h.member.votes).count() as u64;
    let gone = all.iter().find(|h| {
        // One that never answered this leader counts from when it was first missed.
        let silent = h.silent.map_or(now.0.saturating_sub(h.since.0), |s| s.as_nanos() as u64);
        !h.healthy && !h.leads && silent >= settings.dead_server_last_contact_threshold
    })?;
    let leaves = if gone.member.votes { voters - 1 } else { voters };
    (leaves >= settings.min_quorum.max(1) && tolerance(all) > 0 || !gone.member.votes)
        .then(|| Change::Remove(gone.member.id.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Peer;

    const SECOND: u64 = 1_000_000_000;

    fn health(id: &str, votes: bool, healthy: bool, since_secs: u64) -> Health {
        Health {
            member: Member { id: id.into(), peer: Peer::default(), votes },
            leads: id == "a",
            healthy,
            silent: Some(if healthy { Duration::ZERO } else { Duration::from_secs(90) }),
            last_index: 9,
            last_term: 1,
            since: Timestamp(since_secs * SECOND),
        }
    }

    #[test]
    fn a_newcomer_votes_when_it_was_healthy_for_long_enough() {
        let settings = Settings::default();
        let all = [health("a", true, true, 0), health("b", false, true, 100)];
        assert!(due(&all, &settings, Timestamp(109 * SECOND)).is_none());
        assert!(matches!(due(&all, &settings, Timestamp(110 * SECOND)), Some(Change::Promote(id)) if id == "b"));
        let never = Health {
            member: Member { peer: Peer { never_votes: true, ..Peer::default() }, ..all[1].member.clone() },
            ..all[1].clone()
        };
        assert!(due(&[all[0].clone(), never], &settings, Timestamp(999 * SECOND)).is_none());
    }

    #[test]
    fn a_member_that_is_gone_is_removed_only_where_that_is_asked_for_and_enough_are_left() {
        let all = [
            health("a", true, true, 0),
            health("b", true, true, 0),
            health("c", true, true, 0),
            health("d", true, false, 0),
        ];
        let now = Timestamp(500 * SECOND);
        assert!(due(&all, &Settings::default(), now).is_none());
        let cleaning = Settings {
            cleanup_dead_servers: true,
            dead_server_last_contact_threshold: 60 * SECOND,
            min_quorum: 3,
            ..Settings::default()
        };
        // Three of four voters are there, which is no more than a majority: nobody may be missed.
        assert!(due(&all, &cleaning, now).is_none());
        let five = [&all[..], &[health("e", true, true, 0)]].concat();
        assert!(matches!(due(&five, &cleaning, now), Some(Change::Remove(id)) if id == "d"));
        let strict = Settings { min_quorum: 5, ..cleaning };
        assert!(due(&five, &strict, now).is_none());
    }
}
