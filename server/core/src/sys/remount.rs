//! `sys/remount`: a mount gets another path. Within its namespace that is one small commit, since what it stores is found by its
//! UUID; to another namespace it is a job ([`crate::moves`]). The tokens of an auth mount end with the move, and so do the
//! leases of an engine's, as they name its path: the answer waits for that.

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters};

use holdfast_storage::level;

use super::{System, mounts};
use crate::layout::{NamespaceId, SYSTEM};
use crate::moves::{self, Move as ToNamespace, Status};
use crate::router::MountEntry;
use crate::tx::{Effect, Tx};
use crate::{jobs, leases, namespaces, random, router};

parameters! {
    pub struct Move {
        /// The mount's path; an auth method's begins with auth/. It may begin with namespaces below this one.
        from: Option<String>,
        /// The path that it gets, in the same form.
        to: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("remount", "Move a mount to another path.", |p| {
            p.update(remount).prepared(Operation::Update, end_leases).root_protected()
        })
        .path("remount/status/{migration_id}", "How far a move is.", |p| p.read(status))
}

/// How long a client waits for the end of what the mount gave. What is left then ends behind.
const FOR_LEASES: Duration = Duration::from_secs(30);

/// Where a path leads.
struct Spot {
    namespace: NamespaceId,
    /// From the root.
    namespace_path: String,
    /// In that namespace, with a slash at its end; empty: the path is the namespace's own.
    path: String,
    /// As it was asked for, with a slash at its end.
    asked: String,
}

/// The nearest namespace on a path, below the request's, and what is left of the path.
fn spot(tx: &mut Tx, call: &Call<'_>, text: &str) -> Result<Spot> {
    let asked = router::mount_path(text)?;
    let mut found =
        Spot { namespace: tx.namespace(), namespace_path: call.request.namespace.clone(), path: asked.clone(), asked };
    while let Some((first, rest)) = found.path.split_once('/') {
        let Some(below) = namespaces::at(tx, &format!("{}{first}/", found.namespace_path))? else { break };
        if tx.is_sealed(&below.uuid) {
            return Err(Error::Unavailable(format!("namespace {:?} is sealed", below.path)));
        }
        if below.lock.is_some() {
            return Err(Error::bad_request(format!("namespace {:?} is locked", below.path)));
        }
        (found.namespace, found.namespace_path, found.path) = (below.uuid, below.path, rest.to_owned());
    }
    Ok(found)
}

/// What a request asks for, which is possible.
struct Plan {
    from: Spot,
    to: Spot,
    entry: MountEntry,
    /// The mount's new path, within the kind of mount that it is.
    path: String,
}

fn plan(tx: &mut Tx, call: &Call<'_>, p: Move) -> Result<Plan> {
    let (Some(from), Some(to)) = (p.from.filter(|t| !t.is_empty()), p.to.filter(|t| !t.is_empty())) else {
        return Err(Error::bad_request("both 'from' and 'to' path must be specified as a string"));
    };
    let (from, to) = (spot(tx, call, &from)?, spot(tx, call, &to)?);
    let entries = tx.within(SYSTEM.of(from.namespace), router::load)?;
    let found = entries.iter().find(|e| e.full_path() == from.path).cloned();
    let entry = found.ok_or_else(|| Error::bad_request(format!("no matching mount at {:?}", from.asked)))?;
    if entry.is_built_in() {
        return Err(Error::bad_request(format!("cannot remount {:?}: the server needs it where it is", from.asked)));
    }
    moves::refuse_while_under_way(&entry)?;
    if to.path.is_empty() {
        return Err(Error::bad_request(format!("path already in use at {:?}", to.asked)));
    }
    let path = match to.path.strip_prefix("auth/").filter(|rest| !rest.is_empty()) {
        Some(rest) if entry.auth => rest.to_owned(),
        None if entry.auth => {
            return Err(Error::bad_request(format!("cannot remount auth mount to non-auth mount {:?}", to.asked)));
        }
        _ if mounts::is_protected(&to.path) => {
            return Err(Error::bad_request(format!("cannot remount to destination {}", to.path)));
        }
        _ => to.path.clone(),
    };
    let there = tx.within(SYSTEM.of(to.namespace), router::load)?;
    if let Some(other) = mounts::in_the_way(&there, &path, entry.auth) {
        let other = format!("{}{}", to.asked.strip_suffix(&to.path).unwrap_or_default(), other.full_path());
        return Err(Error::bad_request(format!("path already in use at {other:?}")));
    }
    Ok(Plan { from, to, entry, path })
}

/// What an engine's mount gave ends before it moves, so that whoever hears of the move knows that it is gone. What
/// cannot be ended now does not hold the move up.
fn end_leases(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Move) -> Result<Option<Preparation>> {
    let Plan { from, to, entry, .. } = plan(tx, call, p)?;
    if entry.auth || from.namespace != to.namespace {
        return Ok(None);
    }
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let (space, path, now) = (from.namespace, from.path.trim_end_matches('/').to_owned(), call.now);
    Ok(Some(Box::pin(async move {
        let ends = leases::revoke_below(&core, &open, space, &path, now, |_| true);
        if let Ok(ended) = tokio::time::timeout(FOR_LEASES, ends).await {
            ended?;
        }
        Ok(Arc::new(()) as Prepared)
    })))
}

fn remount(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Move) -> Result<Response> {
    let Plan { from, to, entry, path } = plan(tx, call, p)?;
    let id = time_ordered_id(call.now.0 / 1_000_000)?;
    let mut m = Map::new();
    m.insert("migration_id".into(), random::uuid_text(&id).into());
    if from.namespace == to.namespace {
        within_namespace(tx, call, &from, entry, path)?;
        moves::remember(tx, &id, &Status { from: from.asked, to: to.asked, in_progress: false })?;
        return Ok(Response::both(m).warn("Mount move is done. Its status can be read with the returned migration_id"));
    }
    if sys.core()?.feature_level() < level::MOVES {
        return Err(Error::Unavailable(
            "mounts are moved to other namespaces when all nodes of the cluster run a version that knows it".into(),
        ));
    }
    for namespace in [&from, &to] {
        if tx.barrier().number_of(&namespace.namespace).is_some() {
            return Err(Error::bad_request(format!(
                "{:?} has a seal of its own, or is in one that has: no mount is moved into or out of it",
                namespace.namespace_path
            )));
        }
    }
    let is_upgraded =
        |job: &jobs::Job| matches!(job.kind, jobs::Kind::UpgradeMount { mount, .. } if mount == entry.uuid);
    if jobs::list(tx)?.iter().any(|(_, job)| is_upgraded(job)) {
        return Err(Error::bad_request(format!("{:?} is being upgraded: see sys/jobs", from.asked)));
    }
    let asked_in = tx.namespace();
    let (leases, written) = (Vec::new(), Vec::new());
    let mv = ToNamespace {
        id,
        asked_in,
        from: from.asked,
        to: to.asked,
        entry: Box::new(entry.clone()),
        target: to.namespace,
        leases,
        written,
    };
    tx.within(SYSTEM.of(from.namespace), |tx| moves::begin(tx, &entry, path, mv))?;
    Ok(Response::both(m).warn("Mount move has been queued. Its status can be read with the returned migration_id"))
}

/// One commit is all.
fn within_namespace(tx: &mut Tx, call: &Call<'_>, from: &Spot, mut entry: MountEntry, path: String) -> Result<()> {
    tx.within(SYSTEM.of(from.namespace), |tx| {
        if !entry.auth {
            mounts::leave_namespaces_alone(tx, &from.namespace_path, &path)?;
        }
        entry.path = path;
        entry.moves += 1;
        router::save(tx, &entry)?;
        if entry.auth {
            // Its tokens are no good from here on; what is stored of them goes by and by.
            jobs::add(tx, jobs::Kind::tidy_tokens())?;
        } else {
            // What it gave was given at the path that it leaves.
            let (folder, cursor) = (from.path.clone(), Vec::new());
            let ends = jobs::add(tx, jobs::Kind::RevokeLeases { folder, before: call.now.0, cursor, forget: false })?;
            tx.effect(Effect::AwaitJob(ends));
        }
        Ok(())
    })
}

/// A UUID of version 7: the oldest move is the first by key.
fn time_ordered_id(now_ms: u64) -> Result<[u8; 16]> {
    let mut id = random::uuid()?;
    id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    id[6] = 0x70 | (id[6] & 0x0f);
    Ok(id)
}

fn status(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let text = call.capture("migration_id");
    let id = random::parse_uuid(text).ok_or(Error::NotFound)?;
    let found = moves::status(tx, &id)?.ok_or(Error::NotFound)?;
    let mut info = Map::new();
    info.insert("source_mount".into(), found.from.into());
    info.insert("target_mount".into(), found.to.into());
    info.insert("status".into(), if found.in_progress { "in-progress" } else { "success" }.into());
    let mut m = Map::new();
    m.insert("migration_id".into(), text.into());
    m.insert("migration_info".into(), Value::Object(info));
    Ok(Response::data(m))
}
