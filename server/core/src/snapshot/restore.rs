//! Restoring: the archive is read once to be checked, and once more to be staged beside what the store holds; then
//! one entry of the log puts it in the store's place, on every member at once. Members, their identities and
//! everything outside of the store stay.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use holdfast_sdk::{Error, Result};
use holdfast_seal::locks::LockList;
use holdfast_storage::level::{self, LEVEL_KEY};
use holdfast_storage::{Proposal, RESTORE_KEY, Write, staged_key};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{CHUNK_BYTES, META, Meta, SEALED_AT, SEALED_SUMS, STATE, STATE_MAGIC, SUMS, tar};
use crate::layout::{KEYRING, LOCKS, RESTORED, RESTORES};
use crate::{Core, Open, commit_failure, random};

/// A small file of the archive at most.
const SMALL_BYTES: u64 = 1 << 20;
/// One key or value at most.
const PART_BYTES: usize = 80 << 20;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What an archive is, as its first reading showed.
pub(super) struct Checked {
    pub meta: Meta,
    pub sums: Vec<u8>,
    pub sealed_sums: Vec<u8>,
    pub locks: Option<Vec<u8>>,
    pub keyring: Option<Vec<u8>>,
    /// The feature level of what it holds.
    pub level: u64,
}

/// Put the archive in `file` in the place of what the store holds. Without `force`, only one that the present keys
/// open.
pub(crate) async fn restore(core: &Arc<Core>, open: &Arc<Open>, file: &Path, force: bool) -> Result<()> {
    let path = file.to_owned();
    let checked = tokio::task::spawn_blocking(move || check(&path)).await.map_err(Error::internal)?;
    let checked = checked.map_err(|e| Error::bad_request(format!("failed to decompress snapshot: {e}")))?;
    let foreign = |what: &str| {
        Error::bad_request(format!(
            "{what}: the snapshot is of the cluster {:?} ({}), sealed by {:?}, written by version {}; \
             restore it with force if you have its keys",
            checked.meta.cluster_name, checked.meta.cluster_id, checked.meta.seal, checked.meta.version
        ))
    };
    // Every member must be able to follow what it holds.
    let known = core.options.cluster.as_ref().map_or_else(level::known, |c| core.level_of_all(&**c));
    if checked.level > known {
        return Err(Error::bad_request(format!(
            "the snapshot has feature level {}, and this cluster's programs know up to {known}: install later ones first",
            checked.level
        )));
    }
    let locks = checked.locks.as_deref().ok_or_else(|| Error::bad_request("the snapshot holds no locks"))?;
    let locks = LockList::decode(locks).map_err(|e| Error::bad_request(format!("the snapshot's locks: {e}")))?;
    if !force {
        locks.verify(&open.root.load()).map_err(|_| foreign("the present keys do not open it"))?;
        let sums = open.barrier.load().open(SEALED_AT, &checked.sealed_sums);
        if sums.map_err(|_| foreign("its sums are sealed by other keys"))? != checked.sums {
            return Err(Error::bad_request("the snapshot's checksums are not those that were sealed with it"));
        }
    }
    let id: [u8; 16] = random::bytes()?;
    let (chunks, mut coming) = mpsc::channel::<Entries>(2);
    let path = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || stage(&path, &chunks));
    while let Some(entries) = coming.recv().await {
        let put = |(key, value): (Vec<u8>, Vec<u8>)| Write::Put(staged_key(&id, &key), value.into());
        commit(core, entries.into_iter().map(put).collect(), false).await?;
    }
    reading.await.map_err(Error::internal)?.map_err(Error::internal)?;
    // Whatever clients remember of the store's states counts no longer.
    let another: [u8; 8] = random::bytes()?;
    let put = |key: &[u8], value: &[u8]| Write::Put(staged_key(&id, key), value.into());
    commit(core, vec![put(RESTORES, &another), put(RESTORED, &[1])], false).await?;
    tracing::warn!(cluster = %checked.meta.cluster_name, index = checked.meta.index, "a snapshot takes the store's place");
    commit(core, vec![Write::Put(RESTORE_KEY.into(), id[..].into())], true).await
}

