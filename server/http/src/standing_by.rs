//! Reads that a node answers though it stands by. What the core is not asked at all is passed on at once: what is of
//! another origin, or would be wrapped, or is no request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use holdfast_core::{Core, Here, index};
use hyper::header;

use crate::request::{Reply, Whole, json_strings, kept, reply, sdk_request, text_of};

/// By which a client says what is done where a state that it has seen is not reached.
const INCONSISTENT: &str = "x-vault-inconsistent";
const FORWARD: &str = "forward-active-node";

/// The answer, if this node gives one; `None`: the active node is asked.
pub async fn answer(core: &Arc<Core>, whole: &Whole<'_>) -> Option<Reply> {
    let reads = matches!(whole.method.as_str(), "GET" | "LIST" | "SCAN");
    let headers = whole.headers;
    if !reads || headers.contains_key(header::ORIGIN) || headers.contains_key("x-vault-wrap-ttl") {
        return None;
    }
    let mut request = sdk_request(whole.clone()).ok()?;
    let most = whole.allows.max_json_strings;
    if most > 0 && json_strings(&request.data) > most {
        return None;
    }
    request.headers = core.audited_headers().ok()?.map_or_else(Vec::new, |audited| kept(headers, &audited));
    let mut named = Vec::new();
    for name in [index::HEADER, index::OWN_HEADER] {
        for value in headers.get_all(name) {
            named.push(value.to_str().ok()?);
        }
    }
    let asks_active = text_of(headers, INCONSISTENT).is_some_and(|v| v.trim().eq_ignore_ascii_case(FORWARD));
    let mut reading = Box::pin(core.read_here(request, &named, asks_active));
    // A defect is the active node's to answer for.
    let read =
        std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| reading.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(read)) => Poll::Ready(read),
            Err(_) => Poll::Ready(Here::PassedOn),
        });
    match read.await {
        Here::Answered(answer) => Some(reply(answer)),
        Here::PassedOn => None,
    }
}
