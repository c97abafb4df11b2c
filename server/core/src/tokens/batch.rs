//! Batch tokens: the token holds its entry itself, sealed by the barrier, and nothing is stored.
//!
//! So it costs no write and cannot be renewed or revoked alone; it ends with its TTL, or with its parent.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_sdk::{Error, Record, Result};

use super::TokenEntry;
use crate::tx::Tx;

/// What every batch token starts with, and no other.
pub const PREFIX: &str = "hvb.";
/// Associated data of the sealed entry: no storage key starts so.
const DOMAIN: &[u8] = b"\xffbatch token";
/// Longer texts are not looked at: metadata is limited by the size of the request that sets it.
const MAX_BYTES: usize = 64 * 1024;

pub fn is(token: &str) -> bool {
    token.starts_with(PREFIX)
}

/// The token of an entry.
pub fn issue(tx: &Tx, entry: &TokenEntry) -> Result<String> {
    let sealed = tx.barrier().seal(DOMAIN, &entry.encode_record()?).map_err(Error::internal)?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed));
    if token.len() > MAX_BYTES {
        return Err(Error::bad_request(format!(
            "a batch token carries its metadata and policies itself and may have {MAX_BYTES} bytes: leave some out, or \
             create a service token"
        )));
    }
    Ok(token)
}

/// The entry in a token; none where it was made up, changed, or made by another cluster.
pub fn open(tx: &Tx, token: &str) -> Option<TokenEntry> {
    let text = token.strip_prefix(PREFIX).filter(|_| token.len() <= MAX_BYTES)?;
    let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
    let plain = tx.barrier().open(DOMAIN, &sealed).ok()?;
    let (version, body) = plain.split_first()?;
    TokenEntry::decode_record(*version, body).ok().filter(|e| e.batch)
}
