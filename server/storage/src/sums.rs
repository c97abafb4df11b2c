//! Checksums of the blocks of the state machine's file, in a file beside it.
//!
//! redb looks at its pages' checksums only when it is told to check everything, which reads the whole file: with a
//! million leases that is most of a start. So each block of 4 KiB has a checksum here: it is compared whenever the
//! block is read from the disk, and nothing has to be read to open a store.
//!
//! What is here is believed only if the file beside it is the one that it was written for: it names the last headers
//! that redb wrote, and redb's header changes with every commit that is durable. A program that knows nothing of
//! checksums, a restored file, a torn write: each leads to the check of everything, after which all is known anew.
//!
//! A block that a durable commit reaches is not written again before the next one, and checksums are synced before
//! what they are of. So a crash leaves the right checksum of each block that is in use, whichever of the last
//! headers is found.
//!
//! ```text
//! sector 0     "HFSUMS1\0" | 4 × (length u32, CRC-32 u32) of redb's last headers | … | CRC-32 of the sector
//! sector n ≥ 1 127 × CRC-32 of the blocks from (n-1)×127 on, 0: not known          | CRC-32 of the sector
//! ```
//! Sectors of 512 bytes, which a disk writes whole or not at all; numbers are little-endian.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use crate::disk::DiskFile;
use crate::pipeline::lock;

pub(crate) const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const PER_SECTOR: usize = SECTOR / 4 - 1;
const MAGIC: &[u8; 8] = b"HFSUMS1\0";
/// Of so many headers each may be the one that a crash leaves.
const HEADERS: usize = 4;

/// The name of the file of checksums of a file.
pub(crate) fn beside(name: &str) -> String {
    format!("{name}.sums")
}

/// Length and checksum of what redb wrote at the beginning of its file.
type Header = (u32, u32);

#[derive(Debug)]
pub(crate) struct Sums {
    file: Arc<dyn DiskFile>,
    blocks: RwLock<Vec<AtomicU32>>,
    /// Sectors that differ from the disk's.
    changed: Mutex<BTreeSet<usize>>,
    headers: Mutex<Vec<Header>>,
    /// Whether the file may say that it belongs to the one beside it.
    trusted: AtomicBool,
}

impl Sums {
    /// Of a file that is empty.
    pub fn create(file: Arc<dyn DiskFile>) -> io::Result<Sums> {
        file.set_len(0)?;
        Ok(Sums::new(file, Vec::new(), Vec::new(), true))
    }

    /// Those in `file`, if they are of what is in `of`. Otherwise none is known and the file is emptied: it counts
    /// again from [`Sums::trust`] on.
    pub fn open(file: Arc<dyn DiskFile>, of: &dyn DiskFile) -> io::Result<Sums> {
        if let Some((headers, blocks)) = read(&*file, of)? {
            // What is behind the end was of a longer file.
            let sectors = 1 + blocks.len().div_ceil(PER_SECTOR);
            file.set_len((sectors * SECTOR) as u64)?;
            let sums = Sums::new(file, headers, blocks, true);
            lock(&sums.changed).extend((sectors > 1).then_some(sectors - 1));
            return Ok(sums);
        }
        let sums = Sums::new(file, Vec::new(), Vec::new(), false);
        sums.forget()?;
        Ok(sums)
    }

    fn new(file: Arc<dyn DiskFile>, headers: Vec<Header>, blocks: Vec<AtomicU32>, trusted: bool) -> Sums {
        let (blocks, headers) = (RwLock::new(blocks), Mutex::new(headers));
        Sums { file, blocks, changed: Mutex::default(), headers, trusted: AtomicBool::new(trusted) }
    }

    /// Whether every block that is in use has its checksum.
    pub fn are_trusted(&self) -> bool {
        self.trusted.load(Ordering::SeqCst)
    }

    /// From now on the file says nothing: what it says does not fit.
    pub fn forget(&self) -> io::Result<()> {
        self.trusted.store(false, Ordering::SeqCst);
        self.file.set_len(0)?;
        self.file.sync()
    }

