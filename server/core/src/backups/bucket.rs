//! Snapshots in a bucket of an S3-compatible server. One is sent part by part while it is made, read back into a
//! scratch file beside the store, and counts when that file is what was sent and opens.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use holdfast_sdk::Chunks;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::s3::{Client, Failure};
use super::{KEEP_FREE_BYTES, Made, Plan, S3, SCRATCH, Status, Unproven, prove, time_of};
use crate::{Core, Open, clock, free_bytes, snapshot};

/// All but the last part; one is in memory. S3 takes none below 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// S3's bound.
const PARTS: u16 = 10_000;
/// How often it is looked whether the store's disk has room.
const LOOK_EVERY_BYTES: u64 = 4 << 20;

/// What was sent.
struct Sent {
    bytes: u64,
    digest: [u8; 32],
}

impl Core {
    /// One snapshot, proven. `unproven` is what lies at the target and counts for nothing: before, and then after it.
    pub(super) async fn make_in_bucket(
        &self,
        open: &Arc<Open>,
        name: &str,
        (plan, s3): (&Plan, &S3),
        unproven: &mut Option<Unproven>,
    ) -> Result<Made, String> {
        let mut client = Client::new(s3)?;
        if let Some(left) = unproven.as_ref().filter(|left| left.bucket == s3.bucket) {
            take_away(&mut client, left).await.map_err(|f| f.text)?;
        }
        *unproven = None;
        let key = prefixed(&plan.path_prefix, &plan.name_at(clock::now()));
        let upload_id = client.begin(&key).await.map_err(|f| f.text)?;
        let begun = Unproven { bucket: s3.bucket.clone(), key: key.clone(), upload_id };
        let mut left = LeftBehind(Some((Client::new(s3)?, begun.clone())));
        let made = self.send_and_prove(open, name, &mut client, &begun).await;
        left.0 = None;
        match made {
            Ok(entries) => {
                if let Err(failure) = let_old_ones_go(&mut client, plan).await {
                    tracing::warn!(plan = %name, bucket = %s3.bucket, "older snapshots: {}", failure.text);
                }
                Ok(Made { url: format!("s3://{}/{key}", s3.bucket), entries })
            }
            Err(failed) => {
                // Of one that was put together nobody knows whether it comes to be yet: it is looked for again.
                if take_away(&mut client, &begun).await.is_err() || failed.is_unclear {
                    *unproven = Some(begun);
                }
                Err(failed.text)
            }
        }
    }

    async fn send_and_prove(
        &self,
        open: &Arc<Open>,
        name: &str,
        client: &mut Client,
        begun: &Unproven,
    ) -> Result<u64, Failed> {
        self.note_unproven(open, name, begun).await?;
        let chunks = snapshot::save(self, open).map_err(|e| e.to_string())?;
        let (sent, etags) = send(client, begun, chunks).await?;
        let completed = client.complete(&begun.key, &begun.upload_id, &etags).await;
        completed.map_err(|f| Failed { text: f.text, is_unclear: f.code.is_none() })?;
        let folder = self.options.cluster.as_ref().ok_or("there is no cluster")?.folder();
        let scratch = Scratch(folder.join(format!("{SCRATCH}{name}")));
        let within = client.limits().reading_back(sent.bytes, PART_BYTES);
        let read = timeout(within, read_back(client, &begun.key, &sent, &scratch.0)).await;
        read.unwrap_or_else(|_| {
            let secs = within.as_secs();
            Err(format!("the snapshot was not read back within {secs} s: the target is too slow (aws_s3_timeout)")
                .into())
        })?;
        Ok(prove(open, &scratch.0).await?)
    }

    /// A node that dies leaves it to the next.
    async fn note_unproven(&self, open: &Arc<Open>, name: &str, begun: &Unproven) -> Result<(), String> {
        let noted = self.transact(open, |tx| {
            let status = super::status(tx, name)?;
            match super::plan(tx, name)? {
                Some(_) => {
                    let status = Status { unproven: Some(begun.clone()), ..status };
                    super::write(tx, &super::at(super::STATUS, name), &status)
                }
                None => Err(holdfast_sdk::Error::NotFound),
            }
        });
        noted.await.map_err(|e| format!("the upload cannot be noted: {e}"))
    }
}

/// An upload of a node that loses the lead meanwhile, and gives up what it does: it may not have been noted yet, so that nobody
/// else knows of it.
struct LeftBehind(Option<(Client, Unproven)>);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        let (Some((mut client, begun)), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            if let Err(e) = take_away(&mut client, &begun).await {
                let why = e.text;
                tracing::warn!(bucket = %begun.bucket, key = %begun.key, "an upload that was given up is left: {why}");
            }
        });
    }
}

/// Why there is no snapshot.
struct Failed {
    text: String,
    /// Whether there is an object is not known.
    is_unclear: bool,
}

impl From<String> for Failed {
    fn from(text: String) -> Failed {
        Failed { text, is_unclear: false }
    }
}

impl From<&str> for Failed {
    fn from(text: &str) -> Failed {
        text.to_owned().into()
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        failure.text.into()
    }
}

