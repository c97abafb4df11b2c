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

/// What a value of JSON needs beside its text: the value itself, its place in a map, its allocation.
const VALUE_BYTES: u64 = 128;

/// Whether the JSON in a body may need more memory than `limit` bytes. A short body cannot, and is not looked at.
pub fn needs_more_than(limit: u64, body: &[u8]) -> bool {
    let most = body.len() as u64 * (1 + VALUE_BYTES);
    limit > 0 && most > limit && json_bytes(body) > limit
}

/// About how much memory the JSON in a body needs when it is read: short texts can hold many values.
fn json_bytes(body: &[u8]) -> u64 {
    let (mut values, mut in_string, mut escaped) = (0_u64, false, false);
    for &b in body {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else {
            match b {
                b'"' => in_string = true,
                // Each of these stands before a value, or ends an empty one.
                b',' | b':' | b'[' | b'{' => values += 1,
                _ => {}
            }
        }
    }
    body.len() as u64 + values * VALUE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_need_more_than_one_large() {
        let text = format!("{{\"a\":\"{}\"}}", ",[{:\\\",".repeat(1000));
        assert_eq!(json_bytes(text.as_bytes()), text.len() as u64 + 2 * VALUE_BYTES);
        let numbers = format!("[{}0]", "0,".repeat(1000));
        assert_eq!(json_bytes(numbers.as_bytes()), numbers.len() as u64 + 1001 * VALUE_BYTES);
    }
}
