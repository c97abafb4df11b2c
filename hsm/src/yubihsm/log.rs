//! The device's audit log, kept in a file before the device may forget it.
//!
//! A YubiHSM remembers its last 62 commands, of those that it is told to log. Told to force the audit it does nothing more when
//! they are not fetched. Each entry has a digest over itself and the digest before; the chain is followed here, over restarts
//! too, and each line says whether it holds.

use super::fault::Fault;
use crate::device::{DeviceError, DeviceErrorClass as Class};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

const ENTRY_BYTES: usize = 32;
const DIGEST_BYTES: usize = 16;
/// Commands of ours between two looks; others ask the device too.
const OFTEN: u32 = 16;
/// The same for a device that logged nothing of them.
const SELDOM: u32 = 48;
/// The last line is in here.
const TAIL_BYTES: u64 = 4096;

/// Where the log is kept, and how far.
pub(super) struct Log {
    file: PathBuf,
    serial: u32,
    /// Number and digest of the last entry that was kept; `None`: not yet looked up.
    last: Option<Option<Last>>,
    until_due: u32,
    doubts: Doubts,
}

/// What is to be said of a log that does not hold together, for as long as the device is open; sessions share it.
#[derive(Clone, Default)]
pub(super) struct Doubts(Arc<Mutex<Option<String>>>);

