//! The files that a server's process may use: Landlock rules over what its configuration names, and the answer to why a
//! path is refused.
//!
//! Rules are on inodes. So what is replaced by renaming (certificates, logs, `/etc/resolv.conf`) is allowed by its folder.

use super::files::{RULES, add, kernel_confines_files};
use landlock::{Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetError, Scope};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What every server reads: how names are resolved, authorities, time zones, itself, the machine.
///
/// `/etc` is one folder here: its files are replaced by renaming, and a server that keeps `resolv.conf`, `hosts` or an
/// authority of last month does not work. Whoever may read what in there stays a matter of permissions.
const READ: &[&str] = &[
    "/etc",
    "/proc",
    "/sys",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/connman",
];

/// Devices of no hardware.
const WRITE: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Variables that say where authorities are.
const AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What a place is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileUse {
    /// Files are read, folders listed.
    Read,
    /// Files and folders are made, written, renamed and removed.
    Write,
    /// Sockets are made and removed.
    Sockets,
    /// Files are made, written and removed, and nothing that is there is read.
    PidFile,
}

impl FileUse {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            FileUse::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            // Devices are not made and programs are not run here.
            FileUse::Write => {
                AccessFs::from_all(RULES) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar)
            }
            FileUse::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ReadDir,
            FileUse::PidFile => AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::RemoveFile | AccessFs::Truncate,
        }
    }
}

/// Files and folders that a server may use, beside those that every server needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFiles {
    places: Vec<(PathBuf, FileUse)>,
}

impl ServerFiles {
    /// Adds a file, or a folder with all that is below it.
    pub fn allow(&mut self, path: &Path, to: FileUse) {
        let place = (std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), to);
        if !self.places.contains(&place) {
            self.places.push(place);
        }
    }

    /// Adds the folder of a file, and the folder of what it leads to if it is a link: the file may be replaced. Of a file
    /// that lies at the root, itself alone.
    pub fn allow_folder_of(&mut self, file: &Path, to: FileUse) {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let real = file.canonicalize().unwrap_or_else(|_| file.clone());
        for file in [file, real] {
            match file.parent().filter(|folder| folder.parent().is_some()) {
                Some(folder) => self.allow(folder, to),
                None => self.allow(&file, to),
            }
        }
    }

    /// Places, and what they are there for.
    pub fn places(&self) -> impl Iterator<Item = (&Path, FileUse)> {
        self.places.iter().map(|(path, to)| (path.as_path(), *to))
    }

    fn with_usual(&self) -> Self {
        let mut all = self.clone();
        READ.iter().for_each(|path| all.allow(Path::new(path), FileUse::Read));
        WRITE.iter().for_each(|path| all.allow(Path::new(path), FileUse::Write));
        for path in ["/etc/resolv.conf", "/etc/localtime", "/proc/self/exe"] {
            all.allow_folder_of(Path::new(path), FileUse::Read);
        }
        for path in AUTHORITIES.iter().filter_map(std::env::var_os) {
            all.allow(Path::new(&path), FileUse::Read);
        }
        // What it was given at its start may be opened anew by its name (`/dev/stderr`).
        for stream in ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"] {
            if let Ok(file) = fs::canonicalize(stream) {
                all.allow(&file, FileUse::Write);
            }
        }
        all
    }
}

/// The rules that this process has; empty until it has any.
static OURS: OnceLock<Rules> = OnceLock::new();

/// What the kernel was told: by inode, as it judges.
#[derive(Debug)]
struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    place: PathBuf,
    inode: (u64, u64),
    to: FileUse,
}

/// Sets the rules, for this thread and those that it starts. `false`: the kernel has no Landlock.
pub(super) fn confine(files: &ServerFiles) -> Result<bool, RulesetError> {
    if !kernel_confines_files() {
        return Ok(false);
    }
    let rules = enforce(&files.with_usual())?;
    // A process confines itself once.
    let _the_first_stays = OURS.set(rules);
    Ok(true)
}

fn enforce(files: &ServerFiles) -> Result<Rules, RulesetError> {
    let mut set = Ruleset::default().handle_access(AccessFs::from_all(RULES))?.scope(Scope::Signal)?.create()?;
    let mut known = Vec::new();
    for (path, to) in files.places() {
        if let Ok(found) = fs::metadata(path) {
            set = add(set, path, to.rights())?;
            known.push(Rule { place: path.to_owned(), inode: (found.dev(), found.ino()), to });
        }
    }
    set.restrict_self()?;
    Ok(Rules(known))
}

/// Why this process may not use a path, where its own rules are why.
pub fn outside_rules(path: &Path, to: FileUse) -> Option<String> {
    OURS.get()?.refuse(path, to)
}

/// An error of a path that the system refused, with the reason where this process's own rules are the reason.
pub fn with_reason(error: io::Error, path: &Path, to: FileUse) -> io::Error {
    match outside_rules(path, to).filter(|_| error.kind() == io::ErrorKind::PermissionDenied) {
        Some(reason) => io::Error::new(io::ErrorKind::PermissionDenied, format!("{error}: {reason}")),
        None => error,
    }
}

