//! The HTTP client of the API: requests in, answers or errors out. It prints nothing.
//!
//! One file each: where the server is ([`address`]), how a call is made up from flags and
//! environment ([`settings`]), TLS ([`tls`]), one exchange over a connection ([`exchange`]), showing a
//! request instead of sending it ([`rehearsal`]), errors ([`error`]).

mod address;
pub mod error;
mod exchange;
mod file_body;
mod rehearsal;
mod settings;
mod tls;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

pub use address::Address;
pub use error::Error;
pub use settings::Settings;

use crate::secret::Secret;
use crate::token_file::Token;
use error::ApiError;

/// Waits between tries, in milliseconds.
const RETRY_WAIT_MS: u64 = 1000;
const RETRY_SPREAD_MS: u64 = 500;
/// The longest wait that a server's `Retry-After` is obeyed for.
const RETRY_AFTER_MAX_S: u64 = 60;

/// A request of the API, by its path without `/v1/`.
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    /// A file that is the body instead, whatever its size.
    pub file: Option<PathBuf>,
    pub content_type: Option<&'static str>,
}

impl Request {
    pub fn new(method: &'static str, path: impl Into<String>) -> Request {
        Request { method, path: path.into(), query: Vec::new(), body: None, file: None, content_type: None }
    }

    pub fn query(mut self, name: &str, value: impl Into<String>) -> Request {
        self.query.push((name.to_string(), value.into()));
        self
    }

    pub fn json(mut self, body: &Value) -> Request {
        self.body = Some(body.to_string().into_bytes());
        self
    }
}

/// A server's answer below 400.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as an object; an empty body is an empty object.
    pub fn object(&self) -> Result<Map<String, Value>, Error> {
        if self.body.is_empty() {
            return Ok(Map::new());
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            _ => Err(Error::Unreadable("the server's answer is not a JSON object".to_string())),
        }
    }
}

/// What to do instead of sending.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rehearse {
    No,
    Curl,
    Policy,
}

/// A client of one server with one token.
pub struct Client {
    settings: Settings,
    runtime: tokio::runtime::Runtime,
    exchange: exchange::Exchange,
}

