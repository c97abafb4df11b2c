//! One helper's socket: calls go out, and one of those who wait brings the answers in.
//!
//! Whoever waits first reads, hands the others what is theirs, and leaves the reading to one of them when it has its own
//! answer: an answer that a thread of its own would read waits for two threads to be woken.

use super::waits;
use crate::config::DeviceConfig;
use crate::device::{Answer, Call, DeviceError, DeviceErrorClass as Class, decode, encode};
use crate::frame::{self, Incoming};
use crate::spawner::Helper;
use rustix::net::{RecvFlags, recv};
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Calls that may wait for one helper.
const MAX_WAITING: usize = 64;
/// A helper that has answered since is not asked whether it lives.
const JUST_NOW: Duration = Duration::from_millis(10);
/// An answer that comes sooner than this is not slept for.
const POLL_FOR: Duration = Duration::from_micros(100);
/// A message that surely fits in the buffer of a socket that is empty.
const SHORT_BYTES: usize = 16 << 10;
/// By so much a wait may be longer than it should, to spare a system call.
const ABOUT: Duration = Duration::from_millis(10);

pub(super) struct Link {
    pub(super) number: u64,
    pub(super) pid: u32,
    writer: Mutex<UnixStream>,
    reader: Mutex<Reader>,
    /// The same socket, to end it while a writer is stuck.
    socket: UnixStream,
    waiting: Mutex<Waiting>,
}

struct Reader {
    frames: Incoming,
    /// How long it waits for a frame.
    limit: Duration,
}

impl Reader {
    fn wait_for(&mut self, limit: Duration) -> io::Result<()> {
        if limit > self.limit || self.limit - limit > ABOUT {
            // None would be no limit.
            self.limit = limit.max(Duration::from_millis(1));
            self.frames.stream().set_read_timeout(Some(self.limit))?;
        }
        Ok(())
    }
}

/// How a call ended.
pub(super) enum Outcome {
    Answered(Result<Answer, DeviceError>),
    /// The helper is gone; the call may have been carried out.
    Died,
    TimedOut,
}

#[derive(Default)]
struct Waiting {
    calls: HashMap<u64, Caller>,
    last_id: u64,
    dead: bool,
    /// When the last answer came.
    heard: Option<Instant>,
}

struct Caller {
    tell: Sender<Told>,
    /// It has sent its call. One that has not may wait for others who send.
    listens: bool,
}

/// What one who waits is told.
enum Told {
    Answer(Result<Answer, DeviceError>),
    /// Nobody reads any more.
    Read,
}

impl Link {
    /// Tells a new helper its configuration.
    pub(super) fn open(helper: Helper, config: &DeviceConfig, timeout: Duration) -> io::Result<Self> {
        let mut writer = helper.socket;
        writer.set_write_timeout(Some(timeout))?;
        writer.set_read_timeout(Some(timeout))?;
        let reader = Reader { frames: Incoming::new(writer.try_clone()?, POLL_FOR), limit: timeout };
        let socket = writer.try_clone()?;
        frame::write(&mut writer, frame::CONFIG_ID, &encode(config))?;
        Ok(Self {
            number: helper.number,
            pid: helper.pid,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            socket,
            waiting: Mutex::default(),
        })
    }

    /// Whether the helper is gone, as far as it is known.
    pub(super) fn seems_dead(&self) -> bool {
        let heard = {
            let waiting = lock(&self.waiting);
            !waiting.dead && waiting.heard.is_some_and(|heard| heard.elapsed() < JUST_NOW)
        };
        !heard && self.is_dead()
    }

    pub(super) fn is_dead(&self) -> bool {
        let mut waiting = lock(&self.waiting);
        if !waiting.dead && waiting.calls.is_empty() {
            // Who waits would see it.
            let end = recv(&self.socket, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            waiting.dead = !matches!(end, Ok((1.., _)) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR));
        }
        waiting.dead
    }