async fn commit(core: &Core, writes: Vec<Write>, last: bool) -> Result<()> {
    let proposal = Proposal { view_index: core.store.view().index(), writes, ..Proposal::default() };
    let ticket = match last {
        true => core.store.propose_last(proposal),
        false => core.store.propose(proposal),
    };
    ticket.map_err(commit_failure)?.committed().await.map_err(commit_failure).map(|_| ())
}

pub(super) fn archive(path: &Path) -> io::Result<GzDecoder<BufReader<File>>> {
    Ok(GzDecoder::new(BufReader::new(File::open(path)?)))
}

pub(super) fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// Read all of it, and compare the sums.
pub(super) fn check(path: &Path) -> io::Result<Checked> {
    let (mut meta, mut sums, mut sealed_sums, mut locks, mut keyring) = (None, None, None, None, None);
    let mut level = level::FIRST;
    let mut found = Vec::new();
    tar::read(archive(path)?, |name, content, len| {
        if name == STATE {
            let mut summing = Summing { from: content, sha: Sha256::new() };
            read_entries(&mut summing, |entries| {
                let find = |name: &[u8]| entries.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
                locks = locks.take().or_else(|| find(LOCKS));
                keyring = keyring.take().or_else(|| find(KEYRING));
                level = find(LEVEL_KEY).map_or(level, |v| level::read(&v));
                Ok(())
            })?;
            found.push((STATE, hex::encode(summing.sha.finalize())));
            return Ok(());
        }
        if len > SMALL_BYTES {
            return Err(broken("a file of the archive is larger than it may be"));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        match name {
            META => {
                found.push((META, hex::encode(Sha256::digest(&bytes))));
                meta = Some(bytes);
            }
            SUMS => sums = Some(bytes),
            SEALED_SUMS => sealed_sums = Some(bytes),
            _ => {}
        }
        Ok(())
    })?;
    let (Some(meta), Some(sums), Some(sealed_sums)) = (meta, sums, sealed_sums) else {
        return Err(broken("the archive is no snapshot of a store: a file is missing"));
    };
    let text = String::from_utf8_lossy(&sums);
    for name in [META, STATE] {
        let wanted = text.lines().find_map(|l| l.strip_suffix(name)).map(str::trim);
        let got = found.iter().find(|(n, _)| *n == name).map(|(_, sum)| sum.as_str());
        if wanted.is_none() || wanted != got {
            return Err(broken("a checksum of the snapshot is wrong"));
        }
    }
    let meta: Meta = serde_json::from_slice(&meta)?;
    if meta.format != 1 {
        return Err(broken("the snapshot has the format of a later version"));
    }
    Ok(Checked { meta, sums, sealed_sums, locks, keyring, level })
}

fn stage(path: &Path, chunks: &mpsc::Sender<Entries>) -> io::Result<()> {
    tar::read(archive(path)?, |name, content, _| match name {
        STATE => read_entries(content, |entries| {
            chunks.blocking_send(entries).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        }),
        _ => Ok(()),
    })
}

/// The entries of `state.bin`, so many bytes at a time.
pub(super) fn read_entries(from: &mut dyn Read, mut take: impl FnMut(Entries) -> io::Result<()>) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *STATE_MAGIC {
        return Err(broken("the snapshot's state is not in a form that this version knows"));
    }
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(key) = part(&mut from, true)? {
        let value = part(&mut from, false)?.unwrap_or_default();
        bytes += key.len() + value.len();
        entries.push((key, value));
        if bytes >= CHUNK_BYTES {
            bytes = 0;
            take(std::mem::take(&mut entries))?;
        }
    }
    if entries.is_empty() { Ok(()) } else { take(entries) }
}

/// The next key or value; `None` at the end, where that may be.
fn part(from: &mut impl Read, may_end: bool) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match from.read(&mut len[..1])? {
        0 if may_end => return Ok(None),
        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
        _ => from.read_exact(&mut len[1..])?,
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > PART_BYTES {
        return Err(broken("an entry of the snapshot is larger than any may be"));
    }
    let mut bytes = Vec::new();
    let read = from.take(len as u64).read_to_end(&mut bytes)?;
    if read < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(bytes)) }
}

struct Summing<'r> {
    from: &'r mut dyn Read,
    sha: Sha256,
}

impl Read for Summing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(out)?;
        self.sha.update(&out[..read]);
        Ok(read)
    }
}
