//! A disk in memory that can fail and forget, for tests.
//!
//! It is as hostile as a real one may be: what was not synced is lost in any part, sector by
//! sector and in any order; a file that was made, renamed or removed is so for good only after
//! [`Disk::sync_folder`]; a failed sync loses for ever the data that it should have written, though
//! it can still be read until the file is opened again (or, with [`SimDisk::keep_cache`], until the
//! power is cut); and a full disk refuses to overwrite, too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use crate::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    shared: Arc<SimShared>,
}

#[derive(Debug, Default)]
struct SimShared {
    folder: Mutex<Folder>,
    /// Bytes that may still be written, if `limited`.
    room: AtomicI64,
    limited: AtomicBool,
    fail_sync: AtomicBool,
    fail_write: AtomicBool,
    lies: AtomicBool,
    keep_cache: AtomicBool,
    steps: AtomicU64,
    planned: Mutex<Option<Planned>>,
    /// Held shared by every change, and alone by a power cut, which comes between two changes.
    power: RwLock<()>,
}

/// Something to do just before a step.
struct Planned {
    step: u64,
    act: Box<dyn FnOnce(&SimDisk) + Send>,
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Planned({})", self.step)
    }
}

type Files = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Debug, Default)]
struct Folder {
    now: Files,
    synced: Files,
    /// Changes of names since the last sync, in order.
    pending: Vec<NameChange>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, Arc<Mutex<Content>>),
    Remove(String),
    Rename(String, String),
    Exchange(String, String),
}

/// A file's bytes; the zeroes at the end of a preallocated one take no memory.
#[derive(Debug, Default, Clone)]
struct Image {
    data: Vec<u8>,
    length: usize,
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Image,
    synced: Image,
    /// Changes since the last sync, in order.
    pending: Vec<Change>,
    /// A sync failed: `now` may show what is lost.
    suspect: bool,
    bytes_read: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug)]
struct SimFile {
    content: Arc<Mutex<Content>>,
    disk: SimDisk,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Image {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let (at, end) = (offset as usize, offset as usize + data.len());
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[at..end].copy_from_slice(data);
        self.length = self.length.max(end);
    }

    fn set_length(&mut self, length: u64) {
        self.length = length as usize;
        self.data.truncate(self.length);
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::Length(length) => self.set_length(*length),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        const ZEROES: [u8; 4096] = [0; 4096];
        let at = offset as usize;
        if at + out.len() > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = self.data.get(at..).unwrap_or_default();
        let (data, zeroes) = out.split_at_mut(there.len().min(out.len()));
        data.copy_from_slice(&there[..data.len()]);
        for part in zeroes.chunks_mut(ZEROES.len()) {
            // Fresh memory is zero already; looking is cheaper than writing.
            if *part != ZEROES[..part.len()] {
                part.fill(0);
            }
        }
        Ok(())
    }

    fn whole(&self) -> Vec<u8> {
        let mut bytes = self.data.clone();
        bytes.resize(self.length, 0);
        bytes
    }
}

impl From<Vec<u8>> for Image {
    fn from(data: Vec<u8>) -> Image {
        Image { length: data.len(), data }
    }
}

fn rename_in(files: &mut Files, change: &NameChange) {
    match change {
        NameChange::Create(name, content) => {
            files.insert(name.clone(), content.clone());
        }
        NameChange::Remove(name) => {
            files.remove(name);
        }
        NameChange::Rename(from, to) => {
            if let Some(content) = files.remove(from) {
                files.insert(to.clone(), content);
            }
        }
        NameChange::Exchange(one, other) => {
            // Either may be lost with what came before it: then there is nothing to exchange.
            if let (Some(a), Some(b)) = (files.get(one).cloned(), files.get(other).cloned()) {
                files.insert(one.clone(), b);
                files.insert(other.clone(), a);
            }
        }
    }
}

impl Folder {
    fn change(&mut self, change: NameChange) {
        rename_in(&mut self.now, &change);
        self.pending.push(change);
    }
}

