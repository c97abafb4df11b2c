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
use crate::frame;
use crate::memory::{allow_unlocked, harden_process, lock_process};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use zeroize::Zeroizing;

/// The name of the subcommand that starts a helper.
pub const SUBCOMMAND: &str = "device-helper";

/// Calls carried out at once; the PKCS#11 backend has as many sessions.
const WORKERS: usize = 4;
/// Calls read ahead. The client has its own, larger bound and answers beyond it.
const QUEUED: usize = 64;
/// The memory that a helper may have of its own: more than any library needs. A length that is garbage ends the helper then, and not
/// the machine.
const MOST_BYTES: u64 = 1 << 30;
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
    let mut reader = UnixStream::from(socket);
    let writer = reader.try_clone().map_err(|error| broken(&error))?;
    let Some((frame::CONFIG_ID, message)) = frame::read(&mut reader).map_err(|error| broken(&error))? else {
        return Err(DeviceError::invalid("this is started by 'holdfast server', not by hand"));
    };
    let config: DeviceConfig = decode(&message)?;
    drop(message);
    environment::set(config.environment());
    // Before any further thread, and before anything of the vendor's is loaded. A helper that cannot be confined, or a
    // device that cannot be opened, answers each call with why.
    let device = confine(&config).and_then(|()| open(config));
    let server = Arc::new(Server { device, writer: Mutex::new(writer) });

    let (queue, calls) = sync_channel(QUEUED);
    let calls = Arc::new(Mutex::new(calls));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (server, calls) = (Arc::clone(&server), Arc::clone(&calls));
            thread::spawn(move || work(&server, &calls))
        })
        .collect();
    while let Ok(Some(frame)) = frame::read(&mut reader) {
        if queue.send(frame).is_err() {
            break;
        }
    }
    drop(queue);
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

struct Server {
    device: Result<Box<dyn KeyDevice>, DeviceError>,
    writer: Mutex<UnixStream>,
}

type Frame = (u64, Zeroizing<Vec<u8>>);

fn work(server: &Server, calls: &Mutex<Receiver<Frame>>) {
    loop {
        let next = calls.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((id, message)) = next else { return };
        let result = answer(server, &message);
        drop(message);
        let bytes = encode(&result);
        let mut writer = server.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // If the server is gone, the end of the socket ends this process.
        let _ = frame::write(&mut *writer, id, &bytes);
    }
}

fn answer(server: &Server, message: &[u8]) -> Result<Answer, DeviceError> {
    let call: Call = decode(message)?;
    let device = server.device.as_ref().map_err(DeviceError::clone)?;
    dispatch(device.as_ref(), &call)
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
