//! `sys/tools/*`: random bytes and hashes.

use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, parameters};
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
            p.update(random).prepared(Operation::Update, draw).describe(
                "Behind random/ may stand a source (platform, seal, all), a number of bytes, or both with a slash \
                 between. platform is the operating system's generator, seal that of the seal's device, all both of them \
                 mixed. Where the seal has no device, each is the operating system's, and a warning says so.",
            )
        })
        .path("tools/hash", "Hash the input.", |p| p.update(hash))
        .path("tools/hash/{urlalgorithm}", "Hash the input with an algorithm.", |p| p.update(hash))
}

/// Where random bytes come from, and how many.
fn asked<'c>(call: &'c Call<'_>, p: &Random) -> Result<(&'c str, usize)> {
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
    Ok((source, bytes as usize))
}

/// What the device gives, where it was asked for.
fn draw(sys: &System, _: &mut Tx, call: &Call<'_>, p: Random) -> Result<Option<Preparation>> {
    let (source, bytes) = asked(call, &p)?;
    let core = sys.core()?;
    let seals = core.seals();
    if !seals.have_a_device() || !matches!(source, "seal" | "all") {
        return Ok(None);
    }
    Ok(Some(Box::pin(async move {
        // A device that does not answer is no reason to take another source than was asked for: of several seals, the
        // device of another one is none.
        let drawn = seals.random(bytes).await.map_err(|refusal| match refusal.retry {
            true => Error::Unavailable(refusal.text),
            false => Error::Unreachable(refusal.text),
        })?;
        let drawn: Prepared = Arc::new(drawn);
        Ok(drawn)
    })))
}

fn random(_: &System, _: &mut Tx, call: &Call<'_>, p: Random) -> Result<Response> {
    let (source, bytes) = asked(call, &p)?;
    let format = Format::of(p.format.as_deref(), "base64")?;
    let of_device = call.prepared.and_then(|p| p.downcast_ref::<Option<Secret<Vec<u8>>>>()).and_then(Option::as_ref);
    let mut drawn = vec![0; bytes];
    match of_device {
        Some(device) if source == "seal" => drawn.copy_from_slice(device.expose()),
        _ => {
            getrandom::fill(&mut drawn).map_err(|e| Error::Internal(format!("the system gives no randomness: {e}")))?
        }
    }
    if let Some(device) = of_device.filter(|_| source == "all") {
        // Who knows one of them knows nothing of the result.
        drawn.iter_mut().zip(device.expose()).for_each(|(mixed, byte)| *mixed ^= byte);
    }
    let answer = Response::data(Map::from_iter([("random_bytes".to_owned(), format.write(&drawn).into())]));
    Ok(match of_device {
        // As in Vault that is no error; nobody is to take them for the device's.
        None if matches!(source, "seal" | "all") => {
            answer.warn("no seal's device has a generator: these bytes are the operating system's")
        }
        _ => answer,
    })
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
