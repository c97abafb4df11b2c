//! Listeners: accepting, TLS, HTTP/1.1 and 2, and ending gracefully.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_core::cluster::ListenerAllows;
use holdfast_core::{Core, OldRoutes};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connections::{Connection, Connections, End};
use crate::minded::Minded;
use crate::proxy_protocol::Begun;
use crate::request::{self, Peer};
use crate::{CurrentHeaders, ForwardedFor, Proxies, Redact, Scope};

/// Heads larger than this are refused.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long a connection that was told to end may take.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub enum Address {
    Tcp(SocketAddr),
    Unix { path: PathBuf, mode: Option<u32>, owner: Owner },
}

/// Whose a socket in the file system is; `None`: the server's user and group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owner {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

/// How a listener behaves.
#[derive(Clone)]
pub struct ListenerOptions {
    pub max_request_bytes: u64,
    pub max_request_duration: Duration,
    pub max_json_strings: u64,
    /// Bytes that a body's JSON may need in memory.
    pub max_json_bytes: u64,
    pub read_header_timeout: Duration,
    pub read_timeout: Duration,
    pub idle_timeout: Duration,
    pub require_request_header: bool,
    pub unauthenticated_metrics: bool,
    /// `sys/in-flight-req` needs no token.
    pub unauthenticated_in_flight: bool,
    /// Acts of key holders without a token.
    pub old_routes: OldRoutes,
    pub forwarded_for: ForwardedFor,
    pub proxies: Proxies,
    /// How long a write may make no progress; `None`: as long as the connection lives.
    pub write_timeout: Option<Duration>,
    pub scope: Scope,
    pub redact: Redact,
    pub response_headers: CurrentHeaders,
    /// The namespace that is the outermost one for clients of this listener; without slashes at its ends, empty: the
    /// root.
    pub chroot_namespace: String,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        ListenerOptions {
            max_request_bytes: 32 << 20,
            max_request_duration: Duration::from_secs(90),
            max_json_strings: 1000,
            max_json_bytes: 33_816_576,
            read_header_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            require_request_header: false,
            unauthenticated_metrics: false,
            unauthenticated_in_flight: false,
            old_routes: OldRoutes::default(),
            forwarded_for: ForwardedFor::default(),
            proxies: Proxies::default(),
            write_timeout: None,
            scope: Scope::default(),
            redact: Redact::default(),
            response_headers: CurrentHeaders::default(),
            chroot_namespace: String::new(),
        }
    }
}

