//! The files of a spool.
//!
//! ```text
//! id                     the spool's id in hex; whoever uses the folder holds a lock on it
//! sent                   the number of the last line that need not be sent again
//! 0000000000000001.lines segments, by the number of their first line (16 hex digits), of frames:
//!                        length u32 | crc32 u32 | number u64 | written at u64 (ms since 1970) | line
//! ```
//!
//! All integers are little-endian, and the checksum covers all behind it. A frame that is not whole at the end of the
//! last segment is what a crash has left of a line that nobody was told to be accepted: it is cut off.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_hsm::{FileUse, with_reason};

use super::{SpoolTarget, State};
use crate::audit::opening::{is_below, real};
use crate::random;

const HEADER: usize = 24;
/// A segment takes no more when it has as many bytes, or a quarter of the spool's.
const SEGMENT_BYTES: u64 = 8 << 20;
/// No frame is longer.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

/// A folder that is ours.
pub struct Locked {
    pub file: File,
    pub id: String,
}

/// The files, as the thread that writes them knows them.
pub struct Folder {
    path: PathBuf,
    id: String,
    max_bytes: u64,
    segment: File,
    /// What the segment has: its bytes that are synced.
    end: u64,
    /// The next write begins a segment: a write or a sync failed, so that nobody knows what this one has behind its end, or
    /// all that it has was sent.
    ends: bool,
    /// Segments that are to go before that.
    sent: Vec<u64>,
    /// The number of the next line.
    next: u64,
    /// Frames that the next write takes, and their lines.
    out: Vec<u8>,
    lines: u64,
    first: Position,
}

/// Where a frame begins, and what its number is at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
}

/// A line that is to be sent.
pub struct Frame {
    pub number: u64,
    pub written_ms: u64,
    pub line: Vec<u8>,
    /// Its bytes in the segment.
    pub bytes: u64,
}

/// What one write has brought to the disk.
pub struct Written {
    lines: u64,
    bytes: u64,
    /// The first line of a new segment.
    new_segment: Option<u64>,
}

fn named(path: &Path, first: u64) -> PathBuf {
    path.join(format!("{first:016x}.lines"))
}

