//! Running other programs: the binary under test, the stock clients, system tools.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::audited;

/// No program here has a reason to take longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The binary under test.
pub fn holdfast() -> PathBuf {
    let path = match std::env::var_os("HOLDFAST_BIN") {
        Some(p) => PathBuf::from(p),
        None => repository().join("target/release/holdfast"),
    };
    assert!(path.is_file(), "{} is not there: build it with `make build`, or set HOLDFAST_BIN", path.display());
    path.canonicalize().expect("a path that exists")
}

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// A stock client of the environment that `scripts/setup` makes.
pub fn stock(name: &str) -> PathBuf {
    let tools = std::env::var_os("HOLDFAST_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        target.unwrap_or_else(|| repository().join("target")).join("tools")
    });
    let path = repository().join(tools).join("venv/bin").join(name);
    assert!(path.exists(), "{} is not there: `make setup` installs the stock clients", path.display());
    path
}

/// What a program did.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    shown: String,
}

impl Output {
    /// The standard output of a program that succeeded.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{} failed:\n{}{}", self.shown, self.stdout, self.stderr);
        self.stdout
    }

    /// Both outputs of a program that failed with that exit code.
    #[track_caller]
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}:\n{}{}", self.shown, self.stdout, self.stderr);
        self.stdout + &self.stderr
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.good();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
    }
}

/// A command whose environment says nothing about servers and tokens.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let known = ["VAULT_", "BAO_", "HOLDFAST_", "SOFTHSM2_"];
        if name.to_str().is_some_and(|n| known.iter().any(|k| n.starts_with(k))) {
            command.env_remove(name);
        }
    }
    command
}

/// Run a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_with_input(command, b"")
}

/// Run a command to its end, with something on its standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let shown = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{shown} cannot be started: {e}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program may leave without having read everything.
    let _closed_early = stdin.write_all(input);
    drop(stdin);
    let out = in_background(child.stdout.take().expect("it is piped"));
    let err = in_background(child.stderr.take().expect("it is piped"));
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > end {
            let _ended_just_now = child.kill();
            let _reaped = child.wait();
            panic!("{shown} did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(3));
    };
    let output = Output { code: status.code(), stdout: text(out), stderr: text(err), shown };
    let arguments: Vec<String> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    audited::secrets::ran(&arguments, input, &output.stdout);
    output
}

type Reader = thread::JoinHandle<std::io::Result<Vec<u8>>>;

fn in_background(mut from: impl Read + Send + 'static) -> Reader {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map(|_| bytes)
    })
}

fn text(reader: Reader) -> String {
    let bytes = reader.join().expect("reading does not panic").unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
