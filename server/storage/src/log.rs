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
//! All integers are little-endian; the checksum covers all that follows it, and the length.
//! `durable index` is the last index known to be synced when the entry was written: a broken entry
//! followed by one that knew it to be durable is damage and refused, while one that nobody knew is
//! the torn tail of a crash and cut off. A segment's name says that all before it was durable.
//!
//! What an append left behind is never built upon: before the next one it is cleared, or, if the
//! disk does not say whether it has it ([`AppendError::Broken`]), there is no next one.

use std::io;
use std::sync::Arc;

use crate::StoreError;
use crate::disk::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"HFLOG1\0\0";
const HEADER: u64 = 40;
const ENTRY_HEADER: usize = 32;
/// A segment is preallocated to this size; a larger entry gets a segment of its own.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// What no segment exceeds: the largest entry, what is grouped with it, and some.
const MAX_SEGMENT_BYTES: u64 = 256 << 20;
/// One entry's payload at most.
pub const MAX_ENTRY_BYTES: usize = 64 << 20;

/// One entry as it is read back.
pub struct Entry<'b> {
    pub term: u64,
    pub index: u64,
    pub payload: &'b [u8],
}

/// Why an append failed, and what became of it.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing of it will be read back; another try may succeed.
    #[error("{0}")]
    Nothing(io::Error),
    /// It may be read back after a crash, and only then: the next append clears it away first.
    #[error("{0}")]
    Unknown(io::Error),
    /// A sync failed, after which nobody can say what the disk holds: the log takes no more. With
    /// `unknown`, the entries may be read back when it is opened again; else nothing of them is.
    #[error("{error}")]
    Broken { error: io::Error, unknown: bool },
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
    /// Behind `offset` there may be this many bytes of a failed append.
    uncleared: u64,
    broken: bool,
    next_index: u64,
    durable_index: u64,
    buffer: Vec<u8>,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first index of its segment.
    pub segment: u64,
    pub offset: u64,
    /// Bytes of its payload.
    pub len: u32,
}