/// None: somebody else uses the folder.
pub fn lock(path: &Path, within: Option<&[PathBuf]>) -> Result<Option<Locked>, String> {
    let outside = || {
        "it is not below a folder of audit_directories: put it there, name its folder in that setting, or set \
         unsafe_allow_api_audit_creation"
            .to_owned()
    };
    if let Some(folders) = within
        && !real(path).is_some_and(|real| is_below(&real, folders))
    {
        return Err(outside());
    }
    let failed = |e: io::Error| with_reason(e, path, FileUse::Write).to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    if let Some(folders) = within
        && !fs::canonicalize(path).is_ok_and(|at| is_below(&at, folders))
    {
        return Err(outside());
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join("id"));
    let mut file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    let mut id = String::new();
    file.read_to_string(&mut id).map_err(failed)?;
    if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        let made = random::uuid().map_err(|e| e.to_string())?;
        id = made[..8].iter().map(|b| format!("{b:02x}")).collect();
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        file.write_all(id.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(Some(Locked { file, id }))
}

impl Folder {
    /// Read what is there.
    pub fn read(id: String, target: &SpoolTarget) -> io::Result<(Folder, State)> {
        let path = target.path.clone();
        let mut firsts = Vec::new();
        for entry in fs::read_dir(&path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|n| n.strip_suffix(".lines")).map(|n| u64::from_str_radix(n, 16));
            firsts.extend(number.and_then(Result::ok));
        }
        firsts.sort_unstable();
        let sent = fs::read_to_string(path.join("sent")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut state = State { sent, kept_sent: sent, ..State::default() };
        let mut first = None;
        for (at, number) in firsts.iter().enumerate() {
            let is_last = at + 1 == firsts.len();
            let bytes = read_segment(&path, *number, is_last, &mut state, &mut first)?;
            state.segments.push_back((*number, bytes));
            state.file_bytes += bytes;
        }
        state.last = state.last.max(sent);
        let next = state.last + 1;
        let (segment, end) = match state.segments.back() {
            Some((number, bytes)) => (OpenOptions::new().write(true).open(named(&path, *number))?, *bytes),
            None => {
                state.segments.push_back((next, 0));
                (new_segment(&path, next)?, 0)
            }
        };
        let (current, at_end) = state.segments.back().copied().unwrap_or((next, 0));
        let first = first.unwrap_or(Position { segment: current, offset: at_end });
        let max_bytes = target.max_bytes;
        let out = Vec::new();
        Ok((
            Folder { path, id, max_bytes, segment, end, ends: false, sent: Vec::new(), next, out, lines: 0, first },
            state,
        ))
    }

    /// The first line that is to be sent.
    pub fn first(&self) -> Position {
        self.first
    }

    /// Add lines to the next write.
    pub fn add(&mut self, lines: &[u8], now_ms: u64, longest: usize, state: &mut State) -> io::Result<()> {
        let (before, lines_before, next_before) = (self.out.len(), self.lines, self.next);
        let added = self.add_each(lines, now_ms, longest).and_then(|()| {
            let bytes = self.out.len() as u64;
            if state.file_bytes + bytes > self.max_bytes && state.sent == state.last {
                // Room is what the peer has.
                self.sent.extend(state.segments.drain(..).map(|(first, _)| first));
                (state.file_bytes, self.ends) = (0, true);
            }
            match state.file_bytes + bytes > self.max_bytes {
                true => Err(io::Error::new(io::ErrorKind::StorageFull, "its spool is full")),
                false => Ok(()),
            }
        });
        if added.is_err() {
            self.out.truncate(before);
            (self.lines, self.next) = (lines_before, next_before);
        }
        added
    }

    fn add_each(&mut self, lines: &[u8], now_ms: u64, longest: usize) -> io::Result<()> {
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let body = line.strip_suffix(b"}\n").ok_or(io::ErrorKind::InvalidData)?;
            let start = self.out.len();
            self.out.extend_from_slice(&[0; HEADER]);
            self.out.extend_from_slice(body);
            writeln!(self.out, ",\"spool\":{{\"id\":\"{}\",\"seq\":{}}}}}", self.id, self.next)?;
            let length = self.out.len() - start - HEADER;
            if length > longest.min(MOST_BYTES) {
                return Err(io::Error::other("a line is longer than what the peer can take at once"));
            }
            let frame = &mut self.out[start..];
            frame[8..16].copy_from_slice(&self.next.to_le_bytes());
            frame[16..24].copy_from_slice(&now_ms.to_le_bytes());
            let crc = crc32fast::hash(&frame[8..]);
            frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
            frame[4..8].copy_from_slice(&crc.to_le_bytes());
            self.next += 1;
            self.lines += 1;
        }
        Ok(())
    }

    /// Bring what was added to the disk. What was not is nowhere: the numbers of its lines are given to no others.
    pub fn write(&mut self) -> io::Result<Written> {
        let (out, lines) = (std::mem::take(&mut self.out), std::mem::take(&mut self.lines));
        let first = self.next - lines;
        let full = self.end >= SEGMENT_BYTES.min(self.max_bytes / 4);
        let mut new = None;
        if full || self.ends {
            delete(&self.path, &std::mem::take(&mut self.sent));
            self.segment = new_segment(&self.path, first)?;
            (self.end, self.ends) = (0, false);
            new = Some(first);
        }
        let written = self.segment.write_all_at(&out, self.end).and_then(|()| self.segment.sync_data());
        if let Err(e) = written {
            self.ends = true;
            // It may be there after a crash all the same; nobody was told that it is.
            let _as_it_is = self.segment.set_len(self.end);
            return Err(e);
        }
        self.end += out.len() as u64;
        Ok(Written { lines, bytes: out.len() as u64, new_segment: new })
    }

    /// Let the task that sends see what was written.
    pub fn publish(&self, written: Written, now_ms: u64, state: &mut State) {
        if let Some(first) = written.new_segment {
            state.segments.push_back((first, 0));
        }
        if let Some((_, bytes)) = state.segments.back_mut() {
            *bytes += written.bytes;
        }
        debug_assert!(written.lines > 0);
        state.last = self.next - 1;
        state.file_bytes += written.bytes;
        state.waiting_bytes += written.bytes;
        state.oldest_ms.get_or_insert(now_ms);
    }
}

fn new_segment(path: &Path, first: u64) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(named(path, first))?;
    // Its name too is on the disk before a line in it counts.
    File::open(path)?.sync_all()?;
    Ok(file)
}

/// How many bytes of a segment are whole; what is behind them in the last one is cut off.
fn read_segment(
    path: &Path,
    number: u64,
    is_last: bool,
    state: &mut State,
    first: &mut Option<Position>,
) -> io::Result<u64> {
    let name = named(path, number);
    let length = fs::metadata(&name)?.len();
    let mut reader = SegmentReader::open(&name, 0)?;
    while let Some(frame) = reader.next(length)? {
        let offset = reader.offset - frame.bytes;
        if frame.number > state.sent {
            first.get_or_insert(Position { segment: number, offset });
            state.waiting_bytes += frame.bytes;
            state.oldest_ms.get_or_insert(frame.written_ms);
        }
        state.last = state.last.max(frame.number);
    }
    if reader.offset < length {
        match is_last {
            true => {
                let file = OpenOptions::new().write(true).open(&name)?;
                file.set_len(reader.offset)?;
                file.sync_all()?;
            }
            false => tracing::error!(
                file = %name.display(), offset = reader.offset,
                "a spool of audit lines is damaged: the lines behind this are lost to the peer"
            ),
        }
    }
    Ok(reader.offset)
}

