//! opencryptoki's soft token, with a daemon, folders and shared memory of the test's own.
//!
//! Its places are fixed, and its memory is known by a fixed key (System V). So daemon, tools and servers run in mount
//! and IPC namespaces in which those places are folders of the test's; nothing of the machine's own is seen or touched.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::program::{command, run};

pub const LABEL: &str = "holdfast";
/// No longer than eight signs.
pub const PIN: &str = "ock-4711";
const SO_PIN: &str = "87654321";
const SLOT: &str = "3";

/// Says `ready` when the daemon serves; ends it when its own standard input ends, also if the test was killed.
const SCRIPT: &str = r#"
set -e
cd "$1"
mkdir -p etc run/lock/opencryptoki lib/swtok/TOK_OBJ log/opencryptoki shm
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' > etc/opencryptoki.conf
if [ "$2" != 0 ]; then
  # Not root outside: the one group that there is here is the daemon's.
  sed 's/^pkcs11:x:[0-9]*:/pkcs11:x:0:/' /etc/group > group
  mount --bind group /etc/group
fi
mount --bind etc /etc/opencryptoki
mount --bind lib /var/lib/opencryptoki
mount --bind log /var/log
mount --bind shm /dev/shm
mount --bind run /run
chgrp -R pkcs11 /var/lib/opencryptoki /run/lock/opencryptoki /var/log/opencryptoki
chmod -R ug+rwX,o-rwx /var/lib/opencryptoki /run/lock/opencryptoki /var/log/opencryptoki
pkcsslotd >&2
while ! [ -S /run/pkcsslotd.socket ]; do sleep 0.02; done
echo ready
cat > /dev/null || true
# It does not end for less while a process that used it has not left; what they share ends with the namespace.
kill -9 "$(cat /run/pkcsslotd.pid)"
"#;

/// A token that can be lost and put back.
pub struct Opencryptoki {
    folder: PathBuf,
    /// In whose namespaces the daemon runs.
    keeper: Child,
    is_root: bool,
}

/// Its library.
pub fn library() -> PathBuf {
    let found =
        ["/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0", "/usr/lib/opencryptoki/libopencryptoki.so"];
    let found = found.iter().map(Path::new).find(|p| p.exists());
    found.expect("libopencryptoki.so is not installed: make setup").to_owned()
}

impl Opencryptoki {
    /// A daemon, and a token with the label [`LABEL`] and the PIN [`PIN`], in a folder below this one.
    pub fn start(folder: &Path) -> Opencryptoki {
        let folder = folder.join("opencryptoki");
        fs::create_dir_all(&folder).expect("a folder for opencryptoki");
        let user = rustix::process::geteuid();
        let mut unshare = command("unshare");
        unshare.args(["--mount", "--ipc", "--propagation", "private"]);
        if !user.is_root() {
            unshare.arg("--map-root-user");
        }
        unshare.args(["--", "sh", "-c", SCRIPT, "sh"]).arg(&folder).arg(user.as_raw().to_string());
        let child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut keeper = child.expect("unshare (util-linux) can be started");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is read");
        assert_eq!(line, "ready\n", "opencryptoki's daemon did not start: make setup, and see the lines above");
        let token = Opencryptoki { folder, keeper, is_root: user.is_root() };
        token.initialise();
        token
    }

    fn initialise(&self) {
        self.tool(&["--init-token", "--slot", SLOT, "--label", LABEL, "--so-pin", SO_PIN]);
        let login = ["--login", "--login-type", "so", "--so-pin", SO_PIN];
        self.tool(&[&["--init-pin", "--slot", SLOT, "--pin", PIN][..], &login].concat());
    }

    /// What OpenSC's tool says of it.
    #[track_caller]
    pub fn tool(&self, arguments: &[&str]) -> String {
        let mut tool = command("pkcs11-tool");
        tool.arg("--module").arg(library()).args(arguments);
        run(&mut self.enter(&tool)).good()
    }

    /// The command as one that sees this token.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.keeper.id().to_string(), "--mount", "--ipc"]);
        if !self.is_root {
            inside.args(["--user", "--preserve-credentials"]);
        }
        inside.arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// The keys of a stanza that name it.
    pub fn keys(&self) -> String {
        format!("lib = \"{}\"\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"", library().display())
    }

    /// The folder of the token's keys, as files.
    pub fn objects(&self) -> PathBuf {
        self.folder.join("lib/swtok/TOK_OBJ")
    }
}

impl Drop for Opencryptoki {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _reaped = self.keeper.wait();
    }
}