impl Client {
    pub fn new(settings: Settings) -> Result<Client, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("no runtime for the client: {e}"))?;
        let exchange = exchange::Exchange::new(&settings)?;
        Ok(Client { settings, runtime, exchange })
    }

    pub fn address(&self) -> &Address {
        &self.settings.address
    }

    pub fn token(&self) -> Option<&Token> {
        self.settings.token.as_ref()
    }

    pub fn set_token(&mut self, token: Option<Token>) {
        self.settings.token = token;
    }

    /// Answers are not wrapped from here on, whatever flags and environment say.
    pub fn without_wrapping(&mut self) {
        self.settings.wrap_ttl = None;
        self.settings.wrap_by_default = false;
    }

    /// Requests go to the root namespace.
    pub fn in_root_namespace(mut self) -> Client {
        self.settings.namespace.clear();
        self
    }

    /// Waits for answers as long as they take: for those that carry a whole storage.
    pub fn without_timeout(mut self) -> Client {
        self.exchange.timeout = Duration::ZERO;
        self
    }

    /// Whether requests are shown instead of sent.
    pub fn is_rehearsing(&self) -> bool {
        self.settings.rehearse != Rehearse::No
    }

    /// Sends the request, or shows it where that is wanted.
    pub fn send(&self, request: &Request) -> Result<Answer, Error> {
        match self.rehearsed(request) {
            Some(shown) => Err(Error::Rehearsed(shown)),
            None => self.send_really(request),
        }
    }

    /// The request as it is shown, where it is not to be sent.
    fn rehearsed(&self, request: &Request) -> Option<String> {
        match self.settings.rehearse {
            Rehearse::No => None,
            Rehearse::Curl => Some(rehearsal::curl(&self.settings, request)),
            Rehearse::Policy => Some(rehearsal::policy(request)),
        }
    }

    /// Sends a question that a command asks before its own request: also where that one is only
    /// shown, and never wrapped.
    pub fn preflight(&self, request: &Request) -> Result<Answer, Error> {
        let headers = self.settings.headers_of(request)?;
        let headers: Vec<_> = headers.into_iter().filter(|(name, _)| name != "X-Vault-Wrap-TTL").collect();
        self.exchange_with(request, &headers)
    }

    /// Sends a request whose answer goes on, and hands on each part as it comes, until the server
    /// ends it, `each` breaks, or the person at the terminal does.
    pub fn follow(&self, request: &Request, each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), Error> {
        if let Some(shown) = self.rehearsed(request) {
            return Err(Error::Rehearsed(shown));
        }
        let headers = self.settings.headers_of(request)?;
        self.runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => Ok(()),
                () = terminated() => Ok(()),
                outcome = self.followed(request, &headers, each) => outcome,
            }
        })
    }

    /// As [`Client::follow`], for so long at most.
    pub fn follow_within(
        &self,
        request: &Request,
        within: Duration,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        if let Some(shown) = self.rehearsed(request) {
            return Err(Error::Rehearsed(shown));
        }
        let headers = self.settings.headers_of(request)?;
        self.runtime.block_on(async {
            let followed = tokio::time::timeout(within, self.followed(request, &headers, each));
            followed.await.unwrap_or(Ok(()))
        })
    }

    /// Sends a request and hands on each part of its answer as it comes. True: all of it came, and `each` took it.
    pub fn stream(&self, request: &Request, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool, Error> {
        if let Some(shown) = self.rehearsed(request) {
            return Err(Error::Rehearsed(shown));
        }
        let headers = self.settings.headers_of(request)?;
        let mut all = true;
        let taken = self.followed(request, &headers, |part| {
            let flow = each(part);
            all &= flow.is_continue();
            flow
        });
        self.runtime.block_on(taken)?;
        Ok(all)
    }

    async fn followed(
        &self,
        request: &Request,
        headers: &[(String, String)],
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut url = self.settings.address.url(&request.path, &request.query);
        let mut may_redirect = self.settings.follow_redirect;
        loop {
            let transport = |url: &address::Url, cause: exchange::Failure| Error::Transport {
                method: request.method,
                url: url.to_string(),
                cause: cause.to_string(),
            };
            let mut opened = self.exchange.open(&url, request, headers).await.map_err(|e| transport(&url, e))?;
            if opened.status() >= 300 {
                let answer = opened.whole().await.map_err(|e| transport(&url, e))?;
                if is_redirect(answer.status) && may_redirect {
                    url = self.redirected(&url, &answer)?;
                    may_redirect = false;
                    continue;
                }
                self.judged(request, &url, answer)?;
                return Ok(());
            }
            while let Some(part) = opened.next().await.map_err(|e| transport(&url, e))? {
                if each(&part).is_break() {
                    break;
                }
            }
            return Ok(());
        }
    }

    fn send_really(&self, request: &Request) -> Result<Answer, Error> {
        self.exchange_with(request, &self.settings.headers_of(request)?)
    }

    fn exchange_with(&self, request: &Request, headers: &[(String, String)]) -> Result<Answer, Error> {
        let mut url = self.settings.address.url(&request.path, &request.query);
        let mut answer = self.with_retries(&url, request, headers)?;
        if is_redirect(answer.status) && self.settings.follow_redirect {
            url = self.redirected(&url, &answer)?;
            answer = self.with_retries(&url, request, headers)?;
        }
        self.judged(request, &url, answer)
    }

    /// An answer below 300, or what is wrong with it.
    fn judged(&self, request: &Request, url: &address::Url, answer: Answer) -> Result<Answer, Error> {
        if (300..400).contains(&answer.status) {
            let to = answer.header("location").unwrap_or_default();
            let why = format!("{url} leads on to {to:?}, and no further redirect is followed");
            return Err(Error::Unreadable(why));
        }
        if answer.status < 400 {
            return Ok(answer);
        }
        Err(Error::Api(ApiError::of(request.method, url.to_string(), &self.settings.namespace, &answer)))
    }

    fn with_retries(
        &self,
        url: &address::Url,
        request: &Request,
        headers: &[(String, String)],
    ) -> Result<Answer, Error> {
        let mut tries_left = self.settings.max_retries;
        loop {
            let outcome = self.runtime.block_on(self.exchange.run(url, request, headers));
            let wait = match &outcome {
                Ok(answer) => wait_before_retry(answer),
                Err(e) if e.may_pass() => Some(jittered()),
                Err(_) => None,
            };
            let Some(wait) = wait.filter(|_| tries_left > 0) else {
                return outcome.map_err(|cause| Error::Transport {
                    method: request.method,
                    url: url.to_string(),
                    cause: cause.to_string(),
                });
            };
            tries_left -= 1;
            std::thread::sleep(wait);
        }
    }

    fn redirected(&self, from: &address::Url, answer: &Answer) -> Result<address::Url, Error> {
        let location = answer.header("location").unwrap_or_default();
        let to = from.follow(location).ok_or_else(|| Error::Unreadable(format!("a redirect to {location:?}")))?;
        if from.is_tls() && !to.is_tls() {
            return Err(Error::Unreadable("redirect would cause protocol downgrade".to_string()));
        }
        Ok(to)
    }

    /// Reads a secret; nothing there is `None`, unless the server had warnings or metadata to give.
    pub fn read(&self, path: &str, query: &[(String, String)]) -> Result<Option<Secret>, Error> {
        let mut request = Request::new("GET", path);
        request.query = query.to_vec();
        absent_is_none(self.send(&request))
    }

    /// Lists names, as `GET` with `list=true`, which passes everywhere.
    pub fn list(&self, path: &str, query: &[(String, String)]) -> Result<Option<Secret>, Error> {
        self.read(path, &with(query, "list"))
    }

    /// Lists names and those below them.
    pub fn scan(&self, path: &str, query: &[(String, String)]) -> Result<Option<Secret>, Error> {
        self.read(path, &with(query, "scan"))
    }

    pub fn write(&self, path: &str, body: &Value) -> Result<Option<Secret>, Error> {
        self.secret(Request::new("PUT", path).json(body))
    }

    /// A merge patch.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Option<Secret>, Error> {
        let mut request = Request::new("PATCH", path).json(body);
        request.content_type = Some("application/merge-patch+json");
        self.secret(request)
    }

    pub fn delete(&self, path: &str, query: &[(String, String)]) -> Result<Option<Secret>, Error> {
        let mut request = Request::new("DELETE", path);
        request.query = query.to_vec();
        self.secret(request)
    }

    /// What the server knows of a token, asked by the token itself.
    pub fn lookup(&self, token: Token) -> Result<Option<Secret>, Error> {
        let settings = Settings { token: Some(token), wrap_ttl: None, wrap_by_default: false, ..self.settings.clone() };
        let client = Client::new(settings).map_err(Error::Unusable)?;
        client.secret(Request::new("GET", "auth/token/lookup-self"))
    }

    /// Sends a request whose answer is a secret or nothing.
    pub fn secret(&self, request: Request) -> Result<Option<Secret>, Error> {
        let answer = self.send(&request)?;
        Secret::parse(&answer.body).map_err(Error::Unreadable)
    }
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 307 | 308)
}

