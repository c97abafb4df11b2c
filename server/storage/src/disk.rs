//! Files as the log and the state machine use them.
//!
//! [`RealDisk`] is a folder; [`SimDisk`] is a stand-in for it in tests.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::sim::SimDisk;

/// One open file.
pub trait DiskFile: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Change the length; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserve room on the device for the first `len` bytes, so that writing there cannot run out of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// fdatasync.
    fn sync(&self) -> io::Result<()>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Writes stop while less than this is free, so that what is accepted can be applied.
pub(crate) const RESERVE_BYTES: u64 = 8 << 20;
/// Of a large disk no more than this is kept free, if nobody asks for more.
const MOST_KEPT_BYTES: u64 = 1 << 30;

/// How much of a disk stays free: writes stop below it. It is never less than 8 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepFree {
    /// A twentieth; of a large disk, 1 GiB.
    #[default]
    Usual,
    /// So much.
    Bytes(u64),
    /// A part of the disk, as large as it is when it is opened.
    Percent(u8),
}

impl KeepFree {
    fn of(self, disk_bytes: u64) -> u64 {
        let wanted = match self {
            KeepFree::Usual => (disk_bytes / 20).min(MOST_KEPT_BYTES),
            KeepFree::Bytes(bytes) => bytes,
            KeepFree::Percent(percent) => disk_bytes / 100 * u64::from(percent),
        };
        wanted.max(RESERVE_BYTES)
    }
}

/// Whether a disk has less room than writes need, and so much beside.
pub(crate) fn is_short(disk: &dyn Disk, beside: u64) -> io::Result<bool> {
    Ok(disk.free_bytes()? < disk.least_free_bytes().saturating_add(beside))
}

/// A folder of files.
pub trait Disk: Debug + Send + Sync + 'static {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Let two files change their names, at once. `Unsupported`: this file system cannot.
    fn exchange(&self, one: &str, other: &str) -> io::Result<()>;
    /// Make creations, removals and renames durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Bytes an ordinary user may still write.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Writes stop while less than this is free.
    fn least_free_bytes(&self) -> u64 {
        RESERVE_BYTES
    }
    fn path(&self, name: &str) -> PathBuf;
    /// Everything was read again and is durable: an earlier failed sync counts no more.
    fn recovered(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder of the file system; files are created with mode 0600.
#[derive(Debug)]
pub struct RealDisk {
    folder: Arc<Path>,
    /// A sync failed earlier: the page cache may hold what the disk does not.
    distrust: bool,
    least_free_bytes: u64,
    /// Held locked for as long as the disk is open.
    _lock: fs::File,
}

impl RealDisk {
    /// Open the folder, making it (0700) if needed, and lock it against a second process.
    pub fn open(folder: &Path) -> Result<RealDisk, crate::StoreError> {
        RealDisk::open_keeping(folder, KeepFree::Usual)
    }

    /// The same, of which so much stays free.
    pub fn open_keeping(folder: &Path, keep: KeepFree) -> Result<RealDisk, crate::StoreError> {
        let fail = |what| crate::StoreError::io(what, folder);
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder).map_err(fail("cannot create the folder"))?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(fail("cannot open the lock file in"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let distrust = folder.join(SYNC_FAILED).exists();
                let s = rustix::fs::statvfs(folder)
                    .map_err(|e| fail("cannot ask for the size of the disk of")(e.into()))?;
                let least_free_bytes = keep.of(s.f_blocks.saturating_mul(s.f_frsize));
                Ok(RealDisk { folder: folder.into(), distrust, least_free_bytes, _lock: lock })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(crate::StoreError::InUse(folder.to_owned())),
            Err(e) => Err(fail("cannot lock")(e.into())),
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(self.path(name))?;
        if self.distrust {
            // Read from the disk.
            let _only_a_hint = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
        Ok(Arc::new(RealFile { file, folder: self.folder.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, self.path(one), CWD, self.path(other), RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            other => Ok(other?),
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(&*self.folder)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let s = rustix::fs::statvfs(&*self.folder)?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }

    fn least_free_bytes(&self) -> u64 {
        self.least_free_bytes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn recovered(&self) -> io::Result<()> {
        match self.distrust {
            true => fs::remove_file(self.folder.join(SYNC_FAILED)),
            false => Ok(()),
        }
    }
}

/// Left behind by a server whose sync failed, for the next one.
const SYNC_FAILED: &str = "sync-failed";

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    folder: Arc<Path>,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            // A file system that cannot reserve: it has the length at least, and may be found full later.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.len()? < len => self.set_len(len),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| {
            let _the_disk_may_be_gone = fs::write(self.folder.join(SYNC_FAILED), b"");
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_of_a_disk_stays_free_if_nobody_says_otherwise_and_never_less_than_the_reserve() {
        const GIB: u64 = 1 << 30;
        assert_eq!(KeepFree::Usual.of(10 * GIB), GIB / 2);
        assert_eq!(KeepFree::Usual.of(1000 * GIB), GIB);
        assert_eq!(KeepFree::Usual.of(64 << 20), RESERVE_BYTES);
        assert_eq!(KeepFree::Percent(5).of(1000 * GIB), 50 * GIB);
        assert_eq!(KeepFree::Percent(0).of(1000 * GIB), RESERVE_BYTES);
        assert_eq!(KeepFree::Bytes(2 * GIB).of(10 * GIB), 2 * GIB);
        assert_eq!(KeepFree::Bytes(1).of(10 * GIB), RESERVE_BYTES);
    }
}
