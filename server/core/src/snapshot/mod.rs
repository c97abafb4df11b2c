//! Snapshots of a cluster's store as files: a gzip'd tar archive of
//!
//! * `meta.json`: what it is of, for people and for whoever restores it,
//! * `state.bin`: every entry as it rests (ciphertext),
//! * `SHA256SUMS`: of both,
//! * `SHA256SUMS.sealed`: the sums, sealed by the barrier: who has the keys knows whose snapshot it is.
//!
//! Both ways take memory for a chunk, whatever the size of the store.

mod restore;
mod save;
mod tar;
mod verify;

use serde::{Deserialize, Serialize};

pub(crate) use restore::restore;
pub(crate) use save::save;
pub use verify::inspect;
pub(crate) use verify::verify;

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
const SEALED_SUMS: &str = "SHA256SUMS.sealed";
/// Where the sums are sealed for: no key of the store.
const SEALED_AT: &[u8] = b"\x03snapshot sums";
const STATE_MAGIC: &[u8; 8] = b"HFSTATE1";
/// Bytes of entries that are read or written at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// `meta.json`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub format: u32,
    pub version: String,
    pub cluster_id: String,
    pub cluster_name: String,
    /// What opens it: `shamir`, or a device's kind.
    pub seal: String,
    pub created: String,
    pub index: u64,
    pub entries: u64,
    pub bytes: u64,
}
