//! A SoftHSM token in a folder of the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{command, run};

pub const LABEL: &str = "holdfast";
pub const PIN: &str = "correct-horse-4711";

/// A token that can be pulled out and put back.
#[derive(Debug)]
pub struct Token {
    folder: PathBuf,
}

/// A token beside another one of the same SoftHSM.
#[derive(Debug)]
pub struct Beside {
    pub label: String,
    folder: PathBuf,
    out: PathBuf,
}

impl Beside {
    pub fn pull_out(&self) {
        fs::rename(&self.folder, &self.out).expect("the token is in");
    }

    pub fn put_back(&self) {
        fs::rename(&self.out, &self.folder).expect("the token is out");
    }
}

/// SoftHSM's library.
pub fn library() -> PathBuf {
    let found = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    let found = found.iter().map(Path::new).find(|p| p.is_file());
    found.expect("libsofthsm2.so is not installed: make setup").to_owned()
}

impl Token {
    /// Make a token with the label [`LABEL`] and the PIN [`PIN`].
    pub fn make(folder: &Path) -> Token {
        fs::create_dir_all(folder.join("tokens")).expect("a folder for tokens");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            folder.join("tokens").display()
        );
        fs::write(folder.join("softhsm2.conf"), conf).expect("a configuration for SoftHSM");
        let token = Token { folder: folder.to_owned() };
        let mut init = command("softhsm2-util");
        init.args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "security-officer"]);
        run(init.env("SOFTHSM2_CONF", token.conf())).good();
        token
    }

    /// This one, while it is alone, as one that goes and comes beside others.
    pub fn itself(&self) -> Beside {
        let mut entries = fs::read_dir(self.folder.join("tokens")).expect("the folder of tokens");
        let folder = entries.next().expect("its folder").expect("an entry").path();
        assert!(entries.next().is_none(), "it is not alone");
        Beside { out: self.folder.join("out-itself"), folder, label: LABEL.to_owned() }
    }

    /// Another token beside this one, which SoftHSM offers too, with the same PIN.
    pub fn another(&self, label: &str) -> Beside {
        let tokens = self.folder.join("tokens");
        let entries = || {
            let entries = fs::read_dir(&tokens).expect("the folder of tokens").map(|e| e.expect("an entry").path());
            entries.collect::<std::collections::BTreeSet<PathBuf>>()
        };
        let before = entries();
        let mut init = command("softhsm2-util");
        init.args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "security-officer"]);
        run(init.env("SOFTHSM2_CONF", self.conf())).good();
        let made = entries().difference(&before).next().expect("a folder of the new token").clone();
        Beside { out: self.folder.join(format!("out-{label}")), folder: made, label: label.to_owned() }
    }

    /// The keys of a seal by the token of this label, which makes its key there.
    pub fn keys(&self, label: &str) -> String {
        format!(
            " lib = \"{}\"\n token_label = \"{label}\"\n key_label = \"holdfast-root\"\n generate_key = true\n \
             pin = \"{PIN}\"\n helper_write_paths = [\"{}\"]\n",
            library().display(),
            self.folder.display()
        )
    }

    /// The value of `SOFTHSM2_CONF`.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// A server's seal by this token, which makes its key there.
    pub fn seal(&self) -> String {
        format!(
            "seal \"pkcs11\" {{\n lib = \"{}\"\n token_label = \"{LABEL}\"\n key_label = \"holdfast-root\"\n \
             generate_key = true\n pin = \"{PIN}\"\n helper_write_paths = [\"{}\"]\n}}\n",
            library().display(),
            self.folder.display()
        )
    }

    /// Pull the token out: its folder is elsewhere, SoftHSM finds no token any more.
    pub fn pull_out(&self) {
        fs::rename(self.folder.join("tokens"), self.folder.join("pulled-out")).expect("the token is in");
        fs::create_dir(self.folder.join("tokens")).expect("an empty folder for tokens");
    }

    /// Put it back.
    pub fn put_back(&self) {
        fs::remove_dir_all(self.folder.join("tokens")).expect("the empty folder");
        fs::rename(self.folder.join("pulled-out"), self.folder.join("tokens")).expect("the token is out");
    }

    /// Whether the token has seen a wrong PIN since the last right one.
    pub fn has_seen_a_wrong_pin(&self) -> bool {
        let mut list = command("pkcs11-tool");
        list.arg("--module").arg(library()).arg("--list-token-slots").env("SOFTHSM2_CONF", self.conf());
        let slots = run(&mut list).good();
        let own = slots.split("Slot ").find(|s| s.contains(&format!(": {LABEL}\n")));
        own.unwrap_or_else(|| panic!("the token is not listed: {slots}")).contains("PIN count low")
    }
}
