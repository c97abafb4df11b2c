//! Batch tokens: the token holds its entry itself, sealed by the barrier, and nothing is stored.
//!
//! So it costs no write and cannot be renewed or revoked alone; it ends with its TTL, or with its parent.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_sdk::{Error, Record, Result};

use super::{Held, TokenEntry};
use crate::layout::{NamespaceId, ROOT};
use crate::namespaces;
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

/// A token is of its namespace, whatever its text says.
fn domain(namespace: NamespaceId) -> Vec<u8> {
    match namespace {
        ROOT => DOMAIN.to_vec(),
        other => [DOMAIN, &other].concat(),
    }
}

/// The token of an entry, of the present namespace.
pub fn issue(tx: &mut Tx, entry: &TokenEntry) -> Result<String> {
    let namespace = tx.namespace();
    let sealed =
        tx.barrier().seal_of(&namespace, &domain(namespace), &entry.encode_record()?).map_err(Error::internal)?;
    let token = format!("{PREFIX}{}{}", URL_SAFE_NO_PAD.encode(sealed), namespaces::suffix(tx)?);
    if token.len() > MAX_BYTES {
        return Err(Error::bad_request(format!(
            "a batch token carries its metadata and policies itself and may have {MAX_BYTES} bytes: leave some out, or \
             create a service token"
        )));
    }
    Ok(token)
}

/// The entry in a token; none where it was made up, changed, or made by another cluster or namespace.
pub fn open(tx: &mut Tx, token: &str) -> Result<Option<Held>> {
    let Some(text) = token.strip_prefix(PREFIX).filter(|_| token.len() <= MAX_BYTES) else { return Ok(None) };
    let (text, namespace) = match text.split_once('.') {
        None => (text, ROOT),
        Some((text, suffix)) => match namespaces::by_id(tx, suffix)? {
            Some(uuid) => (text, uuid),
            None => return Ok(None),
        },
    };
    if tx.is_sealed(&namespace) {
        return Err(Error::Unavailable("namespace is sealed".into()));
    }
    let entry = unsealed(tx, text, namespace).filter(|e| e.batch);
    Ok(entry.map(|entry| Held { namespace, id: None, entry }))
}

fn unsealed(tx: &Tx, text: &str, namespace: NamespaceId) -> Option<TokenEntry> {
    let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
    let plain = tx.barrier().open_of(&namespace, &domain(namespace), &sealed).ok()?;
    let (version, body) = plain.split_first()?;
    TokenEntry::decode_record(*version, body).ok()
}
