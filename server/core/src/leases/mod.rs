//! Leases: what ends at a time, by the path it was asked for at.
//!
//! A lease's name is that path and a last part. It is of a token, whose own record says when it ends, or of
//! what an engine made ([`EngineLease`]). Ending one that has something outside is an intent
//! ([`crate::intents`]): the lease is there until what it stands for is undone.

mod engine;
mod outside;

use std::collections::BTreeMap;

use holdfast_sdk::{Error, Place, Result, Timestamp, TokenId, Transaction, record};

pub use engine::{
    EngineLease, count_ending, count_irrevocable, count_live, count_live_of_role, count_of_target, end_of_mount,
    end_of_token, end_rest_of_token, ends_by, forget_by_force, irrevocable, issue, live_by_role, of_mount, take_out,
    undone,
};
pub use outside::{renew, revoke_all, revoke_below, revoke_now};

use crate::layout::{LEASES, SYSTEM, TOKEN_COUNTS, TOKEN_ROLE_COUNTS, TOKENS};
use crate::namespaces;
use crate::random::uuid_text;
use crate::tokens::{self, TokenEntry};
use crate::tx::Tx;

/// Mounts of a namespace whose leases are counted.
const MOST_MOUNTS: usize = 100_000;
/// Leases ended in one commit.
pub const BATCH: usize = 128;
/// In front of a token's stored id.
const TOKEN: u8 = 1;
/// In front of an [`EngineLease`].
const ENGINE: u8 = 2;

/// What a lease is of.
pub enum Of {
    Token(TokenId, Box<TokenEntry>),
    Engine(Box<EngineLease>),
}

/// A token's lease, if it has one: not where it never ends, and not where it only carries a wrapped answer.
fn of_token(tx: &mut Tx, id: &TokenId, entry: &TokenEntry) -> Result<Option<String>> {
    if entry.expires.is_none() || entry.is_wrapping() {
        return Ok(None);
    }
    let suffix = tx.within(SYSTEM.of(id.namespace), namespaces::suffix)?;
    Ok(Some(format!("{}/h{}{suffix}", entry.path, hex::encode(id.own))))
}

pub fn put_token(tx: &mut Tx, id: &TokenId, entry: &TokenEntry) -> Result<()> {
    let Some(lease) = of_token(tx, id, entry)? else { return Ok(()) };
    count_token(tx, id, entry, 1)?;
    let place = Place::Name(LEASES, &lease);
    tx.within(SYSTEM.of(id.namespace), |tx| tx.put(place, [&[TOKEN][..], &id.own].concat()))
}

pub fn remove_token(tx: &mut Tx, id: &TokenId, entry: &TokenEntry) -> Result<()> {
    let Some(lease) = of_token(tx, id, entry)? else { return Ok(()) };
    count_token(tx, id, entry, -1)?;
    tx.within(SYSTEM.of(id.namespace), |tx| tx.delete(Place::Name(LEASES, &lease)))
}

fn count_token(tx: &mut Tx, id: &TokenId, entry: &TokenEntry, by: i64) -> Result<()> {
    let mount = entry.auth_mount.unwrap_or_default();
    tx.within(TOKENS.of(id.namespace), |tx| {
        tx.add(Place::Ordered(TOKEN_COUNTS, &mount), by, None)?;
        match entry.counted_as.as_str() {
            "" => Ok(()),
            role => tx.add(Place::Name(TOKEN_ROLE_COUNTS, &of_role(&mount, role)), by, None),
        }
    })
}

fn of_role(mount: &[u8; 16], role: &str) -> String {
    format!("{}/{role}", uuid_text(mount))
}

/// Tokens of the present namespace that have a lease, given by the logins of an auth mount for a role.
pub fn count_tokens_of_role(tx: &mut Tx, mount: &[u8; 16], role: &str) -> Result<i64> {
    tx.within(TOKENS, |tx| tx.count(Place::Name(TOKEN_ROLE_COUNTS, &of_role(mount, role)))).map(|n| n.max(0))
}

/// Tokens of the present namespace that have a lease, given by the logins of an auth mount; of none: all others.
pub fn count_tokens(tx: &mut Tx, auth_mount: Option<[u8; 16]>) -> Result<i64> {
    let mount = auth_mount.unwrap_or_default();
    // Those of older versions were not counted.
    tx.within(TOKENS, |tx| tx.count(Place::Ordered(TOKEN_COUNTS, &mount))).map(|n| n.max(0))
}

