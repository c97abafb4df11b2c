//! The one fork of the server.

use std::io;

/// Forks. The child drops `parents` (what the parent alone keeps), runs `child` and
/// leaves; the parent gets the child's process id and `parents` back.
///
/// The caller makes sure that there is one thread only.
pub(super) fn with_child<T>(parents: T, child: impl FnOnce()) -> io::Result<(i32, T)> {
    // SAFETY: there is one thread, so that the child is a whole copy of the process: no
    // lock is held by a thread that is not there. It never returns into the caller's
    // code, and leaves by `_exit`, so that the parent's exit handlers and buffers run
    // and flush once.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(parents);
            // A panic must not unwind into the copy of the server's `main`.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: leaves at once.
            unsafe { libc::_exit(0) }
        }
        pid => Ok((pid, parents)),
    }
}

/// Ignores the signals that end a process group: the spawner ends with the server, which
/// may still need its helpers to shut down.
pub(super) fn ignore_ending_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: sets a disposition, installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
