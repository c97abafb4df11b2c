//! The store's folder. It is looked at from outside: nothing in it is opened for writing, locked or made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_config::{Config, Storage};
use rustix::fs::{Access, access};

use super::host::nearest;
use super::report::Check;

/// The store's folder, where it has one.
pub fn folder(config: &Config) -> Option<&Path> {
    match &config.storage {
        Some(Storage::File { path }) => Some(path),
        Some(Storage::Raft(raft)) => Some(&raft.path),
        Some(Storage::Inmem) | None => None,
    }
}

/// The process that has the store open, as `/proc/locks` tells; nothing is locked to find out.
pub fn is_held(config: &Config) -> Option<u32> {
    let lock = fs::metadata(folder(config)?.join("lock")).ok()?;
    let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", lock.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().filter(|w| *w != "->").collect();
        (words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted.as_str()))
            .then(|| words.get(4).and_then(|pid| pid.parse().ok()).unwrap_or(0))
    })
}

pub fn check(config: &Config, held: Option<u32>) -> Check {
    const NAME: &str = "Check Storage";
    let Some(folder) = folder(config) else {
        return match &config.storage {
            Some(_) => Check::warn(
                NAME,
                "storage \"inmem\" keeps nothing when the server ends",
                "Use storage \"file\" or \"raft\" for what is to be kept.",
            ),
            None => {
                Check::fail(NAME, "no storage stanza", "Add one: storage \"file\" { path = \"/var/lib/holdfast\" }.")
            }
        };
    };
    let mut all = vec![permissions(folder)];
    if folder.exists() {
        all.push(holder(held));
        all.push(readable(folder));
    }
    Check::of(NAME, all)
}

fn permissions(folder: &Path) -> Check {
    const NAME: &str = "Check Store Folder";
    let shown = folder.display();
    let Ok(metadata) = fs::metadata(folder) else {
        let above = nearest(folder).unwrap_or_else(|| PathBuf::from("/"));
        return match access(&above, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Check::ok(NAME, format!("{shown} is not there yet: the first start makes it")),
            Err(_) => Check::fail(
                NAME,
                format!("{shown} is not there, and nobody may make it in {}", above.display()),
                "Make it, owned by the server's user, with mode 0700.",
            ),
        };
    };
    if !metadata.is_dir() {
        return Check::fail(
            NAME,
            format!("{shown} is no folder"),
            "Name the folder of the store in the storage stanza.",
        );
    }
    if access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Check::fail(
            NAME,
            format!("{shown} cannot be written by this user"),
            "Give it to the server's user (chown), or run this check as that user.",
        );
    }
    match metadata.mode() & 0o077 {
        0 => Check::ok(NAME, format!("{shown} is the server's alone")),
        _ => Check::warn(
            NAME,
            format!("too many permissions: {shown} has mode {:04o}", metadata.mode() & 0o7777),
            "chmod 0700: what rests there is encrypted, but nobody else has anything to do with it.",
        ),
    }
}

fn holder(held: Option<u32>) -> Check {
    const NAME: &str = "Check Store Lock";
    match held {
        None => Check::ok(NAME, "no server has the store open"),
        Some(0) => Check::ok(NAME, "a server has the store open"),
        Some(pid) => Check::ok(NAME, format!("a server has the store open: process {pid}")),
    }
}

fn readable(folder: &Path) -> Check {
    const NAME: &str = "Check Store Files";
    let Ok(entries) = fs::read_dir(folder) else {
        return Check::fail(NAME, "the folder cannot be listed", "Run this check as the server's user.");
    };
    let (mut files, mut bytes) = (0u64, 0u64);
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file())) {
        if access(entry.path(), Access::READ_OK | Access::WRITE_OK).is_err() {
            let name = entry.file_name();
            return Check::fail(
                NAME,
                format!("{} cannot be read and written by this user", Path::new(&name).display()),
                "Somebody else has started the server once: give all files to the server's user (chown -R).",
            );
        }
        files += 1;
        bytes += entry.metadata().map_or(0, |m| m.len());
    }
    if folder.join("sync-failed").exists() {
        return Check::warn(
            NAME,
            "an earlier server saw a write that its disk did not keep",
            "Look at the disk (dmesg, smartctl). The next start reads everything anew.",
        );
    }
    Check::ok(NAME, format!("{files} files, {} MiB", bytes >> 20))
}
