//! Random ids as the API shows them.

use crate::{Error, Result};

/// `N` random bytes of the system.
///
/// # Errors
/// If the system gives none.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|e| Error::Internal(format!("the system gives no randomness: {e}")))?;
    Ok(out)
}

/// A random UUID (RFC 9562, version 4) as text.
///
/// # Errors
/// If the system gives no randomness.
pub fn random() -> Result<String> {
    let mut b: [u8; 16] = bytes()?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let mut out = String::with_capacity(36);
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        out.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    Ok(out)
}
