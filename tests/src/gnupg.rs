//! GnuPG with keys of its own, as holders of shares have it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::program;

/// A key ring in a folder of its own; its agent ends with this value.
pub struct Gnupg {
    home: PathBuf,
}

impl Gnupg {
    pub fn new(folder: &Path) -> Gnupg {
        let home = folder.join("gnupg");
        fs::create_dir(&home).expect("a folder");
        fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).expect("it is ours");
        Gnupg { home }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut gpg = program::command("gpg");
        gpg.env("GNUPGHOME", &self.home).args([
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        program::run_with_input(gpg.args(arguments), b"").good()
    }

    /// A new key's public half in base64.
    pub fn key(&self, name: &str, kind: &str) -> String {
        self.run(&["--quick-generate-key", name, kind]);
        self.run(&["--armor", "--export", name]).lines().filter(|l| is_base64(l)).collect()
    }

    /// Decrypt a message to one of the keys.
    pub fn open(&self, message: &[u8]) -> String {
        let file = self.home.join("message");
        fs::write(&file, message).expect("written");
        self.run(&["--decrypt", &file.display().to_string()]).trim().to_owned()
    }
}

impl Drop for Gnupg {
    fn drop(&mut self) {
        let _agent_ends = program::command("gpgconf").env("GNUPGHOME", &self.home).args(["--kill", "all"]).status();
    }
}

/// A line of the body of ASCII armor: not its frame, its headers or its checksum.
fn is_base64(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(['-', '=']) && !line.contains(':')
}
