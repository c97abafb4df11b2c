//! Random ids as the API shows them.

use holdfast_sdk::{Error, Result};

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|e| Error::Internal(format!("the system gives no randomness: {e}")))?;
    Ok(out)
}

/// `n` letters and digits, each equally likely.
pub fn alphanumeric(n: usize) -> Result<String> {
    let mut out = String::with_capacity(n);
    while out.len() < n {
        let mut block: [u8; 64] = bytes()?;
        // 248 is the largest multiple of 62 below 256: higher bytes would favour some letters.
        out.extend(
            block.iter().filter(|b| **b < 248).take(n - out.len()).map(|b| char::from(LETTERS[usize::from(*b) % 62])),
        );
        zeroize::Zeroize::zeroize(&mut block);
    }
    Ok(out)
}

/// A number below `n`, each equally likely.
pub fn below(n: usize) -> Result<usize> {
    let n = u64::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| Error::internal("a choice of nothing"))?;
    // The rest of the range would favour the lower numbers.
    let end = u64::MAX - u64::MAX % n;
    loop {
        let drawn = u64::from_be_bytes(bytes()?);
        if drawn < end {
            return usize::try_from(drawn % n).map_err(Error::internal);
        }
    }
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid() -> Result<[u8; 16]> {
    versioned(bytes()?)
}

/// A UUID that names a request: no secret, so one call of the system serves many.
pub fn request_id() -> Result<[u8; 16]> {
    thread_local! {
        static POOL: std::cell::RefCell<Vec<[u8; 16]>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let pooled = POOL.with_borrow_mut(|pool| {
        if pool.is_empty() {
            let block: [u8; 1024] = bytes()?;
            pool.extend(block.as_chunks::<16>().0);
        }
        Ok::<_, Error>(pool.pop())
    })?;
    match pooled {
        Some(b) => versioned(b),
        None => uuid(),
    }
}

fn versioned(mut b: [u8; 16]) -> Result<[u8; 16]> {
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    Ok(b)
}

/// The bytes of a UUID's text.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let bytes: [u8; 16] = hex::decode(digits).ok()?.try_into().ok()?;
    (uuid_text(&bytes) == text).then_some(bytes)
}

/// A UUID's text.
pub fn uuid_text(b: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        out.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    out
}
