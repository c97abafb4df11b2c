//! `sys/storage/raft/*`: the members of the cluster, and how they are looked after.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_sdk::parameters::{Anything, Nanos};
use holdfast_sdk::{
    Body, Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Timestamp, Value, duration,
    parameters,
};
use serde_json::json;

use super::System;
use crate::autopilot::{self, Settings};
use crate::cluster::{Change, ChangeError, Cluster, Member, Peer};
use crate::seal_state::Refusal;
use crate::tx::Tx;
use crate::{Core, Open, join_token, snapshot};

parameters! {
    pub struct Server {
        /// The node's id.
        server_id: Option<String>,
    }
}
parameters! {
    pub struct Autopilot {
        /// Members that are gone are removed.
        cleanup_dead_servers: Option<bool>,
        /// After how long without contact a member counts as gone.
        dead_server_last_contact_threshold: Option<Nanos>,
        /// After how long without contact a member is unhealthy.
        last_contact_threshold: Option<Nanos>,
        /// How many entries a healthy member may lag behind.
        max_trailing_logs: Option<i64>,
        /// Members with a vote are never removed below this number.
        min_quorum: Option<i64>,
        /// How long a new member must be healthy before it votes.
        server_stabilization_time: Option<Nanos>,
    }
}

parameters! {
    pub struct Joining {
        /// For how long the token is good; an hour if absent.
        ttl: Option<Nanos>,
    }
}

/// A join token's life, and the longest.
const JOIN_TTL: u64 = 3600 * 1_000_000_000;
const LONGEST_JOIN_TTL: u64 = 7 * 24 * JOIN_TTL;

/// A member that is counted as gone after less than this may only have been restarted.
const LEAST_DEAD: i128 = 60_000_000_000;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("storage/raft/configuration", "The members of the cluster.", |p| p.read(configuration).root_protected())
        .path("storage/raft/remove-peer", "Remove a member.", |p| {
            p.update(removed).prepared(Operation::Update, remove).root_protected().describe(
                "Where the member had a lock of its own, that goes with it, and the root key is changed.",
            )
        })
        .path("storage/raft/join-token", "Let a node with a device of its own join.", |p| {
            p.update(join_token).root_protected().describe(
                "The answer is a token that one node can join with, once. It locks the root key with its own device; that \
                 lock goes when the node is removed.",
            )
        })
        .path("storage/raft/promote", "Give a member a vote.", |p| {
            p.update(done).prepared(Operation::Update, promote).root_protected()
        })
        .path("storage/raft/demote", "Take a member's vote.", |p| {
            p.update(done).prepared(Operation::Update, demote).root_protected()
        })
        .path("storage/raft/snapshot", "Save the store, or bring a saved one back.", |p| {
            p.read(save).update(restored).prepared(Operation::Update, restore).root_protected().describe(
                "A read gives an archive. A write of such an archive puts it in the place of all that the store holds; \
                 the members of the cluster stay.",
            )
        })
        .path("storage/raft/snapshot-force", "Bring a saved store back, whatever keys it has.", |p| {
            p.update(restored).prepared(Operation::Update, restore_by_force).root_protected()
        })
        .path("storage/raft/snapshot-verify", "Look whether a saved store is whole and opens.", |p| {
            p.update(verified).prepared(Operation::Update, verify).root_protected().describe(
                "A write of an archive says what it is of, whether it is whole, and whether the present keys open every \
                 entry of it. Nothing is restored.",
            )
        })
        .path("storage/raft/autopilot/state", "How the members do.", |p| p.read(state))
        .path("storage/raft/autopilot/configuration", "How members are looked after.", |p| {
            p.read(read_settings).update(change_settings).root_protected()
        })
}

fn cluster(sys: &System) -> Result<Arc<dyn Cluster>> {
    sys.core()?.options.cluster.clone().ok_or_else(|| Error::bad_request("raft storage is not in use"))
}

