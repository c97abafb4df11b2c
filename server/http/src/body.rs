//! Reading a body within limits of size and time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

/// Why a body was not read.
pub enum BodyError {
    TooLarge,
    /// The client stopped in the middle.
    Stopped,
    TooSlow,
}

/// The whole body, at most `limit` bytes, within `time`.
pub async fn read(body: Incoming, declared: Option<u64>, limit: u64, time: Duration) -> Result<Bytes, BodyError> {
    if declared.is_some_and(|n| n > limit) {
        return Err(BodyError::TooLarge);
    }
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(time, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) => Err(BodyError::Stopped),
        Err(_) => Err(BodyError::TooSlow),
    }
}
