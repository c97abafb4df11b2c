//! `sys/tools/*`: random bytes and hashes.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, parameters};
use sha2::Digest;

use super::System;
use crate::tx::Tx;

const DEFAULT_BYTES: i64 = 32;
/// What one request may ask for.
const MAX_BYTES: i64 = 128 << 10;

parameters! {
    pub struct Random {
        /// How many bytes: 1 to 131,072.
        bytes: Option<i64>,
        /// hex or base64.
        format: Option<String>,
    }
}
parameters! {
    pub struct Hash {
        /// What to hash, in base64.
        input: Option<String>,
        /// sha2-224, sha2-256, sha2-384, sha2-512, sha3-224, sha3-256, sha3-384 or sha3-512.
        algorithm: Option<String>,
        /// hex or base64.
        format: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("tools/random/{source...}", "Random bytes.", |p| {
            p.update(random).describe(
                "Behind random/ may stand a source (platform, seal, all), a number of bytes, or both with a slash \
                 between. Every source is the operating system's generator.",
            )
        })
        .path("tools/hash", "Hash the input.", |p| p.update(hash))
        .path("tools/hash/{urlalgorithm}", "Hash the input with an algorithm.", |p| p.update(hash))
}

fn random(_: &System, _: &mut Tx, call: &Call<'_>, p: Random) -> Result<Response> {
    let (source, count) = match call.capture("source") {
        "" => ("", None),
        only @ ("platform" | "seal" | "all") => (only, None),
        both => match both.split_once('/') {
            None => ("", Some(both)),
            Some((source, count)) => (source, Some(count)),
        },
    };
    if !matches!(source, "" | "platform" | "seal" | "all") {
        return Err(Error::bad_request(format!(
            "unsupported entropy source {source:?}; must be \"platform\" or \"seal\", or \"all\""
        )));
    }
    let bytes = match count {
        None => p.bytes.unwrap_or(DEFAULT_BYTES),
        Some(text) => text
            .parse()
            .map_err(|_| Error::bad_request(format!("error parsing url-set byte count: {text:?} is no number")))?,
    };
    if bytes < 1 {
        return Err(Error::bad_request("'bytes' cannot be less than 1"));
    }
    if bytes > MAX_BYTES {
        return Err(Error::bad_request(format!("'bytes' should be less than {MAX_BYTES}")));
    }
    let format = Format::of(p.format.as_deref(), "base64")?;
    let mut drawn = vec![0; bytes as usize];
    getrandom::fill(&mut drawn).map_err(|e| Error::Internal(format!("the system gives no randomness: {e}")))?;
    Ok(Response::data(Map::from_iter([("random_bytes".to_owned(), format.write(&drawn).into())])))
}

fn hash(_: &System, _: &mut Tx, call: &Call<'_>, p: Hash) -> Result<Response> {
    let format = Format::of(p.format.as_deref(), "hex")?;
    let text = p.input.unwrap_or_default();
    let input = decode(&text)?;
    let named = match call.capture("urlalgorithm") {
        "" => p.algorithm.as_deref().filter(|a| !a.is_empty()).unwrap_or("sha2-256"),
        of_path => of_path,
    };
    let sum = match named {
        "sha2-224" => sha2::Sha224::digest(&input).to_vec(),
        "sha2-256" => sha2::Sha256::digest(&input).to_vec(),
        "sha2-384" => sha2::Sha384::digest(&input).to_vec(),
        "sha2-512" => sha2::Sha512::digest(&input).to_vec(),
        "sha3-224" => sha3::Sha3_224::digest(&input).to_vec(),
        "sha3-256" => sha3::Sha3_256::digest(&input).to_vec(),
        "sha3-384" => sha3::Sha3_384::digest(&input).to_vec(),
        "sha3-512" => sha3::Sha3_512::digest(&input).to_vec(),
        other => return Err(Error::bad_request(format!("unsupported algorithm {other}"))),
    };
    Ok(Response::data(Map::from_iter([("sum".to_owned(), format.write(&sum).into())])))
}

/// Base64 with padding; line ends in it do not count.
fn decode(text: &str) -> Result<Vec<u8>> {
    let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD.decode(&joined).map_err(|e| {
        let offset = match e {
            DecodeError::InvalidByte(offset, _) | DecodeError::InvalidLastSymbol(offset, _) => offset,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => joined.len(),
        };
        Error::bad_request(format!("unable to decode input as base64: illegal base64 data at input byte {offset}"))
    })
}

enum Format {
    Hex,
    Base64,
}

impl Format {
    fn of(named: Option<&str>, default: &str) -> Result<Format> {
        match named.unwrap_or(default) {
            "hex" => Ok(Format::Hex),
            "base64" => Ok(Format::Base64),
            other => {
                Err(Error::bad_request(format!("unsupported encoding format {other:?}; must be \"hex\" or \"base64\"")))
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> String {
        match self {
            Format::Hex => hex::encode(bytes),
            Format::Base64 => STANDARD.encode(bytes),
        }
    }
}
