//! A program at a pseudo terminal, as a person has it before them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::{audited, until};

/// Time for a person's patience.
const LIMIT: Duration = Duration::from_secs(20);
const ROWS: u16 = 24;

/// A program whose three streams are a terminal, which is its controlling one.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Ends when nobody holds the other side any more.
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Start a program at a terminal of so many columns.
    #[track_caller]
    pub fn start(command: &Command, columns: u16) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo terminal");
        grantpt(&ours).expect("its other side");
        unlockpt(&ours).expect("its other side");
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).expect("a size");
        let path = ptsname(&ours, Vec::new()).expect("its name").into_string().expect("a text");
        let theirs = || {
            const O_NOCTTY: i32 = 0o400;
            let file = File::options().read(true).write(true).custom_flags(O_NOCTTY).open(&path);
            Stdio::from(file.expect("the other side"))
        };
        // A session of its own can be made before the program runs only; this one does just that.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            session.current_dir(folder);
        }
        session.stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = session.spawn().unwrap_or_else(|e| panic!("{session:?} cannot be started: {e}"));
        let keyboard = File::from(ours);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let reader = read_in_background(keyboard.try_clone().expect("a second handle"), screen.clone());
        Terminal { child, keyboard, screen, reader }
    }

    /// Everything that was shown so far, with the terminal's own line ends.
    pub fn shown(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&screen).into_owned()
    }

    #[track_caller]
    pub fn until_shown(&self, text: &str) {
        let shown = || format!("{text:?} on a terminal that shows {:?}", self.shown());
        // What was shown in the end is of interest only where it fails.
        let end = std::time::Instant::now() + LIMIT;
        while !self.shown().contains(text) {
            assert!(std::time::Instant::now() < end, "waited in vain for {}", shown());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Press keys.
    pub fn type_keys(&mut self, keys: &str) {
        // What is not shown is a secret.
        if !self.echoes() {
            audited::secrets::sent_password(keys.trim_end());
        }
        self.keyboard.write_all(keys.as_bytes()).expect("somebody listens");
    }

    /// Whether what is typed is shown.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard).expect("the terminal's modes").local_modes.contains(LocalModes::ECHO)
    }

    /// Wait until what is typed is not shown, as it should be before a secret is asked for.
    #[track_caller]
    pub fn until_silent(&self) {
        until(LIMIT, "a terminal that does not show what is typed", || (!self.echoes()).then_some(()));
    }

    /// Wait for the program's end: its exit code (128 and a signal's number), and all that was shown.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt;
        let status = until(LIMIT, "the program's end", || self.child.try_wait().expect("a child can be waited for"));
        // What it wrote last may still be on its way.
        until(LIMIT, "the last of the screen", || self.reader.is_finished().then_some(()));
        let code = status.code().or(status.signal().map(|s| 128 + s));
        (code.expect("a code or a signal"), self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn read_in_background(mut from: File, screen: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut part = [0; 4096];
        // The end is an error: nobody holds the other side any more.
        while let Ok(n @ 1..) = from.read(&mut part) {
            screen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&part[..n]);
        }
    })
}