impl ListenerOptions {
    /// What matters to whoever answers, which may be another node.
    pub(crate) fn allows(&self) -> ListenerAllows {
        ListenerAllows {
            rekey: self.old_routes.rekey,
            generate_root: self.old_routes.generate_root,
            unauthenticated_metrics: self.unauthenticated_metrics,
            unauthenticated_in_flight: self.unauthenticated_in_flight,
            max_json_strings: self.max_json_strings,
            max_request_ms: u64::try_from(self.max_request_duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A bound listener.
pub struct Listening {
    socket: Socket,
    pub address: Address,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Bind an address.
pub async fn bind(address: &Address) -> io::Result<Listening> {
    match address {
        Address::Tcp(a) => {
            let listener = TcpListener::bind(a).await?;
            let address = Address::Tcp(listener.local_addr()?);
            Ok(Listening { socket: Socket::Tcp(listener), address })
        }
        Address::Unix { path, mode, owner } => {
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                // Nobody answers there: a left-over of a server that is gone.
                let _was_not_there = std::fs::remove_file(path);
            }
            let listener = UnixListener::bind(path)?;
            // First the owner: the mode may let the group in.
            std::os::unix::fs::chown(path, owner.user, owner.group)?;
            let mode = mode.unwrap_or(0o600);
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            Ok(Listening { socket: Socket::Unix(listener), address: address.clone() })
        }
    }
}

impl Listening {
    /// Accept and serve until `stop` becomes true; then end connections gracefully.
    pub async fn serve(
        self,
        core: Arc<Core>,
        options: ListenerOptions,
        tls: Option<Arc<rustls::ServerConfig>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let connections = Connections::start(options.read_header_timeout);
        let options = Arc::new(options);
        let acceptor = tls.map(TlsAcceptor::from);
        let mut tasks = tokio::task::JoinSet::new();
        let mut sealed = std::pin::pin!(core.sealed.notified());
        sealed.as_mut().enable();
        loop {
            let accepted = tokio::select! {
                // A connection that comes behind a seal is none of those that end with it.
                biased;
                _ = stop.wait_for(|s| *s) => break,
                () = sealed.as_mut() => {
                    sealed.set(core.sealed.notified());
                    sealed.as_mut().enable();
                    connections.end_all();
                    continue;
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(a) => a,
                Err(e) => {
                    // Out of file descriptors, most likely: others will be closed.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let one = One {
                core: core.clone(),
                options: options.clone(),
                connection: connections.add(),
                registry: connections.clone(),
                stop: stop.clone(),
            };
            let acceptor = acceptor.clone();
            tasks.spawn(async move {
                one.core.metrics.connections.up();
                let core = one.core.clone();
                one.accept(stream, address, acceptor).await;
                core.metrics.connections.down();
            });
        }
        // Nobody waits in the backlog for an answer that will not come.
        drop(self.socket);
        connections.end_all();
        let drained = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("connections were closed before their requests ended");
        }
        if let Address::Unix { path, .. } = &self.address {
            let _gone_already = std::fs::remove_file(path);
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Socket::Tcp(l) => {
                let (s, a) = l.accept().await?;
                s.set_nodelay(true)?;
                Ok((Stream::Tcp(s), Some(a)))
            }
            Socket::Unix(l) => Ok((Stream::Unix(l.accept().await?.0), None)),
        }
    }
}

/// A connection of either kind.
enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Minded(Box<Minded<tokio::net::TcpStream>>),
}

macro_rules! forward {
    ($self:ident, $s:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($s) => $call,
            Stream::Unix($s) => $call,
            Stream::Minded($s) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, s => Pin::new(s).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, s => Pin::new(s).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

/// Who sends more than so many bytes while it is given a stream is cut off.
const MAX_AHEAD: usize = 64 << 10;

/// Tells the registry when bytes arrive and leave, and hyper when the client goes while a stream has nothing to send.
struct Watched<S> {
    inner: S,
    connection: Arc<Connection>,
    registry: Arc<Connections>,
    /// What the client sent during a stream.
    ahead: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Watched<S> {
    fn client_is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let mut room = [0; 1024];
        while self.ahead.len() < MAX_AHEAD {
            let mut read = ReadBuf::new(&mut room);
            match Pin::new(&mut self.inner).poll_read(cx, &mut read) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.ahead.extend_from_slice(read.filled()),
                Poll::Ready(_) => return true,
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if !me.ahead.is_empty() {
            let next = me.ahead.len().min(buf.remaining());
            buf.put_slice(&me.ahead[..next]);
            me.ahead.drain(..next);
            me.registry.bytes_arrived(&me.connection);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut me.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            me.registry.bytes_arrived(&me.connection);
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.registry.bytes_left(&me.connection);
        Pin::new(&mut me.inner).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.registry.bytes_left(&me.connection);
        Pin::new(&mut me.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.connection.streams() && me.client_is_gone(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut me.inner).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// One connection.
struct One {
    core: Arc<Core>,
    options: Arc<ListenerOptions>,
    connection: Arc<Connection>,
    registry: Arc<Connections>,
    stop: watch::Receiver<bool>,
}

impl One {
    async fn accept(self, stream: Stream, address: Option<SocketAddr>, tls: Option<TlsAcceptor>) {
        let (stream, address) = match self.beginning(stream, address).await {
            Some(begun) => begun,
            None => return,
        };
        let Some(acceptor) = tls else {
            let peer = Peer { address, certificate_serial: None };
            return self.http(stream, peer, false).await;
        };
        let handshake = tokio::select! {
            h = acceptor.accept(stream) => h,
            () = self.connection.cut() => return,
        };
        match handshake {
            Ok(s) => {
                let (_, session) = s.get_ref();
                let h2 = session.alpn_protocol() == Some(b"h2");
                let certificate_serial = session.peer_certificates().and_then(|c| serial(c.first()?));
                self.http(s, Peer { address, certificate_serial }, h2).await;
            }
            Err(e) => tracing::debug!(error = %e, "a TLS handshake failed"),
        }
    }

    /// The connection behind its PROXY header, and whom it is of; `None`: it is not served.
    async fn beginning(&self, stream: Stream, address: Option<SocketAddr>) -> Option<(Stream, Option<SocketAddr>)> {
        let (mut stream, peer) = match (stream, address) {
            (Stream::Tcp(stream), Some(peer)) => (stream, peer),
            other => return Some(other),
        };
        let begun = tokio::select! {
            begun = self.options.proxies.read(&mut stream, peer) => begun,
            // It took as long as a whole head may.
            () = self.connection.cut() => {
                tracing::debug!(%peer, "a connection was closed: its beginning did not come in time");
                return None;
            }
        };
        match begun {
            Ok(Begun { address, ahead }) if ahead.is_empty() && self.options.write_timeout.is_none() => {
                Some((Stream::Tcp(stream), Some(address)))
            }
            Ok(Begun { address, ahead }) => {
                let minded = Minded::new(stream, ahead, self.options.write_timeout);
                Some((Stream::Minded(Box::new(minded)), Some(address)))
            }
            Err(e) => {
                tracing::debug!(%peer, error = %e, "a connection was closed");
                None
            }
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: Peer, h2: bool) {
        let One { core, options, connection, registry, stop } = self;
        let io = TokioIo::new(Watched { inner: stream, connection: connection.clone(), registry, ahead: Vec::new() });
        connection.idle();
        connection.begins();
        let stops = *stop.borrow();
        let service = {
            let (core, options, connection) = (core.clone(), options.clone(), connection.clone());
            service_fn(move |r: hyper::Request<Incoming>| {
                let (core, options, connection, peer) =
                    (core.clone(), options.clone(), connection.clone(), peer.clone());
                async move {
                    connection.head_read();
                    let mut response = match options.scope.refusal(r.uri().path()) {
                        Some(refused) => request::reply(refused),
                        None => request::serve(&core, &options, &peer, r).await,
                    };
                    options.response_headers.add_to(response.status(), response.headers_mut());
                    connection.idle();
                    // The streams of HTTP/2 end by themselves.
                    Ok::<_, Infallible>(if h2 { response } else { response.map(|c| c.sent_on(&connection)) })
                }
            })
        };
        // Both kinds of connection are driven alike: to their end, or gracefully out at a seal or stop.
        macro_rules! drive {
            ($conn:expr) => {{
                let mut conn = std::pin::pin!($conn);
                let ends = poll_fn(|cx| match connection.poll_end(End::Gracefully, cx) {
                    Poll::Ready(end) => Poll::Ready(Some(end)),
                    Poll::Pending if stops => Poll::Ready(Some(End::Gracefully)),
                    Poll::Pending => conn.as_mut().poll(cx).map(|_ended_by_itself| None),
                });
                if ends.await == Some(End::Gracefully) {
                    conn.as_mut().graceful_shutdown();
                    let _closed_anyway = tokio::time::timeout(DRAIN, conn).await;
                }
            }};
        }
        if h2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(options.idle_timeout / 3))
                .keep_alive_timeout(Duration::from_secs(20))
                .max_concurrent_streams(250)
                .max_header_list_size(MAX_HEAD_BYTES as u32);
            drive!(builder.serve_connection(io, service));
        } else {
            // The registry's limits stand for hyper's own timer, which costs as much as a policy's check. And a client that
            // goes cancels nothing: looking for that while its request is handled would cost hyper a new read buffer
            // for every request.
            connection.limit_idle(options.idle_timeout);
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES).half_close(true);
            drive!(builder.serve_connection(io, service));
        }
    }
}

/// A certificate's serial number as the audit log shows it: decimal.
fn serial(der: &rustls::pki_types::CertificateDer<'_>) -> Option<String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(cert.tbs_certificate.serial.to_string())
}
