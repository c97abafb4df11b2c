//! The installed GnuPG with a home of its own.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Gpg {
    home: tempfile::TempDir,
}

pub struct Decrypted {
    pub plaintext: Vec<u8>,
    /// The symmetric algorithm's number in OpenPGP.
    pub cipher: u8,
    /// Long id of the key that the session key was encrypted to.
    pub recipient: String,
}

impl Gpg {
    pub fn new() -> Gpg {
        // Sockets live in it, whose paths must be short.
        let home = tempfile::Builder::new().prefix("hf").tempdir_in("/tmp").unwrap();
        Gpg { home }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path()).env("LC_ALL", "C.UTF-8");
        command.args(["--batch", "--quiet", "--no-tty", "--yes", "--trust-model", "always"]);
        command.args(["--pinentry-mode", "loopback", "--passphrase", ""]);
        command
    }

    fn run(&self, command: &mut Command, input: &[u8]) -> (Vec<u8>, String) {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need GnuPG: apt-get install gnupg");
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _gpg_may_have_ended_first = writer.join().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {errors}");
        (output.stdout, errors)
    }

    /// Run one command on whatever `what` names.
    pub fn with(&self, _what: &str, arguments: &[&str]) -> Vec<u8> {
        self.run(self.command().args(arguments), b"").0
    }

    pub fn make(&self, uid: &str, algorithm: &str, usage: &str, expires: &str) {
        self.with(uid, &["--quick-generate-key", uid, algorithm, usage, expires]);
    }

    pub fn add_subkey(&self, uid: &str, algorithm: &str, usage: &str, expires: &str) {
        self.with(uid, &["--quick-add-key", &self.fingerprint(uid), algorithm, usage, expires]);
    }

    pub fn export(&self, uid: &str) -> Vec<u8> {
        self.with(uid, &["--export", uid])
    }

    pub fn export_armoured(&self, uid: &str) -> String {
        String::from_utf8(self.with(uid, &["--armor", "--export", uid])).unwrap()
    }

    fn colons(&self, uid: &str, record: &str, field: usize) -> Vec<String> {
        let listing = self.with(uid, &["--with-colons", "--list-keys", uid]);
        let listing = String::from_utf8(listing).unwrap();
        let rows = listing.lines().map(|l| l.split(':').collect::<Vec<_>>());
        rows.filter(|r| record.split('|').any(|k| k == r[0])).map(|r| r[field].to_owned()).collect()
    }

    /// The primary key's, in lower case.
    pub fn fingerprint(&self, uid: &str) -> String {
        self.colons(uid, "fpr", 9)[0].to_lowercase()
    }

    /// Long ids of the primary key and the subkeys, in order.
    pub fn key_ids(&self, uid: &str) -> Vec<String> {
        self.colons(uid, "pub|sub", 4)
    }

    pub fn decrypt(&self, message: &[u8]) -> Decrypted {
        let (plaintext, status) = self.run(self.command().args(["--status-fd", "2", "--decrypt"]), message);
        let words = |key: &str| -> Vec<String> {
            let line = status.lines().find_map(|l| l.strip_prefix(&format!("[GNUPG:] {key} ")));
            let line = line.unwrap_or_else(|| panic!("no {key} in {status}"));
            line.split(' ').map(str::to_owned).collect()
        };
        assert!(status.contains("[GNUPG:] GOODMDC"), "{status}");
        let cipher = words("DECRYPTION_INFO")[1].parse().unwrap();
        Decrypted { plaintext, cipher, recipient: words("ENC_TO")[0].clone() }
    }

    /// Import the revocation certificate that GnuPG made with the key.
    pub fn revoke(&self, uid: &str) {
        let name = format!("{}.rev", self.fingerprint(uid).to_uppercase());
        let path: PathBuf = self.home.path().join("openpgp-revocs.d").join(name);
        let certificate = std::fs::read_to_string(path).unwrap().replace(":-----BEGIN", "-----BEGIN");
        self.run(self.command().arg("--import"), certificate.as_bytes());
    }

    /// Revoke the nth subkey, counted from one.
    pub fn revoke_subkey(&self, uid: &str, n: usize) {
        let answers = format!("key {n}\nrevkey\ny\n0\n\ny\nsave\n");
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path()).env("LC_ALL", "C.UTF-8");
        command.args([
            "--no-tty",
            "--command-fd",
            "0",
            "--status-fd",
            "2",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        self.run(command.args(["--edit-key", uid]), answers.as_bytes());
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut kill = Command::new("gpgconf");
        let _it_ends_with_its_home_too = kill.env("GNUPGHOME", self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}

/// A time as `--faked-system-time` takes it.
pub fn seconds_from_now(later: Duration) -> String {
    let then = SystemTime::now() + later;
    then.duration_since(UNIX_EPOCH).unwrap().as_secs().to_string()
}
