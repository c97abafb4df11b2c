//! One helper's socket: calls go out, a thread brings the answers to those who wait.

use crate::config::DeviceConfig;
use crate::device::{Answer, Call, DeviceError, DeviceErrorClass as Class, decode, encode};
use crate::frame;
use crate::spawner::Helper;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Calls that may wait for one helper.
const MAX_WAITING: usize = 64;
/// The thread that reads answers needs little.
const READER_STACK_BYTES: usize = 256 * 1024;

pub(super) struct Link {
    pub(super) number: u64,
    pub(super) pid: u32,
    writer: Mutex<UnixStream>,
    /// The same socket, to end it while a writer is stuck.
    socket: UnixStream,
    waiting: Arc<Mutex<Waiting>>,
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
    calls: HashMap<u64, SyncSender<Result<Answer, DeviceError>>>,
    last_id: u64,
    dead: bool,
}

impl Link {
    /// Tells a new helper its configuration and starts to read its answers.
    pub(super) fn open(helper: Helper, config: &DeviceConfig, timeout: Duration) -> io::Result<Self> {
        let mut writer = helper.socket;
        writer.set_write_timeout(Some(timeout))?;
        let (mut reader, socket) = (writer.try_clone()?, writer.try_clone()?);
        frame::write(&mut writer, frame::CONFIG_ID, &encode(config))?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let shared = Arc::clone(&waiting);
        thread::Builder::new().name("device-answers".to_owned()).stack_size(READER_STACK_BYTES).spawn(move || {
            while let Ok(Some((id, message))) = frame::read(&mut reader) {
                if let Some(caller) = lock(&shared).calls.remove(&id) {
                    // A caller that no longer waits has timed out.
                    let _ = caller.try_send(decode(&message).and_then(|result| result));
                }
            }
            let mut waiting = lock(&shared);
            waiting.dead = true;
            waiting.calls.clear();
        })?;
        Ok(Self { number: helper.number, pid: helper.pid, writer: Mutex::new(writer), socket, waiting })
    }

    pub(super) fn is_dead(&self) -> bool {
        lock(&self.waiting).dead
    }

    pub(super) fn ask(&self, call: &Call, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        let (sender, answer) = sync_channel(1);
        let id = {
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
            waiting.calls.insert(id, sender);
            id
        };
        let written = {
            let message = encode(call);
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            frame::write(&mut *writer, id, &message)
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
        match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => Outcome::Answered(result),
            Err(RecvTimeoutError::Disconnected) => Outcome::Died,
            Err(RecvTimeoutError::Timeout) => {
                lock(&self.waiting).calls.remove(&id);
                Outcome::TimedOut
            }
        }
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

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
