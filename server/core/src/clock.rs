//! The one place where the wall clock is read.

use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_sdk::Timestamp;

/// Now, in UTC.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
