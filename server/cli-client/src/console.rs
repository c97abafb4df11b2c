//! The process's streams, and questions to the person at the terminal.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Read, Write};

use rustix::process::{self, Signal};
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex};
use zeroize::Zeroizing;

/// Where results (`say`), everything else (`warn`) and stdin go through. A failure to write is kept
/// for the end ([`Console::lost`]).
pub struct Console {
    out: RefCell<Box<dyn Write>>,
    /// The first failure to write a result.
    lost: RefCell<Option<io::Error>>,
    err: RefCell<Box<dyn Write>>,
    stdin: RefCell<Box<dyn Read>>,
    out_is_terminal: bool,
    in_is_terminal: bool,
}

impl Console {
    pub fn of_process() -> Console {
        Console {
            out: RefCell::new(Box::new(BufWriter::new(io::stdout()))),
            lost: RefCell::new(None),
            err: RefCell::new(Box::new(io::stderr())),
            stdin: RefCell::new(Box::new(io::stdin())),
            out_is_terminal: io::stdout().is_terminal(),
            in_is_terminal: io::stdin().is_terminal(),
        }
    }

    #[cfg(test)]
    pub fn of(stdin: &'static [u8]) -> Console {
        Console {
            out: RefCell::new(Box::new(io::sink())),
            lost: RefCell::new(None),
            err: RefCell::new(Box::new(io::sink())),
            stdin: RefCell::new(Box::new(stdin)),
            out_is_terminal: false,
            in_is_terminal: false,
        }
    }

    /// A line of the result, on stdout.
    pub fn say(&self, line: impl Display) {
        self.noting(writeln!(self.out.borrow_mut(), "{line}"));
    }

    /// A bare value on stdout: a line end follows on a terminal only, so that scripts get the value.
    pub fn say_value(&self, value: impl Display) {
        let end = if self.out_is_terminal { "\n" } else { "" };
        self.noting(write!(self.out.borrow_mut(), "{value}{end}"));
    }

    /// Bytes on stdout as they are.
    pub fn say_bytes(&self, bytes: &[u8]) {
        self.noting(self.out.borrow_mut().write_all(bytes));
    }

    /// Bytes on stdout as they are, now. False: nobody reads them any more.
    pub fn say_at_once(&self, bytes: &[u8]) -> bool {
        self.say_bytes(bytes);
        self.flush();
        self.lost.borrow().is_none()
    }

    /// A line that is no result, on stderr.
    pub fn warn(&self, line: impl Display) {
        self.flush();
        let _ = writeln!(self.err.borrow_mut(), "{line}");
    }

    /// Why a part of the result could not be written. A reader that went away is no failure.
    pub fn lost(&self) -> Option<io::Error> {
        self.flush();
        let lost = self.lost.borrow_mut().take();
        lost.filter(|e| e.kind() != io::ErrorKind::BrokenPipe)
    }

    fn noting(&self, written: io::Result<()>) {
        if let Err(e) = written {
            self.lost.borrow_mut().get_or_insert(e);
        }
    }

    pub fn flush(&self) {
        self.noting(self.out.borrow_mut().flush());
    }

    /// Whether somebody can be asked.
    pub fn has_terminal(&self) -> bool {
        self.in_is_terminal
    }

    /// Asks on stderr for something that must not be seen while it is typed.
    pub fn ask_hidden(&self, question: &str) -> io::Result<Zeroizing<String>> {
        self.flush();
        let _ = write!(self.err.borrow_mut(), "{question}");
        let answer = self.hidden_line();
        let _ = writeln!(self.err.borrow_mut());
        answer
    }

    /// As [`Console::ask_hidden`], with the question on stdout.
    pub fn ask_hidden_on_stdout(&self, question: &str) -> io::Result<Zeroizing<String>> {
        let _ = write!(self.out.borrow_mut(), "{question}");
        self.flush();
        let answer = self.hidden_line();
        let _ = writeln!(self.out.borrow_mut());
        answer
    }

    /// All of stdin, as it is.
    pub fn read_stdin(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::new());
        let mut stdin = self.stdin.borrow_mut();
        (&mut *stdin).take(MAX_STDIN_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn hidden_line(&self) -> io::Result<Zeroizing<String>> {
        if !self.in_is_terminal {
            return Err(io::Error::other("file descriptor 0 is not a terminal"));
        }
        let terminal = rustix::stdio::stdin();
        let shown = termios::tcgetattr(terminal)?;
        // An interrupt would leave a terminal that shows nothing: its key ends the line instead, and
        // the signal follows when the terminal is as it was.
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        let interrupt = shown.special_codes[SpecialCodeIndex::VINTR];
        hidden.special_codes[SpecialCodeIndex::VEOL] = interrupt;
        termios::tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
        let mut line = Zeroizing::new(vec![0; MAX_LINE_BYTES]);
        let read = rustix::io::retry_on_intr(|| rustix::io::read(terminal, line.as_mut_slice()));
        termios::tcsetattr(terminal, OptionalActions::Flush, &shown)?;
        line.truncate(read?);
        if line.last() == Some(&interrupt) {
            process::kill_process(process::getpid(), Signal::INT)?;
            // Another thread may be the one that takes it: this one must not end the process otherwise meanwhile.
            std::thread::sleep(TO_END);
            return Err(io::Error::other("interrupted"));
        }
        let line = std::str::from_utf8(&line).map_err(io::Error::other)?;
        Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_string()))
    }
}

/// How long an interrupt may take to end the process, which is at once unless it is ignored.
const TO_END: std::time::Duration = std::time::Duration::from_secs(2);

/// A terminal gives no longer line.
const MAX_LINE_BYTES: usize = 4096;

/// As much as a server takes in one body; more than that is no sensible input.
const MAX_STDIN_BYTES: u64 = 32 << 20;