/// Reads the frames of a segment.
pub struct SegmentReader {
    file: File,
    buffer: Vec<u8>,
    /// Of the buffer's first byte that was not taken.
    at: usize,
    /// In the segment, of the next frame.
    pub offset: u64,
}

impl SegmentReader {
    fn open(name: &Path, offset: u64) -> io::Result<SegmentReader> {
        let mut file = File::open(name)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(SegmentReader { file, buffer: Vec::new(), at: 0, offset })
    }

    pub fn at(path: &Path, position: Position) -> io::Result<SegmentReader> {
        SegmentReader::open(&named(path, position.segment), position.offset)
    }

    /// The next frame that ends within the segment's first `end` bytes. None: there is none, or it is not whole.
    pub fn next(&mut self, end: u64) -> io::Result<Option<Frame>> {
        let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if left < HEADER || !self.fill(HEADER)? {
            return Ok(None);
        }
        let header = &self.buffer[self.at..self.at + HEADER];
        let number_at = |from: usize| header[from..from + 8].try_into().map_or(0, u64::from_le_bytes);
        let half_at = |from: usize| header[from..from + 4].try_into().map_or(0, u32::from_le_bytes);
        let (length, crc) = (half_at(0) as usize, half_at(4));
        let (number, written_ms) = (number_at(8), number_at(16));
        if length == 0 || length > MOST_BYTES || left < HEADER + length || !self.fill(HEADER + length)? {
            return Ok(None);
        }
        let frame = &self.buffer[self.at..self.at + HEADER + length];
        if crc32fast::hash(&frame[8..]) != crc {
            return Ok(None);
        }
        let line = frame[HEADER..].to_vec();
        let bytes = (HEADER + length) as u64;
        self.at += HEADER + length;
        self.offset += bytes;
        Ok(Some(Frame { number, written_ms, line, bytes }))
    }

    /// Have so many bytes in the buffer. False: the file ends before.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        if self.buffer.len() - self.at < bytes {
            self.buffer.drain(..self.at);
            self.at = 0;
            let wanted = (bytes - self.buffer.len()).max(READ_BYTES);
            (&mut self.file).take(wanted as u64).read_to_end(&mut self.buffer)?;
        }
        Ok(self.buffer.len() - self.at >= bytes)
    }
}

impl State {
    /// Segments that hold nothing but what was sent, of which nothing is known any more.
    pub fn forget_sent(&mut self) -> Vec<u64> {
        let mut forgotten = Vec::new();
        while self.segments.get(1).is_some_and(|(next, _)| *next <= self.sent + 1) {
            if let Some((first, bytes)) = self.segments.pop_front() {
                self.file_bytes -= bytes;
                forgotten.push(first);
            }
        }
        forgotten
    }
}

/// Keep that lines up to this number need not be sent again, and delete the segments that hold no others.
pub fn keep_sent(path: &Path, sent: u64, segments: &[u64]) {
    delete(path, segments);
    // Not synced: if it is lost, lines are sent twice.
    if let Err(e) = fs::write(path.join("sent"), format!("{sent}\n")) {
        tracing::warn!(error = %e, "how far a spool of audit lines was sent cannot be kept: lines may be sent again");
    }
}

