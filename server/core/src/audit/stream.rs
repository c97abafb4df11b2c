//! What an audit device writes to that may keep whoever writes waiting: a pipe, a terminal, standard output, and files that are
//! on no disk of this machine.
//!
//! Whoever reads there may stop reading, and a server of files be gone. So nothing here waits for it but one thread: a line is
//! written at once to a pipe that has room, else it goes into a bounded queue, and is refused when its time is over. Lines
//! have no chain here, but for those of files ([`FileDevice::append_apart`]).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::file::FileDevice;
use super::{Appended, Figures, count};

/// Writes that wait for room: so many, or so many bytes.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 8 << 20;
/// With as many bytes no more writes to a file are put together.
const TOGETHER_BYTES: usize = 256 << 10;
/// Lines are linked and checkpoints signed there.
const STACK_BYTES: usize = 512 << 10;
/// How long a line waits for room; a socket's peer has as much time.
const TIME_OUT: Duration = Duration::from_secs(2);
/// How often it is looked for room.
const LOOK: Duration = Duration::from_millis(1);

/// The end that requests see.
pub struct Stream {
    figures: Arc<Figures>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Since when the thread is at work on a write.
    busy: Option<Instant>,
    /// The rest of a line whose time was over when a part of it was written: nothing else comes before it.
    unfinished: Option<(Out, Vec<u8>)>,
    closed: bool,
}

struct Job {
    out: Out,
    /// What is still to be written of the lines.
    rest: Vec<u8>,
    /// A part of them is written.
    begun: bool,
    lines: usize,
    since: Instant,
    taken: Vec<oneshot::Sender<bool>>,
}

/// Where lines go.
#[derive(Clone)]
pub enum Out {
    /// Opened so that no write waits.
    Open(Arc<File>),
    /// Writes wait, since others that write there too count on it.
    Stdout,
    /// A file on no local disk; whether lines are of requests that change something.
    Apart(Weak<FileDevice>, bool),
}

/// Why a file is refused that is on no local disk.
const HANGS: &str = "a write to it does not come back: whoever keeps its files may be away";

impl Out {
    fn is_slow(&self) -> io::Error {
        let why = if matches!(self, Out::Apart(..)) { HANGS } else { "nobody reads what it writes" };
        io::Error::new(io::ErrorKind::TimedOut, why)
    }

    /// Standard output. One that can be opened a second time holds nobody up.
    pub fn stdout() -> Out {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let again = OpenOptions::new().write(true).custom_flags(flags.cast_signed()).open("/proc/self/fd/1");
        // A second opening of a regular file would have an end of its own.
        let waits_for_nobody =
            |file: &File| file.metadata().is_ok_and(|m| m.file_type().is_fifo() || m.file_type().is_char_device());
        again.ok().filter(waits_for_nobody).map_or(Out::Stdout, |file| Out::Open(Arc::new(file)))
    }

    fn is(&self, other: &Out) -> bool {
        match (self, other) {
            (Out::Open(a), Out::Open(b)) => Arc::ptr_eq(a, b),
            (Out::Stdout, Out::Stdout) => true,
            (Out::Apart(a, a_writes), Out::Apart(b, b_writes)) => Weak::ptr_eq(a, b) && a_writes == b_writes,
            _ => false,
        }
    }
}

impl Stream {
    pub fn start(figures: Arc<Figures>) -> io::Result<Arc<Stream>> {
        let stream = Arc::new(Stream { figures, queue: Mutex::default(), wake: Condvar::new() });
        let own = stream.clone();
        thread::Builder::new().name("audit-stream".into()).stack_size(STACK_BYTES).spawn(move || own.run())?;
        Ok(stream)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Write lines, now or when there is room.
    pub fn append(&self, out: &Out, lines: &[u8]) -> io::Result<Appended> {
        let mut queue = self.lock();
        let mut written = 0;
        if let Out::Open(file) = out
            && queue.busy.is_none()
            && queue.jobs.is_empty()
            && queue.unfinished.is_none()
        {
            written = write_some(file, lines)?;
            if written == lines.len() {
                return Ok(Appended::Done);
            }
        }
        if queue.busy.is_some_and(|since| since.elapsed() > 2 * TIME_OUT) {
            return Err(out.is_slow());
        }
        let rest = lines[written..].to_vec();
        // A line that was begun is finished.
        if written == 0 && (queue.jobs.len() >= QUEUE || queue.bytes + rest.len() > QUEUE_BYTES) {
            return Err(io::Error::other("its queue is full: what is written to is too slow"));
        }
        queue.bytes += rest.len();
        let (taken, receiver) = oneshot::channel();
        queue.jobs.push_back(Job {
            out: out.clone(),
            rest,
            begun: written > 0,
            lines: count(lines),
            since: Instant::now(),
            taken: vec![taken],
        });
        drop(queue);
        self.wake.notify_one();
        Ok(Appended::Remote(receiver))
    }

    /// How many writes wait, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.lock();
        (queue.jobs.len() + usize::from(queue.busy.is_some()), queue.bytes)
    }

