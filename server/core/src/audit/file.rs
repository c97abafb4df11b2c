//! The `file` audit device.

use std::fs::{self, File, Metadata};
use std::io::{self, IoSlice, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use holdfast_chain::{Chain, Checkpoint, Linked, Tail, Unlinked};
use memchr::memchr_iter;
use rustix::io::Errno;
use tokio::sync::oneshot;
use zeroize::Zeroize;

use super::line::checkpoint_line;
use super::log_file::{Chained, LogFile};
use super::opening::{Unopened, is_on_local_disk, open_file};
use super::options::{Durability, FilePlace, FileTarget};
use super::sealing::{SEAL_AT, Sealing};
use super::stream::{Out, Stream};
use super::syncer::Syncer;
use super::{Appended, Disk, Figures};
use crate::random;

/// Appends lines to a file, stdout, or nothing.
///
/// The file is open for appending, and each write is at its end. The lines of a regular file are a chain ([`LogFile`]).
pub struct FileDevice {
    target: FileTarget,
    /// The folders that the file may be in; `None`: wherever it likes.
    within: Option<Arc<[PathBuf]>>,
    /// What is open, which another device of this name may write to as well.
    log: Arc<LogFile>,
    sealing: Sealing,
    /// Stands before checkpoints too.
    prefix: String,
    figures: Arc<Figures>,
    /// When it was last tried to open a file that could not be opened.
    tried: Mutex<Option<Instant>>,
    syncer: Option<Arc<Syncer>>,
    /// What is open is no regular file: a write could wait for whoever reads there.
    streams: AtomicBool,
    /// What is open is on no local disk: a write could wait for another machine, or another process.
    apart: AtomicBool,
    /// Writes there, from the first line on.
    stream: OnceLock<Arc<Stream>>,
    stdout: OnceLock<Out>,
    /// One for each thread that answers, or a few: what one of them writes does not keep the others waiting.
    queues: [Mutex<Queue>; QUEUES],
}

/// Lines that the next write takes together.
#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    unlinked: Vec<Unlinked>,
    /// Empty, with the room of the lines that were written before.
    spare: Vec<u8>,
    waiting: Vec<oneshot::Sender<bool>>,
}

/// Queues of a file.
const QUEUES: usize = 16;
/// With as many bytes nobody waits for more.
const FULL_QUEUE: usize = 256 << 10;
/// The kernel takes no more pieces at once (UIO_MAXIOV).
const PIECES: usize = 1024;
/// A checkpoint follows a line after this; it is looked for each second, and no more than 10 s shall lie between two.
const SEAL_AFTER: Duration = Duration::from_secs(9);
/// As much of a file's end is looked at for its last line.
const TAIL_BYTES: u64 = 1 << 20;
/// How often it is tried to open a file that cannot be opened.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Which checkpoint follows lines.
enum Seal {
    /// One if enough lines wait for it.
    WhenDue,
    /// One if any does.
    Now,
    /// One that a device has signed.
    With(Checkpoint),
}

