//! One request: from HTTP to the core, and its answer back.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::bare::BareRequest;
use holdfast_core::cluster::ListenerAllows;
use holdfast_core::settings::AuditedHeaders;
use holdfast_core::{Answer, Begun, Core, OldRoutes, Standing, random};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Headers, Map, Operation, Presented, Request, Value, duration};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response as HttpResponse, StatusCode};

use crate::body::{self, BodyError};
use crate::content::Content;
use crate::cors::{self, Verdict};
use crate::path::{self, Checked};
use crate::{ListenerOptions, Redact, archive, forward, query, standing_by};

/// Where a request came from.
#[derive(Clone)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    pub certificate_serial: Option<String>,
}

pub(crate) type Reply = HttpResponse<Content>;

/// Serve one request.
pub async fn serve(
    core: &Arc<Core>,
    options: &ListenerOptions,
    peer: &Peer,
    request: hyper::Request<Incoming>,
) -> Reply {
    let more = match cors::judge(core, request.method(), request.headers()) {
        Verdict::Foreign => None,
        Verdict::Answered(refused) => return reply(refused),
        Verdict::Allowed(headers) => Some(headers),
    };
    let mut response = answer(core, options, peer, request).await;
    if let Some(more) = more {
        add_headers(response.headers_mut(), more);
    }
    response
}

// hyper copies this future for every request, and it is wiped after it: what only some requests wait for is in boxes.
async fn answer(core: &Arc<Core>, options: &ListenerOptions, peer: &Peer, request: hyper::Request<Incoming>) -> Reply {
    let (mut parts, incoming) = request.into_parts();
    let api = match path::check(parts.uri.path()) {
        Checked::Api(p) => p,
        Checked::Redirect(to) => return redirect(&parts.method, &to, parts.uri.query()),
        Checked::Unknown => return not_found(),
        Checked::Refused(text) => return reply(Answer::error(400, text)),
        Checked::Unprintable => return reply(Answer { content_type: String::new(), ..Answer::json(400, Vec::new()) }),
        Checked::Malformed => {
            let plain = "text/plain; charset=utf-8".to_owned();
            return reply(Answer { content_type: plain, ..Answer::json(400, b"400 Bad Request".to_vec()) });
        }
    };
    // Who watches the server asks for its state on whatever listener there is.
    let is_of_state = matches!(parts.method, Method::GET | Method::HEAD) && matches!(&*api, "sys/health" | "sys/init");
    if !options.chroot_namespace.is_empty() && !is_of_state {
        enter_namespace(&mut parts.headers, &options.chroot_namespace);
    }
    let headers = &parts.headers;
    if options.require_request_header && text_of(headers, "x-vault-request").is_none_or(|v| v != "true") {
        return reply(Answer::error(412, "missing the X-Vault-Request header, which this listener requires"));
    }
    let address = match peer.address {
        None => None,
        Some(p) => match options.forwarded_for.client(p, text_of(headers, "x-forwarded-for")) {
            Ok(a) => Some(a),
            Err(text) => return reply(Answer::error(400, text)),
        },
    };
    let pairs = query::pairs(parts.uri.query().unwrap_or(""));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let takes_body =
        !matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE) && parts.method.as_str() != "LIST";
    let mut archive = None;
    let body = if archive::is_one(core, &parts.method, &api) {
        if let Standing::Standby(lead) = core.standing()
            && let Some((_, leader)) = lead.leader.filter(|_| !lead.here)
        {
            // Too large to be passed on in one piece.
            let uri = parts.uri.path_and_query().map_or("/", |u| u.as_str());
            return forward::redirect(&leader.api_addr, uri);
        }
        let known = token(headers).is_some_and(|t| core.accepts(&t));
        match Box::pin(archive::take(core, known, incoming, options.read_timeout)).await {
            Ok(taken) => Bytes::from(archive.insert(taken).body()),
            Err(answer) => return reply(answer),
        }
    } else if takes_body {
        // A client that asks before it sends is told at once; another is let finish.
        let asks = headers.contains_key(header::EXPECT);
        let drain = if asks { Duration::ZERO } else { options.read_timeout };
        match Box::pin(body::read(incoming, declared, options.max_request_bytes, options.read_timeout, drain)).await {
            Ok(b) => b,
            Err(BodyError::TooLarge) => {
                return reply(Answer::error(
                    413,
                    &format!("request body too large: at most {} bytes", options.max_request_bytes),
                ));
            }
            Err(BodyError::TooSlow) => return reply(Answer::error(408, "the request's body did not arrive in time")),
            Err(BodyError::Stopped) => return reply(Answer::error(400, "the request's body ended before its length")),
        }
    } else {
        Bytes::new()
    };

    if body::needs_more_than(options.max_json_bytes, &body) {
        return reply(Answer::error(
            400,
            "refused JSON input due to high complexity: it needs more than max_request_json_memory",
        ));
    }
    let uri = parts.uri.path_and_query().map_or("/", |u| u.as_str());
    let whole = Whole {
        method: &parts.method,
        uri,
        path: api,
        pairs,
        headers,
        body: &body,
        address,
        certificate_serial: peer.certificate_serial.as_deref(),
        forwarded_from: None,
        allows: options.allows(),
        redact: options.redact,
    };
    let answer = answer_whole(core, whole, true).await;
    drop(archive);
    answer
}

