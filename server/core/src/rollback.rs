//! Old copies of the store: a counter in a TPM tells them (decisions/0020).
//!
//! A record in the store's own file says where the counter is, and how far the store has come. It is written before the counter is raised, so
//! the record is where the counter is, or one ahead of it after a crash in between. A copy that was put back is behind, since the
//! counter is not taken back with the disk. It cannot have the newer record: that is in the file that was exchanged.
//!
//! Record and counter are this node's own: members of a cluster replicate neither.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use holdfast_hsm::device::CounterAct;
use holdfast_hsm::memory::Key;
use holdfast_seal::Keyring;

use crate::layout::{KEYRING, LOCKS};
use crate::seal_state::{Refusal, failed, lock, refuse};
use crate::seals::Seal;
use crate::{Core, Open};

/// How long a store is changed before the counter is raised for it: NV memory wears out.
const HOUR: Duration = Duration::from_secs(3600);
/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_secs(15);
/// How long sealing waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the record is called among those that the node keeps for itself.
const RECORD: &str = "rollback-counter";
/// A file beside the store, in which programs before kept it. It is read where the store has none, and goes with the next raise.
const FILE_OF_BEFORE: &str = "rollback-counter";
const FORMAT: &str = "1";

/// What this process knows of counter and record.
pub(crate) struct Rollback {
    /// The store had nothing in it when this process began, so it can be no old copy, and has no record yet.
    begins: AtomicBool,
    /// One at a time raises it.
    act: tokio::sync::Mutex<()>,
    last: Mutex<Option<Raised>>,
    watching: AtomicBool,
    /// A store was accepted on purpose, which the audit log has not been told yet.
    accepted: Mutex<Option<Accepted>>,
}

struct Accepted {
    counter: u64,
    why: String,
}

/// When the counter was raised last, by the boot clock, and what the store was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raised {
    at: Duration,
    index: u64,
    generation: u64,
}

/// What rests in the store's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// Where the counter is, or will be in a moment.
    value: u64,
    /// What the store had applied.
    index: u64,
}

/// What was found in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Not one that the holder of this store's keys has written for this node.
    Foreign,
    Ours(Record),
}

impl Rollback {
    pub(crate) fn of(store: &holdfast_storage::Store) -> Rollback {
        Rollback {
            begins: store.snapshot().get(LOCKS).is_ok_and(|locks| locks.is_none()).into(),
            act: tokio::sync::Mutex::default(),
            last: Mutex::default(),
            watching: AtomicBool::new(false),
            accepted: Mutex::default(),
        }
    }
}

/// Whether a store is not an old one, by what is in its file and in the TPM.
fn judge(found: Found, counter: Option<u64>, last_index: u64, begins: bool) -> Result<(), String> {
    let at = counter.map_or("not there".to_owned(), |value| format!("at {value}"));
    let record = match found {
        // One of a store that was here before.
        _ if begins => return Ok(()),
        Found::Nothing => {
            return Err(format!(
                "there is no record of the rollback counter in this store, and the counter is {at}: rollback_counter is new to \
                 this store, the store was moved or restored, or the record was taken away"
            ));
        }
        Found::Foreign => {
            return Err(format!(
                "the record of the rollback counter in this store is not this store's and node's own, and the counter is {at}: \
                 the store was restored under other keys, or the record was changed"
            ));
        }
        Found::Ours(record) => record,
    };
    let Some(value) = counter else {
        return Err(format!(
            "the rollback counter is not in the TPM, and it was at {}: the TPM's owner took it away, or rollback_counter names \
             another index",
            record.value
        ));
    };
    if record.value < value {
        return Err(format!(
            "this is an old copy of the store: the rollback counter was at {} when it was made, and is at {value}",
            record.value
        ));
    }
    if record.value - value > 1 {
        return Err(format!(
            "the rollback counter is at {value}, and was at {} before: it is another one, of another TPM or another index",
            record.value
        ));
    }
    if last_index < record.index {
        return Err(format!(
            "this is an old copy of the store beside a newer record: its log ends at {last_index}, and it was at {} when the \
             rollback counter was raised last",
            record.index
        ));
    }
    Ok(())
}

