//! HTTP/2 over TLS, as a client of a test.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_tests::Address;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;

pub type Sender = SendRequest<Full<Bytes>>;

/// Connect; the server must choose HTTP/2.
pub async fn connect(address: &Address, config: &ClientConfig) -> Sender {
    let Address::Tcp(address) = address else { panic!("a TCP listener is needed") };
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::from(address.ip()), stream).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    // It ends with the last sender, or when the server says good-bye.
    tokio::spawn(connection);
    sender
}

/// One request on the connection.
pub async fn ask(sender: &Sender, method: &str, path: &str, token: &str, body: Bytes) -> (u16, Value) {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header("x-vault-token", token)
        .body(Full::new(body))
        .expect("a request");
    let answer = sender.clone().send_request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}