/// A request whose body is there.
#[derive(Clone)]
pub(crate) struct Whole<'r> {
    pub method: &'r Method,
    /// Path and query as they came.
    pub uri: &'r str,
    /// Below `/v1/`.
    pub path: String,
    pub pairs: Vec<(String, String)>,
    pub headers: &'r HeaderMap,
    pub body: &'r [u8],
    pub address: Option<SocketAddr>,
    pub certificate_serial: Option<&'r str>,
    /// The member that passed it on.
    pub forwarded_from: Option<&'r str>,
    pub allows: ListenerAllows,
    /// What who shows no token is not told.
    pub redact: Redact,
}

/// Answer a request, or let the active node do it if that is another one and `forwards`.
pub(crate) async fn answer_whole(core: &Arc<Core>, whole: Whole<'_>, forwards: bool) -> Reply {
    let headers = whole.headers;
    if !namespace_of(headers).is_empty() && holdfast_core::is_of_root_alone(&whole.path) {
        return reply(Answer::error(400, "operation unavailable in namespaces"));
    }
    if core.is_in_recovery_mode() {
        return Box::pin(in_recovery_mode(core, whole)).await;
    }
    let old_routes = OldRoutes { rekey: whole.allows.rekey, generate_root: whole.allows.generate_root };
    let method = whole.method.as_str();
    let bare = BareRequest { method, path: &whole.path, query: &whole.pairs, body: whole.body, old_routes };
    if let Some(answer) = bare_in_task(core, &bare).await {
        let redact = whole.redact;
        let answer = match redact.concerns(&whole.path) && !token(headers).is_some_and(|t| core.accepts(&t)) {
            true => redact.redacted(answer),
            false => answer,
        };
        let answer = if *whole.method == Method::HEAD { Answer { body: Vec::new(), ..answer } } else { answer };
        return reply(answer);
    }
    // Each node tells its own figures, whatever its standing: that it is sealed is one of them.
    if whole.allows.unauthenticated_metrics && *whole.method == Method::GET && whole.path == "sys/metrics" {
        return reply(metrics(core, &whole.pairs));
    }
    match core.standing() {
        Standing::Active => {}
        Standing::Sealed => return reply(core.sealed_answer()),
        Standing::Standby(_) if forwards => {
            if let Some(answer) = Box::pin(standing_by::answer(core, &whole)).await {
                return answer;
            }
            return match Box::pin(forward::pass_on(core, &whole)).await {
                Some(answer) => answer,
                // This node has become the active one meanwhile.
                None => Box::pin(answer_whole(core, whole, forwards)).await,
            };
        }
        Standing::Standby(_) => return reply(forward::not_active()),
    }
    let names = [holdfast_core::index::HEADER, holdfast_core::index::OWN_HEADER];
    let seen = names.iter().flat_map(|name| headers.get_all(*name)).map(|v| v.to_str().unwrap_or("?"));
    if names.iter().any(|name| headers.contains_key(*name))
        && let Err(refused) = core.check_index(seen)
    {
        return reply(refused);
    }
    if *whole.method == Method::HEAD {
        // No route has it; who may ask nothing is not told so.
        let status = if token(headers).is_some_and(|t| core.accepts(&t)) { 405 } else { 403 };
        return reply(Answer::json(status, Vec::new()));
    }
    let allows = whole.allows;
    match sdk_request(whole) {
        Err(answer) => reply(answer),
        Ok(mut request) => {
            request.headers = match core.audited_headers() {
                Ok(audited) => audited.map_or_else(Vec::new, |a| kept(headers, &a)),
                Err(e) => return reply(Answer::failure(&e)),
            };
            if allows.unauthenticated_in_flight
                && request.path == "sys/in-flight-req"
                && request.operation == Operation::Read
            {
                return reply(Answer::bare(200, &core.requests_in_flight()));
            }
            if allows.max_json_strings > 0 && json_strings(&request.data) > allows.max_json_strings {
                return reply(Answer::error(
                    400,
                    "refused JSON input due to high complexity: exceeded maximum number of strings",
                ));
            }
            // As long as the store is large.
            let limit = Duration::from_millis(allows.max_request_ms);
            let time = if archive::is_path(&request.path) { limit.max(archive::WORKED_ON_WITHIN) } else { limit };
            run(core, request, time).await
        }
    }
}

