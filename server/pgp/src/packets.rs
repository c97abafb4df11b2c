//! From text to the packets of exactly one whole public key.
//!
//! The library skips packets that are cut off or that it does not know. Here the framing is walked
//! first, so that half a key is refused and not read as a smaller one.

use std::io::Read;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use pgp::armor::{BlockType, Dearmor};
use pgp::composed::{SignedPublicKey, SignedPublicKeyParser};
use pgp::errors::Error;
use pgp::packet::{Packet, PacketParser};

use crate::{MAX_TEXT_BYTES, PgpError};

/// Packets of one key at most.
const MAX_PACKETS: usize = 4096;

const SIGNATURE: u8 = 2;
const SECRET_KEY: u8 = 5;
const PUBLIC_KEY: u8 = 6;
const SECRET_SUBKEY: u8 = 7;
const MARKER: u8 = 10;
const TRUST: u8 = 12;
const USER_ID: u8 = 13;
const PUBLIC_SUBKEY: u8 = 14;
const USER_ATTRIBUTE: u8 = 17;
const PADDING: u8 = 21;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The one public key in `text`.
pub(crate) fn certificate(text: &str) -> Result<SignedPublicKey, PgpError> {
    let binary = binary(text)?;
    let packets = key_packets(&frames(&binary)?)?;
    let mut parser = SignedPublicKeyParser::from_packets(packets.into_iter().map(Ok).peekable());
    let key = match parser.next() {
        Some(Ok(key)) => key,
        Some(Err(e)) => return Err(PgpError::Malformed(e.to_string())),
        None => return Err(PgpError::NotAKey("it holds no key".into())),
    };
    match parser.into_inner().next() {
        None => Ok(key),
        Some(_) => Err(PgpError::Malformed("its packets are not in the order that a key has".into())),
    }
}

fn binary(text: &str) -> Result<Vec<u8>, PgpError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(PgpError::Empty);
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(PgpError::TooLong(text.len()));
    }
    if text.starts_with("-----BEGIN") {
        return dearmour(text.as_bytes());
    }
    if text.starts_with("keybase:") {
        return Err(PgpError::Keybase);
    }
    // Where each kept byte stood, so that an error names a place in what was sent.
    let (places, compact): (Vec<usize>, Vec<u8>) =
        text.bytes().enumerate().filter(|(_, b)| !b.is_ascii_whitespace()).unzip();
    let bytes = BASE64.decode(&compact).map_err(|e| match e {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            PgpError::NotBase64(places.get(at).copied().unwrap_or(at))
        }
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => PgpError::NotBase64(text.len()),
    })?;
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return dearmour(bytes.trim_ascii());
    }
    Ok(bytes)
}

fn dearmour(text: &[u8]) -> Result<Vec<u8>, PgpError> {
    let mut reader = Dearmor::new(text);
    reader.read_header().map_err(|e| PgpError::Armour(e.to_string()))?;
    match &reader.typ {
        Some(BlockType::PublicKey) => {}
        Some(BlockType::PrivateKey) => return Err(PgpError::PrivateKey),
        Some(other) => return Err(PgpError::NotAKey(format!("its armour says '{other}'"))),
        None => return Err(PgpError::Armour("its first line says no kind".into())),
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|e| PgpError::Armour(e.to_string()))?;
    Ok(bytes)
}

struct Frame<'a> {
    tag: u8,
    /// Header and body.
    whole: &'a [u8],
}