    /// End when the queue is empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        loop {
            let (mut job, mut before) = {
                let mut queue = self.lock();
                queue.busy = None;
                loop {
                    if let Some(mut job) = queue.jobs.pop_front() {
                        queue.busy = Some(Instant::now());
                        queue.join_others(&mut job);
                        break (job, queue.unfinished.take());
                    }
                    if queue.closed {
                        return;
                    }
                    queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let bytes = job.rest.len();
            let until = job.since + TIME_OUT;
            // What was opened anew has no beginning of that line.
            before = before.filter(|(out, _)| out.is(&job.out));
            let written = match &mut before {
                Some((out, rest)) => write_until(out, rest, until),
                None => Ok(()),
            };
            let written = written.and_then(|()| {
                before = None;
                match &job.out {
                    Out::Apart(device, writes) => append_apart(device, &mut job.rest, *writes, until),
                    out => write_until(out, &mut job.rest, until),
                }
            });
            match &written {
                Ok(()) => {
                    self.figures.took(job.lines);
                    self.figures.writes.since(job.since);
                }
                Err(e) => self.figures.refused(e),
            }
            let begun = !job.rest.is_empty() && (job.begun || job.rest.len() < bytes);
            {
                let mut queue = self.lock();
                queue.bytes -= bytes;
                queue.unfinished = before.or(begun.then_some((job.out, job.rest)));
            }
            for taken in job.taken {
                let _nobody_waits = taken.send(written.is_ok());
            }
        }
    }
}

impl Queue {
    /// What goes to the same file is written, and synced, together.
    fn join_others(&mut self, job: &mut Job) {
        while matches!(job.out, Out::Apart(..))
            && job.rest.len() < TOGETHER_BYTES
            && let Some(next) = self.jobs.pop_front_if(|next| next.out.is(&job.out))
        {
            job.rest.extend_from_slice(&next.rest);
            job.lines += next.lines;
            job.taken.extend(next.taken);
        }
    }
}

/// Write lines to a file, all or none. Those that have waited for too long are refused: whoever wanted them is told so.
fn append_apart(device: &Weak<FileDevice>, rest: &mut Vec<u8>, writes: bool, until: Instant) -> io::Result<()> {
    let device = device.upgrade().ok_or(io::ErrorKind::NotFound)?;
    if Instant::now() >= until {
        return Err(io::Error::new(io::ErrorKind::TimedOut, HANGS));
    }
    device.append_apart(rest, writes)?;
    rest.clear();
    Ok(())
}

/// How much is written without waiting; nothing where there is no room.
fn write_some(file: &File, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::retry_on_intr(|| rustix::io::write(file, bytes)) {
        Err(Errno::AGAIN) => Ok(0),
        other => Ok(other?),
    }
}

/// Write all of it in time; what was written is no longer in `rest`.
fn write_until(out: &Out, rest: &mut Vec<u8>, until: Instant) -> io::Result<()> {
    let Out::Open(file) = out else {
        debug_assert!(matches!(out, Out::Stdout), "files are appended to as a whole");
        io::stdout().lock().write_all(rest)?;
        rest.clear();
        return Ok(());
    };
    loop {
        let written = write_some(file, rest)?;
        rest.drain(..written);
        if rest.is_empty() {
            return Ok(());
        }
        if written == 0 {
            if Instant::now() >= until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads what it writes"));
            }
            thread::sleep(LOOK);
        }
    }
}
