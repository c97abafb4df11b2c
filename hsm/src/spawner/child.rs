//! The spawner's own process: a loop that starts and ends helpers.

use super::Programs;
use super::fork::ignore_ending_signals;
use super::message::{self, Reply, Request};
use crate::helper::SUBCOMMAND;
use crate::memory::harden_process;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often ended helpers are looked for while nothing is asked.
const REAP_INTERVAL: Duration = Duration::from_secs(1);
/// Helpers at once: one for each configured device, with room for those that are ending.
const MAX_HELPERS: usize = 64;

/// Serves until the server's end of the socket closes.
pub(super) fn run(socket: OwnedFd, programs: &Programs, server: Pid) {
    ignore_ending_signals();
    let _ = harden_process();
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // The server may have died before the line above.
    if getppid() != Some(server) {
        return;
    }
    let _ = sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(REAP_INTERVAL));
    let mut helpers: HashMap<u64, Child> = HashMap::new();
    let mut last_number = 0;
    loop {
        let received = message::receive(&socket);
        helpers.retain(|_, child| matches!(child.try_wait(), Ok(None)));
        let request = match received {
            Ok((bytes, _)) => Request::from_bytes(&bytes),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(_) => None,
        };
        let (reply, descriptor) = match request {
            Some(Request::Start(_)) if helpers.len() >= MAX_HELPERS => (Reply::Failed(libc::EAGAIN), None),
            Some(Request::Start(program)) => match start(programs.path(program)) {
                Ok((child, descriptor)) => {
                    last_number += 1;
                    let pid = child.id();
                    helpers.insert(last_number, child);
                    (Reply::Started { number: last_number, pid }, Some(descriptor))
                }
                Err(error) => (Reply::Failed(error.raw_os_error().unwrap_or(libc::EIO)), None),
            },
            Some(Request::Kill { number }) => {
                if let Some(mut child) = helpers.remove(&number) {
                    let _ = child.kill();
                    // It is dead; a process stuck in the kernel is not waited for.
                    if matches!(child.try_wait(), Ok(None)) {
                        helpers.insert(number, child);
                    }
                }
                (Reply::Killed, None)
            }
            // End of the socket, or not our server.
            None => break,
        };
        if message::send(&socket, &reply.to_bytes(), descriptor).is_err() {
            break;
        }
    }
    // The sockets of the helpers have closed with the server, so that they log out and
    // leave by themselves; this process need not wait.
}

/// Starts a helper. What is returned is the server's end of its socket.
fn start(helper: &Path) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    // The TPM's libraries write each refusal to standard error, also those that are looked for; ours says what counts.
    let quiet = std::env::var_os("TSS2_LOG").unwrap_or_else(|| "all+NONE".into());
    let child = Command::new(helper)
        .env("TSS2_LOG", quiet)
        .arg0("holdfast")
        .arg(SUBCOMMAND)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .current_dir("/")
        .spawn()?;
    Ok((child, ours.into()))
}