fn delete(path: &Path, segments: &[u64]) {
    for first in segments {
        if let Err(e) = fs::remove_file(named(path, *first)) {
            tracing::warn!(error = %e, "a part of a spool of audit lines that was sent cannot be deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"{\"type\":\"request\"}\n";

    struct Opened {
        folder: Folder,
        state: State,
        _lock: File,
    }

    fn open(path: &Path) -> Opened {
        let target = SpoolTarget { path: path.to_owned(), max_bytes: 1 << 20 };
        let lock = lock(path, None).unwrap().expect("nobody else has it");
        let (folder, state) = Folder::read(lock.id, &target).unwrap();
        Opened { folder, state, _lock: lock.file }
    }

    impl Opened {
        fn put(&mut self, lines: &[u8]) -> io::Result<()> {
            self.folder.add(lines, 1, usize::MAX, &mut self.state)?;
            let written = self.folder.write()?;
            self.folder.publish(written, 1, &mut self.state);
            Ok(())
        }

        /// Number and text of each line that is to be sent.
        fn lines(&self) -> Vec<(u64, String)> {
            let mut found = Vec::new();
            for (first, end) in &self.state.segments {
                let start = Position { segment: *first, offset: 0 };
                let mut reader = SegmentReader::at(&self.folder.path, start).unwrap();
                while let Some(frame) = reader.next(*end).unwrap() {
                    found.push((frame.number, String::from_utf8(frame.line).unwrap()));
                }
            }
            found
        }
    }

    #[test]
    fn a_line_has_its_number_and_nobody_else_gets_the_folder() {
        let at = tempfile::tempdir().unwrap();
        let mut spool = open(at.path());
        spool.put(&[LINE, LINE].concat()).unwrap();
        let id = spool.folder.id.clone();
        let lines = spool.lines();
        assert_eq!(lines[1], (2, format!("{{\"type\":\"request\",\"spool\":{{\"id\":\"{id}\",\"seq\":2}}}}\n")));
        assert!(lock(at.path(), None).unwrap().is_none());
        drop(spool);
        let mut again = open(at.path());
        assert_eq!((again.folder.id.as_str(), again.lines()), (id.as_str(), lines));
        again.put(LINE).unwrap();
        assert_eq!(again.lines()[2].0, 3);
        assert!(again.put(b"no line").is_err(), "what is no object is no line");
    }

    #[test]
    fn an_end_that_is_torn_at_any_byte_is_cut_off_and_the_numbers_go_on() {
        let at = tempfile::tempdir().unwrap();
        let mut spool = open(at.path());
        let mut ends = Vec::new();
        for _ in 0..3 {
            spool.put(LINE).unwrap();
            ends.push(spool.folder.end);
        }
        let before = spool.lines();
        drop(spool);
        let file = named(at.path(), 1);
        let whole = fs::read(&file).unwrap();
        for cut in 0..=whole.len() {
            // With and without the zeros that a file system may leave behind it.
            for zeros in [0, 100] {
                fs::write(&file, [&whole[..cut], &vec![0; zeros]].concat()).unwrap();
                let mut spool = open(at.path());
                let left = ends.iter().filter(|end| **end <= cut as u64).count();
                assert_eq!(spool.lines(), before[..left], "cut at {cut}");
                spool.put(LINE).unwrap();
                assert_eq!(spool.lines().last().unwrap().0, left as u64 + 1);
                drop(spool);
            }
        }
    }

    #[test]
    fn the_files_have_a_bound_and_room_comes_back_with_what_was_sent() {
        let at = tempfile::tempdir().unwrap();
        let mut spool = open(at.path());
        let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(30_000)).into_bytes();
        let bytes = || -> u64 {
            let files = fs::read_dir(at.path()).unwrap().map(|e| e.unwrap());
            files
                .filter(|f| f.file_name().to_string_lossy().ends_with(".lines"))
                .map(|f| f.metadata().unwrap().len())
                .sum()
        };
        let put = (0..100).take_while(|_| spool.put(&long).is_ok()).count();
        assert!((30..40).contains(&put), "{put}");
        assert!(bytes() <= 1 << 20);
        assert!(spool.state.segments.len() > 2);
        // Half of it was sent: whole segments go.
        spool.state.sent = spool.state.last / 2;
        let gone = spool.state.forget_sent();
        assert!(!gone.is_empty());
        keep_sent(at.path(), spool.state.sent, &gone);
        spool.put(&long).unwrap();
        while spool.put(&long).is_ok() {}
        // All of it, in the segment that is written to as well.
        spool.state.sent = spool.state.last;
        let next = spool.state.last + 1;
        spool.put(&long).unwrap();
        assert_eq!(spool.lines().into_iter().map(|l| l.0).collect::<Vec<_>>(), [next]);
        assert!(bytes() < 40_000);
        assert!(spool.put(&vec![b'{'; 2 << 20]).is_err());
    }

    #[test]
    fn a_line_whose_sync_fails_is_refused_and_the_next_one_is_in_another_segment() {
        let at = tempfile::tempdir().unwrap();
        let mut spool = open(at.path());
        spool.put(LINE).unwrap();
        // It can be written to and not synced.
        spool.folder.segment = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let refused = spool.put(LINE).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "of the sync: {refused}");
        spool.put(LINE).unwrap();
        let numbers: Vec<u64> = spool.lines().into_iter().map(|l| l.0).collect();
        assert_eq!(numbers, [1, 3], "the number of the refused line is given to no other");
        assert_eq!(spool.state.segments.len(), 2);
        drop(spool);
        let again = open(at.path());
        assert_eq!(again.lines().into_iter().map(|l| l.0).collect::<Vec<_>>(), [1, 3]);
    }
}
