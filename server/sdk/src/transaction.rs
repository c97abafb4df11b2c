//! How a handler reads and writes what its mount keeps.

use minicbor::{Decode, Encode};

use crate::{Error, Result, Timestamp};

/// One of up to 256 tables of a mount. The number is part of the storage format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub u8);

/// Where a record is: a table, then a name people chose, or an id, or ordered bytes, then more bytes.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The table's only record, or one by plain ordered bytes (numbers, times, random ids).
    Ordered(Table, &'a [u8]),
    /// A name with `/` between segments: encrypted at rest, listed by [`Transaction::names`].
    Name(Table, &'a str),
    /// What a client may present: only its HMAC is stored.
    Id(Table, &'a str),
}

/// Where the core keeps when things of a mount were last used: an engine has no table of this number.
pub const LAST_USES: Table = Table(255);

/// A mount's view of the store in one transaction.
pub trait Transaction: Send {
    fn get(&mut self, place: Place<'_>) -> Result<Option<Vec<u8>>>;
    fn put(&mut self, place: Place<'_>, value: Vec<u8>) -> Result<()>;
    fn delete(&mut self, place: Place<'_>) -> Result<()>;

    /// The children of a folder (`""` or ending in `/`), sorted, folders with their `/`: those behind
    /// `after`, at most `limit` (0: all).
    fn names(&mut self, table: Table, folder: &str, after: &str, limit: usize) -> Result<Vec<String>>;

    /// Records by ordered bytes, from `start` on (inclusive) to `end` (exclusive), at most `limit`.
    fn ordered(&mut self, table: Table, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Add to a counter, as a merge: it never conflicts. The commit fails with 400 `refused` if the sum
    /// would fall below `floor`.
    fn add(&mut self, place: Place<'_>, delta: i64, floor: Option<(i64, &'static str)>) -> Result<()>;

    /// A counter's value; 0 where there is none.
    fn count(&mut self, place: Place<'_>) -> Result<i64>;

    /// Whether anything that this mount made at a target ([`Outside::target`](crate::Outside::target)) is there still, or
    /// may be: it has a lease, or is being made or undone.
    fn has_outside(&mut self, _target: &str) -> Result<bool> {
        Ok(false)
    }

    /// A thing of the mount, kept at this place, is used by this request: a role, a key, a secret id. It costs the request
    /// nothing but a look into a table: the hour of it is stored later, in the background, unless the thing is gone
    /// by then; and it may be lost. `name` is what `sys/last-use` tells it by: the thing's path below the mount.
    fn note_use(&mut self, _name: &str, _at: Place<'_>) {}

    /// A thing is deleted: when it was last used goes with it.
    fn forget_use(&mut self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// The beginning of the hour in which a thing was last used, as far as it was noted.
    fn last_use(&mut self, _name: &str) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// A key of `sys/managed-keys` by its name or UUID, if the mount may use it: `allowed_managed_keys` of the mount names it,
    /// or the key is for any mount. It is used outside the transaction.
    fn managed_key(&mut self, name: &str) -> Result<std::sync::Arc<dyn crate::ManagedKey>> {
        Err(Error::bad_request(format!("there is no managed key {name:?}")))
    }

    /// Make a password by one of the system's password policies. `None`: there is no such policy.
    fn generate_password(&mut self, _policy: &str) -> Result<Option<String>> {
        Ok(None)
    }
}

/// A stored record: a version byte, then CBOR. A reader accepts every earlier version.
pub trait Record: Sized {
    const VERSION: u8;
    fn encode_record(&self) -> Result<Vec<u8>>;
    fn decode_record(version: u8, bytes: &[u8]) -> Result<Self>;
}

/// Makes a type with `minicbor` derives a [`Record`] of version 1.
#[macro_export]
macro_rules! record {
    ($t:ty) => {
        $crate::record!($t, 1);
    };
    ($t:ty, $version:expr) => {
        impl $crate::Record for $t {
            const VERSION: u8 = $version;
            fn encode_record(&self) -> $crate::Result<Vec<u8>> {
                $crate::record::encode(self)
            }
            fn decode_record(version: u8, bytes: &[u8]) -> $crate::Result<Self> {
                $crate::record::decode(version, Self::VERSION, bytes)
            }
        }
    };
}

/// Reading and writing of records.
pub mod record {
    use super::*;

    pub fn encode<T: Encode<()> + Record>(value: &T) -> Result<Vec<u8>> {
        let mut out = vec![T::VERSION];
        minicbor::encode(value, &mut out).map_err(Error::internal)?;
        Ok(out)
    }

    pub fn decode<'b, T: Decode<'b, ()>>(found: u8, known: u8, bytes: &'b [u8]) -> Result<T> {
        if found > known {
            return Err(Error::Internal(format!(
                "a stored record has version {found}, this program reads up to {known}: use the program that wrote it, or a later one"
            )));
        }
        minicbor::decode(bytes).map_err(|e| Error::Internal(format!("a stored record cannot be read: {e}")))
    }

    /// The record in `bytes`, version byte first.
    pub fn read<T: Record>(bytes: &[u8]) -> Result<T> {
        match bytes.split_first() {
            Some((version, rest)) => T::decode_record(*version, rest),
            None => Err(Error::Internal("a stored record is empty".into())),
        }
    }

    pub fn get<T: Record>(tx: &mut (impl Transaction + ?Sized), place: Place<'_>) -> Result<Option<T>> {
        tx.get(place)?.map(|b| read(&b)).transpose()
    }

    pub fn put<T: Record>(tx: &mut (impl Transaction + ?Sized), place: Place<'_>, value: &T) -> Result<()> {
        tx.put(place, value.encode_record()?)
    }
}
