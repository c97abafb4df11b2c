//! `auth/token/tidy`: a walk through the token store for records whose token is gone. It also follows the end of an
//! auth mount, whose tokens are no good from then on.
//!
//! Every end of a token is one commit with all that belongs to it, or leaves a job behind; so there
//! is nothing to find unless a store was damaged or mended by hand. What has ended but was not swept yet goes too.

use holdfast_sdk::{Place, Result, Table, Timestamp, TokenId, Transaction};

use super::{has_its_mount, load, revoke_tree};
use crate::layout::{ACCESSOR, CHILDREN, TOKEN, TOKEN_USES, TOKENS, USES};
use crate::tx::Tx;

/// In this order: what the first ones leave behind is found by the later ones.
const TABLES: [Table; 5] = [TOKEN, ACCESSOR, CHILDREN, USES, TOKEN_USES];

/// Where a walk begins.
pub const FIRST: u8 = TABLES[0].0;

/// One batch. True: there is more to do.
pub fn tidy(tx: &mut Tx, table: &mut u8, cursor: &mut Vec<u8>, limit: usize, now: Timestamp) -> Result<bool> {
    let Some(at) = TABLES.iter().position(|t| t.0 == *table) else { return Ok(false) };
    let found = tx.within(TOKENS, |tx| tx.ordered(TABLES[at], cursor, &[], limit))?;
    let last = found.last().map(|(key, _)| key.clone());
    let full = found.len() == limit;
    for (key, value) in found {
        look_at(tx, TABLES[at], &key, &value, now)?;
    }
    if let Some(mut key) = last.filter(|_| full) {
        key.push(0);
        *cursor = key;
        return Ok(true);
    }
    cursor.clear();
    match TABLES.get(at + 1) {
        Some(next) => *table = next.0,
        None => return Ok(false),
    }
    Ok(true)
}

fn look_at(tx: &mut Tx, table: Table, key: &[u8], value: &[u8], now: Timestamp) -> Result<()> {
    let namespace = tx.namespace();
    let id_of = |own: [u8; 32]| TokenId { namespace, own };
    let id_in = |bytes: Option<&[u8]>| bytes.and_then(|b| <[u8; 32]>::try_from(b).ok()).map(id_of);
    match table {
        TOKEN => {
            let Some(id) = id_in(Some(key)) else { return Ok(()) };
            let Some(entry) = load(tx, &id)? else { return Ok(()) };
            let parent_is_gone = match entry.parent() {
                Some(parent) => load(tx, &parent)?.is_none(),
                None => false,
            };
            // The record of one that lets its children go belongs to its job.
            let mount_is_gone = !has_its_mount(tx, namespace, &entry)?;
            if !entry.orphaning && (entry.has_ended(now) || parent_is_gone || mount_is_gone) {
                revoke_tree(tx, &id)
            } else {
                Ok(())
            }
        }
        ACCESSOR => forget(tx, table, key, id_in(Some(value))),
        CHILDREN => {
            let child = id_in(key.get(32..64));
            let elsewhere = value.try_into().ok();
            let child = child.map(|c| TokenId { namespace: elsewhere.unwrap_or(namespace), ..c });
            forget(tx, table, key, child)
        }
        _ => forget(tx, table, key, id_in(Some(key))),
    }
}

/// Delete a record whose token is not there.
fn forget(tx: &mut Tx, table: Table, key: &[u8], token: Option<TokenId>) -> Result<()> {
    let gone = match token {
        Some(id) => load(tx, &id)?.is_none(),
        None => true,
    };
    if gone { tx.within(TOKENS, |tx| tx.delete(Place::Ordered(table, key))) } else { Ok(()) }
}
