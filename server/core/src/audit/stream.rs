//! What an audit device writes to that is no regular file: a pipe, a terminal, standard output.
//!
//! Whoever reads there may stop reading. So nothing here waits for it but one thread: a line is written at once where
//! there is room, else it goes into a bounded queue, and is refused when its time is over. Lines have no chain here.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::{Appended, Figures, count};

/// Writes that wait for room: so many, or so many bytes.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 8 << 20;
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
    taken: oneshot::Sender<bool>,
}

/// Where lines go.
#[derive(Clone)]
pub enum Out {
    /// Opened so that no write waits.
    Open(Arc<File>),
    /// Writes wait, since others that write there too count on it.
    Stdout,
}

impl Out {
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
            _ => false,
        }
    }
}

impl Stream {
    pub fn start(figures: Arc<Figures>) -> io::Result<Arc<Stream>> {
        let stream = Arc::new(Stream { figures, queue: Mutex::default(), wake: Condvar::new() });
        let own = stream.clone();
        thread::Builder::new().name("audit-stream".into()).stack_size(128 << 10).spawn(move || own.run())?;
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
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads what it writes"));
        }
        let rest = lines[written..].to_vec();
        // A line that was begun is finished.
        if written == 0 && (queue.jobs.len() >= QUEUE || queue.bytes + rest.len() > QUEUE_BYTES) {
            return Err(io::Error::other("its queue is full: what reads there is too slow"));
        }
        queue.bytes += rest.len();
        let (taken, receiver) = oneshot::channel();
        queue.jobs.push_back(Job {
            out: out.clone(),
            rest,
            begun: written > 0,
            lines: count(lines),
            since: Instant::now(),
            taken,
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
                    if let Some(job) = queue.jobs.pop_front() {
                        queue.busy = Some(Instant::now());
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
                write_until(&job.out, &mut job.rest, until)
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
            let _nobody_waits = job.taken.send(written.is_ok());
        }
    }
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