/// A server that is there to repair its store tells of its state, and has the routes for that.
async fn in_recovery_mode(core: &Arc<Core>, whole: Whole<'_>) -> Reply {
    if matches!(&*whole.path, "sys/health" | "sys/seal-status") {
        let (method, old_routes) = (whole.method.as_str(), OldRoutes::default());
        let bare = BareRequest { method, path: &whole.path, query: &whole.pairs, body: whole.body, old_routes };
        return core.bare(&bare).await.map_or_else(not_found, |answer| {
            reply(if *whole.method == Method::HEAD { Answer { body: Vec::new(), ..answer } } else { answer })
        });
    }
    match sdk_request(whole) {
        Ok(request) => core.recover(&request).await.map_or_else(not_found, reply),
        Err(answer) => reply(answer),
    }
}

/// The headers that audit lines show, each value by itself.
pub(crate) fn kept(headers: &HeaderMap, audited: &AuditedHeaders) -> Headers {
    let values = |name| headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    audited.names().flat_map(|name| values(name).map(move |v| (name.to_owned(), v.to_owned()))).collect()
}

/// Texts in the parameters, keys included.
pub(crate) fn json_strings(map: &Map<String, Value>) -> u64 {
    fn count(v: &Value) -> u64 {
        match v {
            Value::String(_) => 1,
            Value::Array(a) => a.iter().map(count).sum(),
            Value::Object(m) => json_strings(m),
            _ => 0,
        }
    }
    map.values().map(|v| 1 + count(v)).sum()
}

fn metrics(core: &Arc<Core>, query: &[(String, String)]) -> Answer {
    let format = query.iter().find(|(name, _)| name == "format").map_or("", |(_, value)| value);
    Answer::success(core.metrics_response(format), "", "")
}

/// The request runs to its end, whoever waits: what can be answered at once is (most reads never
/// wait), and what has to wait goes on in a task of its own that no hang-up cancels.
async fn run(core: &Arc<Core>, request: Request, time: Duration) -> Reply {
    let id = request.id.clone();
    let failed = || reply(Answer::error(500, &format!("internal error; request {id}")));
    let mut handling = match std::panic::catch_unwind(AssertUnwindSafe(|| core.begin(request))) {
        Ok(Begun::Read(answer, lines)) => return reply(core.given(answer, lines).await),
        Ok(Begun::Waits(handling)) => handling,
        Err(_) => return failed(),
    };
    let first = std::future::poll_fn(|cx| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(cx)));
        Poll::Ready(polled)
    });
    match first.await {
        Ok(Poll::Ready(answer)) => return reply(answer),
        Ok(Poll::Pending) => {}
        Err(_) => return failed(),
    }
    match Box::pin(tokio::time::timeout(time, tokio::spawn(handling))).await {
        Ok(Ok(answer)) => reply(answer),
        Ok(Err(_)) => failed(),
        Err(_) => reply(Answer::error(
            503,
            &format!(
                "the request took longer than max_request_duration; its outcome is unknown, the audit log will tell: \
                 request {id}"
            ),
        )),
    }
}

