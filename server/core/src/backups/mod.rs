//! Snapshots that the active node makes by itself (`sys/storage/raft/snapshot-auto`): each is read back, checked, and
//! opened entry by entry before it counts, and before an older one is let go.

mod bucket;
mod folder;
mod s3;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};
use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) use s3::check as check_s3;

use crate::layout::{SETTINGS, SYSTEM};
use crate::tx::Tx;
use crate::{Core, Open, snapshot};

/// Plans at most.
const PLANS: usize = 16;
const PLAN: &[u8] = b"backup/";
const PLAN_END: &[u8] = b"backup0";
const STATUS: &[u8] = b"backup-status/";
/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(2);
/// A snapshot that failed is tried again after this, or after its interval if that is shorter.
const RETRY_NS: u64 = 60_000_000_000;
/// Room that is left on the disk of the target, and on that of the store.
const KEEP_FREE_BYTES: u64 = 64 << 20;
/// Snapshots that are made at a time; of those to folders it is one.
const AT_ONCE: usize = 4;
const EXTENSION: &str = ".snap";
/// Files in the store's folder into which a snapshot is read back begin with it.
const SCRATCH: &str = "snapshot-proof-";

/// `snapshot-auto/config/{name}`
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Nanoseconds.
    pub interval: u64,
    pub retain: u64,
    /// The folder, or what the keys of a bucket begin with.
    pub path_prefix: String,
    pub file_prefix: String,
    /// 0 where the target is a bucket: to an earlier version, which knows only folders, no snapshot fits in.
    pub local_max_space: u64,
    /// When it was written, in nanoseconds.
    pub since: u64,
    /// The bucket; `None`: a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
}

/// A bucket at an S3-compatible server.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct S3 {
    pub bucket: String,
    pub region: String,
    /// `host` or `host:port`; empty: Amazon's of the region.
    pub endpoint: String,
    pub disable_tls: bool,
    pub force_path_style: bool,
    pub access_key_id: String,
    #[serde(with = "sealed_text")]
    pub secret_access_key: Secret<String>,
    /// Empty: none.
    #[serde(with = "sealed_text")]
    pub session_token: Secret<String>,
    pub server_side_encryption: bool,
    pub enable_kms: bool,
    pub kms_key: String,
    /// How long the server may take for a part; 0: two minutes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout_secs: u64,
}

// The form that serde asks for.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl S3 {
    /// 8 MiB at 70 KB/s.
    const TIMEOUT: Duration = Duration::from_secs(120);

    /// How long the server may take for a part.
    pub fn timeout(&self) -> Duration {
        match self.timeout_secs {
            0 => S3::TIMEOUT,
            secs => Duration::from_secs(secs),
        }
    }
}

/// Secrets in a record of the store, which the barrier seals.
mod sealed_text {
    use holdfast_hsm::memory::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secret: &Secret<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Secret<String>, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
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
    /// What lies at the target and is not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven: Option<Unproven>,
}

/// An upload that was begun. It is noted in the store, so that whoever leads next takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    pub bucket: String,
    pub key: String,
    pub upload_id: String,
}

/// A snapshot that is proven.
struct Made {
    url: String,
    entries: u64,
}

impl Plan {
    /// When the next snapshot is due.
    pub fn next(&self, status: &Status) -> u64 {
        match status.consecutive_errors {
            0 => self.since.max(status.start).saturating_add(self.interval),
            _ => status.end.saturating_add(RETRY_NS.min(self.interval)),
        }
    }

    fn name_at(&self, now: Timestamp) -> String {
        format!("{}-{}{EXTENSION}", self.file_prefix, now.secs())
    }
}

/// Of a snapshot's name, when it was made; `None`: it is none of this prefix.
fn time_of(name: &str, file_prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(file_prefix)?.strip_prefix('-')?.strip_suffix(EXTENSION)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Check a snapshot that was read back, and open all of it. How many entries it holds.
async fn prove(open: &Arc<Open>, file: &Path) -> std::result::Result<u64, String> {
    let found = snapshot::verify(open, file).await.map_err(|e| e.to_string())?;
    if found.get("opens") != Some(&true.into()) {
        let reason = found.get("reason").and_then(|r| r.as_str()).unwrap_or_default();
        return Err(format!("the snapshot does not open: {reason}"));
    }
    Ok(found.get("entries").and_then(|n| n.as_u64()).unwrap_or(0))
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
    if let Some(cluster) = &core.options.cluster {
        forget_scratch(cluster.folder());
        core.while_open(open, run);
    }
}

/// What a crash has left: nothing is read back yet.
fn forget_scratch(folder: &Path) {
    let Ok(files) = fs::read_dir(folder) else { return };
    for file in files.flatten() {
        if file.file_name().to_str().is_some_and(|name| name.starts_with(SCRATCH)) {
            let _goes_another_time = fs::remove_file(file.path());
        }
    }
}

/// Snapshots that are made now, by their plans' names. They end with this value.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    plans: HashMap<String, (AbortHandle, bool)>,
}

