//! Connections that the server makes to others, over HTTP/1.1: audit devices, targets of snapshots.

use std::sync::Arc;

use holdfast_trust::{Authorities, Trust, verifier};
use hyper::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where a connection goes to.
pub(crate) struct Origin {
    /// A name or an address, of version 6 in brackets.
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Origin {
    /// Over TLS, the system's authorities decide who is believed.
    pub fn new(host: &str, port: u16, tls: bool) -> Result<Origin, String> {
        let tls = tls.then(client_config).transpose()?;
        Ok(Origin { host: host.to_owned(), port, tls })
    }

    /// A new connection. Whoever calls bounds how long it may take.
    pub async fn connect<B>(&self) -> Result<SendRequest<B>, String>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let at = format!("{}:{}", self.host, self.port);
        let name = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((name, self.port)).await.map_err(|e| format!("dial tcp {at}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
                let tls = TlsConnector::from(config.clone()).connect(name, stream).await;
                Box::new(tls.map_err(|e| format!("tls: {e}"))?)
            }
        };
        // Some that receive logs know the names of headers by their usual letters alone.
        let handshake = Builder::new().title_case_headers(true).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to {at} ended");
            }
        });
        Ok(sender)
    }
}

fn client_config() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let verifier = verifier(Trust::Named(Authorities::System), provider)?;
    let config = builder.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
    Ok(Arc::new(config.with_no_client_auth()))
}
