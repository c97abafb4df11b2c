//! A file system that hangs when it is told to, as that of a server of files that is gone: FUSE, with this process as the
//! server. It has one folder with regular files, and does as much as an audit log needs.
//!
//! What the kernel asks and is answered: linux/fuse.h, version 7.31.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::process::need_root;
use crate::program::command;

/// Unmounted when dropped.
pub struct Hanging {
    path: PathBuf,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    hangs: Mutex<bool>,
    changed: Condvar,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hanging {
    pub fn mount(path: &Path) -> Hanging {
        need_root("to mount a file system");
        fs::create_dir_all(path).expect("a folder to mount on");
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("FUSE");
        let mut mount = command("mount");
        mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other", "holdfast-test"]);
        let mounted = mount.arg(path).stdin(fuse.try_clone().expect("a descriptor")).status().expect("mount");
        assert!(mounted.success(), "{mount:?}: {mounted}");
        let state = Arc::<State>::default();
        let files = Files { fuse, state: state.clone(), files: Vec::new() };
        thread::spawn(move || files.serve());
        Hanging { path: path.to_owned(), state }
    }

    /// From now on nothing that is asked is answered, until it is to go on.
    pub fn hang(&self, hangs: bool) {
        *lock(&self.state.hangs) = hangs;
        self.state.changed.notify_all();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.hang(false);
        let _unmounted = command("umount").arg("-l").arg(&self.path).status();
    }
}

struct Files {
    fuse: File,
    state: Arc<State>,
    /// Names and content; the first has the number 2.
    files: Vec<(Vec<u8>, Vec<u8>)>,
}

const ROOT: u64 = 1;
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

fn short_number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Up to its zero.
fn name(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

impl Files {
    fn serve(mut self) {
        let mut buffer = vec![0; 1 << 20];
        // The kernel says that it is unmounted by an error.
        while let Ok(n) = self.fuse.read(&mut buffer) {
            let mut hangs = lock(&self.state.hangs);
            while *hangs {
                hangs = self.state.changed.wait(hangs).unwrap_or_else(PoisonError::into_inner);
            }
            drop(hangs);
            let (head, body) = buffer[..n].split_at(40.min(n));
            let (what, unique, node) = (short_number(head, 4), number(head, 8), number(head, 16));
            let Some(answer) = self.answer(what, node, body) else { continue };
            let (error, body) = match answer {
                Ok(body) => (0, body),
                Err(error) => (-error, Vec::new()),
            };
            let mut out = Vec::new();
            out.extend_from_slice(&u32::try_from(16 + body.len()).expect("a short answer").to_ne_bytes());
            out.extend_from_slice(&error.to_ne_bytes());
            out.extend_from_slice(&unique.to_ne_bytes());
            out.extend_from_slice(&body);
            // Whoever asked may be gone.
            let _nobody_waits = self.fuse.write(&out);
        }
    }

    /// `None`: nothing is answered.
    fn answer(&mut self, what: u32, node: u64, body: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        let found = |files: &Files, name: &[u8]| files.files.iter().position(|f| f.0 == name).map(|n| n as u64 + 2);
        Some(match what {
            // forget, interrupt, forget several
            2 | 36 | 42 => return None,
            // lookup
            1 => found(self, name(body)).map(|n| self.entry(n)).ok_or(ENOENT),
            // getattr, setattr
            3 | 4 => Ok([&[0; 16][..], &self.attributes(node)].concat()),
            // open, opendir
            14 | 27 => Ok(vec![0; 16]),
            // read
            15 => {
                let content = &self.files[node as usize - 2].1;
                let from = content.len().min(number(body, 8) as usize);
                Ok(content[from..content.len().min(from + short_number(body, 16) as usize)].to_vec())
            }
            // write
            16 => {
                let (at, bytes) = (number(body, 8) as usize, &body[40..][..short_number(body, 16) as usize]);
                let content = &mut self.files[node as usize - 2].1;
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(bytes);
                Ok([&(bytes.len() as u32).to_ne_bytes()[..], &[0; 4]].concat())
            }
            // statfs: as much room as it likes
            17 => {
                let of_8: Vec<u8> = [1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19u64].map(u64::to_ne_bytes).concat();
                let of_4: Vec<u8> = [4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0u32].map(u32::to_ne_bytes).concat();
                Ok([of_8, of_4].concat())
            }
            // release, fsync, flush, releasedir, fsyncdir, destroy
            18 | 20 | 25 | 29 | 30 | 38 => Ok(Vec::new()),
            // init
            26 => {
                let mut out = [7u32, 31, 0, 0].map(u32::to_ne_bytes).concat();
                out.extend([16, 12u16].map(u16::to_ne_bytes).concat());
                out.extend([128 << 10, 1u32].map(u32::to_ne_bytes).concat());
                out.resize(64, 0);
                Ok(out)
            }
            // create
            35 => {
                let name = name(&body[16..]).to_vec();
                let node = found(self, &name).unwrap_or_else(|| {
                    self.files.push((name, Vec::new()));
                    self.files.len() as u64 + 1
                });
                Ok([self.entry(node), vec![0; 16]].concat())
            }
            _ => Err(ENOSYS),
        })
    }

    /// Nothing of it is kept by the kernel.
    fn entry(&self, node: u64) -> Vec<u8> {
        [&node.to_ne_bytes()[..], &[0; 32], &self.attributes(node)].concat()
    }

    fn attributes(&self, node: u64) -> Vec<u8> {
        let size = node.checked_sub(2).map_or(0, |n| self.files[n as usize].1.len() as u64);
        let of_8 = [node, size, size.div_ceil(512), 0, 0, 0].map(u64::to_ne_bytes).concat();
        let mode = if node == ROOT { 0o040_700 } else { 0o100_600 };
        let of_4 = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0u32].map(u32::to_ne_bytes).concat();
        [of_8, of_4].concat()
    }
}
