//! Leases: what ends at a time, by the path it was asked for at.
//!
//! So far tokens are all that has one. A lease's name is that path and a last part; it leads to the
//! token, whose own record says when it ends.

use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};

use crate::layout::{LEASES, SYSTEM};
use crate::tokens::{self, TokenEntry};
use crate::tx::Tx;

/// Leases revoked in one commit.
pub const BATCH: usize = 128;
/// In front of a token's stored id.
const TOKEN: u8 = 1;

/// A token's lease, if it has one: not where it never ends, and not where it only carries a wrapped answer.
pub fn of_token(id: &[u8; 32], entry: &TokenEntry) -> Option<String> {
    (entry.expires.is_some() && !entry.is_wrapping()).then(|| format!("{}/h{}", entry.path, hex::encode(id)))
}

pub fn put_token(tx: &mut Tx, id: &[u8; 32], entry: &TokenEntry) -> Result<()> {
    match of_token(id, entry) {
        Some(lease) => tx.within(SYSTEM, |tx| tx.put(Place::Name(LEASES, &lease), [&[TOKEN][..], id].concat())),
        None => Ok(()),
    }
}

pub fn remove_token(tx: &mut Tx, id: &[u8; 32], entry: &TokenEntry) -> Result<()> {
    match of_token(id, entry) {
        Some(lease) => tx.within(SYSTEM, |tx| tx.delete(Place::Name(LEASES, &lease))),
        None => Ok(()),
    }
}

/// The token behind a lease, whether or not it has ended.
pub fn token(tx: &mut Tx, lease: &str) -> Result<Option<([u8; 32], TokenEntry)>> {
    // Parts that are empty are none of a lease's.
    if lease.is_empty() || lease.ends_with('/') {
        return Ok(None);
    }
    let Some(bytes) = tx.within(SYSTEM, |tx| tx.get(Place::Name(LEASES, lease)))? else { return Ok(None) };
    let id = match bytes.split_first() {
        Some((&TOKEN, id)) => id.try_into().map_err(|_| Error::Internal("a lease's record is broken".into()))?,
        _ => return Err(Error::Internal("a lease is of a kind that this version does not know".into())),
    };
    Ok(tokens::load(tx, &id)?.map(|entry| (id, entry)))
}

/// Names right below a folder (empty, or with a slash at its end).
pub fn list(tx: &mut Tx, folder: &str) -> Result<Vec<String>> {
    tx.within(SYSTEM, |tx| tx.names(LEASES, folder, "", 0))
}

/// Revoke leases below a folder that were there at `before`: as many as fit into a commit. True: there are more.
pub fn revoke_below(tx: &mut Tx, folder: &str, before: Timestamp) -> Result<bool> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    'all: while let Some(folder) = folders.pop() {
        for name in list(tx, &folder)? {
            let full = format!("{folder}{name}");
            if full.ends_with('/') {
                folders.push(full);
            } else if let Some((id, _)) = token(tx, &full)?.filter(|(_, e)| e.issued() <= before) {
                found.push(id);
                if found.len() > BATCH {
                    break 'all;
                }
            }
        }
    }
    for id in found.iter().take(BATCH) {
        tokens::revoke_tree(tx, id)?;
    }
    Ok(found.len() > BATCH)
}
