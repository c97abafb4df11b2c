//! The machine: limits, room on its disks, and its clock.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_config::{Config, Landlock, Storage};
use rustix::process::{Resource, getrlimit};

use super::report::Check;
use crate::server::walls;

/// A server needs one for each connection, and some for itself.
const FEW_FILES: u64 = 4096;
const TOO_FEW_FILES: u64 = 1024;
/// CAP_IPC_LOCK (capabilities(7)).
const IPC_LOCK: u64 = 14;
/// No server of this version is older.
const BUILT: u64 = 1_796_000_000 - 365 * 86_400;
/// What a file's time may be ahead of the clock.
const AHEAD: Duration = Duration::from_secs(5);

pub fn check(config: Option<&Config>) -> Check {
    let mut all = vec![open_files()];
    if let Some(config) = config {
        all.push(locked_memory(config));
    }
    all.extend(config.map(landlock));
    all.extend(disks(config));
    all.push(clock(config));
    Check::of("Check Operating System", all)
}

fn open_files() -> Check {
    const NAME: &str = "Check Open File Limits";
    const ADVICE: &str = "Raise it: LimitNOFILE=65536 in the unit, or ulimit -n 65536.";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < TOO_FEW_FILES => {
            Check::fail(NAME, format!("the process may open {most} files: too few for a server"), ADVICE)
        }
        Some(most) if most < FEW_FILES => {
            Check::warn(NAME, format!("the process may open {most} files, each connection needs one"), ADVICE)
        }
        Some(most) => Check::ok(NAME, format!("Open file limits are set to {most}.")),
        None => Check::ok(NAME, "There is no limit of open files."),
    }
}

fn locked_memory(config: &Config) -> Check {
    const NAME: &str = "Check Memory Lock";
    if config.disable_mlock {
        return Check::warn(
            NAME,
            "disable_mlock is set: keys may be written to swap",
            "Encrypt the swap, have none, or take disable_mlock away and let the server lock its memory.",
        );
    }
    let capable = fs::read_to_string("/proc/self/status").ok().and_then(|text| {
        let mask = text.lines().find_map(|l| l.strip_prefix("CapEff:"))?.trim().to_owned();
        u64::from_str_radix(&mask, 16).ok()
    });
    if capable.is_some_and(|mask| mask >> IPC_LOCK & 1 == 1) {
        return Check::ok(NAME, "The process may lock its memory (CAP_IPC_LOCK).");
    }
    match getrlimit(Resource::Memlock).current {
        None => Check::ok(NAME, "There is no limit of locked memory."),
        Some(bytes) => Check::fail(
            NAME,
            format!("the process may lock {} KiB, and the server locks all that it has", bytes / 1024),
            "LimitMEMLOCK=infinity in the unit, or setcap cap_ipc_lock=+ep on the program; run this check as the server's \
             user.",
        ),
    }
}

/// Whether the kernel keeps the server to its own files.
fn landlock(config: &Config) -> Check {
    const NAME: &str = "Check Landlock";
    const ADVICE: &str = "Boot a kernel with Landlock (5.13 or later, lsm=landlock,…).";
    let there = holdfast_hsm::kernel_confines_files();
    let confinement = &config.confinement;
    let missing = confinement.read_paths.iter().chain(&confinement.write_paths).find(|path| !path.exists());
    match (walls::is_off(config, false), missing) {
        (Some(why), _) => Check::warn(
            NAME,
            format!("the server's files are not confined: {why}"),
            "Let the kernel keep the server to the files of its configuration (docs/operating.md).",
        ),
        (None, _) if !there && confinement.landlock == Some(Landlock::Require) => {
            Check::fail(NAME, "this kernel has no Landlock, and the stanza confinement requires it", ADVICE)
        }
        (None, _) if !there => Check::warn(
            NAME,
            "this kernel has no Landlock: permissions alone keep the server, and the libraries of its devices, from files",
            ADVICE,
        ),
        (None, Some(path)) => Check::warn(
            NAME,
            format!("{} of the stanza confinement is not there", path.display()),
            "Make it before the server starts: what comes later is used after a restart.",
        ),
        (None, None) => Check::ok(NAME, "The kernel keeps the server to the files that its configuration names."),
    }
}

