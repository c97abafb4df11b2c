//! The expiry index: what ends, in order of time, durable and cheap however much there is.
//!
//! Only what is due is ever read into memory.

use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};

use crate::layout::{EXPIRY, SYSTEM};
use crate::random;
use crate::tx::Tx;

/// Due entries handled in one commit.
pub const BATCH: usize = 128;

/// What ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    Token([u8; 32]),
}

impl Due {
    fn encode(&self) -> Vec<u8> {
        match self {
            Due::Token(id) => [&[1][..], id].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Due> {
        match bytes.split_first() {
            Some((1, id)) => {
                id.try_into().map(Due::Token).map_err(|_| Error::Internal("an expiry entry is broken".into()))
            }
            _ => Err(Error::Internal("an expiry entry is of a kind that this version does not know".into())),
        }
    }
}

/// Add an entry; returns its key, by which it is removed again.
pub fn put(tx: &mut Tx, end: Timestamp, due: &Due) -> Result<Vec<u8>> {
    let key = [&(end.0 / 1_000_000).to_be_bytes()[..], &random::bytes::<16>()?].concat();
    tx.within(SYSTEM, |tx| tx.put(Place::Ordered(EXPIRY, &key), due.encode()))?;
    Ok(key)
}

pub fn remove(tx: &mut Tx, key: &[u8]) -> Result<()> {
    tx.within(SYSTEM, |tx| tx.delete(Place::Ordered(EXPIRY, key)))
}

/// Entries that are due by `now`, the oldest first, at most [`BATCH`].
pub fn due(tx: &mut Tx, now: Timestamp) -> Result<Vec<(Vec<u8>, Due)>> {
    let end = (now.0 / 1_000_000 + 1).to_be_bytes();
    let found = tx.within(SYSTEM, |tx| tx.ordered(EXPIRY, &[], &end, BATCH))?;
    found.into_iter().map(|(key, value)| Ok((key, Due::decode(&value)?))).collect()
}
