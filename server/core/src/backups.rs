//! Snapshots that the active node makes by itself (`sys/storage/raft/snapshot-auto`): each is read back, checked, and
//! opened entry by entry before it counts, and before an older one is let go.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_sdk::{Error, Place, Result, Transaction};
use serde::{Deserialize, Serialize};

use crate::layout::{SETTINGS, SYSTEM};
use crate::tx::Tx;
use crate::{Core, Open, clock, free_bytes, snapshot};

/// Plans at most.
const PLANS: usize = 16;
const PLAN: &[u8] = b"backup/";
const PLAN_END: &[u8] = b"backup0";
const STATUS: &[u8] = b"backup-status/";
/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(2);
/// A snapshot that failed is tried again after this, or after its interval if that is shorter.
const RETRY_NS: u64 = 60_000_000_000;
/// Room that is left on the disk of the target.
const KEEP_FREE_BYTES: u64 = 64 << 20;
const EXTENSION: &str = "snap";

/// `snapshot-auto/config/{name}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Nanoseconds.
    pub interval: u64,
    pub retain: u64,
    pub path_prefix: String,
    pub file_prefix: String,
    pub local_max_space: u64,
    /// When it was written, in nanoseconds.
    pub since: u64,
}

/// `snapshot-auto/status/{name}`; times in nanoseconds of cluster time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub consecutive_errors: u64,
    /// The last try.
    pub start: u64,
    pub end: u64,
    pub error: String,
    /// The last one that was proven.
    pub proven: u64,
    pub url: String,
    pub entries: u64,
}

impl Plan {
    /// When the next snapshot is due.
    pub fn next(&self, status: &Status) -> u64 {
        match status.consecutive_errors {
            0 => self.since.max(status.start).saturating_add(self.interval),
            _ => status.end.saturating_add(RETRY_NS.min(self.interval)),
        }
    }
}

fn at(prefix: &[u8], name: &str) -> Vec<u8> {
    [prefix, name.as_bytes()].concat()
}

pub(crate) fn plans(tx: &mut Tx) -> Result<Vec<(String, Plan)>> {
    let found = tx.within(SYSTEM, |tx| tx.ordered(SETTINGS, PLAN, PLAN_END, PLANS + 1))?;
    let plan = |(key, value): (Vec<u8>, Vec<u8>)| {
        let name = String::from_utf8_lossy(key.strip_prefix(PLAN).unwrap_or_default()).into_owned();
        Ok((name, serde_json::from_slice(&value).map_err(Error::internal)?))
    };
    found.into_iter().map(plan).collect()
}

pub(crate) fn plan(tx: &mut Tx, name: &str) -> Result<Option<Plan>> {
    read(tx, &at(PLAN, name))
}

pub(crate) fn status(tx: &mut Tx, name: &str) -> Result<Status> {
    Ok(read(tx, &at(STATUS, name))?.unwrap_or_default())
}

fn read<T: for<'de> Deserialize<'de>>(tx: &mut Tx, key: &[u8]) -> Result<Option<T>> {
    let found = tx.within(SYSTEM, |tx| tx.get(Place::Ordered(SETTINGS, key)))?;
    found.map(|b| serde_json::from_slice(&b).map_err(Error::internal)).transpose()
}

fn write<T: Serialize>(tx: &mut Tx, key: &[u8], value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(Error::internal)?;
    tx.within(SYSTEM, |tx| tx.put(Place::Ordered(SETTINGS, key), bytes))
}

pub(crate) fn save_plan(tx: &mut Tx, name: &str, plan: &Plan) -> Result<()> {
    let known = plans(tx)?;
    if known.len() >= PLANS && !known.iter().any(|(n, _)| n == name) {
        return Err(Error::bad_request(format!("at most {PLANS} plans for snapshots are kept")));
    }
    write(tx, &at(PLAN, name), plan)
}

pub(crate) fn forget_plan(tx: &mut Tx, name: &str) -> Result<()> {
    tx.within(SYSTEM, |tx| {
        tx.delete(Place::Ordered(SETTINGS, &at(PLAN, name)))?;
        tx.delete(Place::Ordered(SETTINGS, &at(STATUS, name)))
    })
}

/// Make snapshots for as long as this node is active.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    if core.options.cluster.is_some() {
        core.while_open(open, run);
    }
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
        if let Err(e) = core.make_what_is_due(&open).await {
            tracing::warn!(error = %e, "the plans for snapshots cannot be read or noted; it is tried again");
        }
    }
}

