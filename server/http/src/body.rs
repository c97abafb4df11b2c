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

/// The whole body, at most `limit` bytes, within `time`. One that is declared too large may be sent to its
/// end within `drain_time`.
pub async fn read(
    body: Incoming,
    declared: Option<u64>,
    limit: u64,
    time: Duration,
    drain_time: Duration,
) -> Result<Bytes, BodyError> {
    if declared.is_some_and(|n| n > limit) {
        if !drain_time.is_zero() {
            drain(body, limit, drain_time).await;
        }
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

/// Let a client that sends too much finish, within limits, so that it sees the answer and not a broken pipe.
async fn drain(mut body: Incoming, limit: u64, time: Duration) {
    let mut left = limit.saturating_mul(2);
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |d| d.len() as u64));
            if left == 0 {
                return;
            }
        }
    };
    let _gave_up_on_it = tokio::time::timeout(time, reading).await;
}
