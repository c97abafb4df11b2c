//! Moves of mounts to another namespace.
//!
//! What a mount stores is bound to its namespace: names are encrypted, and ids hashed, for their scope alone. So a move
//! is a job. In one commit the mount is out of service, and its new path taken; then what it gave ends, with what it made
//! outside; then its records are written anew, table by table, in batches; in a last commit it is in service at its
//! new path, and another job deletes what it left. A move that is cut off goes on where it was.

use holdfast_sdk::{Backend, Error, LAST_USES, Place, Result, Table, Transaction, record};
use minicbor::{Decode, Encode};

use crate::layout::{MOVES, NamespaceId, SYSTEM, Scope};
use crate::router::{self, MountEntry};
use crate::tx::Tx;
use crate::{Core, intents, jobs, last_use, leases, namespaces, quotas};

/// Moves whose status is kept in a namespace.
const KEPT: usize = 100;
/// Records written in one commit, and about how many bytes.
const RECORDS: usize = 128;
const BYTES: usize = 1 << 20;

/// A move as `sys/remount/status` tells it.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Status {
    #[n(0)]
    pub from: String,
    #[n(1)]
    pub to: String,
    /// Of one to another namespace, while it goes on.
    #[n(2)]
    #[cbor(default)]
    pub in_progress: bool,
}
record!(Status);

/// What the job of a move knows.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Move {
    /// Its id, and the namespace that knows its status.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    #[cbor(n(1), with = "minicbor::bytes")]
    pub asked_in: NamespaceId,
    /// As they were asked for.
    #[n(2)]
    pub from: String,
    #[n(3)]
    pub to: String,
    /// The mount as it is in its new namespace.
    #[n(4)]
    pub entry: Box<MountEntry>,
    #[cbor(n(5), with = "minicbor::bytes")]
    pub target: NamespaceId,
    /// How far its leases have been told to end.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub leases: Vec<u8>,
    /// The last record that was written anew: its table, and its place there.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub written: Vec<u8>,
}

/// How far one batch has brought a move.
pub enum Progress {
    Done,
    More,
    Waits(String),
}

/// Keep the status of a move in the present namespace.
pub fn remember(tx: &mut Tx, id: &[u8; 16], status: &Status) -> Result<()> {
    tx.within(SYSTEM, |tx| {
        let kept = tx.ordered(MOVES, &[], &[], KEPT)?;
        if let Some((oldest, _)) = kept.first().filter(|_| kept.len() == KEPT) {
            tx.delete(Place::Ordered(MOVES, oldest))?;
        }
        record::put(tx, Place::Ordered(MOVES, id), status)
    })
}

pub fn status(tx: &mut Tx, id: &[u8; 16]) -> Result<Option<Status>> {
    tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(MOVES, id)))
}

/// What is answered for a mount that is on its way.
pub fn is_under_way(path: &str) -> Error {
    Error::Status(
        503,
        vec![format!("{path:?} is being moved to another namespace: sys/remount/status says how far that is")],
    )
}

/// What is answered to who wants to change such a mount.
pub fn refuse_while_under_way(entry: &MountEntry) -> Result<()> {
    match entry.moving {
        true => Err(Error::bad_request(format!("{:?} is being moved to another namespace", entry.full_path()))),
        false => Ok(()),
    }
}

/// Whether a mount is being moved out of a namespace, or into it.
pub fn touches(tx: &mut Tx, namespace: &NamespaceId) -> Result<bool> {
    Ok(jobs::list(tx)?.iter().any(|(_, job)| match &job.kind {
        jobs::Kind::MoveMount(mv) => job.namespace() == *namespace || mv.target == *namespace,
        _ => false,
    }))
}

