//! Calling the API of a node whose cluster is to be joined.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::cluster::JoinFrom;
use holdfast_sdk::Value;
use holdfast_trust::{Authorities, Trust, verifier};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An answer's bytes at most.
const ANSWER_BYTES: usize = 1 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Ask for `path` below `/v1/`, with a JSON body where something is written. The answer is an object; anything but 200 is an error.
pub async fn ask(from: JoinFrom, path: String, body: Option<Value>) -> Result<Value, String> {
    let asked = tokio::time::timeout(ANSWER_WITHIN, ask_patiently(&from, &path, body.as_ref()));
    asked.await.unwrap_or_else(|_| Err(format!("{} does not answer", from.api_addr)))
}

async fn ask_patiently(from: &JoinFrom, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let url = format!("{}/v1/{path}", from.api_addr.trim_end_matches('/'));
    let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let host = uri.host().ok_or_else(|| format!("{url} names no host"))?.to_owned();
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("{url} is no http or https URL")),
    };
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let bare_host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((bare_host.as_str(), port)).await.map_err(|e| format!("{url}: {e}"))?;
    if !tls {
        return exchange(stream, &uri, &host, body, "").await;
    }
    let name = from.tls_servername.clone().unwrap_or(bare_host);
    let name = ServerName::try_from(name).map_err(|e| format!("{url}: {e}"))?;
    let stream = TlsConnector::from(config(from)?).connect(name, stream).await;
    let stream = stream.map_err(|e| {
        format!("{url}: {e}: leader_ca_cert and leader_tls_servername say which certificate is believed")
    })?;
    // A node that wants to see a certificate says so behind the handshake, or hangs up.
    let hint = ": does it want a client's certificate, or another one (leader_client_cert, leader_client_key)?";
    exchange(stream, &uri, &host, body, hint).await
}

fn config(from: &JoinFrom) -> Result<Arc<ClientConfig>, String> {
    let authorities = match &from.ca_cert {
        Some(pem) => {
            let given = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            Authorities::These(given.map_err(|e| format!("leader_ca_cert: {e}"))?)
        }
        None => Authorities::System,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(
            verifier(Trust::Named(authorities), provider).map_err(|e| format!("leader_ca_cert: {e}"))?,
        );
    let config = match (&from.client_cert, &from.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(|e| format!("leader_client_cert: {e}"))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| format!("leader_client_key: {e}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("leader_client_cert: {e}"))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("leader_client_cert and leader_client_key belong together".into()),
    };
    Ok(Arc::new(config))
}

/// An error with what is behind it.
fn whole(e: &hyper::Error) -> String {
    let (mut text, mut cause) = (e.to_string(), e.source());
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    text
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    host: &str,
    body: Option<&Value>,
    hint: &str,
) -> Result<Value, String> {
    let fail = |e: hyper::Error| format!("{uri}: {}{hint}", whole(&e));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fail)?;
    let driven = tokio::spawn(connection);
    let request = Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(uri.path())
        .header(header::HOST, host)
        .header("X-Vault-Request", "true")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(fail)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|e| format!("{uri}: {e}"))?;
    driven.abort();
    let body = body.to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let texts = value.get("errors").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    Err(format!("{uri}: {status}: {}", texts.collect::<Vec<_>>().join("; ")))
}
