//! One HTTP/1.1 connection, spoken by hand: so that a test can send half a request, or none.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::Reply;

/// No answer here has a reason to take longer.
const LIMIT: Duration = Duration::from_secs(60);
const MAX_HEAD_BYTES: usize = 1 << 20;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A port that nobody listens on and that the system gives to nobody who does not ask for it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the ports that the system chooses, and none that simulators (from 14,000) and TPMs (from 20,000) take: whoever
    // stops here and starts again wants the same one. Spread, since several test runs may be at work.
    let from = (std::process::id() % 40) as u16 * 100;
    let mut ports = (0..4_000).map(|_| 10_000 + (from + NEXT.fetch_add(1, Ordering::Relaxed)) % 4_000);
    ports.find(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok()).expect("a free port")
}

/// An open connection.
pub struct Connection {
    stream: Stream,
    /// Bytes that were read and belong to the next answer.
    ahead: Vec<u8>,
    /// Whether a byte came since the last request was sent.
    pub answered: bool,
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    fn both(&mut self) -> &mut dyn ReadWrite {
        match self {
            Stream::Tcp(s) => s,
            Stream::Tls(s) => &mut **s,
            Stream::Unix(s) => s,
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Connection {
    /// Connect, and shake hands where there is TLS.
    pub fn open(address: &Address, tls: Option<&Arc<ClientConfig>>) -> io::Result<Connection> {
        Connection::open_behind(address, tls, b"")
    }

    /// The same over TCP with bytes in front of everything, TLS too: a PROXY header.
    pub fn open_behind(address: &Address, tls: Option<&Arc<ClientConfig>>, header: &[u8]) -> io::Result<Connection> {
        let stream = match address {
            Address::Unix(path) => {
                let s = UnixStream::connect(path)?;
                s.set_read_timeout(Some(LIMIT))?;
                Stream::Unix(s)
            }
            Address::Tcp(a) => {
                let mut s = TcpStream::connect_timeout(a, Duration::from_secs(10))?;
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(LIMIT))?;
                s.set_write_timeout(Some(LIMIT))?;
                s.write_all(header)?;
                match tls {
                    None => Stream::Tcp(s),
                    Some(config) => {
                        let name = ServerName::from(a.ip());
                        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                        let mut stream = StreamOwned::new(session, s);
                        while stream.conn.is_handshaking() {
                            stream.conn.complete_io(&mut stream.sock)?;
                        }
                        Stream::Tls(Box::new(stream))
                    }
                }
            }
        };
        Ok(Connection { stream, ahead: Vec::new(), answered: false })
    }

    /// Connect without TLS, from this address of the loopback.
    pub fn open_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<Connection> {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::from((source, 0)))?;
        connect(&socket, &to)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Connection { stream: Stream::Tcp(stream), ahead: Vec::new(), answered: false })
    }

    /// The TLS session, if there is one.
    pub fn session(&self) -> Option<&ClientConnection> {
        match &self.stream {
            Stream::Tls(s) => Some(&s.conn),
            _ => None,
        }
    }

    /// How long reading waits.
    pub fn set_read_limit(&self, limit: Duration) {
        let set = match &self.stream {
            Stream::Tcp(s) => s.set_read_timeout(Some(limit)),
            Stream::Tls(s) => s.sock.set_read_timeout(Some(limit)),
            Stream::Unix(s) => s.set_read_timeout(Some(limit)),
        };
        set.expect("a time limit of a socket");
    }

    /// Send bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.answered = false;
        let stream = self.stream.both();
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Send a whole request.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    /// Read the answer to a request; `headless`: it was a HEAD.
    pub fn reply(&mut self, headless: bool) -> io::Result<Reply> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.ahead.len() > MAX_HEAD_BYTES {
                return Err(io::Error::other("the answer's head has no end"));
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
        self.ahead.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let body = match (header("content-length").map(str::parse::<usize>), header("transfer-encoding")) {
            _ if headless || status == 204 || status == 304 => Vec::new(),
            (_, Some("chunked")) => self.chunks()?,
            (Some(Ok(length)), _) => self.exactly(length)?,
            _ => self.rest()?,
        };
        Ok(Reply { status, headers, body })
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(std::mem::take(&mut self.ahead)),
                Err(e) => return Err(e),
            }
        }
    }

    /// Hang up without a word: neither TLS nor HTTP is ended.
    pub fn hang_up(self) {
        let _gone_already = match &self.stream {
            Stream::Tcp(s) => s.shutdown(Shutdown::Both),
            Stream::Tls(s) => s.sock.shutdown(Shutdown::Both),
            Stream::Unix(s) => s.shutdown(Shutdown::Both),
        };
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        match self.stream.both().read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.answered = true;
                self.ahead.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            self.more()?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                    break at;
                }
                self.more()?;
            };
            let size = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            self.ahead.drain(..end + 2);
            body.extend(self.exactly(size)?);
            self.exactly(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}
