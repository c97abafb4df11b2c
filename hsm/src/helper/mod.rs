//! `holdfast device-helper`: the process that a vendor's library runs in.
//!
//! Its socket is standard input. The first frame is the configuration, PIN and all;
//! each further frame is a call, carried out by one of a few worker threads. The end of
//! the socket is the end of the helper: it logs out, finalises the module and leaves.

mod environment;
mod log;

use crate::config::{DeviceConfig, OpenDevice};
use crate::confinement::confine;
use crate::device::{Answer, Call, DeviceError, DeviceErrorClass as Class, KeyDevice, decode, dispatch, encode};
use crate::frame::{self, Incoming};
use crate::memory::{allow_unlocked, harden_process, lock_process};
use crate::quick::Quickness;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the subcommand that starts a helper.
pub const SUBCOMMAND: &str = "device-helper";

/// Calls carried out at once; the PKCS#11 backend has as many sessions.
const WORKERS: usize = 4;
/// The memory that a helper may have of its own: more than any library needs. A length that is garbage ends the helper then, and not
/// the machine.
const MOST_BYTES: u64 = 1 << 30;
/// A call that comes so soon after the last one is not slept for.
const POLL_FOR: Duration = Duration::from_micros(100);
/// A call that takes less time than this is work of this processor, and not of a device that has several at once.
const QUICK: Duration = Duration::from_micros(100);
/// For so long a call keeps the socket at most.
const KEEP: Duration = Duration::from_millis(5);
/// Looks without any call, after which nobody looks any more until the next one.
const WATCHES: u32 = 20;
/// How often it is looked whether the server is still there while nobody reads.
const LOOK: Duration = Duration::from_secs(1);
/// How long the helper takes to log out at its end.
const GOODBYE: Duration = Duration::from_secs(2);

/// What `main` does when its first argument is [`SUBCOMMAND`]: the socket is standard
/// input, put there by the spawner. `open` makes the devices that this program has.
pub fn main(open: OpenDevice) -> ExitCode {
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => return failed(&error),
    };
    match run(socket, open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("holdfast {SUBCOMMAND}: {error}");
    ExitCode::FAILURE
}

/// Serves calls on a socket until it ends.
///
/// # Errors
/// If the socket is none, or the first frame no configuration. Errors of the device go
/// to the caller as answers.
pub fn run(socket: OwnedFd, open: OpenDevice) -> Result<(), DeviceError> {
    protect();
    log::to_stderr();
    let reader = UnixStream::from(socket);
    let (writer, socket) = match (reader.try_clone(), reader.try_clone()) {
        (Ok(writer), Ok(socket)) => (writer, socket),
        (Err(error), _) | (_, Err(error)) => return Err(broken(&error)),
    };
    let mut reader = Incoming::new(reader, POLL_FOR);
    let Some((frame::CONFIG_ID, message)) = reader.next().map_err(|error| broken(&error))? else {
        return Err(DeviceError::invalid("this is started by 'holdfast server', not by hand"));
    };
    let config: DeviceConfig = decode(&message)?;
    drop(message);
    environment::set(config.environment());
    // Before any further thread, and before anything of the vendor's is loaded. A helper that cannot be confined, or a
    // device that cannot be opened, answers each call with why.
    let device = confine(&config).and_then(|()| open(config));
    let server = Arc::new(Server {
        device,
        reader: Mutex::new(reader),
        writer: Mutex::new(writer),
        state: Mutex::new(State::new()),
        changed: Condvar::new(),
        free: Condvar::new(),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|own| {
            let server = Arc::clone(&server);
            thread::spawn(move || server.work(own))
        })
        .collect();
    server.until_ended(&socket);
    leave_in_time();
    for worker in workers {
        // A worker that panicked has ended the process already.
        let _ = worker.join();
    }
    if let Ok(device) = &server.device {
        device.log_out();
    }
    Ok(())
}

/// Best effort: the helper works without, and the server's own protection is not at stake.
fn protect() {
    allow_unlocked();
    let _ = harden_process();
    let _ = lock_process();
    let most = Rlimit { current: Some(MOST_BYTES), maximum: Some(MOST_BYTES) };
    let _ = setrlimit(Resource::Data, most);
    // If the spawner dies, so does this process; the end of the socket would tell as well.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        // A device in an unknown state is worse than a new process.
        std::process::exit(101);
    }));
}

/// What the workers share. Each reads its next call from the socket itself: a call that is handed from one thread to
/// another waits for both to be woken.
///
/// One has the socket at a time. Who got a call leaves the socket to another one, so that a device that works at several
/// calls at once gets them; while calls take hardly any time it is kept, since to wake the other one would take as long. A
/// call that takes long all the same loses the socket to another worker, by whoever watches ([`Server::until_ended`]).
struct Server {
    device: Result<Box<dyn KeyDevice>, DeviceError>,
    reader: Mutex<Incoming>,
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    /// For who watches.
    changed: Condvar,
    /// Nobody has the socket.
    free: Condvar,
}