/// Split into packets (RFC 9580, 4.2). Key packets have definite lengths.
fn frames(mut rest: &[u8]) -> Result<Vec<Frame<'_>>, PgpError> {
    if rest.first().is_some_and(|b| b & 0x80 == 0) {
        return Err(PgpError::NotAKey("its first byte does not start a packet".into()));
    }
    let mut frames = Vec::new();
    while let Some(&first) = rest.first() {
        if first & 0x80 == 0 {
            return Err(PgpError::Malformed(format!(
                "there is no packet where number {} should start",
                frames.len() + 1
            )));
        }
        if frames.len() == MAX_PACKETS {
            return Err(PgpError::Malformed(format!("it has more than {MAX_PACKETS} packets")));
        }
        let (tag, header, body) = if first & 0x40 == 0 { old_length(rest)? } else { new_length(rest)? };
        let end = header.checked_add(body).ok_or(PgpError::Truncated)?;
        let (whole, after) = rest.split_at_checked(end).ok_or(PgpError::Truncated)?;
        frames.push(Frame { tag, whole });
        rest = after;
    }
    Ok(frames)
}

/// Tag, header length, body length.
type Header = (u8, usize, usize);

fn old_length(b: &[u8]) -> Result<Header, PgpError> {
    let tag = (b[0] >> 2) & 0x0f;
    let bytes = match b[0] & 3 {
        3 => return Err(PgpError::Malformed("a packet has no definite length".into())),
        n => 1 << n,
    };
    Ok((tag, 1 + bytes, big_endian(b.get(1..1 + bytes).ok_or(PgpError::Truncated)?)))
}

fn new_length(b: &[u8]) -> Result<Header, PgpError> {
    let tag = b[0] & 0x3f;
    let at = |i: usize| b.get(i).map(|b| usize::from(*b)).ok_or(PgpError::Truncated);
    match at(1)? {
        n @ 0..=191 => Ok((tag, 2, n)),
        n @ 192..=223 => Ok((tag, 3, ((n - 192) << 8) + at(2)? + 192)),
        255 => Ok((tag, 6, big_endian(b.get(2..6).ok_or(PgpError::Truncated)?))),
        _ => Err(PgpError::Malformed("a packet has no definite length".into())),
    }
}

fn big_endian(b: &[u8]) -> usize {
    b.iter().fold(0, |n, b| (n << 8) | usize::from(*b))
}

/// Parse the packets of one public key. A part that is well formed and of a kind that nothing here
/// knows is left out, together with its signatures.
fn key_packets(frames: &[Frame<'_>]) -> Result<Vec<Packet>, PgpError> {
    if frames.iter().any(|f| matches!(f.tag, SECRET_KEY | SECRET_SUBKEY)) {
        return Err(PgpError::PrivateKey);
    }
    match frames.iter().find(|f| !matches!(f.tag, MARKER | PADDING)) {
        None => return Err(PgpError::Empty),
        Some(f) if f.tag != PUBLIC_KEY => {
            return Err(PgpError::NotAKey(format!("it starts with a packet of type {}", f.tag)));
        }
        Some(_) => {}
    }
    if frames.iter().filter(|f| f.tag == PUBLIC_KEY).count() > 1 {
        return Err(PgpError::SeveralKeys);
    }
    let mut packets = Vec::new();
    let mut skipping = false;
    for frame in frames {
        match frame.tag {
            MARKER | TRUST | PADDING => continue,
            SIGNATURE if skipping => continue,
            SIGNATURE | PUBLIC_KEY | USER_ID | PUBLIC_SUBKEY | USER_ATTRIBUTE => {}
            other => return Err(PgpError::Malformed(format!("a packet of type {other} does not belong into a key"))),
        }
        match PacketParser::new(frame.whole).next() {
            Some(Ok(packet)) => {
                skipping = false;
                packets.push(packet);
            }
            Some(Err(e)) if is_unknown_kind(&e) && frame.tag != PUBLIC_KEY => {
                // A signature belongs to the part before it, which stays.
                skipping = frame.tag != SIGNATURE;
            }
            Some(Err(e)) => return Err(PgpError::Malformed(e.to_string())),
            None => return Err(PgpError::Truncated),
        }
    }
    Ok(packets)
}

fn is_unknown_kind(e: &Error) -> bool {
    match e {
        Error::Unsupported { .. } | Error::Unimplemented { .. } => true,
        Error::InvalidPacketContent { source } => is_unknown_kind(source),
        _ => false,
    }
}
