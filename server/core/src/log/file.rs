//! The log in a file: a new one begins when the old is large or old, and whatever becomes of the file, the server
//! goes on. What the file does not take goes to the standard error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_hsm::{FileUse, with_reason};
use holdfast_sdk::Timestamp;

use crate::clock;

/// What a folder's log is called.
const NAME_IN_FOLDER: &str = "holdfast.log";
/// How often it is looked whether the file is still the one of its name, and how soon a failure is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that are looked at when old ones are removed.
const MAX_LISTED: usize = 100_000;

/// When a new file begins, and what is kept.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    /// At this size; `None`: never for its size.
    pub bytes: Option<u64>,
    /// At this age; `None`: never for its age.
    pub age: Option<Duration>,
    /// How many old files stay; `None`: all.
    pub keep: Option<u64>,
}

/// A file that lines are added to.
pub struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    state: Mutex<State>,
}

struct State {
    /// `None`: it cannot be opened.
    file: Option<File>,
    bytes: u64,
    began: Timestamp,
    looked: Timestamp,
    /// The end of the file is part of a line.
    torn: bool,
    /// Said on the standard error, until a line is written again.
    in_trouble: bool,
}

impl LogFile {
    /// Open the file, or make it for its owner alone; a folder gets `holdfast.log`.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<LogFile> {
        let path = if path.is_dir() { path.join(NAME_IN_FOLDER) } else { path.to_owned() };
        let now = clock::now();
        let (file, bytes, began) = open(&path, now)?;
        let state = State { file: Some(file), bytes, began, looked: now, torn: false, in_trouble: false };
        Ok(LogFile { path, rotation, state: Mutex::new(state) })
    }

    /// Add a line, with its end.
    pub fn write(&self, line: &str) {
        self.write_at(clock::now(), line);
    }

    /// Open the file anew: somebody has moved it away.
    pub fn reopen(&self) {
        let mut state = self.state();
        self.renew(&mut state, clock::now());
    }

    fn write_at(&self, now: Timestamp, line: &str) {
        let mut state = self.state();
        self.look_after(&mut state, now);
        let torn = state.torn;
        let result = match &mut state.file {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(file) => write_line(file, line, torn),
        };
        match result {
            Ok(()) => {
                state.bytes += line.len() as u64 + u64::from(torn);
                state.torn = false;
                if std::mem::take(&mut state.in_trouble) {
                    say(&format!("log_file {}: lines are written there again\n", self.path.display()));
                }
            }
            Err(e) => {
                state.torn = state.file.is_some();
                self.tell(&mut state, &e);
                say(line);
            }
        }
    }

    /// Another file, where it is time for it or the present one was taken away.
    fn look_after(&self, state: &mut State, now: Timestamp) {
        let due = self.rotation.bytes.is_some_and(|limit| state.bytes >= limit)
            || self.rotation.age.is_some_and(|age| now.0.saturating_sub(state.began.0) >= age.as_nanos() as u64);
        let looked_long_ago = now.0.abs_diff(state.looked.0) >= LOOK_EVERY.as_nanos() as u64;
        if due && state.file.is_some() && (looked_long_ago || !state.in_trouble) {
            state.looked = now;
            self.rotate(state, now);
        } else if looked_long_ago {
            state.looked = now;
            if !state.file.as_ref().is_some_and(|file| is_at(file, &self.path)) {
                self.renew(state, now);
            }
        }
    }

    fn rotate(&self, state: &mut State, now: Timestamp) {
        match fs::rename(&self.path, self.old_name(now)) {
            // Nothing to move away: somebody else did.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return self.tell(state, &e),
            _ => {}
        }
        self.renew(state, now);
        if let Err(e) = self.remove_old() {
            self.tell(state, &e);
        }
    }

    /// `holdfast-NANOSECONDS.log`, as tools for Vault's log expect it.
    fn old_name(&self, now: Timestamp) -> PathBuf {
        let (stem, end) = self.name_parts();
        self.path.with_file_name(format!("{stem}-{}{end}", now.0))
    }

    fn name_parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
        let end = text(self.path.extension()).map_or(String::new(), |e| format!(".{e}"));
        (text(self.path.file_stem()).unwrap_or_default(), end)
    }

    fn remove_old(&self) -> io::Result<()> {
        let Some(keep) = self.rotation.keep else { return Ok(()) };
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (stem, end) = self.name_parts();
        let began = |name: &str| -> Option<u64> {
            let number = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&end)?;
            number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?
        };
        let mut old: Vec<(u64, PathBuf)> = fs::read_dir(folder)?
            .take(MAX_LISTED)
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((began(entry.file_name().to_str()?)?, entry.path()))
            })
            .collect();
        old.sort_unstable();
        let gone = old.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        old.iter().take(gone).try_for_each(|(_, path)| fs::remove_file(path))
    }

    fn renew(&self, state: &mut State, now: Timestamp) {
        match open(&self.path, now) {
            Ok((file, bytes, began)) => {
                state.torn = false;
                (state.file, state.bytes, state.began) = (Some(file), bytes, began);
            }
            Err(e) => {
                state.file = None;
                self.tell(state, &e);
            }
        }
    }

    /// Once for each trouble.
    fn tell(&self, state: &mut State, error: &io::Error) {
        if !std::mem::replace(&mut state.in_trouble, true) {
            let path = self.path.display();
            say(&format!("log_file {path}: {error}; lines go to the standard error until it takes them again\n"));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path, now: Timestamp) -> io::Result<(File, u64, Timestamp)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = file.map_err(|e| with_reason(e, path, FileUse::Write))?;
    let metadata = file.metadata()?;
    let made = metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let began = match made {
        Some(at) if metadata.len() > 0 => Timestamp(u64::try_from(at.as_nanos()).unwrap_or(now.0).min(now.0)),
        _ => now,
    };
    Ok((file, metadata.len(), began))
}