impl Doubts {
    /// The first of them.
    pub(super) fn said(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, text: String) {
        tracing::warn!("{text}");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Last {
    number: u16,
    digest: [u8; DIGEST_BYTES],
}

impl Log {
    pub(super) fn new(file: &str, serial: u32, doubts: Doubts) -> Self {
        Self { file: PathBuf::from(file), serial, last: None, until_due: OFTEN, doubts }
    }

    /// Counts a command, and says whether it is time to look.
    pub(super) fn is_due(&mut self) -> bool {
        self.until_due = self.until_due.saturating_sub(1);
        self.until_due == 0
    }

    /// Writes what is new of an answer to GET LOG ENTRIES, and syncs it. Gives the number up to which the device may forget.
    pub(super) fn keep(&mut self, answer: &[u8]) -> Result<Option<u16>, Fault> {
        let [b0, b1, a0, a1, count, entries @ ..] = answer else { return Err(Fault::Garbled) };
        if entries.len() != usize::from(*count) * ENTRY_BYTES {
            return Err(Fault::Garbled);
        }
        self.until_due = if entries.is_empty() { SELDOM } else { OFTEN };
        let failed = |error: io::Error| {
            DeviceError::new(
                Class::Failed,
                format!(
                    "the log of the YubiHSM {} cannot be kept in {} ({error}): its folder must be one that the device helper's user may \
                     write",
                    self.serial,
                    self.file.display()
                ),
            )
        };
        let before = match self.last {
            Some(known) => known,
            None => last_of(&self.file, self.serial).map_err(failed)?,
        };
        let entries: Vec<&[u8]> = entries.chunks_exact(ENTRY_BYTES).collect();
        let kept = entries.iter().position(|entry| before == Some(Last::of(entry)));
        let new = &entries[kept.map_or(0, |at| at + 1)..];
        let mut text = String::new();
        let unlogged = [u16::from_be_bytes([*b0, *b1]), u16::from_be_bytes([*a0, *a1])];
        if unlogged != [0, 0] {
            let [boots, logins] = unlogged;
            self.doubt(&format!("it was full, and {boots} starts and {logins} logins are not in it"));
            let _infallible = writeln!(
                text,
                "{{\"device\":{},\"unlogged_boots\":{boots},\"unlogged_authentications\":{logins}}}",
                self.serial
            );
        }
        let mut last = before;
        for entry in new {
            let own = Last::of(entry);
            let chain = Chain::of(entry, last);
            line(&mut text, self.serial, entry, chain);
            match chain {
                Chain::Begins | Chain::Holds => {}
                Chain::Gap => self.doubt(&format!("entries before number {} are missing", own.number)),
                Chain::Broken => {
                    self.doubt(&format!(
                        "entry {} does not follow from the one before: one of them was changed",
                        own.number
                    ));
                }
            }
            last = Some(own);
        }
        if !text.is_empty() {
            append(&self.file, &text).map_err(failed)?;
        }
        self.last = Some(last);
        Ok(entries.last().map(|entry| Last::of(entry).number))
    }

    fn doubt(&self, what: &str) {
        let (serial, file) = (self.serial, self.file.display());
        self.doubts.say(format!(
            "the audit log of the YubiHSM {serial} does not hold together: {what}; see {file}, who else reads the device's log, and \
             who had the device"
        ));
    }
}

/// How an entry follows the one that was kept before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Begins,
    Holds,
    Gap,
    Broken,
}

impl Chain {
    fn of(entry: &[u8], before: Option<Last>) -> Self {
        let Last { number, digest } = Last::of(entry);
        match before {
            None => Self::Begins,
            Some(before) if before.number.wrapping_add(1) != number => Self::Gap,
            Some(before) => {
                let mut hash = Sha256::new();
                hash.update(&entry[..ENTRY_BYTES - DIGEST_BYTES]);
                hash.update(before.digest);
                if hash.finalize()[..DIGEST_BYTES] == digest { Self::Holds } else { Self::Broken }
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Begins => "begins",
            Self::Holds => "holds",
            Self::Gap => "gap",
            Self::Broken => "broken",
        }
    }
}

impl Last {
    fn of(entry: &[u8]) -> Self {
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&entry[ENTRY_BYTES - DIGEST_BYTES..]);
        Self { number: u16::from_be_bytes([entry[0], entry[1]]), digest }
    }
}

/// One entry as a line of JSON.
fn line(text: &mut String, serial: u32, entry: &[u8], chain: Chain) {
    let number =
        |at: usize, bytes: usize| entry[at..at + bytes].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let Last { number: own, digest } = Last::of(entry);
    let chain = chain.word();
    let kept = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let _infallible = writeln!(
        text,
        "{{\"device\":{serial},\"number\":{own},\"command\":\"0x{:02x}\",\"length\":{},\"session_key\":{},\"target_key\":{},\
         \"second_key\":{},\"result\":\"0x{:02x}\",\"tick\":{},\"digest\":\"{}\",\"chain\":\"{chain}\",\"kept\":{kept}}}",
        entry[2],
        number(3, 2),
        number(5, 2),
        number(7, 2),
        number(9, 2),
        entry[11],
        number(12, 4),
        hex::encode(digest)
    );
}

fn append(file: &Path, text: &str) -> io::Result<()> {
    // Opened each time, so that it may be renamed.
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// The last entry of this device in the file, as [`line`] wrote it.
fn last_of(file: &Path, serial: u32) -> io::Result<Option<Last>> {
    let mut file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let begin = format!("{{\"device\":{serial},\"number\":");
    Ok(tail.lines().rev().find_map(|line| {
        let number = line.strip_prefix(&begin)?.split(',').next()?.parse().ok()?;
        let digest = line.split("\"digest\":\"").nth(1)?.split('"').next()?;
        Some(Last { number, digest: hex::decode(digest).ok()?.try_into().ok()? })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(first: u16, count: u16, before: [u8; DIGEST_BYTES]) -> Vec<Vec<u8>> {
        let mut digest = before;
        (first..first + count)
            .map(|number| {
                let mut entry = number.to_be_bytes().to_vec();
                entry.extend_from_slice(&[0x56, 0, 34, 0, 2, 0, 7, 0xff, 0xff, 0xd6, 0, 0, 1, 0]);
                let made = Sha256::digest([&entry[..], &digest].concat());
                digest.copy_from_slice(&made[..DIGEST_BYTES]);
                entry.extend_from_slice(&digest);
                entry
            })
            .collect()
    }

    fn answer(entries: &[Vec<u8>]) -> Vec<u8> {
        [&[0, 0, 0, 0, entries.len() as u8][..], &entries.concat()].concat()
    }

    #[test]
    fn what_is_kept_is_kept_once_and_its_chain_is_followed_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let read = || std::fs::read_to_string(&path).unwrap();
        let doubts = Doubts::default();
        let mut log = Log::new(path.to_str().unwrap(), 77, doubts.clone());
        let first = entries(9, 3, [5; DIGEST_BYTES]);
        assert_eq!(log.keep(&answer(&first)).unwrap(), Some(11));
        assert_eq!(log.keep(&answer(&first)).unwrap(), Some(11), "asked again, since the device may not have heard it");
        assert_eq!(log.keep(&answer(&[])).unwrap(), None);
        assert_eq!(read().lines().count(), 3);
        assert!(read().contains("\"command\":\"0x56\",\"length\":34,\"session_key\":2,\"target_key\":7"), "{}", read());

        let mut again = Log::new(path.to_str().unwrap(), 77, doubts.clone());
        let last = Last::of(&first[2]);
        again.keep(&answer(&entries(12, 1, last.digest))).unwrap();
        assert_eq!(doubts.said(), None);
        again.keep(&answer(&entries(13, 1, [0; DIGEST_BYTES]))).unwrap();
        again.keep(&answer(&entries(20, 1, [0; DIGEST_BYTES]))).unwrap();
        let text = read();
        let chains: Vec<&str> =
            text.lines().map(|l| l.split("\"chain\":\"").nth(1).unwrap().split('"').next().unwrap()).collect();
        assert_eq!(chains, ["begins", "holds", "holds", "holds", "broken", "gap"]);
        assert!(doubts.said().unwrap().contains("entry 13 does not follow"), "the first is what is said");
        assert!(again.keep(&[0, 0, 0, 0, 1]).is_err());
    }
}
