#![forbid(unsafe_code)]
//! The key/value engine: version 1 (plain values) and version 2 (versions, check-and-set, soft delete).

mod v1;
pub mod v2;

pub use v1::KvV1;
pub use v2::KvV2;