/// Waits for SIGTERM; for ever where it cannot be caught, and then it ends the process by itself.
async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

fn with(query: &[(String, String)], verb: &str) -> Vec<(String, String)> {
    let mut query = query.to_vec();
    query.push((verb.to_string(), "true".to_string()));
    query
}

fn absent_is_none(answer: Result<Answer, Error>) -> Result<Option<Secret>, Error> {
    match answer {
        Ok(answer) => Secret::parse(&answer.body).map_err(Error::Unreadable),
        Err(Error::Api(e)) if e.status == 404 => Ok(e.secret.map(|s| *s)),
        Err(e) => Err(e),
    }
}

/// How long to wait before trying again; `None` where the answer stands.
fn wait_before_retry(answer: &Answer) -> Option<Duration> {
    let again = match answer.status {
        412 | 429 => true,
        501 => false,
        status => status >= 500,
    };
    if !again {
        return None;
    }
    let told = answer.header("retry-after").and_then(|v| v.parse().ok()).filter(|_| matches!(answer.status, 429 | 503));
    Some(told.map_or_else(jittered, |s: u64| Duration::from_secs(s.min(RETRY_AFTER_MAX_S))))
}

fn jittered() -> Duration {
    let mut byte = [0u8; 1];
    // Without randomness the wait is merely not spread.
    let _ = getrandom::fill(&mut byte);
    Duration::from_millis(RETRY_WAIT_MS + RETRY_SPREAD_MS * u64::from(byte[0]) / 255)
}
