//! The limit for answers: axum on rustls, with nothing behind it.
//!
//! `bare PORT CERT KEY BODY` answers every request on 127.0.0.1:PORT with the bytes of the file BODY, over the TLS
//! set-up of `holdfast-http`: aws-lc-rs, TLS 1.3 first, HTTP/2 and 1.1 by ALPN, no delay. It prints `ready` when it
//! listens.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::serve::Listener;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections that have ended their handshake and wait to be served.
const WAITING_CONNECTIONS: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, cert, key, body] = arguments.as_slice() else {
        return Err("usage: bare PORT CERT KEY BODY".into());
    };
    let body = Bytes::from(std::fs::read(body)?);
    let config = tls(cert, key)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?)).await?;
    let app = Router::new().fallback(move || async move {
        ([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], body.clone())
    });
    println!("ready");
    axum::serve(TlsListener::start(listener, config)?, app).await?;
    Ok(())
}

fn tls(cert: &str, key: &str) -> Result<ServerConfig, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Handshakes run each in a task of its own, so that one does not wait for another.
struct TlsListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    fn start(listener: TcpListener, config: ServerConfig) -> io::Result<TlsListener> {
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (sender, accepted) = mpsc::channel(WAITING_CONNECTIONS);
        tokio::spawn(async move {
            let mut listener = listener;
            loop {
                // axum's own, which waits when file descriptors run out.
                let (stream, peer) = Listener::accept(&mut listener).await;
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let _slower_then = stream.set_nodelay(true);
                    match acceptor.accept(stream).await {
                        Ok(stream) => drop(sender.send((stream, peer)).await),
                        Err(e) => eprintln!("bare: a TLS handshake with {peer} failed: {e}"),
                    }
                });
            }
        });
        Ok(TlsListener { address, accepted })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(connection) => connection,
            // The accepting task holds a sender as long as the runtime lives.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
