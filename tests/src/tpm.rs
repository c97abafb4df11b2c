//! A TPM of swtpm in a folder of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use crate::program::{command, run};
use crate::{process, until};

/// Below the ports that the system gives out by itself.
const FIRST_PORT: u16 = 20_000;
/// Three ports each, at a distance of four.
const PLACES: u16 = 3_000;
const START: Duration = Duration::from_secs(30);

/// A TPM that can be killed, started again, exchanged, and measured into.
pub struct Tpm {
    folder: PathBuf,
    /// For commands; the next one is for control, and the one after says that both are taken.
    port: u16,
    _taken: TcpListener,
    process: Child,
}

impl Tpm {
    /// A new TPM whose state is in a folder below this one.
    pub fn start(folder: &Path) -> Tpm {
        let folder = folder.join("tpm");
        fs::create_dir_all(&folder).expect("a folder for the TPM");
        let (port, taken) = free_ports();
        let process = launch(&folder, port);
        Tpm { folder, port, _taken: taken, process }
    }

    /// The same with an endorsement key whose certificate is one of a CA of the test's own: as a manufacturer sets it up.
    pub fn start_endorsed(folder: &Path) -> Tpm {
        let (state, ca) = (folder.join("tpm"), folder.join("ca"));
        fs::create_dir_all(&state).expect("a folder for the TPM");
        fs::create_dir_all(&ca).expect("a folder for its CA");
        let place = |name: &str| ca.join(name).display().to_string();
        let localca = ["signingkey = signkey.pem", "issuercert = issuercert.pem", "certserial = certserial"];
        let localca = localca.map(|line| line.replace("= ", &format!("= {}/", ca.display()))).join("\n");
        let options = "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n";
        let setup = format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n\
             active_pcr_banks = sha256,sha384\n",
            place("localca.conf"),
            place("options")
        );
        fs::write(place("localca.conf"), format!("statedir = {}\n{localca}\n", ca.display())).expect("a file");
        fs::write(place("options"), options).expect("a file");
        fs::write(place("setup.conf"), setup).expect("a file");
        let mut made = command("swtpm_setup");
        made.args(["--tpm2", "--create-ek-cert", "--config", &place("setup.conf")]);
        run(made.arg("--tpm-state").arg(format!("dir://{}", state.display()))).good();
        let all = ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|name| fs::read(place(name)).expect("a CA"));
        fs::write(place("ek-ca.pem"), all.concat()).expect("a file");
        Tpm::start(folder)
    }

    /// The CA of a TPM that was made by [`Tpm::start_endorsed`], PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.with_file_name("ca").join("ek-ca.pem")
    }

    /// The root of that CA, and what is between it and the endorsement key's certificate.
    pub fn ca_chain(&self) -> [PathBuf; 2] {
        ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|name| self.folder.with_file_name("ca").join(name))
    }

    /// As `tcti` of a seal and of tpm2-tools names it.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Of its commands.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The power is gone. What a TPM remembers over that it remembers.
    pub fn kill(&mut self) {
        self.process.kill().expect("swtpm runs");
        self.process.wait().expect("swtpm ends");
    }

    pub fn start_again(&mut self) {
        self.process = launch(&self.folder, self.port);
    }

    /// It takes what is asked of it and never answers, until it goes on.
    pub fn freeze(&self) {
        process::signal(self.process.id(), Signal::STOP);
    }

    pub fn go_on(&self) {
        process::signal(self.process.id(), Signal::CONT);
    }

    /// In its place is something that answers whatever it is asked with bytes that mean nothing, until it is dropped; then
    /// the TPM is to be started again.
    #[must_use]
    pub fn babbles(&mut self) -> Babbler {
        self.kill();
        Babbler::start(&[self.port, self.port + 1])
    }

    /// The machine starts anew: the registers are empty again.
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// A new one is soldered in.
    pub fn exchange(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.folder).expect("the TPM's folder");
        fs::create_dir(&self.folder).expect("a folder for the TPM");
        self.start_again();
    }

    /// A program of tpm2-tools; no server may be connected to the TPM.
    #[track_caller]
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        run(command(name).arg("-T").arg(self.tcti()).args(arguments)).good()
    }

    /// Measure something into a register of both banks that tests use.
    #[track_caller]
    pub fn measure(&self, pcr: u8) {
        let (sha256, sha384) = ("5a".repeat(32), "5a".repeat(48));
        self.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={sha256},sha384={sha384}")]);
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Answers garbage at ports of a TPM.
pub struct Babbler {
    ports: Vec<u16>,
    ends: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Babbler {
    fn start(ports: &[u16]) -> Babbler {
        let (ends, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let listen = |port: &u16| {
            let listener = TcpListener::bind(("127.0.0.1", *port)).expect("the port of a TPM that has ended");
            let (ends, answers) = (ends.clone(), answers.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if ends.load(Ordering::SeqCst) {
                        return;
                    }
                    let answers = answers.clone();
                    thread::spawn(move || babble(stream, &answers));
                }
            })
        };
        let threads = ports.iter().map(listen).collect();
        Babbler { ports: ports.to_vec(), ends, answers, threads }
    }

    /// How often it has answered.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        for port in &self.ports {
            // Wakes who listens.
            drop(TcpStream::connect(("127.0.0.1", *port)));
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("it ends");
        }
    }
}

/// One answer to each piece that comes: a head of a TPM's answer with a length that is right, and nothing else that is.
fn babble(mut stream: TcpStream, answers: &AtomicUsize) {
    let mut asked = [0; 4096];
    while let Ok(1..) = stream.read(&mut asked) {
        let mut answer = [0xa5; 42];
        answer[2..6].copy_from_slice(&42_u32.to_be_bytes());
        if stream.write_all(&answer).is_err() {
            return;
        }
        answers.fetch_add(1, Ordering::SeqCst);
    }
}

/// Two ports in a row that are free, and what keeps others from taking them.
pub fn free_ports() -> (u16, TcpListener) {
    // Tests of one run begin at different places.
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

fn launch(folder: &Path, port: u16) -> Child {
    let place = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    let mut swtpm = command("swtpm");
    swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    swtpm.args(["--tpmstate", &format!("dir={}", folder.display())]);
    swtpm.args(["--server", &place(port), "--ctrl", &place(port + 1)]);
    let mut process = swtpm.stdin(Stdio::null()).spawn().expect("swtpm is not installed: make setup");
    until(START, "swtpm", || {
        assert!(process.try_wait().expect("a child can be waited for").is_none(), "swtpm has ended");
        TcpStream::connect(("127.0.0.1", port + 1)).ok()
    });
    process
}
