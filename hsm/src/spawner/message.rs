//! What server and spawner say to each other: one packet each way, a descriptor with it
//! where a helper was started.

use super::Program;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

const MAX_PACKET_BYTES: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Start(Program),
    Kill { number: u64 },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Started {
        number: u64,
        pid: u32,
    },
    Killed,
    /// An errno.
    Failed(i32),
}

impl Request {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Start(Program::Own) => vec![b's'],
            Self::Start(Program::Tpm) => vec![b't'],
            Self::Kill { number } => [&[b'k'][..], &number.to_le_bytes()].concat(),
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b's', []) => Some(Self::Start(Program::Own)),
            (b't', []) => Some(Self::Start(Program::Tpm)),
            (b'k', number) => Some(Self::Kill { number: u64::from_le_bytes(number.try_into().ok()?) }),
            _ => None,
        }
    }
}

impl Reply {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Started { number, pid } => [&[b'S'][..], &number.to_le_bytes(), &pid.to_le_bytes()].concat(),
            Self::Killed => vec![b'K'],
            Self::Failed(errno) => [&[b'F'][..], &errno.to_le_bytes()].concat(),
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'S', rest) => {
                let (number, pid) = rest.split_first_chunk()?;
                Some(Self::Started {
                    number: u64::from_le_bytes(*number),
                    pid: u32::from_le_bytes(pid.try_into().ok()?),
                })
            }
            (b'K', []) => Some(Self::Killed),
            (b'F', errno) => Some(Self::Failed(i32::from_le_bytes(errno.try_into().ok()?))),
            _ => None,
        }
    }
}

/// Sends a packet, and gives the descriptor away with it.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<OwnedFd>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a packet, empty at the end of the socket, and the descriptor with it.
pub(super) fn receive(socket: impl AsFd) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
    let mut bytes = [0; MAX_PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok((bytes[..received.bytes].to_vec(), descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        for request in [Request::Start(Program::Own), Request::Start(Program::Tpm), Request::Kill { number: 77 }] {
            assert_eq!(Request::from_bytes(&request.to_bytes()), Some(request));
        }
        for reply in [Reply::Started { number: 1, pid: 2 }, Reply::Killed, Reply::Failed(11)] {
            assert_eq!(Reply::from_bytes(&reply.to_bytes()), Some(reply));
        }
        assert_eq!(Request::from_bytes(b""), None);
        assert_eq!(Reply::from_bytes(b"S12"), None);
    }

    #[test]
    fn a_descriptor_travels_with_its_packet() {
        use std::io::{Read, Write};
        use std::os::unix::net::{UnixDatagram, UnixStream};
        let (left, right) = UnixDatagram::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        send(&left, b"hello", Some(far.into())).unwrap();
        let (bytes, descriptor) = receive(&right).unwrap();
        assert_eq!(bytes, b"hello");
        near.write_all(b"through").unwrap();
        drop(near);
        let mut text = String::new();
        UnixStream::from(descriptor.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }
}
