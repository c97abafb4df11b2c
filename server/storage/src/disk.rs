//! Files as the log and the state machine use them.
//!
//! [`RealDisk`] is a folder. [`SimDisk`] keeps files in memory together with their last synced
//! image, fails on request, and can lose what was not synced, as a power cut does.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// A folder of files.
pub trait Disk: Debug + Send + Sync + 'static {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Make creations, removals and renames durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Bytes an ordinary user may still write.
    fn free_bytes(&self) -> io::Result<u64>;
    fn path(&self, name: &str) -> PathBuf;
}

/// A folder of the file system; files are created with mode 0600.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    /// Held locked for as long as the disk is open.
    _lock: fs::File,
}

impl RealDisk {
    /// Open the folder, making it (0700) if needed, and lock it against a second process.
    pub fn open(folder: &Path) -> Result<RealDisk, crate::StoreError> {
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
            Ok(()) => Ok(RealDisk { folder: folder.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(crate::StoreError::InUse(folder.to_owned())),
            Err(e) => Err(fail("cannot lock")(e.into())),
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file =
            fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
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

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(&self.folder)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let s = rustix::fs::statvfs(&self.folder)?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len)?;
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A disk in memory that can fail and forget.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    shared: Arc<SimShared>,
}

#[derive(Debug, Default)]
struct SimShared {
    files: Mutex<BTreeMap<String, Arc<Mutex<SimBytes>>>>,
    /// Bytes that may still be written; negative: no limit.
    room: AtomicI64,
    limited: AtomicBool,
    fail_sync: AtomicBool,
}

#[derive(Debug, Default, Clone)]
struct SimBytes {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(u64, Vec<u8>)>,
    pending_len: Option<u64>,
}

#[derive(Debug)]
struct SimFile {
    bytes: Arc<Mutex<SimBytes>>,
    shared: Arc<SimShared>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// Lose power: a new disk that holds what was synced, and of each unsynced write what `keep`
    /// says (a random half of them reached the platter, say). The old disk goes on for whoever
    /// still holds it, and harms nobody.
    pub fn power_cut(&self, mut keep: impl FnMut() -> bool) -> SimDisk {
        let cut = SimDisk::default();
        for (name, bytes) in lock(&self.shared.files).iter() {
            let b = lock(bytes);
            let mut image = b.synced.clone();
            if let Some(len) = b.pending_len {
                image.resize((len as usize).max(image.len()), 0);
            }
            for (offset, data) in &b.pending {
                // A write reaches the platter in sectors, and not in order.
                for (i, sector) in data.chunks(512).enumerate() {
                    let at = *offset as usize + i * 512;
                    if keep() {
                        if image.len() < at + sector.len() {
                            image.resize(at + sector.len(), 0);
                        }
                        image[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            let new = SimBytes { now: image.clone(), synced: image, ..SimBytes::default() };
            lock(&cut.shared.files).insert(name.clone(), Arc::new(Mutex::new(new)));
        }
        cut
    }

    /// From now on only this many bytes may be written (`None`: no limit).
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.shared.limited.store(bytes.is_some(), Ordering::SeqCst);
        self.shared.room.store(bytes.unwrap_or(0) as i64, Ordering::SeqCst);
    }

    pub fn fail_sync(&self, fail: bool) {
        self.shared.fail_sync.store(fail, Ordering::SeqCst);
    }

    /// Change stored bytes behind the store's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(bytes) = lock(&self.shared.files).get(name) {
            let mut b = lock(bytes);
            change(&mut b.now);
            b.synced = b.now.clone();
            b.pending.clear();
        }
    }

    /// All bytes of all files, one after another: what a thief of the disk reads.
    pub fn dump(&self) -> Vec<u8> {
        lock(&self.shared.files).values().flat_map(|b| lock(b).now.clone()).collect()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.shared.files);
        if !files.contains_key(name) && !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let bytes = files.entry(name.to_owned()).or_default().clone();
        Ok(Arc::new(SimFile { bytes, shared: self.shared.clone() }))
    }
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.shared.files).keys().cloned().collect())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.shared.files).remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.shared.files);
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }
    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        if self.shared.limited.load(Ordering::SeqCst) {
            return Ok(self.shared.room.load(Ordering::SeqCst).max(0) as u64);
        }
        Ok(u64::MAX)
    }
    fn path(&self, name: &str) -> PathBuf {
        Path::new("/sim").join(name)
    }
}

impl SimFile {
    fn take_room(&self, bytes: usize) -> io::Result<()> {
        if self.shared.limited.load(Ordering::SeqCst)
            && self.shared.room.fetch_sub(bytes as i64, Ordering::SeqCst) < bytes as i64
        {
            self.shared.room.fetch_add(bytes as i64, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.bytes).now.len() as u64)
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let b = lock(&self.bytes);
        let at = offset as usize;
        let part = b.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take_room(data.len())?;
        let mut b = lock(&self.bytes);
        let (at, end) = (offset as usize, offset as usize + data.len());
        if b.now.len() < end {
            b.now.resize(end, 0);
        }
        b.now[at..end].copy_from_slice(data);
        b.pending.push((offset, data.to_vec()));
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut b = lock(&self.bytes);
        if (len as usize) > b.now.len() {
            self.take_room(len as usize - b.now.len())?;
        }
        b.now.resize(len as usize, 0);
        b.pending_len = Some(len);
        Ok(())
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(lock(&self.bytes).now.len() as u64);
        if more > 0 {
            self.set_len(len)?;
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        if self.shared.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("sync refused by the simulated disk"));
        }
        let mut b = lock(&self.bytes);
        b.synced = b.now.clone();
        b.pending.clear();
        b.pending_len = None;
        Ok(())
    }
}

/// redb's view of one of our files.
#[derive(Debug)]
pub(crate) struct RedbFile(pub Arc<dyn DiskFile>);

impl redb::StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}
