//! InfluxDB's HTTP API: statements are sent to `/query`, one after the other over one connection.
//!
//! <https://docs.influxdata.com/influxdb/v1/tools/api/#query-http-endpoint>

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_sdk::Value;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// A statement may take this.
const TIME_OUT: Duration = Duration::from_secs(20);
/// An answer is not longer.
const MAX_BYTES: usize = 16 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where a server is, and how it is reached.
pub struct Server {
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<ClientConfig>>,
    /// Connecting may take this.
    pub time_out: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Refused {
    /// The name or the password is wrong.
    Login(String),
    /// The server says so.
    Statement(String),
    /// The connection, or an answer that is none.
    Broken(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refused::Login(text) | Refused::Statement(text) | Refused::Broken(text)) = self;
        f.write_str(text)
    }
}

pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    host: HeaderValue,
    authorization: HeaderValue,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl crate::plugin::pool::Connection for Client {
    async fn answers(&mut self) -> bool {
        self.ping().await.is_ok()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Server {
    /// Connect, and look whether the login is good.
    pub async fn log_in(&self, user: &str, password: &str) -> Result<Client, Refused> {
        let at = format!("{}:{}", self.host, self.port);
        let late = || Refused::Broken(format!("{at} did not answer in time"));
        let connecting = async {
            let mut client = self.connect(&at, user, password).await?;
            client.ask("SHOW DATABASES").await.map(|_| client)
        };
        tokio::time::timeout(self.time_out, connecting).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(&self, at: &str, user: &str, password: &str) -> Result<Client, Refused> {
        let dial = |e: std::io::Error| Refused::Broken(format!("dial tcp {at}: {e}"));
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(dial)?;
        stream.set_nodelay(true).map_err(dial)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let tls = |e: &dyn std::fmt::Display| Refused::Broken(format!("tls: {e}"));
                let name = ServerName::try_from(self.host.clone()).map_err(|e| tls(&e))?;
                Box::new(TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|e| tls(&e))?)
            }
        };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let driver = tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to InfluxDB ended");
            }
        });
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut authorization = HeaderValue::try_from(basic).map_err(|e| broken(&e))?;
        authorization.set_sensitive(true);
        Ok(Client { sender, driver, host: HeaderValue::try_from(at).map_err(|e| broken(&e))?, authorization })
    }
}

fn broken(e: &dyn std::fmt::Display) -> Refused {
    Refused::Broken(e.to_string())
}

impl Client {
    /// Whether the server is there.
    pub async fn ping(&mut self) -> Result<(), Refused> {
        let request = Request::get("/ping").header(HOST, &self.host).body(Full::default()).map_err(|e| broken(&e))?;
        self.send(request).await.map(drop)
    }

    /// One statement; the rows of its answer.
    pub async fn ask(&mut self, statement: &str) -> Result<Vec<Vec<Value>>, Refused> {
        let request = Request::post("/query")
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(format!("q={}", form(statement)).into()))
            .map_err(|e| broken(&e))?;
        let (status, body) = self.send(request).await?;
        read(status, &body)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Refused> {
        let exchange = async {
            self.sender.ready().await.map_err(|e| broken(&e))?;
            let answer = self.sender.send_request(request).await.map_err(|e| broken(&e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(|e| broken(&e))?;
            Ok((status, body.to_bytes()))
        };
        let late = || Refused::Broken("the server did not answer in time".into());
        tokio::time::timeout(TIME_OUT, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

fn read(status: StatusCode, body: &[u8]) -> Result<Vec<Vec<Value>>, Refused> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = |at: &str| answer.pointer(at).and_then(Value::as_str).map(str::to_owned);
    if status == StatusCode::UNAUTHORIZED {
        return Err(Refused::Login(error("/error").unwrap_or_else(|| status.to_string())));
    }
    if let Some(text) = error("/error").or_else(|| error("/results/0/error")) {
        return Err(Refused::Statement(text));
    }
    if !status.is_success() || answer.pointer("/results").is_none() {
        return Err(Refused::Broken(format!("{status}: an answer that is none of InfluxDB's")));
    }
    let rows = answer.pointer("/results/0/series/0/values").and_then(Value::as_array);
    Ok(rows.into_iter().flatten().filter_map(|row| row.as_array().cloned()).collect())
}

/// A text as a value of a form.
fn form(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_carries_any_text() {
        assert_eq!(form("SHOW 'a&b=ü'"), "SHOW%20%27a%26b%3D%C3%BC%27");
    }

    #[test]
    fn rows_and_errors_are_told_apart() {
        let of = |status: u16, body: &str| read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        let rows = of(200, r#"{"results":[{"series":[{"columns":["user","admin"],"values":[["a",true]]}]}]}"#).unwrap();
        assert_eq!(rows, [vec![Value::from("a"), Value::from(true)]]);
        assert!(of(200, r#"{"results":[{"statement_id":0}]}"#).unwrap().is_empty());
        assert!(matches!(of(200, r#"{"results":[{"error":"user not found"}]}"#), Err(Refused::Statement(_))));
        assert!(matches!(of(400, r#"{"error":"error parsing query"}"#), Err(Refused::Statement(_))));
        assert!(matches!(of(401, r#"{"error":"authorization failed"}"#), Err(Refused::Login(_))));
        assert!(matches!(of(200, "<html>"), Err(Refused::Broken(_))));
        assert!(matches!(of(502, ""), Err(Refused::Broken(_))));
    }
}
