//! One request and its answer over one connection.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::address::Url;
use super::error::os_words;
use super::file_body::FileBody;
use super::settings::Settings;
use super::{Answer, Request};

/// The largest answer that is taken: a snapshot of a big store; all others are far smaller.
const MAX_ANSWER_BYTES: usize = 4 << 30;

pub struct Exchange {
    /// Zero: no end.
    pub timeout: Duration,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
    settings: Arc<super::tls::TlsSettings>,
}

/// Why an exchange failed.
pub enum Failure {
    Scheme(String),
    Connect { place: String, cause: io::Error },
    Tls(io::Error),
    Http(String),
    Timeout,
}

impl Exchange {
    pub fn new(settings: &Settings) -> Result<Exchange, String> {
        Ok(Exchange { timeout: settings.timeout, tls: OnceLock::new(), settings: settings.tls.clone() })
    }

    /// Sends a request and reads its whole answer.
    pub async fn run(&self, url: &Url, request: &Request, headers: &[(String, String)]) -> Result<Answer, Failure> {
        self.in_time(async { self.over_a_connection(url, request, headers).await?.whole().await }).await
    }

    /// Sends a request and reads the head of its answer; the time allowed ends there.
    pub async fn open(&self, url: &Url, request: &Request, headers: &[(String, String)]) -> Result<Opened, Failure> {
        self.in_time(self.over_a_connection(url, request, headers)).await
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        if self.timeout.is_zero() {
            return exchange.await;
        }
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn over_a_connection(
        &self,
        url: &Url,
        request: &Request,
        headers: &[(String, String)],
    ) -> Result<Opened, Failure> {
        match url.scheme.as_str() {
            "unix" => {
                let place = format!("unix {}", url.authority);
                let stream = UnixStream::connect(&url.authority).await;
                talk(stream.map_err(|cause| Failure::Connect { place, cause })?, "localhost", url, request, headers)
                    .await
            }
            "http" => talk(tcp(url).await?, &url.authority, url, request, headers).await,
            "https" => {
                let stream = tcp(url).await?;
                let config = self.tls.get_or_init(|| self.settings.config()).clone().map_err(Failure::Http)?;
                let name = self.settings.server_name.clone().unwrap_or_else(|| url.host_and_port().0.to_string());
                let name = ServerName::try_from(name).map_err(|e| Failure::Tls(io::Error::other(e)))?;
                let stream = TlsConnector::from(config).connect(name, stream).await.map_err(Failure::Tls)?;
                talk(stream, &url.authority, url, request, headers).await
            }
            scheme => Err(Failure::Scheme(scheme.to_string())),
        }
    }
}

async fn tcp(url: &Url) -> Result<TcpStream, Failure> {
    let (host, port) = url.host_and_port();
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|cause| Failure::Connect { place: format!("tcp {host}:{port}"), cause })?;
    // A request is one write; waiting for more of it would only be slower.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    url: &Url,
    request: &Request,
    headers: &[(String, String)],
) -> Result<Opened, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection);
    let mut builder = http::Request::builder().method(request.method).uri(&url.target).header("Host", host);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let body = match &request.file {
        Some(path) => Either::Right(FileBody::open(path).map_err(|e| Failure::Http(e.to_string()))?),
        None => Either::Left(Full::new(Bytes::from(request.body.clone().unwrap_or_default()))),
    };
    let message = builder.body(body).map_err(|e| Failure::Http(e.to_string()))?;
    let response = sender.send_request(message).await.map_err(failed)?;
    let (head, body) = response.into_parts();
    let header = |(n, v): (&http::HeaderName, &http::HeaderValue)| {
        (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())
    };
    Ok(Opened { status: head.status.as_u16(), headers: head.headers.iter().map(header).collect(), body })
}

fn failed(e: hyper::Error) -> Failure {
    Failure::Http(e.to_string())
}

/// An answer whose body is still to come.
pub struct Opened {
    status: u16,
    headers: Vec<(String, String)>,
    body: Incoming,
}

impl Opened {
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The whole answer.
    pub async fn whole(self) -> Result<Answer, Failure> {
        let Opened { status, headers, body } = self;
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| Failure::Http(e.to_string()))?;
        Ok(Answer { status, headers, body: body.to_bytes() })
    }

    /// The next part of the body, when it comes; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            // A frame without data is a trailer.
            if let Ok(data) = frame.map_err(failed)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Failure {
    /// Whether trying again may help: not with another scheme or a certificate that is refused.
    pub fn may_pass(&self) -> bool {
        matches!(self, Failure::Connect { .. } | Failure::Http(_) | Failure::Timeout)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Scheme(scheme) => write!(f, "unsupported protocol scheme {scheme:?}"),
            Failure::Connect { place, cause } if cause.raw_os_error().is_some() => {
                write!(f, "dial {place}: connect: {}", os_words(cause))
            }
            Failure::Connect { place, cause } => write!(f, "dial {place}: {cause}"),
            Failure::Tls(cause) => {
                use rustls::{CertificateError, Error};
                match cause.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
                    Some(Error::InvalidMessage(_)) => f.write_str("http: server gave HTTP response to HTTPS client"),
                    // The words that operators look for.
                    Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                        f.write_str("tls: failed to verify certificate: x509: certificate signed by unknown authority")
                    }
                    _ => write!(f, "tls: failed to verify or agree: {cause}"),
                }
            }
            Failure::Http(cause) => f.write_str(cause),
            Failure::Timeout => f.write_str("no answer within the time allowed (HOLDFAST_CLIENT_TIMEOUT)"),
        }
    }
}