fn configuration(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let cluster = cluster(sys)?;
    let (members, _) = cluster.members();
    let leader = cluster.lead().leader.map(|(id, _)| id);
    let shown = members.into_iter().map(|m| {
        json!({
            "node_id": m.id,
            "address": m.peer.cluster_addr,
            "leader": leader.as_ref() == Some(&m.id),
            "protocol_version": "3",
            "voter": m.votes,
        })
    });
    let mut m = Map::new();
    // The reference shows no other index.
    m.insert("config".into(), json!({"servers": shown.collect::<Vec<_>>(), "index": 0}));
    Ok(Response::data(m))
}

fn done(_: &System, _: &mut Tx, _: &Call<'_>, _: Server) -> Result<Response> {
    Ok(Response::empty())
}

fn named(p: Server) -> Result<String> {
    p.server_id.filter(|id| !id.is_empty()).ok_or_else(|| Error::bad_request("no server id provided"))
}

fn member(cluster: &dyn Cluster, id: &str) -> Option<Member> {
    cluster.members().0.into_iter().find(|m| m.id == id)
}

/// Carry a change of the members out before the transaction.
fn changed(cluster: Arc<dyn Cluster>, changes: Vec<Change>) -> Result<Option<Preparation>> {
    Ok(Some(Box::pin(async move {
        for change in changes {
            cluster.change(change).await.map_err(|e| match e {
                ChangeError::NotLeader => Error::Unavailable("this node is no longer the active one; try again".into()),
                ChangeError::Refused(text) => Error::Internal(text),
            })?;
        }
        let nothing: Prepared = Arc::new(());
        Ok(nothing)
    })))
}

fn join_token(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Joining) -> Result<Response> {
    cluster(sys)?;
    if !sys.core()?.has_device() {
        return Err(Error::bad_request("join tokens are for clusters that are sealed by devices"));
    }
    let ttl = match p.ttl {
        None => JOIN_TTL,
        Some(Nanos(n)) => u64::try_from(n)
            .ok()
            .filter(|n| (1..=LONGEST_JOIN_TTL).contains(n))
            .ok_or_else(|| Error::bad_request("ttl is more than zero and at most a week"))?,
    };
    let expires = Timestamp(call.now.0.saturating_add(ttl));
    let token = join_token::make(tx, call.now, expires)?;
    let mut m = Map::new();
    m.insert("join_token".into(), token.expose().as_str().into());
    m.insert("expires".into(), expires.rfc3339().into());
    Ok(Response::data(m))
}

/// One that is not there is removed already; its lock may still be there.
fn remove(sys: &System, _: &mut Tx, _: &Call<'_>, p: Server) -> Result<Option<Preparation>> {
    let (core, cluster, id) = (sys.core()?, cluster(sys)?, named(p)?);
    let Some(found) = member(&*cluster, &id) else { return Ok(Some(Box::pin(left(core, id)))) };
    let voters = cluster.members().0.iter().filter(|m| m.votes).count();
    if found.votes && voters == 1 {
        return Err(Error::bad_request("the last member with a vote cannot be removed"));
    }
    let removed = changed(cluster, vec![Change::Remove(id.clone())])?;
    Ok(removed.map(|removed| -> Preparation {
        Box::pin(async move {
            removed.await?;
            left(core, id).await
        })
    }))
}

async fn left(core: Arc<Core>, id: String) -> Result<Prepared> {
    let warnings = core.node_left(&id).await.map_err(|Refusal(_, text)| Error::Internal(text))?;
    let warnings: Prepared = Arc::new(warnings);
    Ok(warnings)
}

fn removed(_: &System, _: &mut Tx, call: &Call<'_>, _: Server) -> Result<Response> {
    let warnings = call.prepared.and_then(|p| p.downcast_ref::<Vec<String>>()).cloned().unwrap_or_default();
    Ok(Response { warnings, ..Response::empty() })
}

