//! TPMs of swtpm, each a process of its own with a state in a folder of the test's own.

use super::softhsm::run;
use holdfast_hsm::tpm::TpmConfig;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Below the ports that the system gives out by itself.
const FIRST_PORT: u16 = 20_000;
/// Three ports each, at a distance of four.
const PLACES: u16 = 3_000;
const START: Duration = Duration::from_secs(30);

/// A TPM that can be killed, started again, and exchanged.
pub struct SwTpm {
    folder: TempDir,
    /// For commands; the next one is for control, and the one after says that both are taken.
    port: u16,
    _taken: TcpListener,
    process: Child,
}

impl SwTpm {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (port, taken) = free_ports();
        let process = launch(&folder, port);
        Self { folder, port, _taken: taken, process }
    }

    pub fn config(&self) -> TpmConfig {
        TpmConfig::new(self.tcti())
    }

    /// With a folder for the keys that it makes.
    pub fn config_with_keys(&self, folder: &Path) -> TpmConfig {
        TpmConfig { keys: Some(folder.display().to_string()), ..self.config() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The power is gone. What a TPM remembers over that it remembers.
    pub fn kill(&mut self) {
        self.process.kill().expect("swtpm runs");
        self.process.wait().expect("swtpm ends");
    }

    pub fn start_again(&mut self) {
        self.process = launch(&self.folder, self.port);
    }

    /// Another TPM is at its place.
    pub fn exchange(&mut self) {
        self.kill();
        self.folder = tempfile::tempdir().expect("a temporary directory");
        self.start_again();
    }

    /// A program of tpm2-tools. Nobody else may be connected.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let tcti = self.tcti();
        run(name, &[&["-T", &tcti][..], arguments].concat())
    }

    /// Measures something into a register of both banks that are used here.
    pub fn measure(&self, pcr: u8) {
        let (sha256, sha384) = ("5a".repeat(32), "5a".repeat(48));
        self.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={sha256},sha384={sha384}")]);
    }
}

impl Drop for SwTpm {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Two ports in a row that are free, and what keeps others from taking them.
pub fn free_ports() -> (u16, TcpListener) {
    let start = std::process::id() as u16 % PLACES;
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let found = (0..PLACES).find_map(|step| {
        let port = FIRST_PORT + (start + step) % PLACES * 4;
        // The third stays bound, so it is tried first: another test that has it has them all.
        let taken = bind(port + 2).ok()?;
        (bind(port).is_ok() && bind(port + 1).is_ok()).then_some((port, taken))
    });
    found.expect("three free ports")
}

fn launch(folder: &TempDir, port: u16) -> Child {
    let place = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    let mut process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--tpmstate", &format!("dir={}", folder.path().display())])
        .args(["--server", &place(port), "--ctrl", &place(port + 1)])
        .stdin(Stdio::null())
        .spawn()
        .expect("swtpm is needed for this test: make setup");
    let end = Instant::now() + START;
    while TcpStream::connect(("127.0.0.1", port + 1)).is_err() {
        assert!(process.try_wait().expect("a child").is_none(), "swtpm has ended");
        assert!(Instant::now() < end, "swtpm does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    process
}