async fn bare_in_task(core: &Arc<Core>, r: &BareRequest<'_>) -> Option<Answer> {
    if !r.path.starts_with("sys/") {
        return None;
    }
    Box::pin(core.bare(r)).await
}

/// The namespace asked for, with a slash at its end unless it is the root. Bytes that are no text are no namespace's
/// name, and not the root either.
fn namespace_of(headers: &HeaderMap) -> String {
    let given = headers.get(NAMESPACE).map_or("".into(), |v| String::from_utf8_lossy(v.as_bytes()));
    let given = given.trim().trim_matches('/');
    if given.is_empty() || given == "root" { String::new() } else { format!("{given}/") }
}

/// What a client calls the root is this namespace, here and on a node that the request is passed on to.
fn enter_namespace(headers: &mut HeaderMap, outermost: &str) {
    let whole = format!("{outermost}/{}", namespace_of(headers));
    // What came as a header can be one again; a name with control characters is nobody's.
    let value = HeaderValue::from_bytes(whole.as_bytes()).unwrap_or(HeaderValue::from_static("-"));
    headers.insert(NAMESPACE, value);
}

const NAMESPACE: &str = "x-vault-namespace";

pub(crate) fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// The token of the headers: `X-Vault-Token` counts first.
fn token(headers: &HeaderMap) -> Option<Secret<String>> {
    let given = match text_of(headers, "x-vault-token") {
        Some(t) => Some(t),
        None => text_of(headers, "authorization").and_then(|a| a.strip_prefix("Bearer ")),
    };
    given.map(str::trim).filter(|t| !t.is_empty()).map(|t| Secret::new(t.to_owned()))
}

/// Headers of second factors that are read.
const MOST_MFA_HEADERS: usize = 16;

/// What else says who asks.
fn presented(headers: &HeaderMap) -> Presented {
    let authorization = |scheme: &str| {
        let (given, rest) = text_of(headers, "authorization")?.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let mfa = headers.get_all("x-vault-mfa").into_iter().filter_map(|v| v.to_str().ok());
    Presented {
        basic: authorization("basic").map(|text| Secret::new(text.trim().to_owned())),
        bearer: headers.get("x-vault-token").is_none() && authorization("bearer").is_some(),
        mfa: mfa.take(MOST_MFA_HEADERS).map(|text| Secret::new(text.to_owned())).collect(),
    }
}

/// A request decoded as a listener does, without a server: for fuzz targets. `None`: it is answered, or is none, before.
pub fn decode(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Result<Request, Answer>> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let uri: hyper::Uri = target.parse().ok()?;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).ok()?, HeaderValue::try_from(*value).ok()?);
    }
    let Checked::Api(api) = path::check(uri.path()) else { return None };
    Some(sdk_request(Whole {
        method: &method,
        uri: target,
        path: api,
        pairs: query::pairs(uri.query().unwrap_or("")),
        headers: &map,
        body,
        address: None,
        certificate_serial: None,
        forwarded_from: None,
        allows: ListenerAllows::default(),
        redact: Redact::default(),
    }))
}