/// The segment in which the log goes on after recovery.
struct Tail {
    first: u64,
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
    /// The first byte behind the last sound entry.
    end: usize,
    /// The first byte that no later entry knew to be durable.
    uncertain: usize,
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
    ///
    /// What was handed over is durable when this returns.
    pub fn open(
        disk: Arc<dyn Disk>,
        store_id: [u8; 16],
        applied: u64,
        mut replay: impl FnMut(Entry<'_>) -> Result<(), StoreError>,
    ) -> Result<Log, StoreError> {
        Log::open_with_places(disk, store_id, applied, |entry, _| replay(entry))
    }

    /// As [`Log::open`]; every entry comes with its place.
    pub fn open_with_places(
        disk: Arc<dyn Disk>,
        store_id: [u8; 16],
        applied: u64,
        mut replay: impl FnMut(Entry<'_>, Place) -> Result<(), StoreError>,
    ) -> Result<Log, StoreError> {
        let mut log = Log {
            segments: segments(&*disk)?,
            disk,
            store_id,
            file: None,
            offset: 0,
            allocated: 0,
            uncleared: 0,
            broken: false,
            next_index: applied + 1,
            durable_index: applied,
            buffer: Vec::new(),
        };
        log.recover(applied, &mut replay)?;
        Ok(log)
    }

    fn recover(
        &mut self,
        applied: u64,
        replay: &mut impl FnMut(Entry<'_>, Place) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut next = None;
        let mut tail: Option<Tail> = None;
        let segments = self.segments.clone();
        for (position, &first) in segments.iter().enumerate() {
            let following = segments.get(position + 1).copied();
            if following.is_some_and(|f| f <= applied + 1) {
                // The checkpoint holds all of it; it is removed with the next one.
                continue;
            }
            let name = name_of(first);
            let path = self.disk.path(&name);
            let damaged = |detail: String| StoreError::Damaged { path: path.clone(), detail };
            let reach = next.unwrap_or(applied + 1);
            if first > reach {
                return Err(damaged(format!("entries {reach} to {} are missing before it", first - 1)));
            }
            let file = self.disk.open(&name, false).map_err(StoreError::io("cannot open", &path))?;
            let size = file.len().map_err(StoreError::io("cannot read", &path))?;
            if size > MAX_SEGMENT_BYTES {
                return Err(damaged(format!("it has {size} bytes, more than any segment is made with")));
            }
            let mut bytes = vec![0; size as usize];
            file.read_at(0, &mut bytes).map_err(StoreError::io("cannot read", &path))?;
            if !self.header_is_sound(&bytes, first) {
                if following.is_none() && first > applied && is_unfinished(&bytes) {
                    // The crash came before the first entry of a new segment was durable.
                    self.disk.remove(&name).map_err(StoreError::io("cannot remove", &path))?;
                    self.segments.pop();
                    break;
                }
                return Err(damaged("its header is not that of this store's log".into()));
            }
            if size < SEGMENT_BYTES {
                return Err(damaged(format!("it was made with {SEGMENT_BYTES} bytes or more and has {size}")));
            }
            let mut at = HEADER as usize;
            let mut index = first;
            let mut starts = Vec::new();
            let mut durable = first - 1;
            while let Some(e) = parse(&bytes[at..]).filter(|e| e.index == index) {
                if e.index > applied {
                    let place = Place { segment: first, offset: at as u64, len: e.payload.len() as u32 };
                    replay(Entry { term: e.term, index: e.index, payload: e.payload }, place)?;
                }
                starts.push(at);
                durable = e.durable;
                at = (at + e.size).min(bytes.len());
                index += 1;
            }
            match following {
                Some(f) if f > index && used(&bytes[at..]) > 0 => {
                    return Err(damaged(format!("entry {index} cannot be read, and {f} follows")));
                }
                Some(f) if f < index => return Err(damaged(format!("it goes on to {}, and {f} follows", index - 1))),
                // An equal one follows; a later one is refused for the gap before it.
                Some(_) => {}
                None => refuse_damage(&bytes[at..], index, &damaged)?,
            }
            let known = durable.saturating_sub(first - 1) as usize;
            let uncertain = if known == 0 { 0 } else { starts.get(known).copied().unwrap_or(at) };
            next = Some(index);
            tail = Some(Tail { first, file, bytes, end: at, uncertain });
        }
        let (Some(next), Some(tail)) = (next, tail) else { return Ok(()) };
        if next <= applied {
            // All that the log holds is in the checkpoint already; it starts anew behind it.
            for first in std::mem::take(&mut self.segments) {
                let name = name_of(first);
                self.disk.remove(&name).map_err(StoreError::io("cannot remove", self.disk.path(&name)))?;
            }
            return Ok(());
        }
        self.next_index = next;
        self.durable_index = next - 1;
        self.settle(tail)
    }

    /// Make the end of the log what was read: what may be in the page cache only is written again
    /// (after a failed sync the system takes it for written) and synced, and what a crash left
    /// behind the last entry becomes zero, so that it can never come back.
    fn settle(&mut self, tail: Tail) -> Result<(), StoreError> {
        let path = self.disk.path(&name_of(tail.first));
        let mut rest = tail.bytes;
        let torn = used(&rest[tail.end..]) > 0;
        if torn {
            rest[tail.end..].fill(0);
        }
        let to = if torn { rest.len() } else { tail.end };
        if to > tail.uncertain {
            let written = tail.file.write_at(tail.uncertain as u64, &rest[tail.uncertain..to]);
            written.and_then(|()| tail.file.sync()).map_err(StoreError::io("cannot settle the end of", &path))?;
        }
        self.file = Some(tail.file);
        self.offset = tail.end as u64;
        self.allocated = rest.len() as u64;
        Ok(())
    }

    fn header_is_sound(&self, bytes: &[u8], first: u64) -> bool {
        header_is_whole(bytes) && bytes[8..24] == self.store_id && u64_at(bytes, 24) == first
    }

    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Bytes in segments that a checkpoint has not made unnecessary.
    pub fn size_bytes(&self) -> u64 {
        (self.segments.len().saturating_sub(1)) as u64 * SEGMENT_BYTES + self.offset
    }

    /// Append the payloads as consecutive entries and make them durable with one sync.
    pub fn append(&mut self, term: u64, payloads: &[Vec<u8>]) -> Result<(), AppendError> {
        self.append_each(payloads.iter().map(|p| (term, &p[..])))
    }

    /// As [`Log::append`], each entry with a term of its own.
    pub fn append_each<'p>(
        &mut self,
        entries: impl Iterator<Item = (u64, &'p [u8])> + Clone,
    ) -> Result<(), AppendError> {
        if self.broken {
            let error = io::Error::other("an earlier sync failed");
            return Err(AppendError::Broken { error, unknown: false });
        }
        if let Some((_, long)) = entries.clone().find(|(_, p)| p.len() > MAX_ENTRY_BYTES) {
            let text = format!("an entry of {} bytes, at most {MAX_ENTRY_BYTES} can be read back", long.len());
            return Err(AppendError::Nothing(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        self.clear()?;
        let count = self.encode(entries);
        let size = self.buffer.len() as u64;
        if self.file.is_none() || self.offset + size > self.allocated {
            self.start_segment(size)?;
        }
        let Some(file) = self.file.clone() else {
            return Err(AppendError::Nothing(io::Error::other("no open segment")));
        };
        if let Err(error) = file.write_at(self.offset, &self.buffer) {
            self.uncleared = size;
            return Err(match self.clear() {
                Ok(()) => AppendError::Nothing(error),
                Err(AppendError::Nothing(_)) => AppendError::Unknown(error),
                Err(AppendError::Unknown(error)) => AppendError::Unknown(error),
                Err(AppendError::Broken { error, .. }) => AppendError::Broken { error, unknown: true },
            });
        }
        if let Err(error) = file.sync() {
            self.broken = true;
            return Err(AppendError::Broken { error, unknown: true });
        }
        self.offset += size;
        self.next_index += count;
        self.durable_index = self.next_index - 1;
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn encode<'p>(&mut self, entries: impl Iterator<Item = (u64, &'p [u8])>) -> u64 {
        self.buffer.clear();
        let mut count = 0;
        for (term, payload) in entries {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            self.buffer.extend_from_slice(&[0; 4]);
            self.buffer.extend_from_slice(&term.to_le_bytes());
            self.buffer.extend_from_slice(&(self.next_index + count).to_le_bytes());
            self.buffer.extend_from_slice(&self.durable_index.to_le_bytes());
            self.buffer.extend_from_slice(payload);
            let crc = crc32fast::hash(&self.buffer[start + 8..]) ^ payload.len() as u32;
            self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
            self.buffer.resize(start + aligned(self.buffer.len() - start), 0);
            count += 1;
        }
        count
    }

    /// Where the last entries are, whose payloads had these lengths: they were appended together.
    pub(crate) fn places_of_last(&self, lengths: &[usize]) -> Vec<Place> {
        let Some(&segment) = self.segments.last() else { return Vec::new() };
        let size = |len: &usize| aligned(ENTRY_HEADER + len) as u64;
        let mut offset = self.offset - lengths.iter().map(size).sum::<u64>();
        let place = |len: &usize| {
            let place = Place { segment, offset, len: *len as u32 };
            offset += size(len);
            place
        };
        lengths.iter().map(place).collect()
    }

    /// An open segment, for those who read what they know to be there.
    pub(crate) fn segment_file(disk: &dyn Disk, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        disk.open(&name_of(segment), false)
    }

    /// The payload of the entry at a place.
    pub(crate) fn read_payload(file: &dyn DiskFile, place: Place) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; ENTRY_HEADER + place.len as usize];
        file.read_at(place.offset, &mut bytes)?;
        let entry = parse(&bytes).filter(|e| e.payload.len() == place.len as usize);
        let entry = entry.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a log entry cannot be read"))?;
        Ok(entry.payload.to_vec())
    }

    /// Take the entries from `first` on away, the first of which is at `place`: another leader's come there.
    pub(crate) fn truncate_from(&mut self, first: u64, place: Place) -> Result<(), AppendError> {
        let broken = |error| AppendError::Broken { error, unknown: true };
        while let Some(last) = self.segments.last().copied().filter(|last| *last > place.segment) {
            self.disk.remove(&name_of(last)).map_err(broken)?;
            self.segments.pop();
            self.file = None;
        }
        self.disk.sync_folder().map_err(broken)?;
        let file = match self.file.take() {
            Some(file) => file,
            None => self.disk.open(&name_of(place.segment), false).map_err(broken)?,
        };
        self.allocated = file.len().map_err(broken)?;
        let zeroes = vec![0; (self.allocated - place.offset) as usize];
        let cleared = file.write_at(place.offset, &zeroes).and_then(|()| file.sync());
        self.file = Some(file);
        self.offset = place.offset;
        self.uncleared = 0;
        self.next_index = first;
        self.durable_index = first - 1;
        cleared.map_err(|error| {
            self.broken = true;
            AppendError::Broken { error, unknown: true }
        })
    }

    /// Forget every entry; the next one is `next`.
    pub(crate) fn start_anew(&mut self, next: u64) -> io::Result<()> {
        while let Some(last) = self.segments.last().copied() {
            match self.disk.remove(&name_of(last)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => self.segments.pop(),
            };
        }
        self.disk.sync_folder()?;
        self.file = None;
        (self.offset, self.allocated, self.uncleared) = (0, 0, 0);
        self.next_index = next;
        self.durable_index = next - 1;
        Ok(())
    }

    /// Zero what a failed append may have left, so that it is not taken for entries after a crash.
    fn clear(&mut self) -> Result<(), AppendError> {
        if self.uncleared == 0 {
            return Ok(());
        }
        let Some(file) = self.file.clone() else { return Ok(()) };
        let zeroes = vec![0; self.uncleared as usize];
        file.write_at(self.offset, &zeroes).map_err(AppendError::Nothing)?;
        if let Err(error) = file.sync() {
            self.broken = true;
            return Err(AppendError::Broken { error, unknown: false });
        }
        self.uncleared = 0;
        Ok(())
    }

    fn start_segment(&mut self, needed: u64) -> Result<(), AppendError> {
        let first = self.next_index;
        let name = name_of(first);
        let size = SEGMENT_BYTES.max(HEADER + needed);
        self.file = None;
        if self.segments.last() == Some(&first) {
            // It is empty and too small: made again.
            self.segments.pop();
        }
        let disk = self.disk.clone();
        let made = disk.open(&name, true).and_then(|file| {
            file.set_len(0)?;
            file.allocate(size)?;
            Ok(file)
        });
        let nothing = |error| {
            let _it_is_made_again_or_found_unfinished = disk.remove(&name);
            AppendError::Nothing(error)
        };
        let file = made.map_err(nothing)?;
        // The length is durable before the header, so that a header without its length is damage.
        self.sync_new(&name, &*file)?;
        let mut header = Vec::with_capacity(HEADER as usize);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&self.store_id);
        header.extend_from_slice(&first.to_le_bytes());
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        header.resize(HEADER as usize, 0);
        file.write_at(0, &header).map_err(nothing)?;
        self.sync_new(&name, &*file)?;
        self.segments.push(first);
        self.file = Some(file);
        self.offset = HEADER;
        self.allocated = size;
        Ok(())
    }

    fn sync_new(&mut self, name: &str, file: &dyn DiskFile) -> Result<(), AppendError> {
        file.sync().and_then(|()| self.disk.sync_folder()).map_err(|error| {
            self.broken = true;
            let _it_is_found_unfinished = self.disk.remove(name);
            AppendError::Broken { error, unknown: false }
        })
    }

    /// Remove the segments whose entries are all at or before `index`, which a checkpoint holds.
    pub fn forget_through(&mut self, index: u64) -> io::Result<()> {
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[1] <= index + 1 {
            match self.disk.remove(&name_of(self.segments[0])) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => self.segments.remove(0),
            };
            removed = true;
        }
        if removed { self.disk.sync_folder() } else { Ok(()) }
    }
}

/// The first indexes of the segments in the folder, ascending.
fn segments(disk: &dyn Disk) -> Result<Vec<u64>, StoreError> {
    let mut segments = Vec::new();
    for name in disk.list().map_err(StoreError::io("cannot list", disk.path("")))? {
        let Some(hex) = name.strip_prefix("log-") else { continue };
        match u64::from_str_radix(hex, 16) {
            Ok(first) if first > 0 && name_of(first) == name => segments.push(first),
            _ => {
                let detail = "its name is not that of a log segment".into();
                return Err(StoreError::Damaged { path: disk.path(&name), detail });
            }
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

fn header_is_whole(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER as usize && &bytes[..8] == MAGIC && u32_at(bytes, 32) == crc32fast::hash(&bytes[..32])
}

/// A segment of which neither the header nor an entry is there, as a crash leaves it while it is made:
/// without its length, or with all of that.
fn is_unfinished(bytes: &[u8]) -> bool {
    let whole = bytes.len() as u64 >= SEGMENT_BYTES;
    bytes.is_empty() || (whole && !header_is_whole(bytes) && parse(&bytes[HEADER as usize..]).is_none())
}

/// The length without the zeroes at the end, rounded up.
fn used(bytes: &[u8]) -> usize {
    const BLOCK: [u8; 4096] = [0; 4096];
    let blocks = bytes.chunks(BLOCK.len()).enumerate();
    blocks.rev().find(|(_, b)| **b != BLOCK[..b.len()]).map_or(0, |(i, b)| i * BLOCK.len() + b.len())
}

/// After the last sound entry of the last segment there is either nothing, or what a crash tore;
/// anything that was known to be durable and cannot be read is damage.
fn refuse_damage(rest: &[u8], broken: u64, damaged: &impl Fn(String) -> StoreError) -> Result<(), StoreError> {
    let last = used(rest).min(rest.len().saturating_sub(ENTRY_HEADER - 1));
    for at in (0..last).step_by(8) {
        let (index, durable) = (u64_at(rest, at + 16), u64_at(rest, at + 24));
        // What cannot be a witness is not worth a checksum.
        let near = index > broken && index - broken <= rest.len() as u64;
        if near && durable >= broken && durable < index && parse(&rest[at..]).is_some() {
            return Err(damaged(format!("entry {broken} cannot be read, and entry {index} behind it can")));
        }
    }
    Ok(())
}