impl UnderWay {
    /// Whether one of a plan may be begun. Those to folders go one after the other: they may share a folder.
    fn takes(&mut self, name: &str, to_folder: bool) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.plans.retain(|_, (task, _)| !task.is_finished());
        self.plans.len() < AT_ONCE
            && !self.plans.contains_key(name)
            && !(to_folder && self.plans.values().any(|(_, to_folder)| *to_folder))
    }
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    let mut under_way = UnderWay::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
        if let Err(e) = core.begin_what_is_due(&open, &mut under_way) {
            tracing::warn!(error = %e, "the plans for snapshots cannot be read; it is tried again");
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

    /// Tries in a row that came to nothing, of the plan where these are most.
    pub(crate) fn backup_failed_tries(&self) -> u64 {
        self.metrics.backup_failed_tries.get()
    }

    /// A target that is slow keeps no other plan from its turn.
    fn begin_what_is_due(self: &Arc<Self>, open: &Arc<Open>, under_way: &mut UnderWay) -> Result<()> {
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        let (mut oldest, mut failed_tries) = (None::<u64>, 0);
        let mut all = Vec::new();
        for (name, plan) in plans(&mut tx)? {
            let status = status(&mut tx, &name)?;
            oldest = Some(oldest.map_or(status.proven, |o| o.min(status.proven)));
            failed_tries = status.consecutive_errors.max(failed_tries);
            all.push((name, plan, status));
        }
        drop(tx);
        self.metrics.oldest_backup.store(oldest.map_or(u64::MAX, |o| o), Ordering::Relaxed);
        self.metrics.backup_failed_tries.set(failed_tries);
        for (name, plan, before) in all {
            let to_folder = plan.s3.is_none();
            if plan.next(&before) > self.clock.cluster().0 || !under_way.takes(&name, to_folder) {
                continue;
            }
            let (core, open, key) = (self.clone(), open.clone(), name.clone());
            let task = under_way.tasks.spawn(async move { core.make_one(&open, &name, &plan, before).await });
            under_way.plans.insert(key, (task, to_folder));
        }
        Ok(())
    }

    async fn make_one(&self, open: &Arc<Open>, name: &str, plan: &Plan, before: Status) {
        let start = self.clock.cluster().0;
        let mut unproven = before.unproven.clone();
        let made = match &plan.s3 {
            None => self.make_in_folder(open, plan).await,
            Some(s3) => self.make_in_bucket(open, name, (plan, s3), &mut unproven).await,
        };
        let end = self.clock.cluster().0;
        let after = match made {
            Ok(Made { url, entries }) => {
                tracing::info!(plan = %name, %url, entries, "a snapshot was made and proven");
                let error = String::new();
                Status { consecutive_errors: 0, start, end, error, proven: start, url, entries, unproven }
            }
            Err(text) => {
                tracing::error!(plan = %name, "no snapshot was made: {text}");
                let consecutive_errors = before.consecutive_errors + 1;
                Status { consecutive_errors, start, end, error: text, unproven, ..before }
            }
        };
        if let Err(e) = self.note(open, name, &after).await {
            tracing::warn!(error = %e, plan = %name, "how a snapshot went cannot be noted; another is made");
        }
    }

    async fn note(&self, open: &Arc<Open>, name: &str, status: &Status) -> Result<()> {
        // A plan that was deleted meanwhile has no status.
        self.transact(open, |tx| match plan(tx, name)? {
            Some(_) => write(tx, &at(STATUS, name), status),
            None => Ok(()),
        })
        .await
    }
}

#[cfg(test)]
fn plan_of_tests(retain: u64, local_max_space: u64) -> Plan {
    let (path_prefix, file_prefix) = (String::new(), "b".into());
    Plan { interval: 10, retain, path_prefix, file_prefix, local_max_space, since: 100, s3: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_failed_is_tried_again_soon_and_one_that_went_well_after_its_interval() {
        let plan = plan_of_tests(1, 1);
        assert_eq!(plan.next(&Status::default()), 110);
        assert_eq!(plan.next(&Status { start: 200, end: 203, ..Status::default() }), 210);
        assert_eq!(plan.next(&Status { start: 200, end: 203, consecutive_errors: 2, ..Status::default() }), 213);
    }

    #[test]
    fn names_of_snapshots_have_digits_alone() {
        assert_eq!(time_of("b-12.snap", "b"), Some(12));
        for other in ["b-.snap", "b-+1.snap", "b-1.snap.part", "bb-1.snap", "b-1", "b-1x.snap", "a/b-1.snap"] {
            assert_eq!(time_of(other, "b"), None, "{other}");
        }
    }

    #[test]
    fn plans_and_statuses_of_earlier_versions_are_read() {
        let plan = r#"{"interval":1,"retain":2,"path_prefix":"/x","file_prefix":"b","local_max_space":3,"since":4}"#;
        let read: Plan = serde_json::from_str(plan).unwrap();
        assert!(read.s3.is_none());
        assert_eq!(serde_json::to_string(&read).unwrap(), plan, "and an earlier version reads what this one wrote");
        let status = r#"{"consecutive_errors":0,"start":1,"end":2,"error":"","proven":1,"url":"u","entries":5}"#;
        assert_eq!(serde_json::from_str::<Status>(status).unwrap().entries, 5);
    }

    #[test]
    fn the_debug_form_of_a_plan_shows_no_secret() {
        let secret = || Secret::new("s3cr3t".to_owned());
        let s3 = S3 { secret_access_key: secret(), session_token: secret(), ..S3::default() };
        let plan = Plan { s3: Some(s3), ..plan_of_tests(1, 0) };
        assert!(!format!("{plan:?}").contains("s3cr3t"));
        let kept = serde_json::to_vec(&plan).unwrap();
        let read: Plan = serde_json::from_slice(&kept).unwrap();
        assert_eq!(read.s3.unwrap().secret_access_key.expose(), "s3cr3t");
    }
}
