//! MySQL's client protocol, as far as this engine needs it: the handshake, one text query at a time, its errors.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>; MariaDB speaks the same.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// An answer is not longer than this: rows of names.
const MAX_PACKET: usize = 1 << 20;
/// Rows that are read of one answer.
const MAX_ROWS: usize = 100_000;

/// Anything bytes go through.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What went wrong.
#[derive(Debug)]
pub enum WireError {
    /// The server says so.
    Server { code: u16, state: String, text: String },
    /// The connection, or words that are none of the protocol's.
    Broken(String),
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WireError::Server { code, state, text } => write!(f, "Error {code} ({state}): {text}"),
            WireError::Broken(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(e: io::Error) -> WireError {
        WireError::Broken(e.to_string())
    }
}

pub fn broken(text: &str) -> WireError {
    WireError::Broken(text.to_owned())
}

/// Packets in both directions.
pub struct Packets {
    stream: Box<dyn Stream>,
    sequence: u8,
}

impl Packets {
    pub fn new(stream: Box<dyn Stream>) -> Packets {
        Packets { stream, sequence: 0 }
    }

    /// The stream, to put TLS over it; the sequence goes on.
    pub fn into_parts(self) -> (Box<dyn Stream>, u8) {
        (self.stream, self.sequence)
    }

    pub fn go_on(stream: Box<dyn Stream>, sequence: u8) -> Packets {
        Packets { stream, sequence }
    }

    pub async fn read(&mut self) -> Result<Vec<u8>, WireError> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).await?;
        let length = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
        if length > MAX_PACKET {
            return Err(broken("the server sends more than is expected"));
        }
        self.sequence = header[3].wrapping_add(1);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }

    pub async fn write(&mut self, body: &[u8]) -> Result<(), WireError> {
        if body.len() > MAX_PACKET {
            return Err(broken("the statement is too long"));
        }
        let length = (body.len() as u32).to_le_bytes();
        let packet = [&length[..3], &[self.sequence], body].concat();
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&packet).await?;
        self.stream.flush().await?;
        Ok(())
    }

    pub async fn ping(&mut self) -> Result<(), WireError> {
        self.sequence = 0;
        self.write(&[0x0e]).await?;
        match self.read().await?.first() {
            Some(0) => Ok(()),
            _ => Err(broken("the server does not answer")),
        }
    }

    /// Run one statement. Its rows: the first column, as text.
    pub async fn query(&mut self, text: &str) -> Result<Vec<String>, WireError> {
        self.sequence = 0;
        self.write(&[&[0x03], text.as_bytes()].concat()).await?;
        let first = self.read().await?;
        match first.first() {
            Some(0x00) => return Ok(Vec::new()),
            Some(0xff) => return Err(error(&first)),
            Some(0xfb) => return Err(broken("the server asks for a file of ours")),
            Some(_) => {}
            None => return Err(broken("an empty answer")),
        }
        let columns = Reader(&first).length().ok_or_else(|| broken("an answer that is none"))?;
        for _ in 0..columns {
            self.read().await?;
        }
        // The end of the columns, and then rows until another end.
        self.read().await?;
        let mut rows = Vec::new();
        loop {
            let row = self.read().await?;
            match row.first() {
                Some(0xfe) if row.len() < 9 => return Ok(rows),
                Some(0xff) => return Err(error(&row)),
                _ if rows.len() == MAX_ROWS => return Err(broken("the server sends more rows than are expected")),
                _ => rows.push(Reader(&row).text().unwrap_or_default()),
            }
        }
    }
}

/// An ERR packet.
pub fn error(packet: &[u8]) -> WireError {
    let code = match packet {
        [_, low, high, ..] => u16::from_le_bytes([*low, *high]),
        _ => return broken("an error without its number"),
    };
    let rest = &packet[3..];
    let (state, text) = match rest.first() {
        Some(b'#') if rest.len() >= 6 => (&rest[1..6], &rest[6..]),
        _ => (&b"HY000"[..], rest),
    };
    let lossy = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    WireError::Server { code, state: lossy(state), text: lossy(text) }
}

/// Reads the fields of a packet.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// Up to a zero byte, which goes too; or all.
    pub fn until_zero(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        let text = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or(&[]);
        text
    }

    /// A length-encoded integer.
    fn length(&mut self) -> Option<u64> {
        let first = *self.take(1)?.first()?;
        let more = match first {
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            0xfb | 0xff => return None,
            small => return Some(u64::from(small)),
        };
        let bytes = self.take(more)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// A length-encoded text; NULL is none.
    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.length()?).ok()?;
        self.take(length).map(|b| String::from_utf8_lossy(b).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_what_is_cut_off_is_none() {
        let mut r = Reader(&[0x03, b'a', b'b', b'c', 0xfc, 2, 0, b'd', b'e', 0xfb]);
        assert_eq!((r.text().as_deref(), r.text().as_deref(), r.text()), (Some("abc"), Some("de"), None));
        assert_eq!(Reader(&[0xfc, 1]).text(), None);
        assert_eq!(Reader(&[0xfe, 255, 255, 255, 255, 255, 255, 255, 255]).text(), None);
        assert_eq!(Reader(b"a\0b").until_zero(), b"a");
        let e = error(b"\xff\x15\x04#28000Access denied");
        assert_eq!(e.to_string(), "Error 1045 (28000): Access denied");
        assert!(matches!(error(&[0xff]), WireError::Broken(_)));
    }
}