impl SimDisk {
    /// Lose power: a new disk that holds what was synced, and of everything else what `keep` says
    /// (a random half of it reached the platter, say). The old disk goes on for whoever still
    /// holds it, and harms nobody.
    pub fn power_cut(&self, keep: impl FnMut() -> bool) -> SimDisk {
        self.power_cut_when(keep, || ()).0
    }

    /// The same; `seen` is called at the very moment, when nothing on the disk changes any more.
    pub fn power_cut_when<T>(&self, mut keep: impl FnMut() -> bool, seen: impl FnOnce() -> T) -> (SimDisk, T) {
        let _no_change_meanwhile = self.shared.power.write().unwrap_or_else(PoisonError::into_inner);
        let seen = seen();
        let folder = lock(&self.shared.folder);
        let mut files = folder.synced.clone();
        // A file system writes names in order.
        for change in folder.pending.iter().take_while(|_| keep()) {
            rename_in(&mut files, change);
        }
        let mut survives = |content: &Arc<Mutex<Content>>| {
            let image = lock(content).survive(&mut keep);
            Arc::new(Mutex::new(Content { now: image.clone(), synced: image, ..Content::default() }))
        };
        let now: Files = files.iter().map(|(name, content)| (name.clone(), survives(content))).collect();
        let folder = Folder { synced: now.clone(), now, pending: Vec::new() };
        (SimDisk { shared: Arc::new(SimShared { folder: Mutex::new(folder), ..SimShared::default() }) }, seen)
    }

    /// From now on only this many bytes may be written (`None`: no limit).
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.shared.room.store(bytes.unwrap_or(0) as i64, Ordering::SeqCst);
        self.shared.limited.store(bytes.is_some(), Ordering::SeqCst);
    }

    /// From now on syncs fail.
    pub fn fail_sync(&self, fail: bool) {
        self.shared.fail_sync.store(fail, Ordering::SeqCst);
    }

    /// Opening a file drops what the page cache has of it, as `RealDisk` asks the system to do. It is
    /// only a hint: here it is not taken.
    pub fn keep_cache(&self) {
        self.shared.keep_cache.store(true, Ordering::SeqCst);
    }

    /// From now on writes fail.
    pub fn fail_write(&self, fail: bool) {
        self.shared.fail_write.store(fail, Ordering::SeqCst);
    }

    /// From now on a sync of a file says that it was done, and nothing was.
    pub fn lie(&self, lies: bool) {
        self.shared.lies.store(lies, Ordering::SeqCst);
    }

    /// Writes, syncs and changes of names and lengths so far: a clock for tests that stop in between.
    pub fn steps(&self) -> u64 {
        self.shared.steps.load(Ordering::SeqCst)
    }

    /// Bytes that were read of a file so far.
    pub fn bytes_read(&self, name: &str) -> u64 {
        lock(&self.shared.folder).now.get(name).map_or(0, |content| lock(content).bytes_read)
    }

    /// Do something (cut the power, say) just before the first change that is not among the first
    /// `step` ones. At most one thing is planned; it is forgotten if the disk does not get there.
    pub fn before_step(&self, step: u64, act: impl FnOnce(&SimDisk) + Send + 'static) {
        *lock(&self.shared.planned) = Some(Planned { step, act: Box::new(act) });
    }

    /// One change begins; it is over when the guard is dropped.
    fn step(&self) -> RwLockReadGuard<'_, ()> {
        let step = self.shared.steps.fetch_add(1, Ordering::SeqCst);
        let planned = lock(&self.shared.planned).take_if(|p| p.step <= step);
        if let Some(planned) = planned {
            (planned.act)(self);
        }
        self.shared.power.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Change stored bytes behind the store's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = lock(&self.shared.folder).now.get(name) {
            let mut c = lock(content);
            let mut bytes = c.now.whole();
            change(&mut bytes);
            c.now = bytes.into();
            c.synced = c.now.clone();
            c.pending.clear();
        }
    }

    /// All bytes of all files, one after another: what a thief of the disk reads.
    pub fn dump(&self) -> Vec<u8> {
        lock(&self.shared.folder).now.values().flat_map(|c| lock(c).now.whole()).collect()
    }
}

impl Content {
    /// Read from the platter again, and from what is still to be written.
    fn drop_cache(&mut self) {
        if self.suspect {
            self.now = self.synced.clone();
            for change in &self.pending {
                self.now.apply(change);
            }
        }
    }

