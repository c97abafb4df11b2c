//! A mount that was of version 1.
//!
//! Both versions keep a secret's first record under its name, and the first byte tells them apart: version
//! 1 stores a JSON object, version 2 a record. So a mount becomes one of version 2 in the commit that
//! changes its options: an old value reads as version 1 of its secret, and is changed by the first write to
//! it, or by the job that goes through all of them.

use holdfast_sdk::{Place, Result, Table, Timestamp, Tx};

use super::METADATA;
use super::record::{Metadata, VersionState};

/// When the mount was taken over, in nanoseconds: one record.
const TAKEN_OVER: Table = Table(4);
/// Names that one batch looks at, and bytes of values that it moves unless one value is longer.
const BATCH_KEYS: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

pub fn take_over(tx: &mut Tx, now: Timestamp) -> Result<bool> {
    tx.put(Place::Ordered(TAKEN_OVER, &[]), now.0.to_be_bytes().to_vec())?;
    Ok(!tx.ordered(METADATA, &[], &[], 1)?.is_empty())
}

/// Whether a stored record is a value of version 1. A record of version 2 begins with the number of its
/// format, which is far below the brace.
pub fn is_version_1(stored: &[u8]) -> bool {
    stored.first() == Some(&b'{')
}

/// What is known of a secret that is still as version 1 stored it.
pub fn inherited(tx: &mut Tx, value: Vec<u8>) -> Result<Metadata> {
    let taken_over = tx.get(Place::Ordered(TAKEN_OVER, &[]))?;
    let at = taken_over.and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    let mut metadata = Metadata::new(Timestamp(at))?;
    (metadata.current, metadata.oldest) = (1, 1);
    metadata.versions.push(VersionState { version: 1, created: at, deletion: None, destroyed: false, by_time: true });
    metadata.inherited = Some(value);
    Ok(metadata)
}

pub fn batch(tx: &mut Tx, cursor: &[u8]) -> Result<Option<Vec<u8>>> {
    let found = tx.ordered(METADATA, cursor, &[], BATCH_KEYS)?;
    let last = found.len() < BATCH_KEYS;
    let next = found.last().map(|(key, _)| [key.as_slice(), &[0]].concat());
    let mut bytes = 0;
    for (key, value) in found.into_iter().filter(|(_, value)| is_version_1(value)) {
        if bytes > 0 && bytes + value.len() > BATCH_BYTES {
            return Ok(Some(key));
        }
        bytes += value.len();
        inherited(tx, value)?.save_at(tx, Place::Ordered(METADATA, &key))?;
    }
    Ok(next.filter(|_| !last))
}
