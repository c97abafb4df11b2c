//! tpm2-pkcs11: a PKCS#11 token whose keys are a TPM's, on swtpm.
//!
//! Between the two stands the resource manager of tpm2-tss (tpm2-abrmd, on a message bus of the test's own), as the kernel's
//! or this one does on a machine: without one, keys of a process that was killed stay in the TPM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::program::{command, run};
use crate::tpm::Tpm;
use crate::until;

pub const LABEL: &str = "holdfast";
pub const PIN: &str = "tpm-4711-horse";
const SO_PIN: &str = "security-officer";
const TCTI: &str = "tabrmd:bus_type=session";
const START: Duration = Duration::from_secs(30);

/// A TPM with its resource manager, and the store with which it is a token.
pub struct TpmToken {
    manager: Process,
    bus: Process,
    tpm: Tpm,
    folder: PathBuf,
}

/// Its library.
pub fn library() -> PathBuf {
    let found = ["/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so", "/usr/lib/pkcs11/libtpm2_pkcs11.so"];
    let found = found.iter().map(Path::new).find(|p| p.exists());
    found.expect("libtpm2_pkcs11.so is not installed: make setup").to_owned()
}

impl TpmToken {
    /// A token with the label [`LABEL`] and the PIN [`PIN`], in a folder below this one.
    pub fn start(folder: &Path) -> TpmToken {
        let folder = folder.join("tpm2-pkcs11");
        fs::create_dir_all(folder.join("store")).expect("a folder for tpm2-pkcs11");
        let tpm = Tpm::start(&folder);
        let bus = bus(&folder);
        let manager = manager(&folder, &tpm);
        let token = TpmToken { manager, bus, tpm, folder };
        token.tool(&["--init-token", "--slot-index", "0", "--label", LABEL, "--so-pin", SO_PIN]);
        let login = ["--login", "--login-type", "so", "--so-pin", SO_PIN];
        token.tool(&[&["--init-pin", "--token-label", LABEL, "--pin", PIN][..], &login].concat());
        token
    }

    /// What OpenSC's tool says of it.
    #[track_caller]
    pub fn tool(&self, arguments: &[&str]) -> String {
        let mut tool = command("pkcs11-tool");
        tool.arg("--module").arg(library()).args(arguments).envs(self.environment()).env("TSS2_LOG", "all+NONE");
        run(&mut tool).good()
    }

    /// The variables by which its library finds store and TPM.
    pub fn environment(&self) -> [(String, String); 3] {
        [
            ("TPM2_PKCS11_STORE".to_owned(), self.store().display().to_string()),
            ("TPM2_PKCS11_TCTI".to_owned(), TCTI.to_owned()),
            ("DBUS_SESSION_BUS_ADDRESS".to_owned(), bus_address(&self.folder)),
        ]
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The machine's TPM is off, and its manager.
    pub fn switch_off(&mut self) {
        self.manager.end();
        self.tpm.kill();
    }

    /// And on again.
    pub fn switch_on(&mut self) {
        self.tpm.start_again();
        self.manager = manager(&self.folder, &self.tpm);
    }

    /// The keys of a stanza that name it.
    pub fn keys(&self) -> String {
        let variables = self.environment().map(|(name, value)| format!("\"{name}={value}\""));
        format!(
            "lib = \"{}\"\n lib_environment = [{}]\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"",
            library().display(),
            variables.join(", ")
        )
    }
}

impl Drop for TpmToken {
    fn drop(&mut self) {
        // Before the TPM, which ends with its own value.
        self.manager.end();
        self.bus.end();
    }
}

fn bus_address(folder: &Path) -> String {
    format!("unix:path={}", folder.join("bus").display())
}

fn bus(folder: &Path) -> Process {
    let mut daemon = command("dbus-daemon");
    daemon.args(["--session", "--nofork", "--nopidfile", "--address", &bus_address(folder)]);
    let process = Process::start(&mut daemon, folder, "dbus-daemon");
    until(START, "the message bus", || folder.join("bus").exists().then_some(()));
    process
}

fn manager(folder: &Path, tpm: &Tpm) -> Process {
    let mut manager = command("tpm2-abrmd");
    manager.args(["--session", "--allow-root", "--flush-all"]).arg(format!("--tcti={}", tpm.tcti()));
    manager.env("DBUS_SESSION_BUS_ADDRESS", bus_address(folder));
    let process = Process::start(&mut manager, folder, "tpm2-abrmd");
    until(START, "the TPM's resource manager", || {
        let mut ask = command("tpm2_getrandom");
        ask.args(["-T", TCTI, "8"]).env("DBUS_SESSION_BUS_ADDRESS", bus_address(folder)).env("TSS2_LOG", "all+NONE");
        (run(&mut ask).code == Some(0)).then_some(())
    });
    process
}

struct Process(Child);

impl Process {
    /// What it says goes to a file of the folder.
    fn start(command: &mut Command, folder: &Path, name: &str) -> Process {
        let log = fs::File::create(folder.join(format!("{name}.log"))).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Process(child.unwrap_or_else(|e| panic!("{name} is not installed ({e}): make setup")))
    }

    fn end(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
