//! The spawner: a small child of the server, made before threads, keys and listeners,
//! which alone may start processes. It holds no secret. It starts device helpers, hands
//! their sockets back (SCM_RIGHTS), ends those that hang, and ends with the server.

mod child;
#[allow(unsafe_code)]
mod fork;
mod message;

use crate::device::{DeviceError, DeviceErrorClass as Class};
use message::{Reply, Request};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long the spawner may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's end of the spawner. Dropping it ends the spawner and its helpers.
#[derive(Debug)]
pub struct Spawner {
    socket: Mutex<OwnedFd>,
    pid: i32,
}

/// A helper that the spawner has started.
pub(crate) struct Helper {
    /// The spawner's number for it.
    pub(crate) number: u64,
    pub(crate) pid: u32,
    pub(crate) socket: UnixStream,
}

/// Which program a helper is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The server's own.
    Own,
    /// [`TPM_HELPER`].
    Tpm,
}

/// The helper that has the TPM's libraries: they would cost every process of the server's own program 4 MiB. It lies in the
/// same folder.
pub const TPM_HELPER: &str = "holdfast-tpm-helper";

/// Where the programs are.
struct Programs {
    own: PathBuf,
    tpm: PathBuf,
}

impl Programs {
    fn path(&self, program: Program) -> &Path {
        match program {
            Program::Own => &self.own,
            Program::Tpm => &self.tpm,
        }
    }
}

impl Spawner {
    /// Forks the spawner. Must come first in `main`, while there is one thread; helpers
    /// are this program with the argument `device-helper`, or [`TPM_HELPER`] beside it.
    ///
    /// # Errors
    /// If there are other threads already, or the system has no process to give.
    pub fn start() -> io::Result<Self> {
        let own = PathBuf::from("/proc/self/exe");
        let tpm = fs::read_link(&own)?.with_file_name(TPM_HELPER);
        Self::start_programs(Programs { own, tpm })
    }

    /// The same with one program as the helper for all devices.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn start_with(helper: &Path) -> io::Result<Self> {
        Self::start_programs(Programs { own: helper.to_owned(), tpm: helper.to_owned() })
    }

    fn start_programs(programs: Programs) -> io::Result<Self> {
        let threads = fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!(
                "the spawner must be started before any thread, but there are {threads}"
            )));
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(REPLY_TIMEOUT))?;
        let server = rustix::process::getpid();
        let (pid, ours) = fork::with_child(ours, move || child::run(theirs, &programs, server))?;
        Ok(Self { socket: Mutex::new(ours), pid })
    }

    /// Process id of the spawner.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn start_helper(&self, program: Program) -> Result<Helper, DeviceError> {
        match self.ask(&Request::Start(program))? {
            (Reply::Started { number, pid }, Some(socket)) => {
                Ok(Helper { number, pid, socket: UnixStream::from(socket) })
            }
            (Reply::Failed(libc::ENOENT), _) if program == Program::Tpm => Err(DeviceError::new(
                Class::Config,
                format!("there is no {TPM_HELPER} in the server's own folder: install it there"),
            )),
            (Reply::Failed(errno), _) => Err(DeviceError::new(
                Class::HelperDied,
                format!(
                    "no device helper can be started ({}): check memory and process limits",
                    io::Error::from_raw_os_error(errno)
                ),
            )),
            _ => Err(gone(&io::Error::other("it gave another answer than asked for"))),
        }
    }

    /// Ends a helper, however it is stuck. Of no effect if it has ended.
    pub(crate) fn kill(&self, number: u64) {
        if let Err(error) = self.ask(&Request::Kill { number }) {
            tracing::error!(%error, "a device helper that hangs cannot be ended");
        }
    }

    fn ask(&self, request: &Request) -> Result<(Reply, Option<OwnedFd>), DeviceError> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        message::send(&*socket, &request.to_bytes(), None).map_err(|error| gone(&error.into()))?;
        let (bytes, descriptor) = message::receive(&*socket).map_err(|error| gone(&error.into()))?;
        let reply = Reply::from_bytes(&bytes).ok_or_else(|| gone(&io::Error::other("it has ended")))?;
        Ok((reply, descriptor))
    }
}

fn gone(error: &io::Error) -> DeviceError {
    DeviceError::new(
        Class::HelperDied,
        format!("the process that starts device helpers does not answer ({error}): restart the server"),
    )
}
