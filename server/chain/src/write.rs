//! The writer's side: how far the chain is, and what a line gets to be part of it.

use std::io::Write;

use sha2::{Digest, Sha256};

use crate::{Line, NOTHING, digits, hash};

/// How far a chain is.
#[derive(Debug, Clone)]
pub struct Chain {
    id: String,
    seq: u64,
    /// The hash of the last line.
    head: String,
    /// Bytes at the end that are no whole line.
    torn: u64,
    /// The next line tells which incarnation it begins.
    begins: bool,
    /// The last line that a checkpoint seals.
    sealed: u64,
}

/// What the end of a log shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The last whole line's number and hash, if it is one of a chain.
    pub last: Option<(u64, String)>,
    /// Bytes behind it.
    pub torn: u64,
}

impl Tail {
    /// Of a log's last bytes. `whole`: they begin where a line begins.
    pub fn of(bytes: &[u8], whole: bool) -> Tail {
        let mut end = bytes.len();
        // From the back: the last line that is one.
        while let Some(newline) = bytes[..end].iter().rposition(|b| *b == b'\n') {
            let start = bytes[..newline].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if start == 0 && !whole {
                break;
            }
            let line = &bytes[start..newline];
            if let Some(read) = Line::read(line) {
                let torn = (bytes.len() - newline - 1) as u64;
                return Tail { last: read.chain.map(|link| (link.seq, hash(line))), torn };
            }
            end = newline;
        }
        Tail { last: None, torn: bytes.len() as u64 }
    }
}

impl Chain {
    /// A new incarnation behind what is there: `last` is the number and hash of the line before.
    pub fn after(id: String, last: Option<(u64, String)>, torn: u64) -> Chain {
        let (seq, head) = last.unwrap_or((0, NOTHING.to_owned()));
        Chain { id, seq, head, torn, begins: true, sealed: seq }
    }

    /// The line as the next one of the chain, behind those that are about to be written: `ahead` is the last of them.
    /// What is appended to `out` stands in place of the line's last brace and its line end. It counts when
    /// [`Chain::wrote`] says so.
    pub fn link(&self, line: Unlinked, ahead: Option<&Linked>, out: &mut Vec<u8>) -> Linked {
        let (seq, head) = ahead.map_or((self.seq, self.head.as_str()), |l| (l.seq, l.head.as_str()));
        let start = out.len();
        out.extend_from_slice(b",\"chain\":{\"seq\":");
        write_number(seq + 1, out);
        out.extend_from_slice(b",\"prev\":\"");
        out.extend_from_slice(head.as_bytes());
        out.push(b'"');
        // A vector takes all that it is given.
        if ahead.is_none() && self.begins {
            let _cannot_fail = write!(out, ",\"id\":\"{}\"", self.id);
        }
        if ahead.is_none() && self.torn > 0 {
            let _cannot_fail = write!(out, ",\"torn\":{}", self.torn);
        }
        out.extend_from_slice(b"}}");
        let Unlinked { bytes, hashed } = line;
        let head = digits(&hashed.chain_update(&out[start..]).finalize());
        out.push(b'\n');
        Linked { seq: seq + 1, head, bytes: bytes + out.len() - start }
    }

    /// What has to be written before the next line.
    pub fn before_next(&self) -> &'static [u8] {
        if self.torn > 0 { b"\n" } else { b"" }
    }

    /// So many bytes of these lines were written, behind what had to be written before them.
    pub fn wrote<'l>(&mut self, lines: impl IntoIterator<Item = &'l Linked>, bytes: usize) {
        let before = self.before_next().len();
        let Some(mut left) = bytes.checked_sub(before) else { return };
        let mut lines = lines.into_iter().peekable();
        if before > 0 && bytes > 0 && (lines.peek().is_none_or(|l| left < l.bytes)) {
            // The line end alone is one more of the bytes that are no line.
            self.torn += bytes as u64;
            return;
        }
        for line in lines {
            if left < line.bytes {
                self.torn = left as u64;
                return;
            }
            left -= line.bytes;
            (self.seq, self.torn, self.begins) = (line.seq, 0, false);
            self.head.clone_from(&line.head);
        }
    }

    /// The next line goes to another file, whose end is so many bytes of no whole line. It names the incarnation again,
    /// so that the file shows whose it is before its first checkpoint.
    pub fn moves(&mut self, torn: u64) {
        self.torn = torn;
        self.begins = true;
    }

    /// A checkpoint of line `seq` was written, as the last line.
    pub fn is_sealed(&mut self, seq: u64) {
        // The checkpoint needs none of its own.
        self.sealed = if seq + 1 == self.seq { self.seq } else { self.sealed.max(seq) };
    }

    /// Lines behind the last checkpoint.
    pub fn unsealed(&self) -> u64 {
        self.seq - self.sealed
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }

    pub fn head(&self) -> &str {
        &self.head
    }
}

/// In decimal digits; `write!` takes as long as hashing a block.
fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A line that is to become part of a chain, hashed as far as it does not depend on the lines before it.
#[derive(Debug, Clone)]
pub struct Unlinked {
    bytes: usize,
    hashed: Sha256,
}

impl Unlinked {
    /// Of a line: an object, with something before it perhaps, and its line end. `None`: it is no such line.
    pub fn of(line: &[u8]) -> Option<Unlinked> {
        let object = line.strip_suffix(b"}\n")?;
        Some(Unlinked { bytes: object.len(), hashed: Sha256::new_with_prefix(object) })
    }

    /// So many of the line's bytes are written before what [`Chain::link`] makes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A line that is about to be written.
#[derive(Debug, Clone)]
pub struct Linked {
    seq: u64,
    head: String,
    bytes: usize,
}

impl Linked {
    pub fn seq(&self) -> u64 {
        self.seq
    }

    pub fn head(&self) -> &str {
        &self.head
    }

    /// How long it is in the log.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
