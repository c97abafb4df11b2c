//! Frames on the socket between server and helper: length, call id, message. Id 0 is the
//! configuration; an answer carries the id of its call.

use std::io::{self, Read, Write};
use zeroize::Zeroizing;

/// The longest message: the largest entry (1 MiB) with room to spare.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
const ID_BYTES: usize = 8;

/// The id of the first frame, which is the configuration.
pub(crate) const CONFIG_ID: u64 = 0;

/// Writes one frame with one call, so that frames of several threads do not mix as long
/// as they share a lock.
pub(crate) fn write(to: &mut impl Write, id: u64, message: &[u8]) -> io::Result<()> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than 4 MiB"));
    }
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + ID_BYTES + message.len()));
    frame.extend_from_slice(&((ID_BYTES + message.len()) as u32).to_le_bytes());
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(message);
    to.write_all(&frame)
}

/// Reads one frame; `None` at the end of the stream. `WouldBlock`, of a stream that waits for a limited time, is said
/// only before a frame: what stops in the middle of one cannot be gone on with.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<(u64, Zeroizing<Vec<u8>>)>> {
    let mut head = [0; 4 + ID_BYTES];
    let begun = loop {
        match from.read(&mut head) {
            Ok(0) => return Ok(None),
            Ok(bytes) => break bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "a frame stops in its middle"),
        _ => error,
    };
    from.read_exact(&mut head[begun..]).map_err(cut)?;
    let (length, id) = head.split_at(4);
    let length = u32::from_le_bytes(length.try_into().map_err(io::Error::other)?) as usize;
    if !(ID_BYTES..=ID_BYTES + MAX_MESSAGE_BYTES).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame has an impossible length"));
    }
    let mut message = Zeroizing::new(vec![0; length - ID_BYTES]);
    from.read_exact(&mut message).map_err(cut)?;
    Ok(Some((u64::from_le_bytes(id.try_into().map_err(io::Error::other)?), message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_end_cleanly() {
        let mut stream = Vec::new();
        write(&mut stream, 7, b"hello").unwrap();
        write(&mut stream, 8, b"").unwrap();
        let mut from = &stream[..];
        let (id, message) = read(&mut from).unwrap().unwrap();
        assert_eq!((id, &message[..]), (7, &b"hello"[..]));
        assert_eq!(read(&mut from).unwrap().unwrap().0, 8);
        assert!(read(&mut from).unwrap().is_none());
        assert!(read(&mut &stream[..10]).is_err());
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_on_both_sides() {
        assert!(write(&mut Vec::new(), 1, &vec![0; MAX_MESSAGE_BYTES + 1]).is_err());
        assert!(read(&mut &[0xFF; 32][..]).is_err());
    }
}
