//! Requests to an S3-compatible server. The signature is in a request's query, so no query is ever shown: an error
//! names what was asked, and the server's code for why not.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_LENGTH, ETAG, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tokio::time::{sleep, timeout};

use super::S3;
use crate::outbound::Origin;

/// For how long a signature counts, beyond the time of all tries of a request.
const SIGNED_FOR: Duration = Duration::from_secs(600);
/// Tries of a request that the server did not get, or was too busy for.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// A list of 1,000 keys.
const MAX_ANSWER_BYTES: usize = 4 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Lists that are read at most.
const PAGES: usize = 100;
const MAX_CODE_BYTES: usize = 64;

/// How long a server may take for what it is asked. A server that takes nothing, or says nothing, for so long is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// A part of 8 MiB (`aws_s3_timeout`).
    pub part: Duration,
    /// A request that moves no data, or the next piece of an answer: 15 s for the two minutes that a part may take.
    pub small: Duration,
    /// Putting the parts together, for which a server takes minutes where there are many: five for these two.
    pub completion: Duration,
}

impl Limits {
    /// No time is too short for a server that is merely busy.
    const SHORTEST: Duration = Duration::from_secs(5);

    pub fn of(s3: &S3) -> Limits {
        let part = s3.timeout();
        Limits { part, small: (part / 8).max(Limits::SHORTEST), completion: part * 5 / 2 }
    }

    /// For a snapshot that is read back: all of it may come as slowly as it may go.
    pub fn reading_back(&self, bytes: u64, part_bytes: usize) -> Duration {
        let parts = u32::try_from(bytes.div_ceil(part_bytes as u64)).unwrap_or(u32::MAX);
        self.small.saturating_add(self.part.saturating_mul(parts))
    }
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub text: String,
    /// The server's code, if it gave one.
    pub code: Option<String>,
    /// It may go well at once.
    passing: bool,
}

impl Failure {
    fn of(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), code: None, passing: false }
    }

    /// What the server says.
    fn answered(what: &str, status: StatusCode, body: &str) -> Failure {
        let code = code_in(body);
        let named = code.clone().unwrap_or_else(|| "no code".into());
        let hint = code.as_deref().and_then(hint).map(|h| format!(": {h}")).unwrap_or_default();
        let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Failure { text: format!("cannot {what}: {named} (status {}){hint}", status.as_u16()), code, passing }
    }
}

/// A server's code, between `<Code>` and its end. What else it says may repeat parts of the request.
fn code_in(body: &str) -> Option<String> {
    let (code, _) = body.split_once("<Code>")?.1.split_once("</Code>")?;
    let plain = (1..=MAX_CODE_BYTES).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

/// What can be done about it.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "SignatureDoesNotMatch" => {
            "aws_secret_access_key is not that of aws_access_key_id, or the server knows neither"
        }
        "InvalidAccessKeyId" => "the server does not know aws_access_key_id",
        "AccessDenied" => {
            "the access key may not do this: it needs s3:PutObject, GetObject, DeleteObject, AbortMultipartUpload and ListBucket"
        }
        "NoSuchBucket" => "make the bucket, or change aws_s3_bucket",
        "RequestTimeTooSkewed" => "the clock of this machine or of the server is wrong",
        "ExpiredToken" | "InvalidToken" => "give a new aws_session_token with its keys",
        "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError"
        | "PermanentRedirect"
        | "TemporaryRedirect" => "aws_s3_region or aws_s3_endpoint is not the bucket's",
        "NotImplemented" => {
            "the server does not know it: leave out aws_s3_server_side_encryption and aws_s3_enable_kms"
        }
        _ => return None,
    })
}

/// Whether a target can be asked at all.
pub(crate) fn check(s3: &S3) -> Result<(), String> {
    Client::new(s3).map(|_| ())
}