    pub(super) fn ask(&self, call: &Call, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        let (tell, told) = channel();
        let (id, alone) = {
            let mut waiting = lock(&self.waiting);
            if waiting.dead {
                return Outcome::Died;
            }
            if waiting.calls.len() >= MAX_WAITING {
                return Outcome::Answered(Err(DeviceError::new(
                    Class::Busy,
                    format!("{MAX_WAITING} calls wait for the device already: tried again later"),
                )));
            }
            waiting.last_id += 1;
            let id = waiting.last_id;
            waiting.calls.insert(id, Caller { tell, listens: false });
            (id, waiting.calls.len() == 1)
        };
        let written = {
            let message = encode(call);
            let write = || {
                let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
                frame::write(&mut *writer, id, &message)
            };
            // Whoever is alone has the whole buffer of the socket.
            if alone && message.len() <= SHORT_BYTES { write() } else { waits::for_long(write) }
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                lock(&self.waiting).calls.remove(&id);
                return Outcome::Answered(Err(DeviceError::invalid(format!("the call is too large: {error}"))));
            }
            Err(error) => {
                // Part of a frame may be on its way: nothing more can be said here.
                self.end();
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Outcome::TimedOut,
                    _ => Outcome::Died,
                };
            }
        }
        if let Some(caller) = lock(&self.waiting).calls.get_mut(&id) {
            caller.listens = true;
        }
        self.wait(id, &told, deadline)
    }

    /// Waits for the answer, and reads those of all while nobody else does.
    fn wait(&self, id: u64, told: &Receiver<Told>, deadline: Instant) -> Outcome {
        loop {
            let reading = match self.reader.try_lock() {
                Ok(reader) => Some(reader),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut reader) = reading {
                // Who read before may have brought it.
                let outcome = match answer_among(told) {
                    Some(result) => Outcome::Answered(result),
                    None => self.read(&mut reader, id, deadline),
                };
                drop(reader);
                self.let_another_read();
                return outcome;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match waits::for_long(|| told.recv_timeout(left)) {
                Ok(Told::Answer(result)) => return Outcome::Answered(result),
                Ok(Told::Read) => {}
                Err(RecvTimeoutError::Disconnected) => return Outcome::Died,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(result) = self.leave(id, told) {
                        return Outcome::Answered(result);
                    }
                    return Outcome::TimedOut;
                }
            }
        }
    }

    /// Reads until the answer to this call is there.
    fn read(&self, reader: &mut Reader, id: u64, deadline: Instant) -> Outcome {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let alone = lock(&self.waiting).calls.len() == 1;
            let read = reader.wait_for(left).and_then(|()| match alone && reader.frames.arrives_soon() {
                true => reader.frames.next(),
                false => waits::for_long(|| reader.frames.next()),
            });
            match read {
                Ok(Some((of, message))) => {
                    let caller = {
                        let mut waiting = lock(&self.waiting);
                        waiting.heard = Some(Instant::now());
                        waiting.calls.remove(&of)
                    };
                    let result = decode(&message).and_then(|result| result);
                    match caller {
                        Some(_) if of == id => return Outcome::Answered(result),
                        // A caller that no longer waits has timed out.
                        Some(caller) => drop(caller.tell.send(Told::Answer(result))),
                        None => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() + ABOUT >= deadline {
                        lock(&self.waiting).calls.remove(&id);
                        return Outcome::TimedOut;
                    }
                }
                Ok(None) | Err(_) => {
                    let mut waiting = lock(&self.waiting);
                    waiting.dead = true;
                    waiting.calls.clear();
                    return Outcome::Died;
                }
            }
        }
    }

    fn let_another_read(&self) {
        if let Some(caller) = lock(&self.waiting).calls.values().find(|caller| caller.listens) {
            // It is in the table, so that it waits still or looks before it leaves.
            let _ = caller.tell.send(Told::Read);
        }
    }

    /// Waits no longer. What was told meanwhile is not lost: an answer, or that it should read.
    fn leave(&self, id: u64, told: &Receiver<Told>) -> Option<Result<Answer, DeviceError>> {
        lock(&self.waiting).calls.remove(&id);
        let mut should_read = false;
        for told in told.try_iter() {
            match told {
                Told::Answer(result) => return Some(result),
                Told::Read => should_read = true,
            }
        }
        if should_read {
            self.let_another_read();
        }
        None
    }

    /// Ends the socket: the helper leaves, and all who wait hear that it died.
    pub(super) fn end(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.dead = true;
        waiting.calls.clear();
        // Fails only if the other side is gone.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

fn answer_among(told: &Receiver<Told>) -> Option<Result<Answer, DeviceError>> {
    told.try_iter().find_map(|told| match told {
        Told::Answer(result) => Some(result),
        Told::Read => None,
    })
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