struct State {
    /// Workers with a call. If all have one, nobody reads.
    busy: usize,
    /// The socket has.
    ended: bool,
    /// The worker that has the socket.
    reading: Option<usize>,
    /// Since when it works at a call and keeps the socket.
    kept_since: Option<Instant>,
    /// Whether the socket is kept during the next call.
    quick: Quickness,
    /// Somebody looks after who keeps the socket.
    watched: bool,
    /// Calls that were begun while the socket was kept.
    kept: u64,
}

impl State {
    fn new() -> State {
        let quick = Quickness::below(QUICK);
        State { busy: 0, ended: false, reading: None, kept_since: None, quick, watched: false, kept: 0 }
    }
}

impl Server {
    fn work(&self, own: usize) {
        loop {
            if !self.take_socket(own) {
                return;
            }
            loop {
                let next = {
                    let mut reader = lock(&self.reader);
                    // Whatever comes of it.
                    reader.arrives_soon();
                    reader.next()
                };
                let Ok(Some((id, message))) = next else {
                    lock(&self.state).ended = true;
                    self.changed.notify_all();
                    self.free.notify_all();
                    return;
                };
                let begun = Instant::now();
                self.begin(begun);
                let result = self.answer(&message);
                drop(message);
                let bytes = encode(&result);
                // If the server is gone, the end of the socket ends this process.
                let _ = frame::write(&mut *lock(&self.writer), id, &bytes);
                if !self.end(own, begun.elapsed()) {
                    break;
                }
            }
        }
    }

    /// Waits for the socket. `false`: it has ended.
    fn take_socket(&self, own: usize) -> bool {
        let waits = |state: &mut State| state.reading.is_some() && !state.ended;
        let mut state = self.free.wait_while(lock(&self.state), waits).unwrap_or_else(PoisonError::into_inner);
        state.reading = Some(own);
        !state.ended
    }

    /// Who has the socket has a call.
    fn begin(&self, now: Instant) {
        let mut state = lock(&self.state);
        state.busy += 1;
        if state.quick.is_quick() {
            state.kept_since = Some(now);
            state.kept += 1;
            if !state.watched {
                self.changed.notify_all();
            }
        } else {
            state.reading = None;
            self.free.notify_one();
        }
        if state.busy == WORKERS {
            self.changed.notify_all();
        }
    }

    /// The call has ended. Whether the worker has the socket still.
    fn end(&self, own: usize, took: Duration) -> bool {
        let mut state = lock(&self.state);
        let together = state.busy;
        state.busy -= 1;
        if together == WORKERS {
            self.changed.notify_all();
        }
        state.quick.took(took, together);
        let has = state.reading == Some(own);
        if has {
            state.kept_since = None;
        }
        has
    }

    fn answer(&self, message: &[u8]) -> Result<Answer, DeviceError> {
        let call: Call = decode(message)?;
        let device = self.device.as_ref().map_err(DeviceError::clone)?;
        dispatch(device.as_ref(), &call)
    }

    /// Waits until the other side has closed the socket. A worker that reads sees it; while all of them have a call, which
    /// may never end, it is looked for. Takes the socket from who keeps it for too long.
    fn until_ended(&self, socket: &UnixStream) {
        let mut state = lock(&self.state);
        let (mut kept, mut idle) = (0, 0);
        while !state.ended {
            if state.kept_since.is_some_and(|since| since.elapsed() >= KEEP) {
                (state.reading, state.kept_since) = (None, None);
                self.free.notify_one();
            }
            idle = if state.kept == kept { idle + 1 } else { 0 };
            kept = state.kept;
            state.watched = state.kept_since.is_some() || (state.quick.is_quick() && idle < WATCHES);
            let limit = match state.busy {
                WORKERS => Some(LOOK),
                _ if state.watched => Some(KEEP),
                _ => None,
            };
            state = match limit {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
            };
            if state.busy == WORKERS && has_ended(socket) {
                return;
            }
        }
    }
}

/// Whether the other side has closed the socket. Calls that it wrote before stand before what reading would show; a send
/// of nothing tells it.
fn has_ended(socket: &UnixStream) -> bool {
    use rustix::net::{SendFlags, send};
    matches!(send(socket, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT), Err(rustix::io::Errno::PIPE))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process if a library hangs while everything is closed.
fn leave_in_time() {
    thread::spawn(|| {
        thread::sleep(GOODBYE);
        std::process::exit(0);
    });
}

fn broken(error: &io::Error) -> DeviceError {
    DeviceError::new(Class::Failed, format!("the socket of the device helper does not work ({error})"))
}