impl Rules {
    fn refuse(&self, path: &Path, to: FileUse) -> Option<String> {
        let real = real(path);
        let serves = |rule: &&Rule| rule.to == to || rule.to == FileUse::Write;
        let allowed = real.ancestors().filter_map(|place| fs::metadata(place).ok()).any(|found| {
            let inode = (found.dev(), found.ino());
            self.0.iter().filter(serves).any(|rule| rule.inode == inode)
        });
        if allowed {
            return None;
        }
        if let Some(rule) = self.0.iter().filter(serves).find(|rule| real.starts_with(&rule.place)) {
            return Some(format!(
                "{} was made anew since the server started, and the server's own rules (Landlock) are about the one of \
                 then: restart the server",
                rule.place.display()
            ));
        }
        let (verb, setting) = if to == FileUse::Read { ("read", "read_paths") } else { ("write to", "write_paths") };
        Some(format!(
            "by its own rules (Landlock) the server may {verb} the files and folders that its configuration named when it \
             started: name this folder in {setting} of the stanza confinement, if nothing else there names it, and restart \
             the server"
        ))
    }
}

/// Where a path leads, as far as there is something.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing: Vec<&OsStr> = Vec::new();
    for there in path.ancestors() {
        if let Ok(found) = fs::canonicalize(there) {
            return missing.iter().rev().fold(found, |at, name| at.join(name));
        }
        missing.extend(there.file_name());
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_server_uses_what_its_configuration_names_and_is_told_why_not_the_rest() {
        if !kernel_confines_files() {
            eprintln!("this kernel has no Landlock: nothing is confined, as said in the log");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["data", "tls", "archive", "run", "pid", "elsewhere", "anew"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        std::os::unix::fs::symlink("../archive/file", at("tls/cert.pem")).unwrap();
        let mut files = ServerFiles::default();
        files.allow(&at("data"), FileUse::Write);
        files.allow(&at("anew"), FileUse::Write);
        files.allow(&at("run"), FileUse::Sockets);
        files.allow_folder_of(&at("tls/cert.pem"), FileUse::Read);
        files.allow_folder_of(&at("pid/server.pid"), FileUse::PidFile);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let rules = enforce(&files.with_usual()).unwrap();
                let denied = |outcome: io::Result<()>, path: &str, to: FileUse, says: &str| {
                    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::PermissionDenied, "{path}");
                    let reason = rules.refuse(&at(path), to).unwrap();
                    assert!(reason.contains(says), "{reason}");
                };
                // Replaced, as certificates and logs are.
                fs::write(at("data/new"), "x").unwrap();
                fs::rename(at("data/new"), at("data/file")).unwrap();
                assert_eq!(fs::read_to_string(at("tls/cert.pem")).unwrap(), "archive");
                UnixListener::bind(at("run/socket")).unwrap();
                fs::remove_file(at("run/socket")).unwrap();
                fs::write(at("pid/server.pid"), "1").unwrap();
                fs::remove_file(at("pid/server.pid")).unwrap();
                fs::read_to_string("/etc/hosts").unwrap();
                fs::read_to_string("/proc/self/status").unwrap();
                fs::write("/dev/null", "x").unwrap();

                let read = |path: &str| fs::read_to_string(at(path)).map(drop);
                let write = |path: &str| fs::write(at(path), "x");
                denied(read("elsewhere/file"), "elsewhere/file", FileUse::Read, "read_paths");
                denied(write("elsewhere/new"), "elsewhere/new", FileUse::Write, "write_paths");
                denied(fs::create_dir(at("elsewhere/no")), "elsewhere/no/folder", FileUse::Write, "write_paths");
                denied(write("tls/new"), "tls/new", FileUse::Write, "write_paths");
                denied(write("run/file"), "run/file", FileUse::Write, "write_paths");
                denied(read("pid/file"), "pid/file", FileUse::Read, "read_paths");
                assert_eq!(rules.refuse(&at("data/new"), FileUse::Write), None);
                assert_eq!(rules.refuse(&at("data/no/such/file"), FileUse::Read), None);
                assert!(fs::metadata(at("elsewhere/file")).is_ok(), "names are no secret here");
            });
        });
    }

    #[test]
    fn a_folder_that_was_made_anew_is_said_to_be_so() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("data").canonicalize().unwrap_or(folder.path().join("data"));
        fs::create_dir(&place).unwrap();
        let found = fs::metadata(&place).unwrap();
        let rules =
            Rules(vec![Rule { place: place.clone(), inode: (found.dev(), found.ino() + 1), to: FileUse::Write }]);
        assert!(rules.refuse(&place.join("file"), FileUse::Write).unwrap().contains("was made anew"));
        // Without rules nothing is explained by them.
        let plain = with_reason(io::ErrorKind::PermissionDenied.into(), &place, FileUse::Write);
        assert!(!plain.to_string().contains("Landlock"), "{plain}");
    }
}
