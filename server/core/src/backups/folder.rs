//! Snapshots in a folder of the node that is active.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_hsm::{FileUse, with_reason};

use super::{KEEP_FREE_BYTES, Made, Plan, prove, time_of};
use crate::{Core, Open, clock, free_bytes, snapshot};

impl Core {
    /// One snapshot, proven.
    pub(super) async fn make_in_folder(&self, open: &Arc<Open>, plan: &Plan) -> Result<Made, String> {
        let folder = PathBuf::from(&plan.path_prefix);
        let cannot = |what: &str, path: &Path, e: std::io::Error| {
            format!("cannot {what} {}: {}", path.display(), with_reason(e, path, FileUse::Write))
        };
        fs::create_dir_all(&folder).map_err(|e| cannot("create", &folder, e))?;
        let name = plan.name_at(clock::now());
        let (path, unfinished) = (folder.join(&name), folder.join(format!(".{name}.part")));
        let written = async {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
            let mut file = file.map_err(|e| cannot("create", &unfinished, e))?;
            let mut chunks = snapshot::save(self, open).map_err(|e| e.to_string())?;
            let mut bytes = 0;
            while let Some(chunk) = std::future::poll_fn(|cx| chunks.poll_next(cx)).await {
                bytes += chunk.len() as u64;
                if bytes > plan.local_max_space {
                    return Err(format!("a snapshot is larger than local_max_space ({})", plan.local_max_space));
                }
                if free_bytes(&folder).is_ok_and(|free| free < KEEP_FREE_BYTES) {
                    return Err(format!("the disk of {} is full", folder.display()));
                }
                tokio::task::block_in_place(|| file.write_all(&chunk)).map_err(|e| cannot("write", &unfinished, e))?;
            }
            tokio::task::block_in_place(|| file.sync_all()).map_err(|e| cannot("sync", &unfinished, e))?;
            drop(file);
            let entries = prove(open, &unfinished).await?;
            fs::rename(&unfinished, &path)
                .and_then(|()| File::open(&folder)?.sync_all())
                .map_err(|e| cannot("put in its place", &path, e))?;
            Ok(entries)
        };
        let entries = written.await.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        if let Err(e) = let_old_ones_go(&folder, plan) {
            tracing::warn!(folder = %folder.display(), error = %e, "older snapshots cannot be removed");
        }
        Ok(Made { url: format!("file://{}", path.display()), entries })
    }
}

/// Keep the newest ones, as many as the plan says and as fit into its room. None is under way.
fn let_old_ones_go(folder: &Path, plan: &Plan) -> std::io::Result<()> {
    let mut found: Vec<(u64, PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // A seal, or the loss of the lead, has cut it off.
        let unfinished = name.strip_prefix('.').and_then(|n| n.strip_suffix(".part"));
        if unfinished.and_then(|name| time_of(name, &plan.file_prefix)).is_some() {
            fs::remove_file(entry.path())?;
        } else if let Some(time) = time_of(name, &plan.file_prefix) {
            found.push((time, entry.path(), entry.metadata()?.len()));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    let mut bytes = 0;
    for (n, (_, path, len)) in found.into_iter().enumerate() {
        bytes += len;
        // The newest is never let go.
        if n > 0 && (n as u64 >= plan.retain || bytes > plan.local_max_space) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::plan_of_tests as plan;
    use super::*;

    #[test]
    fn the_newest_are_kept_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["b-1.snap", "b-2.snap", "b-10.snap", "b-x.snap", "c-1.snap", "b-3.txt", ".b-3.snap.part"];
        for name in names {
            fs::write(folder.path().join(name), [0; 10]).unwrap();
        }
        let left = || {
            let mut left: Vec<String> =
                fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            left.sort();
            left
        };
        let_old_ones_go(folder.path(), &plan(2, 1000)).unwrap();
        assert_eq!(left(), ["b-10.snap", "b-2.snap", "b-3.txt", "b-x.snap", "c-1.snap"]);
        let_old_ones_go(folder.path(), &plan(9, 15)).unwrap();
        assert_eq!(left(), ["b-10.snap", "b-3.txt", "b-x.snap", "c-1.snap"]);
        let_old_ones_go(folder.path(), &plan(1, 5)).unwrap();
        assert_eq!(left(), ["b-10.snap", "b-3.txt", "b-x.snap", "c-1.snap"], "the newest one stays");
    }
}
