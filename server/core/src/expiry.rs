//! The expiry index: what ends, in order of time, durable and cheap however much there is.
//!
//! Only what is due is ever read into memory.

use holdfast_sdk::{Error, Place, Result, Table, Timestamp, TokenId, Transaction};

use crate::layout::{EXPIRY, NamespaceId, ROOT, STORE};
use crate::random;
use crate::tx::Tx;

/// Due entries handled in one commit.
pub const BATCH: usize = 128;

/// What ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    Token(TokenId),
    /// By its id, in its namespace.
    Lease(NamespaceId, String),
}

/// Of the root namespace,
const TOKEN: u8 = 1;
const LEASE: u8 = 2;
/// and those with their namespace's UUID before them.
const TOKEN_IN: u8 = 3;
const LEASE_IN: u8 = 4;

impl Due {
    pub fn namespace(&self) -> NamespaceId {
        match self {
            Due::Token(id) => id.namespace,
            Due::Lease(namespace, _) => *namespace,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Due::Token(id) if id.namespace == ROOT => [&[TOKEN][..], &id.own].concat(),
            Due::Token(id) => [&[TOKEN_IN][..], &id.namespace, &id.own].concat(),
            Due::Lease(ROOT, id) => [&[LEASE][..], id.as_bytes()].concat(),
            Due::Lease(namespace, id) => [&[LEASE_IN][..], namespace, id.as_bytes()].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Due> {
        let broken = || Error::Internal("an expiry entry is broken".into());
        let (kind, rest) = bytes.split_first().ok_or_else(broken)?;
        let (namespace, rest) = match *kind {
            TOKEN | LEASE => (ROOT, rest),
            TOKEN_IN | LEASE_IN => rest.split_first_chunk::<16>().map(|(n, rest)| (*n, rest)).ok_or_else(broken)?,
            _ => {
                return Err(Error::Internal("an expiry entry is of a kind that this version does not know".into()));
            }
        };
        match *kind {
            TOKEN | TOKEN_IN => rest.try_into().map(|own| Due::Token(TokenId { namespace, own })).map_err(|_| broken()),
            _ => String::from_utf8(rest.to_vec()).map(|id| Due::Lease(namespace, id)).map_err(|_| broken()),
        }
    }
}

/// Add an entry; returns its key, by which it is removed again.
pub fn put(tx: &mut Tx, end: Timestamp, due: &Due) -> Result<Vec<u8>> {
    put_in(tx, EXPIRY, end, due.encode())
}

pub fn remove(tx: &mut Tx, key: &[u8]) -> Result<()> {
    remove_in(tx, EXPIRY, key)
}

/// Entries that are due by `now`, the oldest first, at most [`BATCH`].
pub fn due(tx: &mut Tx, now: Timestamp) -> Result<Vec<(Vec<u8>, Due)>> {
    let found = due_in(tx, EXPIRY, now, BATCH)?;
    found.into_iter().map(|(key, value)| Ok((key, Due::decode(&value)?))).collect()
}

/// Add an entry to an index of this form in another table of the core.
pub fn put_in(tx: &mut Tx, table: Table, at: Timestamp, value: Vec<u8>) -> Result<Vec<u8>> {
    let key = [&(at.0 / 1_000_000).to_be_bytes()[..], &random::bytes::<16>()?].concat();
    tx.within(STORE, |tx| tx.put(Place::Ordered(table, &key), value))?;
    Ok(key)
}

pub fn remove_in(tx: &mut Tx, table: Table, key: &[u8]) -> Result<()> {
    tx.within(STORE, |tx| tx.delete(Place::Ordered(table, key)))
}

/// The time in an entry's key, in whole milliseconds.
pub fn time_of(key: &[u8]) -> Option<Timestamp> {
    let millis = u64::from_be_bytes(key.first_chunk().copied()?);
    Some(Timestamp(millis.saturating_mul(1_000_000)))
}

pub fn due_in(tx: &mut Tx, table: Table, now: Timestamp, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let end = (now.0 / 1_000_000 + 1).to_be_bytes();
    tx.within(STORE, |tx| tx.ordered(table, &[], &end, limit))
}