/// A member whose vote is given or taken by hand keeps it so.
fn by_hand(found: &Member, never_votes: bool) -> Option<Change> {
    let peer = Peer { never_votes, ..found.peer.clone() };
    (peer != found.peer).then(|| Change::Correct(found.id.clone(), peer))
}

/// The reference says 500 of it, as if its own part had failed.
fn unknown(id: &str) -> Error {
    Error::Status(404, vec![format!("server {id} not found in raft configuration")])
}

fn promote(sys: &System, _: &mut Tx, _: &Call<'_>, p: Server) -> Result<Option<Preparation>> {
    let (cluster, id) = (cluster(sys)?, named(p)?);
    let found = member(&*cluster, &id).ok_or_else(|| unknown(&id))?;
    if found.votes {
        return Err(Error::bad_request("server is not a non-voter"));
    }
    let changes = by_hand(&found, false).into_iter().chain([Change::Promote(id)]).collect();
    changed(cluster, changes)
}

fn demote(sys: &System, _: &mut Tx, _: &Call<'_>, p: Server) -> Result<Option<Preparation>> {
    let (cluster, id) = (cluster(sys)?, named(p)?);
    let found = member(&*cluster, &id).ok_or_else(|| unknown(&id))?;
    if !found.votes {
        return Err(Error::bad_request("server is not a voter"));
    }
    if cluster.members().0.iter().filter(|m| m.votes).count() == 1 {
        return Err(Error::bad_request("the last member with a vote cannot be demoted"));
    }
    let changes = by_hand(&found, true).into_iter().chain([Change::Demote(id)]).collect();
    changed(cluster, changes)
}

/// The name under which the listener says where an archive is that a client sent.
pub const ARCHIVE: &str = "archive";

fn save(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let chunks = snapshot::save(&core, &open)?;
    Ok(Response {
        body: Body::Stream { content_type: "application/gzip".into(), chunks },
        headers: vec![("Content-Disposition".into(), "attachment".into())],
        ..Response::default()
    })
}

fn restored(_: &System, _: &mut Tx, _: &Call<'_>, _: Anything) -> Result<Response> {
    Ok(Response::empty())
}

fn restore(sys: &System, _: &mut Tx, call: &Call<'_>, _: Anything) -> Result<Option<Preparation>> {
    restoring(sys, call, false)
}

fn restore_by_force(sys: &System, _: &mut Tx, call: &Call<'_>, _: Anything) -> Result<Option<Preparation>> {
    restoring(sys, call, true)
}

/// The archive that came with a request.
fn sent(sys: &System, call: &Call<'_>) -> Result<(Arc<Open>, PathBuf)> {
    let open = sys.core()?.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let file = call.request.data.get(ARCHIVE).and_then(Value::as_str).map(PathBuf::from);
    Ok((open, file.ok_or_else(|| Error::bad_request("no snapshot was sent"))?))
}

fn restoring(sys: &System, call: &Call<'_>, force: bool) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    let (open, file) = sent(sys, call)?;
    Ok(Some(Box::pin(async move {
        snapshot::restore(&core, &open, &file, force).await?;
        let nothing: Prepared = Arc::new(());
        Ok(nothing)
    })))
}

fn verify(sys: &System, _: &mut Tx, call: &Call<'_>, _: Anything) -> Result<Option<Preparation>> {
    let (open, file) = sent(sys, call)?;
    Ok(Some(Box::pin(async move {
        let verified: Prepared = Arc::new(snapshot::verify(&open, &file).await?);
        Ok(verified)
    })))
}

fn verified(_: &System, _: &mut Tx, call: &Call<'_>, _: Anything) -> Result<Response> {
    let found = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    Ok(Response::data(found.ok_or_else(|| Error::Internal("nothing was looked at".into()))?.clone()))
}

