//! Frames on the socket between server and helper: length, call id, message. Id 0 is the
//! configuration; an answer carries the id of its call.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use zeroize::{Zeroize, Zeroizing};

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

/// Frames that come in on a socket.
pub(crate) struct Incoming {
    stream: UnixStream,
    /// What was read and is not yet taken: `buffer[start..end]`.
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
    polling: Polling,
}

/// Usual calls and answers fit.
const BUFFER_BYTES: usize = 8 * 1024;
const HEAD_BYTES: usize = 4 + ID_BYTES;

impl Incoming {
    /// `poll_for`: for how long a frame that is expected soon is looked for before the thread sleeps.
    pub(crate) fn new(stream: UnixStream, poll_for: Duration) -> Self {
        let buffer = Zeroizing::new(vec![0; BUFFER_BYTES]);
        Self { stream, buffer, start: 0, end: 0, polling: Polling { poll_for, ..Polling::default() } }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Looks for what is about to come, for a moment: whether [`Incoming::next`] finds something, if only an end.
    pub(crate) fn arrives_soon(&mut self) -> bool {
        if self.start < self.end {
            return true;
        }
        (self.start, self.end) = (0, 0);
        let Some(read) = self.polling.poll(&self.stream, &mut self.buffer) else { return false };
        self.end = read;
        true
    }

    /// The next frame; `None` at the end of the stream. `WouldBlock`, of a stream that waits for a limited time, is said
    /// only before a frame: what stops in the middle of one cannot be gone on with.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Zeroizing<Vec<u8>>)>> {
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "a frame stops in its middle"),
            _ => error,
        };
        while self.end - self.start < HEAD_BYTES {
            let begun = self.start < self.end;
            match self.fill() {
                Ok(0) if begun => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if begun => return Err(cut(error)),
                Err(error) => return Err(error),
            }
        }
        let (length, id) = self.buffer[self.start..][..HEAD_BYTES].split_at(4);
        let length = u32::from_le_bytes(length.try_into().map_err(io::Error::other)?) as usize;
        let id = u64::from_le_bytes(id.try_into().map_err(io::Error::other)?);
        if !(ID_BYTES..=ID_BYTES + MAX_MESSAGE_BYTES).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame has an impossible length"));
        }
        self.start += HEAD_BYTES;
        let mut message = Zeroizing::new(vec![0; length - ID_BYTES]);
        let there = message.len().min(self.end - self.start);
        let (begin, rest) = message.split_at_mut(there);
        let taken = &mut self.buffer[self.start..][..there];
        begin.copy_from_slice(taken);
        taken.zeroize();
        self.start += there;
        self.stream.read_exact(rest).map_err(cut)?;
        Ok(Some((id, message)))
    }

    /// Reads what there is, behind what is not yet taken.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + HEAD_BYTES > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.buffer[self.end..];
        let read = loop {
            match self.stream.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end += read;
        Ok(read)
    }
}

/// Looks for what is about to come before the thread sleeps: to be woken takes longer than what a token of software or a
/// near device does. Where it was in vain it is left out for a while, so that who waits for a slow device does not burn time.
#[derive(Default)]
struct Polling {
    poll_for: Duration,
    /// Waits that are not polled for.
    left_out: u32,
    /// How many, the next time that it was in vain.
    next: u32,
}

/// Waits that are left out at most.
const MOST_LEFT_OUT: u32 = 256;

impl Polling {
    /// Bytes that came; none: it has ended, or the next read says what is wrong.
    fn poll(&mut self, stream: &UnixStream, room: &mut [u8]) -> Option<usize> {
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        let start = Instant::now();
        loop {
            match recv(stream, &mut *room, RecvFlags::DONTWAIT) {
                Ok((_, bytes)) => {
                    self.next = 1;
                    return Some(bytes);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Some(0),
            }
            if start.elapsed() >= self.poll_for {
                self.left_out = self.next;
                self.next = (self.next * 2).clamp(1, MOST_LEFT_OUT);
                return None;
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming() -> (UnixStream, Incoming) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Incoming::new(theirs, Duration::from_micros(50)))
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_end_cleanly() {
        let (mut ours, mut theirs) = incoming();
        let long = vec![7; 3 * BUFFER_BYTES];
        let messages = [&b"hello"[..], b"", &[1; BUFFER_BYTES - 2 * HEAD_BYTES - 5], &long, b"x"];
        let sent = std::thread::spawn({
            let messages: Vec<_> = messages.iter().map(|m| m.to_vec()).collect();
            move || {
                for (id, message) in messages.iter().enumerate() {
                    write(&mut ours, id as u64, message).unwrap();
                }
            }
        });
        for (n, wanted) in messages.iter().enumerate() {
            let (id, message) = {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap()
            .unwrap();
            assert_eq!((id, &message[..]), (n as u64, *wanted));
        }
        assert!(
            {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap()
            .is_none()
        );
        sent.join().unwrap();
    }

    #[test]
    fn a_frame_may_come_byte_by_byte() {
        let (mut ours, mut theirs) = incoming();
        let mut bytes = Vec::new();
        (0..2000).for_each(|id| write(&mut bytes, id, b"hello").unwrap());
        let sent = std::thread::spawn(move || bytes.chunks(7).for_each(|piece| ours.write_all(piece).unwrap()));
        for id in 0..2000 {
            let (of, message) = {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap()
            .unwrap();
            assert_eq!((of, &message[..]), (id, &b"hello"[..]));
        }
        sent.join().unwrap();
    }

    #[test]
    fn what_stops_in_the_middle_of_a_frame_is_an_error_and_before_one_a_pause() {
        let (mut ours, mut theirs) = incoming();
        theirs.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(
            {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap_err()
            .kind(),
            io::ErrorKind::WouldBlock
        );
        ours.write_all(&[5, 0]).unwrap();
        assert_eq!(
            {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap_err()
            .kind(),
            io::ErrorKind::TimedOut
        );
        drop(ours);
        assert_eq!(
            {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap_err()
            .kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_on_both_sides() {
        let (mut ours, mut theirs) = incoming();
        assert!(write(&mut ours, 1, &vec![0; MAX_MESSAGE_BYTES + 1]).is_err());
        ours.write_all(&[0xFF; 32]).unwrap();
        assert_eq!(
            {
                theirs.arrives_soon();
                theirs.next()
            }
            .unwrap_err()
            .kind(),
            io::ErrorKind::InvalidData
        );
    }
}