/// One line with one call, so that what other processes add does not come between.
fn write_line(file: &mut File, line: &str, torn: bool) -> io::Result<()> {
    if torn {
        file.write_all(b"\n")?;
    }
    file.write_all(line.as_bytes())
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Where the standard error is gone there is nobody to tell.
pub(super) fn say(line: &str) {
    let _nobody_reads = io::stderr().lock().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_of_its_owner_alone_begins_anew_by_size_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("holdfast-old.log"), "not ours").unwrap();
        let rotation = Rotation { bytes: Some(10), age: None, keep: Some(2) };
        let log = LogFile::open(folder.path(), rotation).unwrap();
        let start = clock::now().0;
        for n in 0..6 {
            log.write_at(Timestamp(start + n), &format!("line {n} ...\n"));
        }
        let path = folder.path().join("holdfast.log");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 5 ...\n");
        let old = |n: u64| format!("holdfast-{}.log", start + n);
        assert_eq!(names(folder.path()), [old(4), old(5), "holdfast-old.log".into(), "holdfast.log".into()]);
        assert_eq!(fs::read_to_string(folder.path().join(old(5))).unwrap(), "line 4 ...\n");
    }

    #[test]
    fn a_file_begins_anew_by_age_and_goes_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let rotation = Rotation { bytes: None, age: Some(Duration::from_secs(3600)), keep: None };
        let log = LogFile::open(&path, rotation.clone()).unwrap();
        log.write("one\n");
        drop(log);
        let log = LogFile::open(&path, rotation).unwrap();
        let now = clock::now();
        log.write_at(now, "two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        log.write_at(now.plus_secs(3601), "three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_file_or_folder_that_is_taken_away_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("a.log");
        let log = LogFile::open(&path, Rotation::default()).unwrap();
        log.write("one\n");
        fs::rename(&path, inner.join("moved")).unwrap();
        log.reopen();
        log.write("two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");

        fs::remove_dir_all(&inner).unwrap();
        let now = clock::now().plus_secs(10);
        log.write_at(now, "to the standard error\n");
        log.write_at(Timestamp(now.0 + SECOND / 2), "this too\n");
        fs::create_dir(&inner).unwrap();
        log.write_at(now.plus_secs(2), "three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_full_disk_tears_no_line() {
        let log = LogFile::open(Path::new("/dev/full"), Rotation::default()).unwrap();
        log.write("lost to the file\n");
        assert!(log.state().torn && log.state().in_trouble);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"half a li").unwrap();
        write_line(&mut file, "a whole line\n", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half a li\na whole line\n");
    }
}