/// Whether it is time to raise the counter, for what the store is now.
fn is_due(last: Raised, now: Raised) -> bool {
    let is_changed = now.index != last.index;
    now.generation != last.generation || is_changed && now.at.saturating_sub(last.at) >= HOUR
}

impl Record {
    fn text(self, node: &str) -> String {
        format!("{FORMAT} {} {} {node}", self.value, self.index)
    }

    fn line(self, node: &str, keyring: &Keyring) -> String {
        let text = self.text(node);
        let tag = hex::encode(keyring.rollback_tag(text.as_bytes()));
        format!("{text} {tag}\n")
    }

    fn read(line: &str, node: &str, keyring: &Keyring) -> Option<Record> {
        let mut words = line.split_whitespace();
        if words.next()? != FORMAT {
            return None;
        }
        let record = Record { value: words.next()?.parse().ok()?, index: words.next()?.parse().ok()? };
        let tag = hex::decode(words.last()?).ok()?;
        keyring.is_rollback_tag(record.text(node).as_bytes(), &tag).then_some(record)
    }
}

impl Core {
    /// Refuse a store that is an old copy, if a seal says that this is looked at; else raise the counter for this unseal.
    pub(crate) async fn refuse_old_copies(self: &Arc<Self>, root: &Key) -> Result<(), Refusal> {
        let Some((seal, accepted)) = self.counting_seal() else { return Ok(()) };
        let _one = self.rollback.act.lock().await;
        self.require_a_disk()?;
        let keyring = self.keyring_of(root)?;
        let counter = counted(&seal, CounterAct::Read).await?;
        let begins = self.rollback.begins.load(Ordering::SeqCst);
        let found = self.found(&keyring)?;
        let mut accepts = None;
        if let Err(why) = judge(found, counter, self.store.last_index(), begins) {
            let at = counter.unwrap_or(0);
            if accepted != Some(at) {
                return refuse(format!(
                    "{why}. If that is on purpose, set rollback_accept = {at} in the stanza seal {:?} and restart: it counts once",
                    seal.shown()
                ));
            }
            tracing::warn!(counter = at, "this store is accepted by rollback_accept: {why}");
            accepts = Some(Accepted { counter: at, why });
        }
        let value = match counter {
            Some(value) => value,
            None => counted(&seal, CounterAct::Make).await?.ok_or_else(|| failed("the counter was not made"))?,
        };
        self.raise_from(&seal, value, &keyring).await?;
        self.rollback.begins.store(false, Ordering::SeqCst);
        if accepts.is_some() {
            *lock(&self.rollback.accepted) = accepts;
        }
        self.watch_rollback();
        Ok(())
    }

    /// Tell the audit log that a store was accepted on purpose, as soon as there is one.
    pub(crate) fn tell_acceptance(self: &Arc<Self>, open: &Arc<Open>) {
        let Some(Accepted { counter, why }) = lock(&self.rollback.accepted).take() else { return };
        let act = self.about_node("sys/unseal", &format!("the store was accepted by rollback_accept: {why}"));
        self.did(open, vec![act.number("rollback_accept", counter)]);
    }

    /// Before a store is begun: a counter that cannot be used is known before there is something to lose.
    pub(crate) async fn try_rollback_counter(&self) -> Result<(), Refusal> {
        let Some((seal, _)) = self.counting_seal() else { return Ok(()) };
        self.require_a_disk()?;
        counted(&seal, CounterAct::Make).await.map(drop)
    }

    /// The same before the node is sealed, which does not wait for long: a TPM that hangs keeps no keys in memory.
    pub(crate) async fn outdate_copies_to_seal(self: &Arc<Self>) {
        if tokio::time::timeout(PATIENCE, self.outdate_copies()).await.is_err() {
            tracing::warn!("the rollback counter was not raised before sealing: its TPM does not answer");
        }
    }