    fn survive(&self, keep: &mut impl FnMut() -> bool) -> Image {
        let mut image = self.synced.clone();
        // A file system writes lengths in order: behind one that is lost there is nothing.
        let mut end = None;
        for change in &self.pending {
            match change {
                Change::Length(_) if end.is_some() => {}
                Change::Length(length) if keep() => image.set_length(*length),
                Change::Length(_) => end = Some(image.length),
                Change::Write(offset, data) => {
                    // A write reaches the platter in sectors, and not in order.
                    let there = end.map_or(usize::MAX, |end| end.saturating_sub(*offset as usize)).min(data.len());
                    let mut at = 0;
                    while at < there {
                        let offset = offset + at as u64;
                        let part = there.min(at + SECTOR - offset as usize % SECTOR) - at;
                        if keep() {
                            image.write(offset, &data[at..at + part]);
                        }
                        at += part;
                    }
                }
            }
        }
        image
    }
}

impl SimShared {
    fn take_room(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as i64;
        if self.limited.load(Ordering::SeqCst) && self.room.fetch_sub(bytes, Ordering::SeqCst) < bytes {
            self.room.fetch_add(bytes, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let _power = self.step();
        let mut folder = lock(&self.shared.folder);
        let content = match folder.now.get(name) {
            Some(content) => {
                if !self.shared.keep_cache.load(Ordering::SeqCst) {
                    lock(content).drop_cache();
                }
                content.clone()
            }
            None if !create => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let content = Arc::default();
                folder.change(NameChange::Create(name.to_owned(), Arc::clone(&content)));
                content
            }
        };
        Ok(Arc::new(SimFile { content, disk: self.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.shared.folder).now.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let _power = self.step();
        let mut folder = lock(&self.shared.folder);
        if !folder.now.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        folder.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let _power = self.step();
        let mut folder = lock(&self.shared.folder);
        if !folder.now.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        folder.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let _power = self.step();
        let mut folder = lock(&self.shared.folder);
        if !folder.now.contains_key(one) || !folder.now.contains_key(other) {
            return Err(io::ErrorKind::NotFound.into());
        }
        folder.change(NameChange::Exchange(one.to_owned(), other.to_owned()));
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let _power = self.step();
        if self.shared.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("sync refused by the simulated disk"));
        }
        let mut folder = lock(&self.shared.folder);
        folder.synced = folder.now.clone();
        folder.pending.clear();
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

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).now.length as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut content = lock(&self.content);
        content.bytes_read += out.len() as u64;
        content.now.read(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _power = self.disk.step();
        if self.disk.shared.fail_write.load(Ordering::SeqCst) {
            return Err(io::Error::other("write refused by the simulated disk"));
        }
        self.disk.shared.take_room(data.len())?;
        let mut c = lock(&self.content);
        c.now.write(offset, data);
        c.pending.push(Change::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _power = self.disk.step();
        let mut c = lock(&self.content);
        self.disk.shared.take_room((len as usize).saturating_sub(c.now.length))?;
        c.now.set_length(len);
        c.pending.push(Change::Length(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? { self.set_len(len) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let _power = self.disk.step();
        if self.disk.shared.lies.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut c = lock(&self.content);
        if self.disk.shared.fail_sync.load(Ordering::SeqCst) {
            // Lengths are the file system's own, and stay due.
            c.pending.retain(|change| matches!(change, Change::Length(_)));
            c.suspect = true;
            return Err(io::Error::other("sync refused by the simulated disk"));
        }
        for change in std::mem::take(&mut c.pending) {
            c.synced.apply(&change);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
        let file = disk.open(name, false).ok()?;
        let mut bytes = vec![7; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_of_the_rest_what_it_is_told() {
        let disk = SimDisk::default();
        let file = disk.open("f", true).unwrap();
        file.write_at(0, &[1; 2000]).unwrap();
        assert_eq!(read(&disk.power_cut(|| false), "f"), None, "the name was not synced");
        file.sync().unwrap();
        assert_eq!(read(&disk.power_cut(|| false), "f"), None, "nor was it by the file's sync");
        disk.sync_folder().unwrap();
        file.write_at(100, &[2; 1000]).unwrap();
        assert_eq!(read(&disk.power_cut(|| false), "f"), Some(vec![1; 2000]));
        let mut nth = 0;
        let second_sector_only = || {
            nth += 1;
            nth == 2
        };
        let image = read(&disk.power_cut(second_sector_only), "f").unwrap();
        assert!(image[..512].iter().all(|b| *b == 1));
        assert!(image[512..1024].iter().all(|b| *b == 2));
        assert!(image[1024..].iter().all(|b| *b == 1));
        assert_eq!(read(&disk.power_cut(|| true), "f"), read(&disk, "f"));
    }

    #[test]
    fn behind_a_length_that_is_lost_there_is_nothing() {
        let disk = SimDisk::default();
        let file = disk.open("f", true).unwrap();
        disk.sync_folder().unwrap();
        file.set_len(1024).unwrap();
        file.sync().unwrap();
        file.set_len(4096).unwrap();
        file.write_at(512, &[1; 2048]).unwrap();
        let mut first = true;
        let all_but_the_length = || !std::mem::take(&mut first);
        let image = read(&disk.power_cut(all_but_the_length), "f").unwrap();
        assert_eq!(image, [[0; 512], [1; 512]].concat());
    }

    #[test]
    fn what_a_failed_sync_should_have_written_is_lost_for_good() {
        let disk = SimDisk::default();
        let file = disk.open("f", true).unwrap();
        disk.sync_folder().unwrap();
        file.write_at(0, b"lost").unwrap();
        disk.fail_sync(true);
        file.sync().unwrap_err();
        disk.fail_sync(false);
        file.write_at(4, b"kept").unwrap();
        file.sync().unwrap();
        let mut cached = [0; 8];
        file.read_at(0, &mut cached).unwrap();
        assert_eq!(&cached, b"lostkept");
        assert_eq!(read(&disk, "f").unwrap(), b"\0\0\0\0kept", "opened again, it shows what the disk has");
        assert_eq!(read(&disk.power_cut(|| true), "f").unwrap(), b"\0\0\0\0kept");
    }

    #[test]
    fn names_change_for_good_in_order_and_only_with_the_folder() {
        let disk = SimDisk::default();
        disk.open("a", true).unwrap();
        disk.sync_folder().unwrap();
        disk.rename("a", "b").unwrap();
        disk.open("c", true).unwrap();
        disk.remove("b").unwrap();
        let after = |n: usize| {
            let mut kept = 0;
            let cut = disk.power_cut(|| {
                kept += 1;
                kept <= n
            });
            cut.list().unwrap().join(" ")
        };
        assert_eq!([after(0), after(1), after(2), after(3)], ["a", "b", "b c", "c"]);
    }

    #[test]
    fn files_that_exchange_their_names_have_both_all_the_time() {
        let disk = SimDisk::default();
        for name in ["a", "b"] {
            let file = disk.open(name, true).unwrap();
            file.write_at(0, name.as_bytes()).unwrap();
            file.sync().unwrap();
        }
        disk.sync_folder().unwrap();
        disk.exchange("a", "b").unwrap();
        let both = |disk: &SimDisk| (read(disk, "a").unwrap(), read(disk, "b").unwrap());
        assert_eq!(both(&disk), (b"b".to_vec(), b"a".to_vec()));
        assert_eq!(both(&disk.power_cut(|| false)), (b"a".to_vec(), b"b".to_vec()));
        assert_eq!(both(&disk.power_cut(|| true)), both(&disk));
        assert_eq!(disk.exchange("a", "c").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_full_disk_takes_nothing_of_a_write() {
        let disk = SimDisk::default();
        let file = disk.open("f", true).unwrap();
        disk.limit_room(Some(10));
        file.write_at(0, &[1; 8]).unwrap();
        assert_eq!(file.write_at(8, &[1; 3]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((file.len().unwrap(), disk.free_bytes().unwrap()), (8, 2));
        file.set_len(10).unwrap();
        assert_eq!(file.set_len(11).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.set_len(4).unwrap();
        assert_eq!(read(&disk, "f").unwrap(), [1; 4]);
    }
}