    /// All blocks that are in use were read and found right: from now on the file is believed again.
    pub fn trust(&self) -> io::Result<()> {
        if self.trusted.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let sectors = self.blocks().len().div_ceil(PER_SECTOR);
        lock(&self.changed).extend(1..=sectors);
        self.write()?;
        self.file.sync()?;
        self.write_headers()?;
        self.file.sync()
    }

    /// The file has so many bytes now; new ones are not known.
    pub fn set_len(&self, bytes: u64) {
        let blocks = usize::try_from(bytes.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX);
        let mut known = self.blocks.write().unwrap_or_else(|e| e.into_inner());
        // Those behind the end are not known any more.
        lock(&self.changed).extend(blocks / PER_SECTOR + 1..known.len().div_ceil(PER_SECTOR) + 1);
        known.truncate(blocks);
        known.resize_with(blocks, AtomicU32::default);
    }

    /// The first block of what was read at `offset` that is not what was written there.
    pub fn first_wrong(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let known = self.blocks();
        let wrong = |(at, block): &(usize, &[u8])| {
            let sum = known.get(*at).map_or(0, |s| s.load(Ordering::Acquire));
            sum != 0 && sum != sum_of(block)
        };
        whole_blocks(offset, bytes).find(wrong).map(|(at, _)| at as u64)
    }

    /// This is what is there.
    pub fn note(&self, offset: u64, bytes: &[u8]) {
        // A part of a block: only redb's header is written so, which has checksums of its own.
        let end = offset + bytes.len() as u64;
        for part in [offset, end] {
            if !part.is_multiple_of(BLOCK as u64) {
                self.put(index(part), 0);
            }
        }
        for (at, block) in whole_blocks(offset, bytes) {
            self.put(at, sum_of(block));
        }
    }

    /// What of this is not known yet is what it is.
    pub fn learn(&self, offset: u64, bytes: &[u8]) {
        for (at, block) in whole_blocks(offset, bytes) {
            if self.blocks().get(at).is_some_and(|s| s.load(Ordering::Acquire) == 0) {
                self.put(at, sum_of(block));
            }
        }
    }

    /// It is not known what is there.
    pub fn lose(&self, offset: u64, length: usize) {
        for at in index(offset)..=index(offset + length.max(1) as u64 - 1) {
            self.put(at, 0);
        }
    }

    fn put(&self, at: usize, sum: u32) {
        if self.blocks().get(at).is_some_and(|s| s.swap(sum, Ordering::AcqRel) != sum) {
            lock(&self.changed).insert(at / PER_SECTOR + 1);
        }
    }

    /// redb is about to write this at the beginning of its file.
    pub fn note_header(&self, bytes: &[u8]) -> io::Result<()> {
        {
            let mut headers = lock(&self.headers);
            let header = (bytes.len() as u32, crc32fast::hash(bytes));
            headers.retain(|h| *h != header);
            headers.push(header);
            let old = headers.len().saturating_sub(HEADERS);
            headers.drain(..old);
        }
        match self.are_trusted() {
            true => self.write_headers(),
            false => Ok(()),
        }
    }

    fn write_headers(&self) -> io::Result<()> {
        let mut sector = [0; SECTOR];
        sector[..8].copy_from_slice(MAGIC);
        for (i, (length, sum)) in lock(&self.headers).iter().enumerate() {
            sector[8 + 8 * i..][..4].copy_from_slice(&length.to_le_bytes());
            sector[12 + 8 * i..][..4].copy_from_slice(&sum.to_le_bytes());
        }
        seal(&mut sector);
        self.file.write_at(0, &sector)
    }

    /// Write what has changed. May be tried again.
    pub fn write(&self) -> io::Result<()> {
        if !self.are_trusted() {
            return Ok(());
        }
        let changed = std::mem::take(&mut *lock(&self.changed));
        let written = self.write_sectors(&changed);
        if written.is_err() {
            lock(&self.changed).extend(changed);
        }
        written
    }

    /// Make what was written durable; called before what it is of is made so.
    pub fn sync(&self) -> io::Result<()> {
        match self.are_trusted() {
            true => self.file.sync(),
            false => Ok(()),
        }
    }

