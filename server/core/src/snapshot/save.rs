//! Saving: a thread writes the archive as fast as it is read.

use std::io::{self, BufWriter, Write};
use std::ops::Bound;
use std::sync::Arc;
use std::task::{Context, Poll};

use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_sdk::{Chunks, Error, Result};
use holdfast_storage::{Key, STAGED, Snapshot};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{CHUNK_BYTES, META, Meta, SEALED_AT, SEALED_SUMS, STATE, STATE_MAGIC, SUMS, tar};
use crate::bare::VERSION;
use crate::{Core, Open, clock};

/// Pieces that wait for the client.
const WAITING: usize = 4;
const PIECE_BYTES: usize = 64 << 10;

/// The store as it is now.
pub(crate) fn save(core: &Core, open: &Open) -> Result<Box<dyn Chunks>> {
    let snapshot = core.store.snapshot();
    let mut meta = Meta {
        format: 1,
        version: VERSION.into(),
        cluster_id: open.cluster_id.clone(),
        cluster_name: open.cluster_name.clone(),
        seal: core.seal_type(),
        created: clock::now().rfc3339(),
        index: snapshot.index(),
        entries: 0,
        bytes: 0,
    };
    let barrier = open.barrier.load_full();
    let (pieces, coming) = mpsc::channel(WAITING);
    let write = move || -> io::Result<()> {
        let state = Sum::of(&snapshot)?;
        (meta.entries, meta.bytes) = (state.entries, state.bytes);
        let meta = serde_json::to_vec_pretty(&meta)?;
        let sums = format!("{}  {META}\n{}  {STATE}\n", hex::encode(Sha256::digest(&meta)), hex::encode(state.digest));
        let sealed = barrier.seal(SEALED_AT, sums.as_bytes()).map_err(io::Error::other)?;
        let to = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
        let mut to = GzEncoder::new(to, Compression::fast());
        let mut file = |name: &str, content: &[u8]| {
            to.write_all(&tar::header(name, content.len() as u64))?;
            to.write_all(content)?;
            tar::end_file(&mut to, content.len() as u64)
        };
        file(META, &meta)?;
        file(SUMS, sums.as_bytes())?;
        file(SEALED_SUMS, &sealed)?;
        to.write_all(&tar::header(STATE, state.bytes))?;
        write_state(&snapshot, |bytes| to.write_all(bytes))?;
        tar::end_file(&mut to, state.bytes)?;
        tar::end_archive(&mut to)?;
        to.finish()?.flush()
    };
    let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
        if let Err(e) = write() {
            // The archive ends without its end, which whoever reads it notices.
            tracing::warn!(error = %e, "a snapshot was not written to its end");
        }
    });
    thread.map_err(Error::internal)?;
    Ok(Box::new(Coming(coming)))
}

/// Every entry, in order. What is staged for a restore is nobody's.
fn write_state(snapshot: &Arc<Snapshot>, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    write(STATE_MAGIC)?;
    let mut entries = 0;
    let mut last: Option<Key> = None;
    loop {
        let start = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let chunk = snapshot.chunk(start, CHUNK_BYTES).map_err(io::Error::other)?;
        let Some((key, _)) = chunk.last() else { return Ok(entries) };
        last = Some(key.clone());
        for (key, value) in chunk.iter().filter(|(key, _)| key.first() != Some(&STAGED)) {
            for part in [&key[..], &value[..]] {
                write(&(part.len() as u32).to_be_bytes())?;
                write(part)?;
            }
            entries += 1;
        }
    }
}

struct Sum {
    digest: [u8; 32],
    bytes: u64,
    entries: u64,
}

impl Sum {
    fn of(snapshot: &Arc<Snapshot>) -> io::Result<Sum> {
        let (mut sha, mut bytes) = (Sha256::new(), 0);
        let entries = write_state(snapshot, |part| {
            sha.update(part);
            bytes += part.len() as u64;
            Ok(())
        })?;
        Ok(Sum { digest: sha.finalize().into(), bytes, entries })
    }
}

struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Coming(mpsc::Receiver<Vec<u8>>);

impl Chunks for Coming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.poll_recv(cx)
    }
}