    /// The store was changed: copies of before are old from now on. False: the counter was not raised, which is said.
    async fn outdate_copies(self: &Arc<Self>) -> bool {
        let Some((seal, _)) = self.counting_seal() else { return true };
        let raised = async {
            let _one = self.rollback.act.lock().await;
            let Some(root) = self.present_root().map_err(failed)? else { return Ok(()) };
            let keyring = self.keyring_of(&root)?;
            let counter = counted(&seal, CounterAct::Read).await?;
            let found = self.found(&keyring)?;
            // What this process did not leave so is not overwritten.
            judge(found, counter, self.store.last_index(), false).map_err(failed)?;
            let value = counter.ok_or_else(|| failed("the rollback counter is gone"))?;
            self.raise_from(&seal, value, &keyring).await
        };
        let raised = raised.await;
        if let Err(Refusal(_, text)) = &raised {
            tracing::warn!(
                "the rollback counter was not raised: {text}; copies of this store that are made now stay good until it is"
            );
        }
        raised.is_ok()
    }

    /// Record first, then counter: whatever ends this process in between, the record is not behind.
    async fn raise_from(&self, seal: &Arc<Seal>, value: u64, keyring: &Keyring) -> Result<(), Refusal> {
        let next = value.checked_add(1).ok_or_else(|| failed("the rollback counter is at its end"))?;
        let record = Record { value: next, index: self.store.snapshot().index() };
        let line = record.line(self.node_id().unwrap_or("-"), keyring);
        let kept = self.store.keep_node_record(RECORD, line.into_bytes()).await;
        kept.map_err(|e| failed(format!("the record of the rollback counter cannot be written: {e}")))?;
        counted(seal, CounterAct::RaiseTo(next)).await?;
        *lock(&self.rollback.last) = Some(self.now_for_rollback(record.index)?);
        if let Some(file) = self.file_of_before() {
            let removed = tokio::task::spawn_blocking(move || remove(&file)).await.map_err(failed)?;
            if let Err(e) = removed {
                tracing::warn!("the rollback counter's record of before cannot be removed, which does no harm: {e}");
            }
        }
        tracing::debug!(counter = next, index = record.index, "the rollback counter was raised");
        Ok(())
    }

    fn now_for_rollback(&self, index: u64) -> Result<Raised, Refusal> {
        let generation = self.lock_list().map_err(failed)?.map_or(0, |read| read.list.generation);
        Ok(Raised { at: self.clock.boot(), index, generation })
    }

    /// The seal that counts, and which value of its counter makes an old store acceptable.
    fn counting_seal(&self) -> Option<(Arc<Seal>, Option<u64>)> {
        let seals = self.seals();
        seals.present.iter().find_map(|seal| Some((seal.clone(), seal.device.rollback_counter()?.accepted)))
    }

    fn require_a_disk(&self) -> Result<(), Refusal> {
        match self.store.folder() {
            Some(_) => Ok(()),
            None => refuse(
                "rollback_counter is for stores on a disk, and this one is in memory: take it out of the seal stanza",
            ),
        }
    }

    fn file_of_before(&self) -> Option<PathBuf> {
        Some(self.store.folder()?.join(FILE_OF_BEFORE))
    }

    fn keyring_of(&self, root: &Key) -> Result<Keyring, Refusal> {
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        let record = self.store.snapshot().get(KEYRING).map_err(failed)?;
        let record = record.ok_or_else(|| failed("the keyring is missing: restore the store from a backup"))?;
        Keyring::open(&record, root, read.list.cluster_id).map_err(failed)
    }

    fn found(&self, keyring: &Keyring) -> Result<Found, Refusal> {
        let kept = self.store.node_record(RECORD).map_err(failed)?;
        let bytes = match (kept, self.file_of_before()) {
            (Some(kept), _) => kept,
            (None, Some(path)) => match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
                Err(e) => return Err(failed(format!("{} cannot be read: {e}", path.display()))),
            },
            (None, None) => return Ok(Found::Nothing),
        };
        let line = std::str::from_utf8(&bytes).ok();
        let record = line.and_then(|line| Record::read(line, self.node_id().unwrap_or("-"), keyring));
        Ok(record.map_or(Found::Foreign, Found::Ours))
    }

    /// Raise it from time to time while the node is unsealed, active or not.
    fn watch_rollback(self: &Arc<Self>) {
        if !self.rollback.watching.swap(true, Ordering::SeqCst) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    fn rollback_is_due(&self) -> bool {
        let last = *lock(&self.rollback.last);
        let now = self.now_for_rollback(self.store.snapshot().index());
        matches!((last, now), (Some(last), Ok(now)) if is_due(last, now))
    }
}

