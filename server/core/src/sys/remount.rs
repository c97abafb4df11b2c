//! `sys/remount`: a mount gets another path. What it stores is found by its UUID, so that moving it is
//! one small commit; the status is kept for clients that ask for it afterwards. The tokens of an auth
//! mount end with the move, and so do the leases of an engine's, as they name its path: the answer waits for that.

use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Transaction, Value, parameters, record};
use minicbor::{Decode, Encode};

use super::{System, mounts};
use crate::layout::{MOVES, SYSTEM};
use crate::tx::{Effect, Tx};
use crate::{jobs, random, router};

/// Moves whose status is kept.
const KEPT: usize = 100;

parameters! {
    pub struct Move {
        /// The mount's path; an auth method's begins with auth/.
        from: Option<String>,
        /// The path that it gets.
        to: Option<String>,
    }
}

#[derive(Debug, Clone, Encode, Decode)]
struct Moved {
    #[n(0)]
    from: String,
    #[n(1)]
    to: String,
}
holdfast_sdk::record!(Moved);

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("remount", "Move a mount to another path.", |p| p.update(remount).root_protected()).path(
        "remount/status/{migration_id}",
        "How far a move is.",
        |p| p.read(status),
    )
}

fn remount(_: &System, tx: &mut Tx, call: &Call<'_>, p: Move) -> Result<Response> {
    let (Some(from), Some(to)) = (p.from.filter(|t| !t.is_empty()), p.to.filter(|t| !t.is_empty())) else {
        return Err(Error::bad_request("both 'from' and 'to' path must be specified as a string"));
    };
    let (from, to) = (router::mount_path(&from)?, router::mount_path(&to)?);
    let entries = router::load(tx)?;
    let found = entries.iter().find(|e| e.full_path() == from).cloned();
    let mut entry = found.ok_or_else(|| Error::bad_request(format!("no matching mount at {from:?}")))?;
    if entry.is_built_in() {
        return Err(Error::bad_request(format!("cannot remount {from:?}: the server needs it where it is")));
    }
    entry.path = match to.strip_prefix("auth/").filter(|rest| !rest.is_empty()) {
        Some(rest) if entry.auth => rest.to_owned(),
        None if entry.auth => {
            return Err(Error::bad_request(format!("cannot remount auth mount to non-auth mount {to:?}")));
        }
        _ if mounts::is_protected(&to) => {
            return Err(Error::bad_request(format!("cannot remount to destination {to}")));
        }
        _ => to.clone(),
    };
    if let Some(other) = mounts::in_the_way(&entries, &entry.path, entry.auth) {
        return Err(Error::bad_request(format!("path already in use at {:?}", other.full_path())));
    }
    if !entry.auth {
        mounts::leave_namespaces_alone(tx, call, &entry.path)?;
    }
    entry.moves += 1;
    router::save(tx, &entry)?;
    if entry.auth {
        // Its tokens are no good from here on; what is stored of them goes by and by.
        jobs::add(tx, jobs::Kind::tidy_tokens())?;
    } else {
        // What it gave was given at the path that it leaves.
        let cursor = Vec::new();
        let folder = from.clone();
        let ends = jobs::add(tx, jobs::Kind::RevokeLeases { folder, before: call.now.0, cursor, forget: false })?;
        tx.effect(Effect::AwaitJob(ends));
    }
    let id = time_ordered_id(call.now.0 / 1_000_000)?;
    remember(tx, &id, &Moved { from, to })?;
    let mut m = Map::new();
    m.insert("migration_id".into(), random::uuid_text(&id).into());
    Ok(Response::both(m).warn("Mount move is done. Its status can be read with the returned migration_id"))
}

/// A UUID of version 7: the oldest move is the first by key.
fn time_ordered_id(now_ms: u64) -> Result<[u8; 16]> {
    let mut id = random::uuid()?;
    id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    id[6] = 0x70 | (id[6] & 0x0f);
    Ok(id)
}

fn remember(tx: &mut Tx, id: &[u8; 16], moved: &Moved) -> Result<()> {
    tx.within(SYSTEM, |tx| {
        let kept = tx.ordered(MOVES, &[], &[], KEPT)?;
        if let Some((oldest, _)) = kept.first().filter(|_| kept.len() == KEPT) {
            tx.delete(Place::Ordered(MOVES, oldest))?;
        }
        record::put(tx, Place::Ordered(MOVES, id), moved)
    })
}

fn status(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let text = call.capture("migration_id");
    let id = random::parse_uuid(text).ok_or(Error::NotFound)?;
    let moved: Moved = tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(MOVES, &id)))?.ok_or(Error::NotFound)?;
    let mut info = Map::new();
    info.insert("source_mount".into(), moved.from.into());
    info.insert("target_mount".into(), moved.to.into());
    info.insert("status".into(), "success".into());
    let mut m = Map::new();
    m.insert("migration_id".into(), text.into());
    m.insert("migration_info".into(), Value::Object(info));
    Ok(Response::data(m))
}
