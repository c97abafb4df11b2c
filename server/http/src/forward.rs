//! Requests that this node does not answer itself: passed on to the active node, or the client is sent there. And
//! the other end of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::cluster::{Forwarded, ForwardedAnswer, Front as Answers, Later, NotForwarded, ReadPoint};
use holdfast_core::{Answer, Core, Standing};
use holdfast_sdk::Chunks;
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use crate::content::Content;
use crate::cors::{self, Verdict};
use crate::path::{self, Checked};
use crate::request::{Reply, Whole, add_headers, answer_whole, reply, text_of};
use crate::{Redact, query};

/// How long a request waits for a node to become active, where none is.
const WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// Headers by which a client asks to be sent to the active node instead.
const NO_FORWARDING: &[&str] = &["x-vault-no-request-forwarding", "x-bao-no-request-forwarding"];
/// Headers of one connection, which go no further (RFC 9110, 7.6.1).
const OF_THE_CONNECTION: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// The answer where no node is active.
pub fn not_active() -> Answer {
    Answer::error(503, "local node not active but active cluster node not found")
}

/// Let the active node answer. `None`: this node is it now.
pub async fn pass_on(core: &Arc<Core>, whole: &Whole<'_>) -> Option<Reply> {
    let redirects = NO_FORWARDING.iter().any(|name| text_of(whole.headers, name).is_some_and(|v| !v.is_empty()));
    let reads = matches!(whole.method.as_str(), "GET" | "HEAD" | "LIST" | "SCAN");
    let begin = Instant::now();
    loop {
        let lead = match core.standing() {
            Standing::Active => return None,
            Standing::Sealed => return Some(reply(core.sealed_answer())),
            Standing::Standby(lead) => lead,
        };
        let elsewhere = lead.leader.filter(|_| !lead.here);
        if let Some((_, leader)) = &elsewhere {
            if redirects {
                return Some(redirect(&leader.api_addr, whole.uri));
            }
            match core.forward(head_of(whole), whole.body.to_vec()).await {
                Ok(answer) => return Some(passed_back(answer)),
                Err(NotForwarded::Unknown(text)) if reads => {
                    tracing::debug!(error = %text, "the active node did not answer a read; it is asked again");
                }
                Err(NotForwarded::Unknown(text)) => {
                    tracing::warn!(error = %text, "the active node did not answer");
                    let text = "the active node did not answer; the outcome is unknown, the audit log will tell";
                    return Some(reply(Answer::error(503, text)));
                }
                // Nothing was done: whoever is active soon can do it.
                Err(NotForwarded::NotSent(text)) => tracing::debug!(error = %text, "the active node cannot be reached"),
            }
        }
        if begin.elapsed() > WAIT {
            return Some(reply(not_active()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn head_of(whole: &Whole<'_>) -> Forwarded {
    let passes = |name: &HeaderName| !OF_THE_CONNECTION.contains(&name.as_str());
    let headers = whole.headers.iter().filter(|(name, _)| passes(name));
    Forwarded {
        method: whole.method.as_str().to_owned(),
        uri: whole.uri.to_owned(),
        headers: headers
            .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect(),
        client: whole.address,
        certificate_serial: whole.certificate_serial.map(str::to_owned),
        listener: whole.allows,
    }
}

/// Send the client to another node.
pub fn redirect(api_addr: &str, uri: &str) -> Reply {
    let mut response = reply(Answer { content_type: String::new(), ..Answer::json(307, Vec::new()) });
    if let Ok(place) = HeaderValue::try_from(format!("{}{uri}", api_addr.trim_end_matches('/'))) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn passed_back(answer: ForwardedAnswer) -> Reply {
    let known = answer.headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok());
    let mut response = Reply::new(Content::passed_on(answer.body, known));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    add_headers(response.headers_mut(), answer.headers);
    response
}

/// Answers what other nodes pass on.
pub struct Front {
    core: Arc<Core>,
}

impl Front {
    pub fn new(core: Arc<Core>) -> Front {
        Front { core }
    }
}

impl Answers for Front {
    fn answer(&self, request: Forwarded, from: String, body: Vec<u8>) -> Later<ForwardedAnswer> {
        let core = self.core.clone();
        Box::pin(async move { sent_back(answer(&core, request, &from, body).await) })
    }

    fn point_of_read(&self) -> Option<ReadPoint> {
        self.core.point_of_read()
    }

    fn take_keys(&self, offer: Vec<u8>) -> Later<Vec<u8>> {
        let core = self.core.clone();
        Box::pin(async move { core.take_new_keys(&offer).await })
    }

    fn take_seals(&self, from: String, seals: Vec<u8>) -> Later<bool> {
        let core = self.core.clone();
        Box::pin(async move { core.take_seals(&from, &seals).await })
    }
}

async fn answer(core: &Arc<Core>, request: Forwarded, from: &str, body: Vec<u8>) -> Reply {
    let broken = || reply(Answer::error(400, "a request that was passed on cannot be read"));
    let (Ok(method), Ok(uri)) = (Method::from_bytes(request.method.as_bytes()), request.uri.parse::<Uri>()) else {
        return broken();
    };
    let Checked::Api(api) = path::check(uri.path()) else { return broken() };
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) else {
            return broken();
        };
        headers.append(name, value);
    }
    let more = match cors::judge(core, &method, &headers) {
        Verdict::Foreign => Vec::new(),
        Verdict::Answered(answer) => return reply(answer),
        Verdict::Allowed(more) => more,
    };
    let whole = Whole {
        method: &method,
        uri: &request.uri,
        path: api,
        pairs: query::pairs(uri.query().unwrap_or("")),
        headers: &headers,
        body: &body,
        address: request.client,
        certificate_serial: request.certificate_serial.as_deref(),
        forwarded_from: Some(from),
        allows: request.listener,
        // What is redacted is answered by the node that was asked.
        redact: Redact::default(),
    };
    let mut response = answer_whole(core, whole, false).await;
    add_headers(response.headers_mut(), more);
    response
}

fn sent_back(response: Reply) -> ForwardedAnswer {
    let (parts, content) = response.into_parts();
    let text = |(n, v): (&HeaderName, &HeaderValue)| Some((n.as_str().to_owned(), v.to_str().ok()?.to_owned()));
    let mut headers: Vec<(String, String)> = parts.headers.iter().filter_map(text).collect();
    if let Some(len) = content.size_hint().exact() {
        headers.push(("content-length".into(), len.to_string()));
    }
    ForwardedAnswer { status: parts.status.as_u16(), headers, body: Box::new(Parts(content)) }
}

/// An answer's body, frame by frame.
struct Parts(Content);

impl Chunks for Parts {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        Pin::new(&mut self.0)
            .poll_frame(cx)
            .map(|frame| frame.map(|Ok(frame)| frame.into_data().unwrap_or_else(|_| Bytes::new()).to_vec()))
    }
}