impl Core {
    /// Of all plans, how old the last proven snapshot is where it is oldest; inner `None`: there is a plan without one.
    /// `None`: there are no plans, as far as this node, which must be active, has looked.
    pub(crate) fn backup_age_secs(&self) -> Option<Option<u64>> {
        match self.metrics.oldest_backup.load(Ordering::Relaxed) {
            u64::MAX => None,
            0 => Some(None),
            made => Some(Some(self.clock.cluster().0.saturating_sub(made) / 1_000_000_000)),
        }
    }

    async fn make_what_is_due(&self, open: &Arc<Open>) -> Result<()> {
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        let mut oldest: Option<u64> = None;
        let mut all = Vec::new();
        for (name, plan) in plans(&mut tx)? {
            let status = status(&mut tx, &name)?;
            oldest = Some(oldest.map_or(status.proven, |o| o.min(status.proven)));
            all.push((name, plan, status));
        }
        drop(tx);
        self.metrics.oldest_backup.store(oldest.map_or(u64::MAX, |o| o), Ordering::Relaxed);
        for (name, plan, before) in all {
            let now = self.clock.cluster();
            if plan.next(&before) > now.0 {
                continue;
            }
            let made = self.make_backup(open, &plan).await;
            let end = self.clock.cluster().0;
            let after = match made {
                Ok((path, entries)) => {
                    tracing::info!(plan = %name, file = %path.display(), entries, "a snapshot was made and proven");
                    let url = format!("file://{}", path.display());
                    Status {
                        consecutive_errors: 0,
                        start: now.0,
                        end,
                        error: String::new(),
                        proven: now.0,
                        url,
                        entries,
                    }
                }
                Err(text) => {
                    tracing::error!(plan = %name, "no snapshot was made: {text}");
                    let consecutive_errors = before.consecutive_errors + 1;
                    Status { consecutive_errors, start: now.0, end, error: text, ..before }
                }
            };
            // A plan that was deleted meanwhile has no status.
            self.transact(open, |tx| match self::plan(tx, &name)? {
                Some(_) => write(tx, &at(STATUS, &name), &after),
                None => Ok(()),
            })
            .await?;
        }
        Ok(())
    }

    /// One snapshot, proven. Where it is, and how many entries it holds.
    async fn make_backup(&self, open: &Arc<Open>, plan: &Plan) -> std::result::Result<(PathBuf, u64), String> {
        let folder = PathBuf::from(&plan.path_prefix);
        let cannot = |what: &str, path: &Path, e: std::io::Error| format!("cannot {what} {}: {e}", path.display());
        fs::create_dir_all(&folder).map_err(|e| cannot("create", &folder, e))?;
        let name = format!("{}-{}.{EXTENSION}", plan.file_prefix, clock::now().secs());
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
            let found = snapshot::verify(open, &unfinished).await.map_err(|e| e.to_string())?;
            if found.get("opens") != Some(&true.into()) {
                let reason = found.get("reason").and_then(|r| r.as_str()).unwrap_or_default();
                return Err(format!("the snapshot does not open: {reason}"));
            }
            fs::rename(&unfinished, &path)
                .and_then(|()| File::open(&folder)?.sync_all())
                .map_err(|e| cannot("put in its place", &path, e))?;
            Ok(found.get("entries").and_then(|n| n.as_u64()).unwrap_or(0))
        };
        let entries = written.await.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        if let Err(e) = let_old_ones_go(&folder, plan) {
            tracing::warn!(folder = %folder.display(), error = %e, "older snapshots cannot be removed");
        }
        Ok((path, entries))
    }
}

/// Keep the newest ones, as many as the plan says and as fit into its room. None is under way.
fn let_old_ones_go(folder: &Path, plan: &Plan) -> std::io::Result<()> {
    let mut found: Vec<(u64, PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let time_of = |name: &str| -> Option<u64> {
            name.strip_prefix(&plan.file_prefix)?.strip_prefix('-')?.strip_suffix(".snap")?.parse().ok()
        };
        // A seal, or the loss of the lead, has cut it off.
        let unfinished = name.strip_prefix('.').and_then(|n| n.strip_suffix(".part"));
        if unfinished.and_then(time_of).is_some() {
            fs::remove_file(entry.path())?;
        } else if let Some(time) = time_of(name) {
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
    use super::*;

    fn plan(retain: u64, local_max_space: u64) -> Plan {
        Plan { interval: 10, retain, path_prefix: String::new(), file_prefix: "b".into(), local_max_space, since: 100 }
    }

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

    #[test]
    fn one_that_failed_is_tried_again_soon_and_one_that_went_well_after_its_interval() {
        let plan = plan(1, 1);
        assert_eq!(plan.next(&Status::default()), 110);
        assert_eq!(plan.next(&Status { start: 200, end: 203, ..Status::default() }), 210);
        assert_eq!(plan.next(&Status { start: 200, end: 203, consecutive_errors: 2, ..Status::default() }), 213);
    }
}