/// A file that goes with this value. What is in it is sealed, as in the store.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _there_may_be_none = fs::remove_file(&self.0);
    }
}

/// The key of an object of that name.
fn prefixed(prefix: &str, name: &str) -> String {
    match prefix.trim_matches('/') {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}

async fn send(
    client: &mut Client,
    begun: &Unproven,
    mut chunks: Box<dyn Chunks>,
) -> Result<(Sent, Vec<String>), Failed> {
    let (mut sha, mut bytes, mut etags) = (Sha256::new(), 0, Vec::new());
    let mut part = BytesMut::with_capacity(PART_BYTES);
    loop {
        let chunk = std::future::poll_fn(|cx| chunks.poll_next(cx)).await;
        let is_last = chunk.is_none();
        if let Some(chunk) = chunk {
            bytes += chunk.len() as u64;
            sha.update(&chunk);
            part.extend_from_slice(&chunk);
        }
        if part.len() >= PART_BYTES || (is_last && !part.is_empty()) {
            let number = u16::try_from(etags.len() + 1).ok().filter(|n| *n <= PARTS);
            let number = number.ok_or_else(|| format!("the snapshot has more than {PARTS} parts of 8 MiB"))?;
            let body: Bytes = part.split().freeze();
            etags.push(client.put_part(&begun.key, &begun.upload_id, number, body).await?);
        }
        if is_last {
            return Ok((Sent { bytes, digest: sha.finalize().into() }, etags));
        }
    }
}

/// What the target has now must be what was sent to it.
async fn read_back(client: &mut Client, key: &str, sent: &Sent, scratch: &Path) -> Result<(), Failed> {
    let cannot = |what: &str, e: std::io::Error| format!("cannot {what} {}: {e}", scratch.display());
    let other = || Failed::from("what the target gives back is not what was sent to it: the snapshot does not count");
    let full = || Failed::from("the store's disk has no room to read the snapshot back");
    let folder = scratch.parent().unwrap_or(scratch);
    if free_bytes(folder).is_ok_and(|free| free < sent.bytes.saturating_add(KEEP_FREE_BYTES)) {
        return Err(full());
    }
    let mut file = new_file(scratch).map_err(|e| cannot("create", e))?;
    let mut coming = client.get(key).await?;
    let (mut sha, mut bytes, mut looked_at) = (Sha256::new(), 0_u64, 0);
    while let Some(chunk) = coming.next().await? {
        bytes += chunk.len() as u64;
        if bytes > sent.bytes {
            return Err(other());
        }
        if bytes - looked_at >= LOOK_EVERY_BYTES {
            looked_at = bytes;
            if free_bytes(folder).is_ok_and(|free| free < KEEP_FREE_BYTES) {
                return Err(full());
            }
        }
        sha.update(&chunk);
        tokio::task::block_in_place(|| file.write_all(&chunk)).map_err(|e| cannot("write", e))?;
    }
    let digest: [u8; 32] = sha.finalize().into();
    if bytes == sent.bytes && digest == sent.digest { Ok(()) } else { Err(other()) }
}

fn new_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Parts, and the object if they became one.
async fn take_away(client: &mut Client, begun: &Unproven) -> Result<(), Failure> {
    client.abort(&begun.key, &begun.upload_id).await?;
    client.delete(&begun.key).await
}

/// Keep the newest ones, as many as the plan says. Others' objects are not touched.
async fn let_old_ones_go(client: &mut Client, plan: &Plan) -> Result<(), Failure> {
    let begin = prefixed(&plan.path_prefix, &format!("{}-", plan.file_prefix));
    let keys = client.list(&begin).await?;
    for key in too_many(keys, plan) {
        client.delete(&key).await?;
    }
    Ok(())
}

/// Those that go: all but the newest ones.
fn too_many(keys: Vec<String>, plan: &Plan) -> Vec<String> {
    let folder = prefixed(&plan.path_prefix, "");
    let time = |key: &str| time_of(key.strip_prefix(&folder)?, &plan.file_prefix);
    let mut found: Vec<(u64, String)> = keys.into_iter().filter_map(|key| Some((time(&key)?, key))).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let retain = usize::try_from(plan.retain.max(1)).unwrap_or(usize::MAX);
    found.into_iter().skip(retain).map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan_of_tests as plan;
    use super::*;

    #[test]
    fn the_newest_are_kept_and_other_objects_are_not_counted() {
        let of = |prefix: &str| Plan { path_prefix: prefix.into(), ..plan(2, 0) };
        let keys = |folder: &str| {
            let names = ["b-9.snap", "b-10.snap", "b-11.snap", "b-1.snap.old", "b-x.snap", "c/b-1.snap", "b-2-3.snap"];
            names.iter().map(|name| format!("{folder}{name}")).collect::<Vec<_>>()
        };
        for (prefix, folder) in [("", ""), ("/", ""), ("a/b", "a/b/"), ("/a/b/", "a/b/")] {
            assert_eq!(too_many(keys(folder), &of(prefix)), [format!("{folder}b-9.snap")], "{prefix:?}");
        }
        assert!(too_many(keys("other/"), &of("a")).is_empty());
    }
}
