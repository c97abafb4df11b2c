//! The log: segment files of checksummed entries, one fdatasync for a group of them.
//!
//! A segment is `log-<first index, 16 hex digits>`. It starts with a header and holds entries on
//! 8-byte borders:
//!
//! ```text
//! header  magic "HFLOG1\0\0" | store id 16 | first index u64 | crc32 u32 | zero u32            (40 bytes)
//! entry   payload length u32 | crc32 u32 | term u64 | index u64 | durable index u64 | payload
//! ```
//!
//! All integers are little-endian; the checksum covers all that follows it. `durable index` is the
//! last index known to be synced when the entry was written: a broken entry followed by one that
//! knew it to be durable is damage and refused, while one that nobody knew is the torn tail of a
//! crash and cut off.

use std::sync::Arc;

use crate::StoreError;
use crate::disk::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"HFLOG1\0\0";
const HEADER: u64 = 40;
const ENTRY_HEADER: usize = 32;
/// A segment is preallocated to this size; a larger entry gets a segment of its own.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// One entry's payload at most.
pub const MAX_ENTRY_BYTES: usize = 64 << 20;

/// One entry as it is read back.
pub struct Entry {
    pub term: u64,
    pub index: u64,
    pub payload: Vec<u8>,
}

/// The open log.
pub struct Log {
    disk: Arc<dyn Disk>,
    store_id: [u8; 16],
    /// First index of each segment, ascending; the last one is open for writing.
    segments: Vec<u64>,
    file: Option<Arc<dyn DiskFile>>,
    /// Where the next entry goes in the open segment.
    offset: u64,
    allocated: u64,
    next_index: u64,
    durable_index: u64,
    buffer: Vec<u8>,
}

fn name_of(first: u64) -> String {
    format!("log-{first:016x}")
}

fn aligned(n: usize) -> usize {
    n.div_ceil(8) * 8
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut x = [0; 8];
    x.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(x)
}

struct Parsed<'a> {
    term: u64,
    index: u64,
    durable: u64,
    payload: &'a [u8],
    size: usize,
}

/// The entry at the start of `b`, if there is a whole and sound one.
fn parse(b: &[u8]) -> Option<Parsed<'_>> {
    if b.len() < ENTRY_HEADER {
        return None;
    }
    let len = u32_at(b, 0) as usize;
    let end = ENTRY_HEADER.checked_add(len)?;
    if len > MAX_ENTRY_BYTES || b.len() < end || (len == 0 && u64_at(b, 16) == 0) {
        return None;
    }
    let crc = crc32fast::hash(&b[8..end]) ^ len as u32;
    (crc == u32_at(b, 4)).then(|| Parsed {
        term: u64_at(b, 8),
        index: u64_at(b, 16),
        durable: u64_at(b, 24),
        payload: &b[ENTRY_HEADER..end],
        size: aligned(end),
    })
}

impl Log {
    /// Open the log of `store_id` and hand every entry after `applied` to `replay`, in order.
    pub fn open(
        disk: Arc<dyn Disk>,
        store_id: [u8; 16],
        applied: u64,
        mut replay: impl FnMut(Entry) -> Result<(), StoreError>,
    ) -> Result<Log, StoreError> {
        let folder = disk.path("");
        let mut segments = Vec::new();
        for name in disk.list().map_err(StoreError::io("cannot list", &folder))? {
            if let Some(hex) = name.strip_prefix("log-") {
                let first = u64::from_str_radix(hex, 16).map_err(|_| StoreError::Damaged {
                    path: disk.path(&name),
                    detail: "its name is not that of a log segment".into(),
                })?;
                segments.push(first);
            }
        }
        segments.sort_unstable();
        let mut log = Log {
            disk,
            store_id,
            segments,
            file: None,
            offset: 0,
            allocated: 0,
            next_index: applied + 1,
            durable_index: applied,
            buffer: Vec::new(),
        };
        log.recover(applied, &mut replay)?;
        Ok(log)
    }

