//! The way to a YubiHSM: its connector, a small HTTP server that passes messages on (`POST /connector/api`).
//!
//! One connection, kept open. Nothing here is trusted: what counts is encrypted and authenticated by the channel.

use super::config::YubiHsmConfig;
use super::fault::Fault;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use zeroize::Zeroizing;

const CONNECT: Duration = Duration::from_secs(3);
/// No YubiHSM takes or gives more.
const MAX_MESSAGE_BYTES: usize = 4096;
const MAX_HEAD_BYTES: u64 = 8192;

/// The connection.
pub(super) struct Connector {
    host: String,
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Connector {
    pub(super) fn new(config: &YubiHsmConfig) -> Result<Self, crate::device::DeviceError> {
        let (host, port) = config.address()?;
        Ok(Self { host, port, stream: None })
    }

    /// Sends a message and waits for the answer, so long at most.
    pub(super) fn ask(&mut self, message: &[u8], within: Duration) -> Result<Zeroizing<Vec<u8>>, Fault> {
        // A connector that was restarted has closed the connection: better known before the message is away.
        if self.stream.as_ref().is_some_and(|stream| has_ended(stream.get_ref())) {
            self.stream = None;
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::with_capacity(MAX_MESSAGE_BYTES, self.open().map_err(Fault::Unreachable)?),
        };
        stream.get_ref().set_read_timeout(Some(within)).map_err(Fault::Unreachable)?;
        let head = format!(
            "POST /connector/api HTTP/1.1\r\nHost: {}:{}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            self.host,
            self.port,
            message.len()
        );
        let request = Zeroizing::new([head.as_bytes(), message].concat());
        stream.get_mut().write_all(&request).map_err(Fault::Unanswered)?;
        let (body, keep) = answer(&mut stream).map_err(|fault| timed_out(fault, within))?;
        if keep {
            self.stream = Some(stream);
        }
        Ok(body)
    }

    fn open(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(CONNECT))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The system has another word for a time that is over.
fn timed_out(fault: Fault, within: Duration) -> Fault {
    match fault {
        Fault::Unanswered(error) if error.kind() == ErrorKind::WouldBlock => {
            let text = format!("none within {} s", within.as_secs());
            Fault::Unanswered(io::Error::new(ErrorKind::TimedOut, text))
        }
        fault => fault,
    }
}

/// Whether the other side has closed it, or says what nobody asked for.
fn has_ended(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = matches!(&looked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_err() || !waits
}

/// The body of an answer, and whether the connection stays.
fn answer(stream: &mut BufReader<TcpStream>) -> Result<(Zeroizing<Vec<u8>>, bool), Fault> {
    let mut head = stream.by_ref().take(MAX_HEAD_BYTES);
    let status = line(&mut head)?;
    let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse::<u16>().ok());
    let (mut length, mut chunked, mut keep) = (None, false, status.starts_with("HTTP/1.1"));
    loop {
        let header = line(&mut head)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| odd("a line of its head is none"))?;
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse::<usize>().map_err(|_| odd("its length is no number"))?),
            "transfer-encoding" => chunked = value == "chunked",
            "connection" => keep = keep && value != "close",
            _ => {}
        }
    }
    let body = match (chunked, length) {
        (true, _) => chunks(stream)?,
        (false, Some(length)) => exactly(stream, length)?,
        (false, None) => {
            keep = false;
            let mut body = Zeroizing::new(Vec::new());
            let read = stream.by_ref().take(MAX_MESSAGE_BYTES as u64 + 1).read_to_end(&mut body);
            read.map_err(Fault::Unanswered)?;
            body
        }
    };
    match code {
        Some(200) if body.len() <= MAX_MESSAGE_BYTES => Ok((body, keep)),
        Some(200) => Err(odd("it is longer than any message")),
        Some(code) => Err(Fault::Connector(code)),
        None => Err(odd("it is none of HTTP")),
    }
}

fn chunks(stream: &mut BufReader<TcpStream>) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_MESSAGE_BYTES));
    loop {
        let size = line(&mut stream.by_ref().take(MAX_HEAD_BYTES))?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| odd("the size of a chunk is no number"))?;
        if body.len() + size > MAX_MESSAGE_BYTES {
            return Err(odd("it is longer than any message"));
        }
        body.extend_from_slice(&exactly(stream, size)?);
        // The end of a chunk; after the last one that of the answer, which has no trailers.
        if !line(&mut stream.by_ref().take(MAX_HEAD_BYTES))?.is_empty() {
            return Err(odd("a chunk has no end"));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

fn exactly(stream: &mut BufReader<TcpStream>, length: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if length > MAX_MESSAGE_BYTES {
        return Err(odd("it is longer than any message"));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).map_err(Fault::Unanswered)?;
    Ok(body)
}

fn line(from: &mut impl BufRead) -> Result<String, Fault> {
    let mut text = String::new();
    from.read_line(&mut text).map_err(Fault::Unanswered)?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(text.trim_end_matches('\r').to_owned()),
        None => Err(Fault::Unanswered(io::Error::from(ErrorKind::UnexpectedEof))),
    }
}

fn odd(what: &str) -> Fault {
    Fault::Unanswered(io::Error::new(ErrorKind::InvalidData, format!("the answer is no connector's: {what}")))
}