/// The queue of this thread.
fn own_queue() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % QUEUES;
    }
    OWN.with(|own| *own)
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileDevice {
    /// A device whose file is opened by [`FileDevice::reopen`], or with its first line.
    pub fn new(
        target: FileTarget,
        within: Option<Arc<[PathBuf]>>,
        (prefix, sealing, figures): (String, Sealing, Arc<Figures>),
    ) -> Result<FileDevice, String> {
        let syncs = target.durability != (Durability::Write, Durability::Write);
        let syncer = match &target.place {
            FilePlace::File(_) if syncs => Some(Syncer::start(figures.clone()).map_err(|e| e.to_string())?),
            _ => None,
        };
        let log = match &target.place {
            FilePlace::File(path) => LogFile::of(path),
            FilePlace::Stdout | FilePlace::Discard => Arc::default(),
        };
        Ok(FileDevice {
            target,
            within,
            log,
            sealing,
            prefix,
            figures,
            tried: Mutex::default(),
            syncer,
            streams: AtomicBool::new(false),
            apart: AtomicBool::new(false),
            stream: OnceLock::new(),
            stdout: OnceLock::new(),
            queues: Default::default(),
        })
    }

    /// Append lines (each with its line end).
    pub fn append(self: &Arc<Self>, lines: &[u8], writes: bool) -> io::Result<Appended> {
        match self.target.place {
            FilePlace::Discard => Ok(Appended::Done),
            FilePlace::Stdout => self.stream()?.append(self.stdout.get_or_init(Out::stdout), lines),
            FilePlace::File(_) if self.streams.load(Ordering::Relaxed) => self.append_to_stream(lines),
            FilePlace::File(_) if self.apart.load(Ordering::Relaxed) => {
                self.stream()?.append(&Out::Apart(Arc::downgrade(self), writes), lines)
            }
            FilePlace::File(_) => self.append_to_file(lines, unlinked(lines)?, writes),
        }
    }

    /// Append lines to a file whose writes may take their time, and wait for all that is promised: for a thread of
    /// its own. Whoever has that counts them.
    pub(super) fn append_apart(&self, lines: &[u8], writes: bool) -> io::Result<()> {
        let file = self.write_lines(lines, unlinked(lines)?)?;
        match self.sync(&file, writes, 0)? {
            Appended::Done => Ok(()),
            Appended::Synced(synced) | Appended::Local(synced) | Appended::Remote(synced) => {
                let synced = synced.blocking_recv().unwrap_or(false);
                if synced { Ok(()) } else { Err(io::Error::other("its disk does not sync what was written")) }
            }
        }
    }

    fn append_to_stream(&self, lines: &[u8]) -> io::Result<Appended> {
        let Some(file) = self.log.file.load_full() else { return Err(io::ErrorKind::NotFound.into()) };
        self.stream()?.append(&Out::Open(file), lines)
    }

    fn stream(&self) -> io::Result<&Stream> {
        if let Some(stream) = self.stream.get() {
            return Ok(stream);
        }
        let _one_at_a_time = lock(&self.log.opening);
        if self.stream.get().is_none() {
            let _nobody_else_sets_it = self.stream.set(Stream::start(self.figures.clone())?);
        }
        self.stream.get().map(|stream| &**stream).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn append_to_file(&self, lines: &[u8], unlinked: Vec<Unlinked>, writes: bool) -> io::Result<Appended> {
        if self.log.file.load().is_none() {
            self.open_again()?;
            if self.streams.load(Ordering::Relaxed) {
                return self.append_to_stream(lines);
            }
        }
        let (start, count) = (Instant::now(), unlinked.len());
        let file = self.write_lines(lines, unlinked)?;
        self.figures.writes.since(start);
        self.sync(&file, writes, count)
    }

    fn write_lines(&self, lines: &[u8], unlinked: Vec<Unlinked>) -> io::Result<Arc<File>> {
        let mut chained = self.log.chained()?;
        // With the order in hand: where another file was opened meanwhile, what comes later is there.
        let Some(file) = self.log.file.load_full() else { return Err(io::ErrorKind::NotFound.into()) };
        self.write(&mut chained, &file, (lines, unlinked), Seal::WhenDue)?;
        Ok(file)
    }

    fn sync(&self, file: &Arc<File>, writes: bool, count: usize) -> io::Result<Appended> {
        let (of_writes, of_reads) = self.target.durability;
        let wanted = if writes { of_writes } else { of_reads };
        match (&self.syncer, wanted) {
            (Some(syncer), Durability::Sync) => syncer.request(file, count),
            _ => Ok(Appended::Done),
        }
    }

    /// After a sync that failed: what was written since the one before may have left the kernel without reaching the
    /// disk, and the open file does not say so twice. Open it anew, and see whether the disk is well again.
    pub fn recover(&self) {
        if let Err(e) = self.reopen() {
            return self.figures.refused(&e);
        }
        if let (Some(syncer), Some(file)) = (&self.syncer, self.log.file.load_full()) {
            let _the_figures_tell = syncer.request(&file, 0);
        }
    }

    /// Whether its disk takes so long to sync that nobody waits for it.
    pub fn is_late(&self) -> bool {
        self.syncer.as_ref().is_some_and(|syncer| syncer.is_late())
    }

    /// Writes that wait for whoever reads where there is no regular file, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        self.stream.get().map_or((0, 0), |stream| stream.waiting())
    }

    /// Append lines together with those of the requests that are answered at the same time. The receiver tells when
    /// they are written.
    ///
    /// A tenth of what a read costs was its write to the audit file, whatever the length: whoever comes first lets all
    /// that are ready to run on this thread add theirs. Each hashes its own before, while they are at hand.
    pub fn append_together(self: &Arc<Self>, lines: &[u8], figures: &Arc<Figures>) -> io::Result<Appended> {
        let alone = !matches!(self.target.place, FilePlace::File(_))
            || self.target.durability.1 == Durability::Sync
            || self.streams.load(Ordering::Relaxed)
            || self.apart.load(Ordering::Relaxed);
        let runtime = match tokio::runtime::Handle::try_current() {
            Ok(r) if !alone => r,
            _ => return self.append(lines, false),
        };
        let mut unlinked = unlinked(lines)?;
        let (sender, receiver) = oneshot::channel();
        let own = own_queue();
        let (first, full) = {
            let mut queue = lock(&self.queues[own]);
            queue.lines.extend_from_slice(lines);
            queue.unlinked.append(&mut unlinked);
            queue.waiting.push(sender);
            (queue.waiting.len() == 1, queue.lines.len() >= FULL_QUEUE)
        };
        if full {
            self.write_queue(&self.queues[own], figures);
        } else if first {
            let (device, figures) = (self.clone(), figures.clone());
            runtime.spawn(async move {
                tokio::task::yield_now().await;
                device.write_queue(&device.queues[own], &figures);
            });
        }
        Ok(Appended::Local(receiver))
    }

    fn write_queue(&self, queue: &Mutex<Queue>, figures: &Figures) {
        let (mut lines, unlinked, waiting) = {
            let mut queue = lock(queue);
            let spare = std::mem::take(&mut queue.spare);
            let lines = std::mem::replace(&mut queue.lines, spare);
            // The hashes are not kept: the last bytes of lines stand in them.
            (lines, std::mem::take(&mut queue.unlinked), std::mem::take(&mut queue.waiting))
        };
        if waiting.is_empty() {
            return;
        }
        let count = unlinked.len();
        // What is no regular file any more has it when it tells so.
        let written = match self.append_to_file(&lines, unlinked, false) {
            Ok(Appended::Remote(_)) => Err(io::ErrorKind::WouldBlock.into()),
            other => other,
        };
        match &written {
            Ok(_) => figures.took(count),
            Err(e) => figures.refused(e),
        }
        for sender in waiting {
            let _nobody_waits = sender.send(written.is_ok());
        }
        wipe(&mut lines);
        if lines.capacity() <= 2 * FULL_QUEUE {
            lock(queue).spare = lines;
        }
    }

    /// Write lines at the end of the file, each linked to the one before, and a checkpoint where one is due.
    fn write(
        &self,
        chained: &mut Chained,
        file: &File,
        (lines, unlinked): (&[u8], Vec<Unlinked>),
        seal: Seal,
    ) -> io::Result<()> {
        let Chained { chain: Some(chain), since, links } = chained else {
            return write_at_end(file, &[IoSlice::new(lines)]).1;
        };
        if let (Seal::WhenDue, Some(since)) = (&seal, &since)
            && let Some(refused) = self.sealing.refuses(since.elapsed())
        {
            return Err(refused);
        }
        links.clear();
        // Each line and the link behind it.
        let mut linked: Vec<(&[u8], Linked)> = Vec::with_capacity(unlinked.len() + 1);
        let mut rest = lines;
        for line in unlinked {
            let (body, behind) = rest.split_at_checked(line.bytes()).ok_or(io::ErrorKind::InvalidData)?;
            rest = behind.get(LINE_END.len()..).ok_or(io::ErrorKind::InvalidData)?;
            let link = chain.link(line, linked.last().map(|(_, last)| last), links);
            linked.push((body, link));
        }
        let unsealed = chain.unsealed() + linked.len() as u64;
        let last = linked.last().map(|(_, last)| last);
        let checkpoint = match seal {
            Seal::With(signed) => Some(signed),
            Seal::Now if unsealed > 0 => self.sealing.checkpoint(chain, last),
            _ if unsealed >= SEAL_AT => self.sealing.checkpoint(chain, last),
            _ => None,
        };
        let mut checkpoint_text = Vec::new();
        if let Some(checkpoint) = &checkpoint {
            checkpoint_line(&self.prefix, checkpoint, &mut checkpoint_text);
            let line = Unlinked::of(&checkpoint_text).ok_or(io::ErrorKind::InvalidData)?;
            let bytes = line.bytes();
            let link = chain.link(line, last, links);
            linked.push((&checkpoint_text[..bytes], link));
        }
        if linked.is_empty() {
            return Ok(());
        }
        let before = chain.before_next();
        let mut pieces = Vec::with_capacity(2 * linked.len() + 1);
        if !before.is_empty() {
            pieces.push(IoSlice::new(before));
        }
        let mut links = links.as_slice();
        for (body, link) in &linked {
            let (own, others) = links.split_at_checked(link.bytes() - body.len()).ok_or(io::ErrorKind::InvalidData)?;
            pieces.extend([IoSlice::new(body), IoSlice::new(own)]);
            links = others;
        }
        let (bytes, written) = write_at_end(file, &pieces);
        chain.wrote(linked.iter().map(|(_, link)| link), bytes);
        written?;
        match checkpoint {
            Some(checkpoint) => {
                chain.is_sealed(checkpoint.seq);
                *since = (chain.unsealed() > 0).then(Instant::now);
                self.sealing.is_written(checkpoint);
            }
            None => {
                since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Seal what is written: all of it, or what has waited for long. Where a device signs, it is asked
    /// ([`FileDevice::to_be_sealed`]) instead.
    pub fn seal(&self, all: bool) -> io::Result<()> {
        let mut chained = self.log.chained()?;
        let file = self.log.file.load();
        let Some(file) = &*file else { return Ok(()) };
        let due = chained.since.is_some_and(|since| all || since.elapsed() >= SEAL_AFTER);
        if due { self.write(&mut chained, file, (&[], Vec::new()), Seal::Now) } else { Ok(()) }
    }

    /// What a device is to sign, if something is due: enough lines, old ones, or `all`.
    pub fn to_be_sealed(&self, all: bool) -> Option<Checkpoint> {
        let chained = self.log.chained().ok()?;
        let chain = chained.chain.as_ref()?;
        let due = match (chain.unsealed(), chained.since) {
            (0, _) => false,
            (unsealed, since) => all || unsealed >= SEAL_AT || since.is_some_and(|s| s.elapsed() >= SEAL_AFTER),
        };
        if due { self.sealing.for_device(chain) } else { None }
    }

    /// Write a checkpoint that a device has signed.
    pub fn take_checkpoint(&self, signed: Checkpoint) -> io::Result<()> {
        let mut chained = self.log.chained()?;
        let file = self.log.file.load();
        let Some(file) = &*file else { return Ok(()) };
        match &chained.chain {
            // It was of another chain than the one by now.
            Some(chain) if chain.id() != signed.id => Ok(()),
            Some(_) => self.write(&mut chained, file, (&[], Vec::new()), Seal::With(signed)),
            None => Ok(()),
        }
    }

    /// Lines that no checkpoint seals yet.
    pub fn unsealed(&self) -> io::Result<u64> {
        Ok(self.log.chained()?.chain.as_ref().map_or(0, Chain::unsealed))
    }

    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// Open the file of that name again.
    pub fn reopen(&self) -> Result<(), Unopened> {
        let FilePlace::File(path) = &self.target.place else { return Ok(()) };
        // Whoever opens last stores last. Those that write go on meanwhile: an open may take its time.
        let _one_at_a_time = lock(&self.log.opening);
        let file = open_file(path, self.target.mode, self.within.as_deref())?;
        let mut chained = self.log.chained().map_err(|e| Unopened::by(path, e))?;
        self.take_up(&mut chained, path, &file).map_err(|e| Unopened::by(path, e))?;
        self.log.file.store(Some(Arc::new(file)));
        Ok(())
    }

    /// Go on behind what is in the file, or what the store says was the last line.
    fn take_up(&self, chained: &mut Chained, path: &Path, file: &File) -> io::Result<()> {
        let now = file.metadata()?;
        self.streams.store(!now.is_file(), Ordering::Relaxed);
        self.apart.store(now.is_file() && !is_on_local_disk(file)?, Ordering::Relaxed);
        if !now.is_file() {
            chained.chain = None;
            return Ok(());
        }
        let open = self.log.file.load().as_ref().and_then(|open| open.metadata().ok());
        if chained.chain.is_some() && open.is_some_and(|open| (open.dev(), open.ino()) == (now.dev(), now.ino())) {
            return Ok(());
        }
        let tail = tail(path, &now).unwrap_or(Tail { last: None, torn: 0 });
        if let Some(chain) = &mut chained.chain {
            chain.moves(tail.torn);
            return Ok(());
        }
        let stored = self.sealing.stored().map(|c| (c.seq, c.head.clone()));
        if let (Some((last, _)), Some((sealed, _))) = (&tail.last, &stored)
            && last < sealed
        {
            tracing::error!(
                file = %path.display(), last, sealed,
                "the audit log is shorter than when it was sealed: lines were taken away"
            );
        }
        let last = match (tail.last, stored) {
            (Some(in_file), Some(stored)) if in_file.0 < stored.0 => Some(stored),
            (in_file, stored) => in_file.or(stored),
        };
        let id = random::uuid().map_err(io::Error::other)?;
        chained.chain = Some(Chain::after(random::uuid_text(&id), last, tail.torn));
        Ok(())
    }

    /// A file that could not be opened, or is gone: not more often than it makes sense.
    fn open_again(&self) -> io::Result<()> {
        let mut tried = lock(&self.tried);
        if tried.is_some_and(|t| t.elapsed() < TRY_AGAIN) {
            return Err(io::ErrorKind::NotFound.into());
        }
        *tried = Some(Instant::now());
        self.reopen().map_err(io::Error::other)
    }

    pub fn is_stdout(&self) -> bool {
        self.target.place == FilePlace::Stdout
    }

    /// Whether lines go to a file that is no longer under its name.
    pub fn is_astray(&self) -> bool {
        let (FilePlace::File(path), Some(file)) = (&self.target.place, &*self.log.file.load()) else { return false };
        let Ok(open) = file.metadata() else { return true };
        !fs::metadata(path).is_ok_and(|named| named.dev() == open.dev() && named.ino() == open.ino())
    }

    /// How much of the file's disk is in use, of what the server may use of it.
    pub fn disk(&self) -> Option<Disk> {
        let file = self.log.file.load();
        Disk::of(&rustix::fs::fstatvfs(file.as_deref()?).ok()?)
    }
}

/// Empty a buffer that is kept: paths stand in it in the clear, and no namespace that is sealed leaves them in memory.
fn wipe(buffer: &mut Vec<u8>) {
    buffer.as_mut_slice().zeroize();
    buffer.clear();
}

/// The end of a line that is not yet part of a chain.
const LINE_END: &[u8] = b"}\n";

/// The lines, hashed as far as they can be.
fn unlinked(lines: &[u8]) -> io::Result<Vec<Unlinked>> {
    let mut unlinked = Vec::with_capacity(2);
    let mut start = 0;
    for end in memchr_iter(b'\n', lines) {
        unlinked.push(Unlinked::of(&lines[start..=end]).ok_or(io::ErrorKind::InvalidData)?);
        start = end + 1;
    }
    if start == lines.len() { Ok(unlinked) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// One write of all pieces at the end of the file, or as few as they need: how many bytes, and whether that is all.
fn write_at_end(file: &File, pieces: &[IoSlice<'_>]) -> (usize, io::Result<()>) {
    let mut bytes = 0;
    for pieces in pieces.chunks(PIECES) {
        let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        // The offset is not looked at in a file that is open for appending; a pipe wants none.
        let written = match rustix::io::retry_on_intr(|| rustix::io::pwritev(file, pieces, 0)) {
            Err(Errno::SPIPE) => rustix::io::retry_on_intr(|| rustix::io::writev(file, pieces)),
            other => other,
        };
        match written {
            Ok(n) if n == wanted => bytes += n,
            Ok(n) => return (bytes + n, Err(io::ErrorKind::StorageFull.into())),
            Err(e) => return (bytes, Err(e.into())),
        }
    }
    (bytes, Ok(()))
}

/// How a file ends.
fn tail(path: &Path, of: &Metadata) -> io::Result<Tail> {
    let file = File::open(path)?;
    let named = file.metadata()?;
    if (named.dev(), named.ino()) != (of.dev(), of.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let from = named.len().saturating_sub(TAIL_BYTES);
    let mut bytes = Vec::new();
    let mut reader = file;
    reader.seek(SeekFrom::Start(from))?;
    reader.take(2 * TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(Tail::of(&bytes, from == 0))
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.get() {
            stream.close();
        }
        if let Some(syncer) = &self.syncer {
            syncer.close();
        }
    }
}

#[cfg(test)]
mod tests;