    fn recover(&mut self, applied: u64, replay: &mut impl FnMut(Entry) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut expected: Option<u64> = None;
        let count = self.segments.len();
        for (position, first) in self.segments.clone().into_iter().enumerate() {
            let name = name_of(first);
            let path = self.disk.path(&name);
            let damaged = |detail: String| StoreError::Damaged { path: path.clone(), detail };
            let file = self.disk.open(&name, false).map_err(StoreError::io("cannot open", &path))?;
            let size = file.len().map_err(StoreError::io("cannot read", &path))?;
            let mut bytes = vec![0; size as usize];
            file.read_at(0, &mut bytes).map_err(StoreError::io("cannot read", &path))?;
            let last = position + 1 == count;
            if !self.header_is_sound(&bytes, first) {
                if last && first > applied && self.is_unfinished(&bytes) {
                    // The crash came before the first entry of a new segment was durable.
                    self.disk.remove(&name).map_err(StoreError::io("cannot remove", &path))?;
                    self.segments.pop();
                    continue;
                }
                return Err(damaged("its header is not that of this store's log".into()));
            }
            let reach = expected.unwrap_or(0).max(applied + 1);
            if first > reach {
                return Err(damaged(format!("entries {reach} to {} are missing before it", first - 1)));
            }
            let mut at = HEADER as usize;
            let mut next = first;
            while let Some(e) = parse(&bytes[at..]).filter(|e| e.index == next) {
                if e.index > applied {
                    replay(Entry { term: e.term, index: e.index, payload: e.payload.to_vec() })?;
                }
                at += e.size;
                next += 1;
            }
            self.refuse_damage(&bytes[at..], next, last, &damaged)?;
            expected = Some(next);
            if last {
                self.file = Some(file);
                self.offset = at as u64;
                self.allocated = size;
            }
        }
        if let Some(next) = expected {
            if next <= applied {
                // All that the log holds is in the checkpoint already; it starts anew behind it.
                self.file = None;
                for first in std::mem::take(&mut self.segments) {
                    let name = name_of(first);
                    let path = self.disk.path(&name);
                    self.disk.remove(&name).map_err(StoreError::io("cannot remove", &path))?;
                }
            } else {
                self.next_index = next;
                self.durable_index = next - 1;
                self.clear_tail()?;
            }
        }
        Ok(())
    }

    fn header_is_sound(&self, bytes: &[u8], first: u64) -> bool {
        bytes.len() >= HEADER as usize
            && &bytes[..8] == MAGIC
            && bytes[8..24] == self.store_id
            && u64_at(bytes, 24) == first
            && u32_at(bytes, 32) == crc32fast::hash(&bytes[..32])
    }

    fn is_unfinished(&self, bytes: &[u8]) -> bool {
        let header = HEADER as usize;
        bytes.len() <= header || parse(&bytes[header..]).is_none()
    }

    /// After the last sound entry there is either nothing, or what a crash tore; anything that
    /// was known to be durable and cannot be read is damage.
    fn refuse_damage(
        &self,
        rest: &[u8],
        broken: u64,
        last: bool,
        damaged: &impl Fn(String) -> StoreError,
    ) -> Result<(), StoreError> {
        if !last {
            // A later segment exists, whose first index the caller compares.
            return Ok(());
        }
        for at in (0..rest.len()).step_by(8) {
            if rest[at..].len() < ENTRY_HEADER || u32_at(rest, at) == 0 {
                continue;
            }
            if let Some(e) = parse(&rest[at..])
                && e.index > broken
                && e.durable >= broken
            {
                return Err(damaged(format!("entry {broken} cannot be read, and entry {} behind it can", e.index)));
            }
        }
        Ok(())
    }