    /// Sectors that follow one another are written at once.
    fn write_sectors(&self, changed: &BTreeSet<usize>) -> io::Result<()> {
        let (mut run, mut bytes) = (0, Vec::new());
        for &sector in changed {
            if run + bytes.len() / SECTOR != sector {
                self.write_run(run, &bytes)?;
                (run, bytes) = (sector, Vec::new());
            }
            bytes.extend_from_slice(&self.sector(sector));
        }
        self.write_run(run, &bytes)
    }

    fn write_run(&self, first: usize, bytes: &[u8]) -> io::Result<()> {
        match bytes {
            [] => Ok(()),
            bytes => self.file.write_at((first * SECTOR) as u64, bytes),
        }
    }

    fn sector(&self, sector: usize) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        let first = (sector - 1) * PER_SECTOR;
        let known = self.blocks();
        for (slot, sum) in bytes.chunks_exact_mut(4).zip(known.iter().skip(first).take(PER_SECTOR)) {
            slot.copy_from_slice(&sum.load(Ordering::Acquire).to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    fn blocks(&self) -> RwLockReadGuard<'_, Vec<AtomicU32>> {
        self.blocks.read().unwrap_or_else(|e| e.into_inner())
    }
}

/// What a file of checksums says, if it is sound and of what is in `of`.
fn read(file: &dyn DiskFile, of: &dyn DiskFile) -> io::Result<Option<(Vec<Header>, Vec<AtomicU32>)>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    let mut sectors = bytes.chunks_exact(SECTOR);
    let Some(first) = sectors.next().filter(|s| is_sound(s) && s.starts_with(MAGIC)) else { return Ok(None) };
    let headers: Vec<Header> = first[8..8 + 8 * HEADERS]
        .as_chunks::<8>()
        .0
        .iter()
        .map(|[a, b, c, d, e, f, g, h]| (u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h])))
        .filter(|(length, _)| (1..=BLOCK as u32).contains(length))
        .collect();
    let mut beginning = vec![0; BLOCK.min(usize::try_from(of.len()?).unwrap_or(BLOCK))];
    of.read_at(0, &mut beginning)?;
    let is_of = |(length, sum): &Header| {
        beginning.get(..*length as usize).is_some_and(|header| crc32fast::hash(header) == *sum)
    };
    if !headers.iter().any(is_of) {
        return Ok(None);
    }
    let blocks = usize::try_from(of.len()?.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX);
    let mut known: Vec<AtomicU32> = Vec::with_capacity(blocks);
    for sector in sectors {
        // One that was never written is a hole.
        if !is_sound(sector) && sector.iter().any(|b| *b != 0) {
            return Ok(None);
        }
        let sums = sector.as_chunks::<4>().0.iter().take(PER_SECTOR);
        known.extend(sums.map(|s| AtomicU32::new(u32::from_le_bytes(*s))));
    }
    known.truncate(blocks);
    known.resize_with(blocks, AtomicU32::default);
    Ok(Some((headers, known)))
}

fn seal(sector: &mut [u8; SECTOR]) {
    let sum = crc32fast::hash(&sector[..SECTOR - 4]);
    sector[SECTOR - 4..].copy_from_slice(&sum.to_le_bytes());
}

fn is_sound(sector: &[u8]) -> bool {
    sector.split_last_chunk::<4>().is_some_and(|(rest, sum)| crc32fast::hash(rest).to_le_bytes() == *sum)
}

/// Never 0, which stands for not known.
fn sum_of(block: &[u8]) -> u32 {
    crc32fast::hash(block).max(1)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset / BLOCK as u64).unwrap_or(usize::MAX)
}

/// The blocks that lie wholly in what is at `offset`, with their numbers.
fn whole_blocks(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let skipped = (offset.next_multiple_of(BLOCK as u64) - offset) as usize;
    let first = index(offset + skipped as u64);
    bytes.get(skipped..).unwrap_or_default().chunks_exact(BLOCK).enumerate().map(move |(i, block)| (first + i, block))
}