fn state(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let (core, cluster) = (sys.core()?, cluster(sys)?);
    let all = core.watched.look(&*cluster, &autopilot::load(tx)?, core.clock.cluster());
    let lead = cluster.lead();
    let mut servers = Map::new();
    for h in &all {
        let status = match (h.leads, h.member.votes) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "non-voter",
        };
        let silent = h.silent.map_or_else(|| "never".into(), |s| duration::go_text(s.as_nanos() as i128));
        let shown = json!({
            "address": h.member.peer.cluster_addr,
            "healthy": h.healthy,
            "id": h.member.id,
            "last_contact": silent,
            "last_index": h.last_index,
            "last_term": h.last_term,
            "name": h.member.id,
            "node_status": if h.healthy { "alive" } else { "failed" },
            "node_type": if h.member.peer.never_votes { "non-voter" } else { "voter" },
            "stable_since": h.since.rfc3339(),
            "status": status,
            // What it has said: another program may run there. One from before this was said shows none.
            "version": h.member.peer.version,
        });
        servers.insert(h.member.id.clone(), shown);
    }
    let of = |votes: bool| -> Vec<&str> {
        all.iter().filter(|h| h.member.votes == votes).map(|h| h.member.id.as_str()).collect()
    };
    let mut m = Map::new();
    m.insert("failure_tolerance".into(), autopilot::tolerance(&all).into());
    m.insert("healthy".into(), all.iter().all(|h| h.healthy).into());
    m.insert("leader".into(), lead.leader.map_or_else(String::new, |(id, _)| id).into());
    m.insert("servers".into(), Value::Object(servers));
    m.insert("voters".into(), of(true).into());
    if !of(false).is_empty() {
        m.insert("non_voters".into(), of(false).into());
    }
    Ok(Response::data(m))
}

fn read_settings(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let s = autopilot::load(tx)?;
    let text = |nanos: u64| Value::from(duration::go_text(nanos.into()));
    let mut m = Map::new();
    m.insert("cleanup_dead_servers".into(), s.cleanup_dead_servers.into());
    m.insert("dead_server_last_contact_threshold".into(), text(s.dead_server_last_contact_threshold));
    m.insert("last_contact_threshold".into(), text(s.last_contact_threshold));
    m.insert("max_trailing_logs".into(), s.max_trailing_logs.into());
    m.insert("min_quorum".into(), s.min_quorum.into());
    m.insert("server_stabilization_time".into(), text(s.server_stabilization_time));
    Ok(Response::data(m))
}

/// What is zero or absent stays as it is.
fn change_settings(_: &System, tx: &mut Tx, _: &Call<'_>, p: Autopilot) -> Result<Response> {
    let before = autopilot::load(tx)?;
    let nanos = |new: Option<Nanos>, old: u64| match new {
        Some(Nanos(n)) if n > 0 => u64::try_from(n).unwrap_or(u64::MAX),
        _ => old,
    };
    let number = |new: Option<i64>, old: u64| new.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(old);
    if let Some(Nanos(n)) = p.dead_server_last_contact_threshold
        && n > 0
        && n < LEAST_DEAD
    {
        let seconds = n as f64 / 1e9;
        return Err(Error::bad_request(format!(
            "dead_server_last_contact_threshold should not be set to less than 1m; received: {seconds}"
        )));
    }
    let settings = Settings {
        cleanup_dead_servers: p.cleanup_dead_servers.unwrap_or(before.cleanup_dead_servers),
        dead_server_last_contact_threshold: nanos(
            p.dead_server_last_contact_threshold,
            before.dead_server_last_contact_threshold,
        ),
        last_contact_threshold: nanos(p.last_contact_threshold, before.last_contact_threshold),
        max_trailing_logs: number(p.max_trailing_logs, before.max_trailing_logs),
        min_quorum: number(p.min_quorum, before.min_quorum),
        server_stabilization_time: nanos(p.server_stabilization_time, before.server_stabilization_time),
    };
    if settings.cleanup_dead_servers && settings.min_quorum < 3 {
        return Err(Error::bad_request(format!(
            "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; cleanup_dead_servers: \
             true, min_quorum: {}",
            settings.min_quorum
        )));
    }
    autopilot::save(tx, &settings)?;
    Ok(Response::empty())
}