/// Leases of a mount at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens, of an auth mount; of zeros: those that no login gave.
    pub tokens: i64,
    /// Of what an engine made.
    pub live: i64,
    /// Their end has begun.
    pub ending: i64,
}

/// The leases of the present namespace by the UUIDs of mounts, as they are counted.
pub fn counts(tx: &mut Tx) -> Result<BTreeMap<[u8; 16], Counts>> {
    let mut all: BTreeMap<[u8; 16], Counts> = BTreeMap::new();
    let tokens = tx.within(TOKENS, |tx| tx.ordered(TOKEN_COUNTS, &[], &[], MOST_MOUNTS))?;
    for (key, _) in tokens {
        if let Ok(mount) = <[u8; 16]>::try_from(key) {
            all.entry(mount).or_default().tokens = count_tokens(tx, Some(mount))?;
        }
    }
    for mount in engine::counted_mounts(tx, MOST_MOUNTS)? {
        let (live, ending) = (count_live(tx, &mount)?, count_ending(tx, &mount)?);
        let counts = all.entry(mount).or_default();
        (counts.live, counts.ending) = (live, ending);
    }
    Ok(all)
}

/// A lease of the present namespace by its id, whether or not it has ended.
pub fn find(tx: &mut Tx, id: &str) -> Result<Option<Of>> {
    // Parts that are empty are none of a lease's.
    if id.is_empty() || id.ends_with('/') {
        return Ok(None);
    }
    match tx.within(SYSTEM, |tx| tx.get(Place::Name(LEASES, id)))? {
        Some(bytes) => read(tx, &bytes),
        None => Ok(None),
    }
}

fn read(tx: &mut Tx, bytes: &[u8]) -> Result<Option<Of>> {
    match bytes.split_first() {
        Some((&TOKEN, id)) => {
            let own = id.try_into().map_err(|_| Error::Internal("a lease's record is broken".into()))?;
            let id = TokenId { namespace: tx.namespace(), own };
            Ok(tokens::load(tx, &id)?.map(|entry| Of::Token(id, Box::new(entry))))
        }
        Some((&ENGINE, lease)) => Ok(Some(Of::Engine(Box::new(record::read(lease)?)))),
        _ => Err(Error::Internal("a lease is of a kind that this version does not know".into())),
    }
}

/// Names right below a folder (empty, or with a slash at its end).
pub fn list(tx: &mut Tx, folder: &str) -> Result<Vec<String>> {
    tx.within(SYSTEM, |tx| tx.names(LEASES, folder, "", 0))
}

/// How leases below a folder end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// What was made is taken back, as often as it has to be tried.
    Revoke,
    /// The leases go, and what was made stays.
    Forget,
}

/// End leases below a folder that were there at `before`: a batch behind `cursor`. True: there may be more.
pub fn end_below(tx: &mut Tx, folder: &str, how: How, before: Timestamp, cursor: &mut Vec<u8>) -> Result<bool> {
    let batch = tx.within(SYSTEM, |tx| tx.below(LEASES, folder, cursor, BATCH))?;
    for (_, bytes) in batch.entries {
        match read(tx, &bytes)? {
            Some(Of::Token(id, entry)) if entry.issued() <= before => tokens::revoke_tree(tx, &id)?,
            Some(Of::Engine(lease)) if lease.issued() <= before => match how {
                How::Revoke => engine::begin_end(tx, *lease)?,
                How::Forget => forget_by_force(tx, &lease)?,
            },
            _ => {}
        }
    }
    let more = batch.after.is_some();
    *cursor = batch.after.unwrap_or_default();
    Ok(more)
}

/// Some leases of engines, and where to go on in the table of all leases; `None`: there are no more.
pub struct Part {
    pub leases: Vec<EngineLease>,
    pub after: Option<Vec<u8>>,
}

/// A part of the leases of engines below a path, behind a place in their table. Before all others, without such a
/// place, comes the one of that name.
pub fn engine_leases_below(tx: &mut Tx, path: &str, behind: Option<&[u8]>) -> Result<Part> {
    let mut leases = Vec::new();
    if behind.is_none()
        && let Some(Of::Engine(lease)) = find(tx, path)?
    {
        leases.push(*lease);
    }
    let folder = if path.is_empty() { String::new() } else { format!("{path}/") };
    let batch = tx.within(SYSTEM, |tx| tx.below(LEASES, &folder, behind.unwrap_or_default(), BATCH))?;
    for (_, bytes) in &batch.entries {
        if let Some((&ENGINE, lease)) = bytes.split_first() {
            leases.push(record::read(lease)?);
        }
    }
    Ok(Part { leases, after: batch.after })
}
