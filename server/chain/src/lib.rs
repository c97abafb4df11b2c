#![forbid(unsafe_code)]
//! The chain of an audit log: each line names the hash of the line before, and signed checkpoints seal what is before
//! them. The server writes with [`Chain`], anybody reads with [`verify`].
//!
//! Each line is a JSON object whose last member is
//! `"chain":{"seq":N,"prev":HASH}`: the number of the line, and SHA-256 (hex) of the bytes of line `N-1`, without its
//! line end and with whatever stands before the object. A checkpoint seals the line before it, or an earlier one if a
//! device took its time to sign. The first line that a server writes after it has opened a log
//! or gone on in another file has `"id"` too, the name of this incarnation, and `"torn"`, the number of bytes before it that are no whole line.

mod checkpoint;
mod key;
mod verify;
mod write;

pub use checkpoint::Checkpoint;
pub use key::{KeyError, PublicKey, PublicKeys, Scheme, Signer};
pub use verify::{Fault, Report, verify};
pub use write::{Chain, Linked, Tail, Unlinked};

use sha2::{Digest, Sha256};

/// Before the first line.
pub const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// SHA-256 of a line without its line end, in hex.
pub fn hash(line: &[u8]) -> String {
    digits(&Sha256::digest(line))
}

fn digits(hash: &[u8]) -> String {
    let mut digits = vec![0; 2 * hash.len()];
    // It has the room that they need, and hex digits are text.
    let _cannot_fail = hex::encode_to_slice(hash, &mut digits);
    String::from_utf8(digits).unwrap_or_default()
}

/// What the last member of a line holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Link {
    pub seq: u64,
    pub prev: String,
    /// The incarnation that begins here.
    pub id: Option<String>,
    /// Bytes before this line that are no whole line.
    #[serde(default)]
    pub torn: u64,
}

/// What is looked at of a line.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Line {
    pub chain: Option<Link>,
    pub checkpoint: Option<Checkpoint>,
}

/// Objects may stand behind something that the configuration puts before them.
const MOST_BRACES: usize = 16;

impl Line {
    /// A line without its line end; `None`: it holds no object.
    pub(crate) fn read(bytes: &[u8]) -> Option<Line> {
        let braces = bytes.iter().enumerate().filter(|(_, b)| **b == b'{').take(MOST_BRACES);
        braces.map(|(at, _)| &bytes[at..]).find_map(|object| serde_json::from_slice(object).ok())
    }
}
