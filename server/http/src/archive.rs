//! Bodies that are no JSON and may be as large as the store: the archive of a restore goes to a file, whatever its
//! size.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::{ARCHIVE, Answer, Core, Standing, random};
use holdfast_sdk::Map;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

/// Room that is left to the store.
const KEEP_FREE_BYTES: u64 = 256 << 20;
/// How often it is looked whether there is room.
const LOOK_EVERY_BYTES: usize = 4 << 20;
const PATHS: &[&str] =
    &["sys/storage/raft/snapshot", "sys/storage/raft/snapshot-force", "sys/storage/raft/snapshot-verify"];

/// What an archive holds is read once or twice and written: longer than any other request may take.
pub const WORKED_ON_WITHIN: Duration = Duration::from_secs(6 * 3600);

/// Whether a path is one that takes archives.
pub fn is_path(path: &str) -> bool {
    PATHS.contains(&path)
}

/// What the files' names begin with.
const PREFIX: &str = "restore-";

/// Remove what a server that was killed has left of a restore.
pub fn remove_left(core: &Core) {
    let Some(folder) = core.archive_folder() else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)).map(|e| e.path()) {
        match fs::remove_file(&path) {
            Ok(()) => tracing::info!(file = %path.display(), "the archive of a restore that did not end is removed"),
            Err(e) => {
                tracing::warn!(file = %path.display(), error = %e, "the archive of a restore that did not end stays")
            }
        }
    }
}

/// A file that is removed when nobody needs it any more.
pub struct Archive {
    path: PathBuf,
}

impl Drop for Archive {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(&self.path);
    }
}

impl Archive {
    /// The request's parameters, in place of a body's.
    pub fn body(&self) -> Vec<u8> {
        let mut m = Map::new();
        m.insert(ARCHIVE.into(), self.path.display().to_string().into());
        serde_json::to_vec(&m).unwrap_or_default()
    }
}

/// Whether a request brings one.
pub fn is_one(core: &Core, method: &Method, path: &str) -> bool {
    matches!(*method, Method::POST | Method::PUT) && is_path(path) && core.archive_folder().is_some()
}

/// Take it, from somebody who may ask something, at the active node.
pub async fn take(core: &Arc<Core>, known: bool, body: Incoming, patience: Duration) -> Result<Archive, Answer> {
    match core.standing() {
        Standing::Active if known => {}
        Standing::Active => return Err(Answer::error(403, "permission denied")),
        Standing::Sealed => return Err(core.sealed_answer()),
        Standing::Standby(_) => return Err(Answer::error(503, "a snapshot is restored at the active node")),
    }
    let internal = |e: &dyn std::fmt::Display| Answer::error(500, &format!("the snapshot cannot be kept: {e}"));
    let folder = core.archive_folder().ok_or_else(|| internal(&"there is no folder for it"))?;
    let name: [u8; 8] = random::bytes().map_err(|e| internal(&e))?;
    let path = folder.join(format!("{PREFIX}{:016x}", u64::from_be_bytes(name)));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let archive = Archive { path: path.clone() };
    keep(file.map_err(|e| internal(&e))?, &path, body, patience).await?;
    Ok(archive)
}

async fn keep(mut file: File, path: &Path, mut body: Incoming, patience: Duration) -> Result<(), Answer> {
    let mut since_look = LOOK_EVERY_BYTES;
    loop {
        let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else {
            return Err(Answer::error(408, "the snapshot did not arrive in time"));
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|_| Answer::error(400, "the snapshot ended before its length"))?;
        let Some(data) = frame.data_ref() else { continue };
        since_look += data.len();
        if since_look >= LOOK_EVERY_BYTES {
            since_look = 0;
            if holdfast_core::free_bytes(path).is_ok_and(|free| free < KEEP_FREE_BYTES) {
                return Err(Answer::error(507, "the disk has no room for the snapshot beside the store"));
            }
        }
        tokio::task::block_in_place(|| file.write_all(data))
            .map_err(|e| Answer::error(500, &format!("the snapshot cannot be kept: {e}")))?;
    }
}
