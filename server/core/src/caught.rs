//! A panic in an engine is that request's or that job's failure, and nobody else's.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use holdfast_sdk::{Error, Result};

/// What is said to whose request or job it was.
pub const DEFECT: &str = "internal error: a defect of the server, see its log";

/// What `work` returns, or an error if it panics. The panic's own text is in the server's log.
///
/// It is pinned by the caller: a future that was given away would have room for `work` twice.
pub async fn caught<T>(mut work: Pin<&mut impl Future<Output = Result<T>>>) -> Result<T> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(polled) => polled,
        Err(_) => Poll::Ready(Err(Error::Internal(DEFECT.into()))),
    })
    .await
}