    /// Zero what a crash left behind the last entry, so that it can never come back.
    fn clear_tail(&mut self) -> Result<(), StoreError> {
        let Some(file) = &self.file else { return Ok(()) };
        let path = self.disk.path(&name_of(self.segments[self.segments.len() - 1]));
        let fail = |e| StoreError::io("cannot clear the torn end of", &path)(e);
        let length = self.allocated.saturating_sub(self.offset) as usize;
        let mut rest = vec![0; length];
        file.read_at(self.offset, &mut rest).map_err(fail)?;
        if rest.iter().any(|&b| b != 0) {
            rest.fill(0);
            file.write_at(self.offset, &rest).and_then(|()| file.sync()).map_err(fail)?;
        }
        Ok(())
    }

    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Bytes in segments that a checkpoint has not made unnecessary.
    pub fn size_bytes(&self) -> u64 {
        (self.segments.len().saturating_sub(1)) as u64 * SEGMENT_BYTES + self.offset
    }

    /// Append the payloads as consecutive entries and make them durable with one sync.
    ///
    /// On an error nothing of them will be read back: the place is cleared before it is used again.
    pub fn append(&mut self, term: u64, payloads: &[Vec<u8>]) -> std::io::Result<()> {
        self.buffer.clear();
        for (i, payload) in payloads.iter().enumerate() {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            self.buffer.extend_from_slice(&[0; 4]);
            self.buffer.extend_from_slice(&term.to_le_bytes());
            self.buffer.extend_from_slice(&(self.next_index + i as u64).to_le_bytes());
            self.buffer.extend_from_slice(&self.durable_index.to_le_bytes());
            self.buffer.extend_from_slice(payload);
            let crc = crc32fast::hash(&self.buffer[start + 8..]) ^ payload.len() as u32;
            self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
            self.buffer.resize(start + aligned(self.buffer.len() - start), 0);
        }
        let size = self.buffer.len() as u64;
        if self.file.is_none() || self.offset + size > self.allocated {
            self.start_segment(size)?;
        }
        let Some(file) = &self.file else { return Err(std::io::Error::other("no open segment")) };
        if let Err(e) = file.write_at(self.offset, &self.buffer) {
            // Best effort: what did reach the file must not be read back after a crash.
            let zeroes = vec![0; self.buffer.len()];
            let _cleared = file.write_at(self.offset, &zeroes).and_then(|()| file.sync());
            return Err(e);
        }
        file.sync()?;
        self.offset += size;
        self.next_index += payloads.len() as u64;
        self.durable_index = self.next_index - 1;
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn start_segment(&mut self, needed: u64) -> std::io::Result<()> {
        let first = self.next_index;
        let name = name_of(first);
        let size = SEGMENT_BYTES.max(HEADER + needed);
        let file = self.disk.open(&name, true)?;
        let prepared = (|| {
            file.set_len(0)?;
            file.allocate(size)?;
            let mut header = Vec::with_capacity(HEADER as usize);
            header.extend_from_slice(MAGIC);
            header.extend_from_slice(&self.store_id);
            header.extend_from_slice(&first.to_le_bytes());
            header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
            header.resize(HEADER as usize, 0);
            file.write_at(0, &header)?;
            file.sync()?;
            self.disk.sync_folder()
        })();
        if let Err(e) = prepared {
            let _removed = self.disk.remove(&name);
            return Err(e);
        }
        if self.segments.last() != Some(&first) {
            self.segments.push(first);
        }
        self.file = Some(file);
        self.offset = HEADER;
        self.allocated = size;
        Ok(())
    }

    /// Remove the segments whose entries are all at or before `index`, which a checkpoint holds.
    pub fn forget_through(&mut self, index: u64) -> std::io::Result<()> {
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[1] <= index + 1 {
            self.disk.remove(&name_of(self.segments[0]))?;
            self.segments.remove(0);
            removed = true;
        }
        if removed { self.disk.sync_folder() } else { Ok(()) }
    }
}
