//! The PROXY protocol (versions 1 and 2): a proxy says in front of a connection whom it speaks for.
//!
//! It stands before TLS. As in the reference a connection without one is served as what it is; what begins like a
//! header and is none ends the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BufMut;
use holdfast_config::{Network, ProxyProtocol};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest first version, by the specification, with its line end.
const MAX_V1_BYTES: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD_BYTES: usize = 16;
/// What may follow the head of the second version: addresses, and what a proxy tells about itself.
const MAX_V2_REST_BYTES: usize = 4096;
/// Read at a time.
const CHUNK_BYTES: usize = 512;

/// Whose headers count at a listener.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    pub behavior: ProxyProtocol,
    pub authorized: Vec<Network>,
}

/// The beginning of a connection, with what was read beyond the header.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    pub address: SocketAddr,
    pub ahead: Vec<u8>,
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("{0} is none of proxy_protocol_authorized_addrs")]
    Unauthorized(IpAddr),
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Proxies {
    /// Read the header in front of a connection of `peer`. How long it may take is the caller's to say.
    pub async fn read(&self, stream: &mut (impl AsyncRead + Unpin), peer: SocketAddr) -> Result<Begun, ProxyError> {
        let authorized = self.authorized.iter().any(|n| n.contains(peer.ip()));
        let counts = match self.behavior {
            ProxyProtocol::Off => return Ok(Begun { address: peer, ahead: Vec::new() }),
            ProxyProtocol::UseAlways => true,
            ProxyProtocol::AllowAuthorized => authorized,
            ProxyProtocol::DenyUnauthorized if !authorized => return Err(ProxyError::Unauthorized(peer.ip())),
            ProxyProtocol::DenyUnauthorized => true,
        };
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        loop {
            match parse(&bytes)? {
                Parsed::Incomplete => {}
                Parsed::Absent => return Ok(Begun { address: peer, ahead: bytes }),
                Parsed::Header { length, source } => {
                    let address = source.filter(|_| counts).unwrap_or(peer);
                    return Ok(Begun { address, ahead: bytes.split_off(length) });
                }
            }
            // `parse` ends before the bytes are more than the longest header and a chunk.
            bytes.reserve(CHUNK_BYTES);
            if stream.read_buf(&mut (&mut bytes).limit(CHUNK_BYTES)).await? == 0 {
                return Ok(Begun { address: peer, ahead: bytes });
            }
        }
    }
}

/// The header in front of these bytes, by itself: for fuzz targets. Its length, and whom it speaks for; `None`: there is
/// none, or not all of it.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyError> {
    Ok(match parse(bytes)? {
        Parsed::Header { length, source } => Some((length, source)),
        Parsed::Incomplete | Parsed::Absent => None,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// More bytes will tell.
    Incomplete,
    Absent,
    /// A whole header of `length` bytes, and whom it speaks for; nobody else, if the proxy speaks for itself.
    Header {
        length: usize,
        source: Option<SocketAddr>,
    },
}

fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    const V1: &[u8] = b"PROXY ";
    if V1.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes) {
        return Ok(Parsed::Incomplete);
    }
    if bytes.starts_with(V1) {
        return parse_v1(bytes);
    }
    if bytes.starts_with(V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    Ok(Parsed::Absent)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let malformed = ProxyError::Malformed;
    let within = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    let Some(end) = within.iter().position(|b| *b == b'\n') else {
        return match within.len() < MAX_V1_BYTES {
            true => Ok(Parsed::Incomplete),
            false => Err(malformed("its line is too long")),
        };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or_else(|| malformed("its line does not end with CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| malformed("it is no text"))?;
    let fields: Vec<&str> = line.split(' ').collect();
    let v4 = |t: &str| t.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let v6 = |t: &str| t.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let source = match fields[..] {
        [_, "UNKNOWN", ..] => None,
        [_, "TCP4", source, to, port, to_port] => Some((v4(source).zip(v4(to)), port, to_port)),
        [_, "TCP6", source, to, port, to_port] => Some((v6(source).zip(v6(to)), port, to_port)),
        _ => return Err(malformed("it names no protocol with two addresses and two ports")),
    };
    let source = match source {
        None => None,
        Some((addresses, port, to_port)) => {
            let (ip, _) = addresses.ok_or_else(|| malformed("an address is none"))?;
            let (port, _) = number(port).zip(number(to_port)).ok_or_else(|| malformed("a port is none"))?;
            Some(SocketAddr::new(ip, port))
        }
    };
    Ok(Parsed::Header { length: end + 1, source })
}

/// A port in digits alone.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let malformed = ProxyError::Malformed;
    let Some((head, rest)) = bytes.split_first_chunk::<V2_HEAD_BYTES>() else { return Ok(Parsed::Incomplete) };
    let [.., version_and_command, family, high, low] = *head;
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    if rest_bytes > MAX_V2_REST_BYTES {
        return Err(malformed("it is too long"));
    }
    let local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(malformed("its version or command is unknown")),
    };
    let Some(rest) = rest.get(..rest_bytes) else { return Ok(Parsed::Incomplete) };
    let short = || malformed("it is too short for its addresses");
    let source = match family {
        _ if local => None,
        // Unknown, and sockets of one machine.
        0x00 | 0x31 => None,
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *rest.first_chunk().ok_or_else(short)?;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
        }
        0x21 => {
            let addresses: &[u8; 36] = rest.first_chunk().ok_or_else(short)?;
            let (ip, rest) = addresses.split_first_chunk::<16>().ok_or_else(short)?;
            Some(SocketAddr::new(Ipv6Addr::from(*ip).into(), u16::from_be_bytes([rest[16], rest[17]])))
        }
        _ => return Err(malformed("it speaks of another protocol than TCP")),
    };
    Ok(Parsed::Header { length: V2_HEAD_BYTES + rest_bytes, source })
}

#[cfg(test)]
mod tests;
