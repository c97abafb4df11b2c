//! Where files of audit devices may be, and how they are opened.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use holdfast_hsm::{FileUse, with_reason};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Why a file cannot be opened.
#[derive(Debug)]
pub struct Unopened {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// It cannot be made, or synced.
    Folder(PathBuf, io::Error),
    Open(io::Error),
    /// Its mode, where it shall be kept, or is to be set.
    Mode(io::Error),
    Outside,
}

impl Unopened {
    /// It was opened, and cannot be used.
    pub fn by(path: &Path, error: io::Error) -> Unopened {
        Unopened { path: path.to_owned(), why: Why::Open(error) }
    }
}

impl std::error::Error for Unopened {}

impl std::fmt::Display for Unopened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        let unable = format!("sanity check failed; unable to open {:?} for writing", self.path);
        match &self.why {
            Why::Folder(folder, e) => write!(f, "{unable}: mkdir {}: {e}", folder.display()),
            Why::Open(e) => write!(f, "{unable}: open {path}: {e}"),
            Why::Mode(e) => write!(f, "stat {path}: {e}"),
            Why::Outside => write!(
                f,
                "{path} is not below a folder of audit_directories: put it there, name its folder in that setting, or \
                 set unsafe_allow_api_audit_creation"
            ),
        }
    }
}

/// Open a file for appending, in one of the folders if there are any.
pub fn open_file(path: &Path, mode: Option<u32>, within: Option<&[PathBuf]>) -> Result<File, Unopened> {
    let unopened = |why| Unopened { path: path.to_owned(), why };
    if let Some(folders) = within
        && !real(path).is_some_and(|real| is_below(&real, folders))
    {
        return Err(unopened(Why::Outside));
    }
    if mode.is_none() {
        fs::metadata(path).map_err(|e| unopened(Why::Mode(e)))?;
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let with_reason = |e: io::Error, path: &Path| match with_reason(e, path, FileUse::Write) {
        // Below its folders the API may make files, and the server's own rules are about those of its start.
        e if within.is_some() && e.kind() == io::ErrorKind::PermissionDenied => {
            let more = "a folder of audit_directories counts if it is there when the server starts";
            io::Error::new(e.kind(), format!("{e} ({more})"))
        }
        e => e,
    };
    let folder_error = |folder: &Path, e| unopened(Why::Folder(folder.to_owned(), with_reason(e, folder)));
    let new_folders = folder.ancestors().take_while(|f| !f.as_os_str().is_empty() && !f.exists()).count();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| folder_error(folder, e))?;
    // A pipe that nobody reads yet would hold up whoever opens it, and one that is full whoever writes.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().append(true).create(true).mode(mode.unwrap_or(0)).custom_flags(flags).open(path);
    let file = file.map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::NXIO) => unopened(Why::Open(io::Error::new(e.kind(), "nobody reads from it"))),
        _ => unopened(Why::Open(with_reason(e, path))),
    })?;
    let found = file.metadata().map_err(|e| unopened(Why::Open(e)))?;
    if found.is_file() {
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND).map_err(|e| unopened(Why::Open(e.into())))?;
    }
    if let Some(folders) = within {
        // What it is now, whatever became of the links since.
        let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if !found.is_file() || !opened.is_ok_and(|at| is_below(&at, folders)) {
            return Err(unopened(Why::Outside));
        }
    }
    if let Some(mode) = mode
        && found.is_file()
        && found.permissions().mode() & 0o777 != mode
    {
        file.set_permissions(Permissions::from_mode(mode)).map_err(|e| unopened(Why::Mode(e)))?;
    }
    if found.is_file() && found.len() == 0 {
        // Its name is to be on the disk as its lines are: a crash of the machine could take the whole file else.
        for folder in folder.ancestors().take(new_folders + 1).filter(|f| !f.as_os_str().is_empty()) {
            sync_folder(folder, &file).map_err(|e| folder_error(folder, e))?;
        }
    }
    Ok(file)
}

/// Let the disk have the names in a folder. One that may be written to and not read is synced with all of its file system.
fn sync_folder(folder: &Path, file: &File) -> io::Result<()> {
    match File::open(folder) {
        Ok(opened) => match opened.sync_all() {
            // File systems that keep no folders have nothing to sync.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        },
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(rustix::fs::syncfs(file)?),
        Err(e) => Err(e),
    }
}

/// Kinds of file systems (statfs(2)) whose writes wait for nobody but a disk of this machine: ext4, xfs, btrfs, tmpfs, ramfs, overlayfs,
/// zfs, f2fs, bcachefs, vfat.
const LOCAL: [u32; 10] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0xca45_1a4e,
    0x4d44,
];

/// Whether a file is on a disk of this machine, as far as is known: one of NFS, SMB, FUSE or of something new is not.
pub fn is_on_local_disk(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    // The kernel's are numbers of 32 bits, whatever the type here is.
    Ok(LOCAL.iter().any(|local| i64::from(*local) == (kind as i64) & 0xffff_ffff))
}

/// Where a path leads, as far as there is something; what is missing has no links yet.
pub fn real(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return None;
    }
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut there = path;
    loop {
        match fs::canonicalize(there) {
            Ok(found) => return Some(missing.iter().rev().fold(found, |at, name| at.join(name))),
            // A link that leads nowhere is there all the same.
            Err(_) if fs::symlink_metadata(there).is_ok() => return None,
            Err(_) => missing.push(there.file_name()?),
        }
        there = there.parent()?;
    }
}

pub fn is_below(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| {
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        path != folder && path.starts_with(folder)
    })
}