/// Take the mount out of service, and its new path. The transaction is in the namespace that it leaves.
pub fn begin(tx: &mut Tx, entry: &MountEntry, path: String, mut mv: Move) -> Result<()> {
    let mut left = entry.clone();
    left.moving = true;
    // Tokens of an auth mount end with this.
    left.moves += 1;
    router::save(tx, &left)?;
    let mut taken = entry.clone();
    taken.path = path;
    taken.moving = true;
    taken.moves += 1;
    tx.within(SYSTEM.of(mv.target), |tx| router::save(tx, &taken))?;
    if entry.auth {
        jobs::add(tx, jobs::Kind::tidy_tokens())?;
    }
    *mv.entry = taken;
    tx.within(SYSTEM.of(mv.asked_in), |tx| {
        let status = Status { from: mv.from.clone(), to: mv.to.clone(), in_progress: true };
        remember(tx, &mv.id, &status)
    })?;
    jobs::add(tx, jobs::Kind::MoveMount(Box::new(mv)))?;
    Ok(())
}

/// One batch of a move. The transaction is in the namespace that the mount leaves.
pub fn step(core: &Core, tx: &mut Tx, mv: &mut Move) -> Result<Progress> {
    let (source, mount) = (tx.namespace(), mv.entry.uuid);
    if leases::end_of_mount(tx, &mount, &mut mv.leases)? {
        return Ok(Progress::More);
    }
    if let Some((_, intent)) = intents::of_mount(tx, &mount, 1)?.first() {
        return Ok(Progress::Waits(format!(
            "waits until what it made outside is undone, {:?} among it: see sys/intents",
            intent.name
        )));
    }
    let engine = core.backend(&mv.entry)?;
    let scopes = (Scope::mount(source, mount), Scope::mount(mv.target, mount));
    if write_some(tx, scopes, &*engine, &mut mv.written)? {
        return Ok(Progress::More);
    }
    finish(tx, mv)?;
    Ok(Progress::Done)
}

/// Write a batch of records anew. True: there are more.
fn write_some(
    tx: &mut Tx,
    (source, target): (Scope, Scope),
    engine: &dyn Backend,
    written: &mut Vec<u8>,
) -> Result<bool> {
    let (batch, more) = tx.within(source, |tx| tx.records(written, RECORDS, BYTES))?;
    for (at, value) in batch {
        written.clone_from(&at);
        let Some((table, place)) = at.split_first() else { continue };
        let table = Table(*table);
        if table == LAST_USES {
            tx.within(target, |tx| last_use::place_anew(tx, value))?;
            continue;
        }
        if engine.id_tables().contains(&table) {
            // They are written with the records that they are of.
            continue;
        }
        let name = tx.within(source, |tx| tx.name_at(table, place))?;
        tx.within(target, |tx| {
            let place = match &name {
                Some(name) => Place::Name(table, name),
                None => Place::Ordered(table, place),
            };
            engine.place_ids(tx, place, &value)?;
            tx.put(place, value)
        })?;
    }
    Ok(more)
}

/// It is in service at its new path.
fn finish(tx: &mut Tx, mv: &Move) -> Result<()> {
    let entries = router::load(tx)?;
    if let Some(left) = entries.iter().find(|e| e.uuid == mv.entry.uuid) {
        let path = namespaces::path_of(tx, tx.namespace())?;
        router::forget(tx, left)?;
        quotas::forget_of_mount(tx, &path, &left.full_path())?;
        // Nothing was made by what is left: its records alone go.
        let (mount, path) = (left.uuid, left.full_path());
        jobs::add(tx, jobs::Kind::CleanMount { mount, path, entry: None, cursor: Vec::new() })?;
    }
    tx.within(SYSTEM.of(mv.target), |tx| {
        let entry = MountEntry { moving: false, ..(*mv.entry).clone() };
        router::save(tx, &entry)
    })?;
    tx.within(SYSTEM.of(mv.asked_in), |tx| match status(tx, &mv.id)? {
        Some(status) => tx.within(SYSTEM, |tx| {
            record::put(tx, Place::Ordered(MOVES, &mv.id), &Status { in_progress: false, ..status })
        }),
        // So many were asked for since that it is forgotten.
        None => Ok(()),
    })
}
