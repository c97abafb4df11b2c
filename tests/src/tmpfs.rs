//! A small file system that can be filled.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::need_root;
use crate::program::{command, run};

/// A mounted tmpfs; unmounted when dropped.
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    pub fn mount(path: &Path, megabytes: u32) -> Tmpfs {
        need_root("to mount a small file system");
        fs::create_dir_all(path).expect("a folder to mount on");
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0700"), "holdfast-test"]).arg(path);
        run(&mut mount).good();
        Tmpfs { path: path.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A larger disk under the same files.
    pub fn grow(&self, megabytes: u32) {
        let mut remount = command("mount");
        run(remount.args(["-o", &format!("remount,size={megabytes}m")]).arg(&self.path)).good();
    }

    /// Take all free room but so many bytes. Dropping the file gives it back.
    pub fn fill(&self, leave_bytes: u64) -> Ballast {
        fill(&self.path, leave_bytes)
    }
}

/// The same of the file system that is mounted there, by who sees it there.
pub fn fill(mounted: &Path, leave_bytes: u64) -> Ballast {
    let stat = rustix::fs::statvfs(mounted).expect("a file system");
    assert!(stat.f_blocks * stat.f_frsize <= 256 << 20, "{} is no small file system of a test", mounted.display());
    let size = (stat.f_bavail * stat.f_frsize).saturating_sub(leave_bytes);
    let path = mounted.join("ballast");
    let file = fs::File::create(&path).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size.max(1)).expect("room");
    Ballast(path)
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a server may still be ending.
        let _unmounted = command("umount").arg("-l").arg(&self.path).status();
    }
}

/// A file that takes room.
pub struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(&self.0);
    }
}
