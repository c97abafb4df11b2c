//! Records of identity that have a name, in the present namespace.

use holdfast_sdk::{Error, Place, Record, Result, Table, Transaction, record};

use crate::layout::IDENTITY;
use crate::tx::Tx;

/// Records of one kind that are read at most: more than that are refused when they are made.
pub const MOST: usize = 10_000;
const STEP: usize = 256;

/// A record that has a name.
pub trait Named: Record {
    const TABLE: Table;
    /// What it is called in errors.
    const KIND: &'static str;
    fn name(&self) -> &str;
}

pub fn load<T: Named>(tx: &mut Tx, name: &str) -> Result<Option<T>> {
    tx.within(IDENTITY, |tx| record::get(tx, Place::Name(T::TABLE, name)))
}

pub fn is_there<T: Named>(tx: &mut Tx, name: &str) -> Result<bool> {
    Ok(tx.within(IDENTITY, |tx| tx.get(Place::Name(T::TABLE, name)))?.is_some())
}

/// Store a record; a new one only if there is room.
pub fn save<T: Named>(tx: &mut Tx, record: &T) -> Result<()> {
    if !is_there::<T>(tx, record.name())? && names::<T>(tx)?.len() >= MOST {
        return Err(Error::bad_request(format!("a namespace has room for {MOST} {}s", T::KIND)));
    }
    tx.within(IDENTITY, |tx| record::put(tx, Place::Name(T::TABLE, record.name()), record))
}

pub fn delete<T: Named>(tx: &mut Tx, name: &str) -> Result<()> {
    tx.within(IDENTITY, |tx| tx.delete(Place::Name(T::TABLE, name)))
}

/// Sorted.
pub fn names<T: Named>(tx: &mut Tx) -> Result<Vec<String>> {
    tx.within(IDENTITY, |tx| tx.names(T::TABLE, "", "", 0))
}

/// All of them, by name.
pub fn all<T: Named>(tx: &mut Tx) -> Result<Vec<T>> {
    let (mut found, mut cursor) = (Vec::new(), Vec::new());
    loop {
        let batch = tx.within(IDENTITY, |tx| tx.below(T::TABLE, "", &cursor, STEP))?;
        for (_, bytes) in &batch.entries {
            found.push(record::read::<T>(bytes)?);
        }
        match batch.after {
            Some(after) if found.len() < MOST => cursor = after,
            _ => break,
        }
    }
    found.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(found)
}

/// Refuse to delete what others refer to.
pub fn in_use(kind: &str, name: &str, by: &str, referrers: Vec<String>) -> Result<()> {
    match referrers.is_empty() {
        true => Ok(()),
        false => Err(Error::bad_request(format!(
            "unable to delete {kind} {name:?} because it is currently referenced by these {by}: {}",
            referrers.join(", ")
        ))),
    }
}