/// One bucket, with credentials for it.
pub(super) struct Client {
    bucket: Bucket,
    credentials: Credentials,
    origin: Origin,
    limits: Limits,
    host: HeaderValue,
    /// Headers with which an object is made.
    encryption: Vec<(&'static str, String)>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// A signed request. It has no `Debug`: the signature is in it.
struct Asked {
    what: &'static str,
    method: Method,
    path_and_query: String,
    headers: HeaderMap,
    body: Bytes,
    within: Duration,
}

impl Client {
    pub fn new(s3: &S3) -> Result<Client, String> {
        let at = match s3.endpoint.as_str() {
            "" if s3.region.starts_with("cn-") => format!("s3.{}.amazonaws.com.cn", s3.region),
            "" => format!("s3.{}.amazonaws.com", s3.region),
            at => at.to_owned(),
        };
        let wrong = |e: &dyn std::fmt::Display| format!("aws_s3_endpoint {at:?}: {e}");
        let scheme = if s3.disable_tls { "http" } else { "https" };
        let style = if s3.force_path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint = format!("{scheme}://{at}").parse().map_err(|e| wrong(&e))?;
        let bucket = Bucket::new(endpoint, style, s3.bucket.clone(), s3.region.clone()).map_err(|e| wrong(&e))?;
        let url = bucket.base_url();
        let host = url.host_str().ok_or_else(|| wrong(&"it names no host"))?;
        let port = url.port_or_known_default().unwrap_or(443);
        let origin = Origin::new(host, port, !s3.disable_tls)?;
        let named = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let host = HeaderValue::try_from(named).map_err(|e| wrong(&e))?;
        let (key, secret) = (s3.access_key_id.clone(), s3.secret_access_key.expose().clone());
        let credentials = match s3.session_token.expose().as_str() {
            "" => Credentials::new(key, secret),
            token => Credentials::new_with_token(key, secret, token),
        };
        let mut encryption = Vec::new();
        if s3.enable_kms {
            encryption.push(("x-amz-server-side-encryption", "aws:kms".to_owned()));
            if !s3.kms_key.is_empty() {
                encryption.push(("x-amz-server-side-encryption-aws-kms-key-id", s3.kms_key.clone()));
            }
        } else if s3.server_side_encryption {
            encryption.push(("x-amz-server-side-encryption", "AES256".to_owned()));
        }
        Ok(Client { bucket, credentials, origin, limits: Limits::of(s3), host, encryption, connection: None })
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Begin an upload. What names it from then on.
    pub async fn begin(&mut self, key: &str) -> Result<String, Failure> {
        let what = "begin an upload";
        let mut action = self.bucket.create_multipart_upload(Some(&self.credentials), key);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.encryption {
            action.headers_mut().insert(*name, value.as_str());
            let value = HeaderValue::try_from(value).map_err(|_| Failure::of("aws_s3_kms_key is not a key's name"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let asked = Asked { headers, ..signed(what, &action, self.limits.small) };
        let text = self.text(&asked).await?;
        let parsed = CreateMultipartUpload::parse_response(text.trim_start()).map_err(|_| unclear(what))?;
        Ok(parsed.upload_id().to_owned())
    }

    /// Send a part; the first has number 1. What the server calls it.
    pub async fn put_part(&mut self, key: &str, upload: &str, number: u16, body: Bytes) -> Result<String, Failure> {
        let what = "send a part";
        let action = self.bucket.upload_part(Some(&self.credentials), key, number, upload);
        let asked = Asked { body, ..signed(what, &action, self.limits.part) };
        let answer = self.ask(&asked).await?;
        let etag = answer.headers().get(ETAG).and_then(|e| e.to_str().ok()).map(str::to_owned);
        self.text_of(&asked, answer).await?;
        etag.ok_or_else(|| unclear(what))
    }

    /// Put the parts together. Until then there is no object.
    pub async fn complete(&mut self, key: &str, upload: &str, etags: &[String]) -> Result<(), Failure> {
        let what = "put the parts together";
        let etags = etags.iter().map(String::as_str);
        let action = self.bucket.complete_multipart_upload(Some(&self.credentials), key, upload, etags);
        let asked = signed(what, &action, self.limits.completion);
        let asked = Asked { body: action.body().into(), ..asked };
        let text = self.text(&asked).await?;
        // A failure may come behind a status that says that all went well.
        match text.contains("<CompleteMultipartUploadResult") {
            true => Ok(()),
            false => Err(Failure { passing: false, ..Failure::answered(what, StatusCode::OK, &text) }),
        }
    }

    /// Take parts away that belong to no object. There may be none.
    pub async fn abort(&mut self, key: &str, upload: &str) -> Result<(), Failure> {
        let action = self.bucket.abort_multipart_upload(Some(&self.credentials), key, upload);
        let asked = signed("take away the parts of an upload", &action, self.limits.small);
        gone(self.text(&asked).await)
    }

    /// There may be none.
    pub async fn delete(&mut self, key: &str) -> Result<(), Failure> {
        let action = self.bucket.delete_object(Some(&self.credentials), key);
        let asked = signed("delete an object", &action, self.limits.small);
        gone(self.text(&asked).await)
    }

    /// The keys that begin so.
    pub async fn list(&mut self, prefix: &str) -> Result<Vec<String>, Failure> {
        let what = "list the bucket";
        let (mut keys, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(prefix);
            if let Some(next) = next {
                action.with_continuation_token(next);
            }
            let asked = signed(what, &action, self.limits.small);
            drop(action);
            let text = self.text(&asked).await?;
            let page = ListObjectsV2::parse_response(text.trim_start()).map_err(|_| unclear(what))?;
            keys.extend(page.contents.into_iter().map(|object| object.key));
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(keys);
            }
        }
        Err(Failure::of(format!("cannot {what}: more than {PAGES} pages of keys begin with {prefix:?}")))
    }

    /// An object's bytes, as they come.
    pub async fn get(&mut self, key: &str) -> Result<Coming, Failure> {
        let what = "read the snapshot back";
        let action = self.bucket.get_object(Some(&self.credentials), key);
        let asked = signed(what, &action, self.limits.small);
        Ok(Coming { what, body: self.ask(&asked).await?.into_body(), within: self.limits.small })
    }

    /// An answer of a few bytes.
    async fn text(&mut self, asked: &Asked) -> Result<String, Failure> {
        let answer = self.ask(asked).await?;
        self.text_of(asked, answer).await
    }

    async fn text_of(&mut self, asked: &Asked, answer: Response<Incoming>) -> Result<String, Failure> {
        let what = asked.what;
        let read = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        // Some say that all goes well while they are at work, and then how it went.
        let read = timeout(asked.within, read).await.map_err(|_| late(what, asked.within))?;
        let bytes = read.map_err(|e| Failure::of(format!("cannot {what}: the answer broke off: {e}")))?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// An answer that says that it went well; its body is still to be read.
    async fn ask(&mut self, asked: &Asked) -> Result<Response<Incoming>, Failure> {
        for n in 1.. {
            let answer = timeout(asked.within, self.once(asked)).await;
            let answer = answer.unwrap_or_else(|_| Err(late(asked.what, asked.within)));
            match answer {
                Err(failure) => {
                    self.connection = None;
                    if !failure.passing || n == TRIES {
                        return Err(failure);
                    }
                    sleep(PAUSE * n).await;
                }
                good => return good,
            }
        }
        unreachable!("the last try returns")
    }

    async fn once(&mut self, asked: &Asked) -> Result<Response<Incoming>, Failure> {
        let lost = |e: &dyn std::fmt::Display| Failure {
            passing: true,
            ..Failure::of(format!("cannot {}: the server cannot be reached: {e}", asked.what))
        };
        // The server may have closed a connection that was idle: then the request goes over a new one.
        let mut sent = None;
        if let Some(mut open) = self.connection.take()
            && open.ready().await.is_ok()
            && let Ok(answer) = open.send_request(self.request(asked)?).await
        {
            sent = Some((open, answer));
        }
        let (open, answer) = match sent {
            Some(sent) => sent,
            None => {
                let mut open = self.origin.connect().await.map_err(|e| lost(&e))?;
                let answer = open.send_request(self.request(asked)?).await.map_err(|e| lost(&e))?;
                (open, answer)
            }
        };
        let status = answer.status();
        if !status.is_success() {
            let body = Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
            let body = body.map(|b| b.to_bytes()).unwrap_or_default();
            return Err(Failure::answered(asked.what, status, &String::from_utf8_lossy(&body)));
        }
        self.connection = Some(open);
        Ok(answer)
    }

    fn request(&self, asked: &Asked) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::new(asked.body.clone()));
        *request.method_mut() = asked.method.clone();
        *request.uri_mut() = asked.path_and_query.parse().map_err(|_| Failure::of("the key is no part of a URL"))?;
        *request.headers_mut() = asked.headers.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(CONTENT_LENGTH, asked.body.len().into());
        Ok(request)
    }
}

/// An object that is being read.
pub(super) struct Coming {
    what: &'static str,
    body: Incoming,
    /// For the next bytes.
    within: Duration,
}

impl Coming {
    /// The next bytes; `None` is the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(self.within, self.body.frame()).await.map_err(|_| late(self.what, self.within))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|e| Failure::of(format!("cannot {}: it broke off: {e}", self.what)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

fn signed<'a, A: S3Action<'a>>(what: &'static str, action: &A, within: Duration) -> Asked {
    let url = action.sign(SIGNED_FOR + within * TRIES);
    let path_and_query = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    // The names of methods are those of HTTP.
    let method = Method::from_bytes(A::METHOD.to_str().as_bytes()).unwrap_or_default();
    Asked { what, method, path_and_query, headers: HeaderMap::new(), body: Bytes::new(), within }
}

fn gone(answer: Result<String, Failure>) -> Result<(), Failure> {
    match answer {
        Err(f) if matches!(f.code.as_deref(), Some("NoSuchUpload" | "NoSuchKey")) => Ok(()),
        answer => answer.map(|_| ()),
    }
}

fn late(what: &str, within: Duration) -> Failure {
    let secs = within.as_secs();
    Failure::of(format!(
        "cannot {what}: the server took nothing more, or did not answer, within {secs} s (aws_s3_timeout)"
    ))
}

fn unclear(what: &str) -> Failure {
    Failure::of(format!("cannot {what}: the answer is not one of S3: is aws_s3_endpoint right?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_servers_code_and_nothing_else_of_its_answer() {
        let body = "<?xml version='1.0'?><Error><Code>SignatureDoesNotMatch</Code><Message>m</Message>\
                    <StringToSign>AWS4-HMAC-SHA256</StringToSign></Error>";
        let failure = Failure::answered("begin an upload", StatusCode::FORBIDDEN, body);
        assert_eq!(failure.code.as_deref(), Some("SignatureDoesNotMatch"));
        assert!(failure.text.contains("SignatureDoesNotMatch (status 403): aws_secret_access_key"), "{}", failure.text);
        assert!(!failure.text.contains("HMAC") && !failure.passing);
        let odd = Failure::answered("begin an upload", StatusCode::BAD_GATEWAY, "<Code>a\nb</Code>");
        assert!(odd.code.is_none() && odd.passing && odd.text.contains("502"), "{}", odd.text);
    }

    #[test]
    fn time_limits_follow_from_that_of_a_part() {
        let of = |timeout_secs| Limits::of(&S3 { timeout_secs, ..S3::default() });
        let secs = Duration::from_secs;
        assert_eq!(of(0), Limits { part: secs(120), small: secs(15), completion: secs(300) });
        assert_eq!(of(5), Limits { part: secs(5), small: secs(5), completion: Duration::from_millis(12_500) });
        assert_eq!(of(480).small, secs(60));
        assert_eq!(of(0).reading_back(17 << 20, 8 << 20), secs(15 + 3 * 120));
        assert_eq!(of(0).reading_back(0, 8 << 20), secs(15));
    }

    #[test]
    fn the_host_is_amazons_of_the_region_or_the_endpoint_with_its_port() {
        let of = |s3: S3| Client::new(&S3 { bucket: "b".into(), ..s3 }).map(|c| c.host.to_str().unwrap().to_owned());
        let region = |region: &str| S3 { region: region.into(), ..S3::default() };
        assert_eq!(of(region("eu-central-1")).unwrap(), "b.s3.eu-central-1.amazonaws.com");
        assert_eq!(of(region("cn-north-1")).unwrap(), "b.s3.cn-north-1.amazonaws.com.cn");
        let own = S3 { endpoint: "10.0.0.1:9000".into(), disable_tls: true, force_path_style: true, ..region("r") };
        assert_eq!(of(own).unwrap(), "10.0.0.1:9000");
        assert!(of(S3 { endpoint: "a host".into(), ..region("r") }).unwrap_err().contains("aws_s3_endpoint"));
    }
}