async fn watch(core: Weak<Core>) {
    let mut wait = LOOK;
    loop {
        tokio::time::sleep(wait).await;
        let Some(core) = core.upgrade() else { return };
        let is_well = !core.is_unsealed() || !core.rollback_is_due() || core.outdate_copies().await;
        wait = if is_well { LOOK } else { (wait * 2).min(HOUR) };
    }
}

async fn counted(seal: &Arc<Seal>, act: CounterAct) -> Result<Option<u64>, Refusal> {
    let counted = seal.ask(move |device| device.counter(act)).await;
    counted
        .map_err(|e| failed(format!("the rollback counter of the seal {:?} cannot be used: {}", seal.shown(), e.text)))
}

/// If it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(value: u64, index: u64) -> Found {
        Found::Ours(Record { value, index })
    }

    #[test]
    fn a_store_is_good_where_its_record_is_at_the_counter_or_one_ahead() {
        assert_eq!(judge(ours(7, 100), Some(7), 100, false), Ok(()));
        assert_eq!(judge(ours(7, 100), Some(7), 150, false), Ok(()), "it was changed since");
        assert_eq!(judge(ours(8, 100), Some(7), 100, false), Ok(()), "the counter was to be raised in a moment");
        assert_eq!(judge(Found::Nothing, None, 0, true), Ok(()));
        assert_eq!(judge(ours(3, 900), Some(7), 0, true), Ok(()), "another store was here before");
        let said = |found, counter, index| judge(found, counter, index, false).unwrap_err();
        assert!(said(ours(6, 100), Some(7), 500).contains("old copy of the store: the rollback counter was at 6"));
        assert!(said(ours(9, 100), Some(7), 500).contains("another TPM or another index"));
        assert!(said(ours(7, 100), Some(7), 99).contains("beside a newer record: its log ends at 99"));
        assert!(said(ours(7, 100), None, 100).contains("took it away"));
        assert!(said(Found::Nothing, Some(7), 100).contains("no record"));
        assert!(said(Found::Nothing, None, 100).contains("no record"));
        assert!(said(Found::Foreign, Some(7), 100).contains("under other keys"));
    }

    #[test]
    fn a_record_is_read_by_who_has_the_keyring_for_its_node_alone() {
        let keyring = Keyring::generate([1; 16], 0).unwrap();
        let record = Record { value: 7, index: 100 };
        let line = record.line("node-1", &keyring);
        assert_eq!(Record::read(&line, "node-1", &keyring), Some(record));
        assert_eq!(Record::read(&line, "node-2", &keyring), None);
        assert_eq!(Record::read(&line.replacen("7 100", "8 100", 1), "node-1", &keyring), None);
        assert_eq!(Record::read(&line.replacen("7 100", "7 10", 1), "node-1", &keyring), None);
        assert_eq!(Record::read(&line, "node-1", &Keyring::generate([1; 16], 0).unwrap()), None);
        for broken in ["", "1", "1 7 100", "2 7 100 node-1 00", "1 7 100 node-1 zz", "1 x 100 node-1 00"] {
            assert_eq!(Record::read(broken, "node-1", &keyring), None, "{broken}");
        }
        let rotated = keyring.rotated(&holdfast_seal::Entropy::platform(), 1).unwrap();
        assert_eq!(Record::read(&line, "node-1", &rotated), Some(record));
    }

    #[test]
    fn it_is_raised_for_changed_locks_at_once_and_for_other_changes_by_the_hour() {
        let last = Raised { at: Duration::from_secs(50), index: 100, generation: 3 };
        let now = |seconds, index, generation| Raised { at: Duration::from_secs(seconds), index, generation };
        assert!(!is_due(last, now(51, 100, 3)));
        assert!(!is_due(last, now(3000, 900, 3)));
        assert!(is_due(last, now(3650, 101, 3)));
        assert!(!is_due(last, now(90_000, 100, 3)), "nothing was changed");
        assert!(is_due(last, now(51, 101, 4)));
    }
}