/// The file systems that the server writes to.
fn disks(config: Option<&Config>) -> Vec<Check> {
    let mut paths = vec![PathBuf::from("/")];
    if let Some(config) = config {
        match &config.storage {
            Some(Storage::File { path }) => paths.push(path.clone()),
            Some(Storage::Raft(raft)) => paths.push(raft.path.clone()),
            Some(Storage::Inmem) | None => {}
        }
        paths.extend(super::files::audit_files(config).map(|(_, path)| path));
        paths.extend(config.log.file.clone());
    }
    let mut seen = BTreeSet::new();
    let there = paths.iter().filter_map(|p| nearest(p));
    there.filter(|p| fs::metadata(p).is_ok_and(|m| seen.insert(m.dev()))).map(|p| disk(&p)).collect()
}

/// The path, or what is there of the way to it.
pub fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|p| p.exists()).map(Path::to_owned)
}

fn disk(path: &Path) -> Check {
    const NAME: &str = "Check Disk Usage";
    const ADVICE: &str =
        "Make room: a store on a full disk takes no writes, and a full audit disk stops every request.";
    let shown = path.display();
    let Ok(s) = rustix::fs::statvfs(path) else {
        return Check::warn(NAME, format!("{shown}: the file system cannot be asked"), "Look at it with df.");
    };
    let (free, whole) = (s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize));
    let used = (whole - free.min(whole)) * 100 / whole.max(1);
    let text = format!("{shown} is {used} % full, {} MiB are free", free >> 20);
    let inodes = s.f_files > 0 && s.f_favail * 50 < s.f_files;
    match used {
        _ if inodes => Check::warn(NAME, format!("{shown} has hardly any inodes left"), ADVICE),
        95.. => Check::fail(NAME, text, ADVICE),
        80.. => Check::warn(NAME, text, ADVICE),
        _ => Check::ok(NAME, format!("{shown} usage ok.")).seen(text),
    }
}

/// What keeps time on this machine leaves one of these behind.
const KEEPERS: [&str; 5] = [
    "/run/systemd/timesync/synchronized",
    "/run/chrony/chronyd.pid",
    "/run/chronyd.pid",
    "/run/ntpd.pid",
    "/run/ntpsec/ntpd.pid",
];

fn clock(config: Option<&Config>) -> Check {
    const NAME: &str = "Check Clock";
    const ADVICE: &str = "Let a time service keep the clock (chrony, systemd-timesyncd): lifetimes of tokens and leases, and \
                          certificates, are judged by it.";
    let now = SystemTime::now();
    if now.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_secs() < BUILT) {
        return Check::fail(NAME, "the clock is behind: it shows a time before this program was made", ADVICE);
    }
    let folder = config.and_then(super::storage::folder);
    let newest = folder.and_then(|folder| {
        let times = fs::read_dir(folder).ok()?.flatten().filter_map(|e| e.metadata().ok()?.modified().ok());
        times.max()
    });
    if newest.is_some_and(|newest| newest.duration_since(now).is_ok_and(|ahead| ahead > AHEAD)) {
        return Check::fail(NAME, "the clock is behind: the store was written at a later time than it shows", ADVICE);
    }
    let kept = KEEPERS.iter().find(|p| Path::new(p).exists());
    let is_member = config.is_some_and(|c| matches!(c.storage, Some(Storage::Raft(_))));
    match kept {
        Some(_) => Check::ok(NAME, "A time service keeps the clock."),
        None if is_member => {
            Check::warn(NAME, "no time service was found, and members of a cluster compare times", ADVICE)
        }
        None => Check::ok(NAME, "The clock shows a likely time; no time service was found."),
    }
}