pub(crate) fn sdk_request(whole: Whole<'_>) -> Result<Request, Answer> {
    let Whole { method, path, pairs, headers, body, address, certificate_serial, forwarded_from, .. } = whole;
    let bad = |text: &str| Answer::error(400, text);
    let list = query::switch(&pairs, "list").map_err(|()| Answer::errors(400, &[]))?.unwrap_or(false);
    let scan = query::switch(&pairs, "scan").map_err(|()| Answer::errors(400, &[]))?.unwrap_or(false);
    if list && scan {
        return Err(Answer::errors(400, &[]));
    }
    let mut merge_patch = false;
    let operation = match method.as_str() {
        "GET" if list => Operation::List,
        "GET" if scan => Operation::Scan,
        "GET" => Operation::Read,
        "LIST" => Operation::List,
        "SCAN" => Operation::Scan,
        "POST" | "PUT" => Operation::Update,
        "DELETE" => Operation::Delete,
        "PATCH" => {
            let kind = text_of(headers, "content-type")
                .unwrap_or("")
                .split(';')
                .next()
                .unwrap_or("")
                .trim()
                .to_ascii_lowercase();
            if kind.is_empty() {
                return Err(bad("PATCH requires Content-Type: application/merge-patch+json"));
            }
            if kind != "application/merge-patch+json" {
                return Err(Answer::error(415, "PATCH requires Content-Type: application/merge-patch+json"));
            }
            merge_patch = true;
            Operation::Patch
        }
        "OPTIONS" => {
            return Err(bad(
                "unsupported operation: OPTIONS is answered for other origins that sys/config/cors allows",
            ));
        }
        _ => return Err(Answer::errors(405, &[])),
    };
    if operation.writes() && operation != Operation::Delete && path.ends_with('/') {
        return Err(bad("cannot write to a path ending in '/'"));
    }
    let data = match operation {
        Operation::Update | Operation::Patch => {
            // curl says "form" of whatever -d sends: what begins as an object is JSON.
            let form =
                text_of(headers, "content-type").is_some_and(|c| c.starts_with("application/x-www-form-urlencoded"));
            let object = body.trim_ascii_start().first().is_none_or(|b| matches!(b, b'{' | b'[' | b'"'));
            if form && !object && operation == Operation::Update {
                query::parameters(&query::pairs(&String::from_utf8_lossy(body)))
            } else {
                holdfast_core::parse_body(body).map_err(|e| Answer::failure(&e))?
            }
        }
        _ => {
            let mut m = query::parameters(&pairs);
            // Elsewhere they are parameters like any other, that nobody looks at.
            if matches!(operation, Operation::List | Operation::Scan) {
                m.remove("list");
                m.remove("scan");
            }
            m
        }
    };
    let path = match operation {
        Operation::List | Operation::Scan if !path.ends_with('/') => format!("{path}/"),
        _ => path,
    };
    // One that cannot be read must not turn into an answer that is not wrapped.
    let given = headers.get("x-vault-wrap-ttl").map(|v| v.to_str().map_or("?", str::trim));
    let wrap_ttl = match given {
        None | Some("") => None,
        Some(text) => match duration::parse(text) {
            Some(n) if n >= 0 => {
                Some(Duration::from_nanos(u64::try_from(n).unwrap_or(u64::MAX))).filter(|d| !d.is_zero())
            }
            _ => return Err(bad("the X-Vault-Wrap-TTL header is no duration, or a negative one")),
        },
    };
    let namespace = namespace_of(headers);
    let id = random::request_id().map(|b| random::uuid_text(&b)).map_err(|e| Answer::failure(&e))?;
    Ok(Request {
        id,
        operation,
        path,
        data,
        token: token(headers),
        namespace,
        wrap_ttl,
        remote: address,
        headers: Vec::new(),
        merge_patch,
        policy_override: text_of(headers, "x-vault-policy-override")
            .is_some_and(|v| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True")),
        forwarded_from: forwarded_from.map(str::to_owned),
        client_certificate_serial: certificate_serial.map(str::to_owned),
        presented: presented(headers),
    })
}

pub(crate) fn reply(answer: Answer) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::new(Content::new(answer.body, answer.stream));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains"));
    if !answer.content_type.is_empty()
        && let Ok(v) = HeaderValue::try_from(answer.content_type)
    {
        headers.insert(header::CONTENT_TYPE, v);
    }
    add_headers(headers, answer.headers);
    response
}

pub(crate) fn add_headers(headers: &mut HeaderMap, more: Vec<(String, String)>) {
    for (name, value) in more {
        if let (Ok(n), Ok(v)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(n, v);
        }
    }
}

fn redirect(method: &Method, to: &str, query: Option<&str>) -> Reply {
    let place = match query {
        Some(q) => format!("{to}?{q}"),
        None => to.to_owned(),
    };
    // As in Go, only a GET gets a body to click on.
    let mut response = reply(match *method {
        Method::GET => {
            let body = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", html(&place)).into_bytes();
            Answer { content_type: "text/html; charset=utf-8".into(), ..Answer::json(307, body) }
        }
        _ => Answer { content_type: String::new(), ..Answer::json(307, Vec::new()) },
    });
    if let Ok(v) = HeaderValue::try_from(place) {
        response.headers_mut().insert(header::LOCATION, v);
    }
    response
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

/// Below neither `/v1` nor `/ui`.
fn not_found() -> Reply {
    reply(Answer::errors(404, &[]))
}
