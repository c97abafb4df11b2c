//! What a file's chain is sealed by: the signing key, and the checkpoints that the store keeps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_chain::{Chain, Checkpoint, Linked, Signer};
use holdfast_sdk::{Place, Result, Transaction, record};
use holdfast_seal::Barrier;
use minicbor::{Decode, Encode};

use super::Broker;
use super::signing::{self, InDevice};
use crate::layout::{AUDIT_CHECKPOINTS, SETTINGS, STORE};
use crate::tx::Tx;
use crate::{Core, Open, clock, random};

const NAME: &[u8] = b"audit-signing";
/// Keys that checkpoints were ever signed by; an older one is forgotten.
const KEYS: usize = 64;
/// Checkpoints that are shown; one for each device of each node.
const SHOWN: usize = 10_000;
/// A checkpoint follows so many lines, and those of the write that reaches them: at most about a thousand.
pub const SEAL_AT: u64 = 700;
/// How long the last checkpoints may take to be stored when the server is sealed.
const STORE_WAIT: Duration = Duration::from_secs(2);
/// Where the server's own signing key is.
const KEPT_IN: &str = "barrier";

/// The keys that checkpoints are signed by; the last one signs.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct SigningKeys {
    #[cbor(n(0))]
    seeds: Vec<Seed>,
}
record!(SigningKeys);

#[derive(Clone, Encode, Decode)]
struct Seed(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl SigningKeys {
    fn load(tx: &mut Tx) -> Result<SigningKeys> {
        Ok(tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, NAME)))?.unwrap_or_default())
    }

    fn signers(&self) -> Result<Vec<Signer>> {
        self.seeds.iter().map(|seed| Signer::from_seed(&seed.0).map_err(holdfast_sdk::Error::internal)).collect()
    }

    /// A new key signs from now on.
    pub fn rotate(tx: &mut Tx) -> Result<()> {
        let mut keys = SigningKeys::load(tx)?;
        keys.seeds.push(Seed(random::bytes()?));
        let too_many = keys.seeds.len().saturating_sub(KEYS);
        keys.seeds.drain(..too_many);
        tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, NAME), &keys))
    }
}

/// All public keys as PEM: those in devices and the server's own, the newest of each first.
pub fn public_keys(tx: &mut Tx) -> Result<String> {
    let in_devices = signing::public_keys(tx)?;
    let own = SigningKeys::load(tx)?.signers()?;
    Ok(own.iter().rev().fold(in_devices, |all, signer| all + &signer.public().pem()))
}

/// The last checkpoint of every log, as far as the store has it.
pub fn checkpoints(tx: &mut Tx) -> Result<Vec<Checkpoint>> {
    let found = tx.within(STORE, |tx| tx.ordered(AUDIT_CHECKPOINTS, &[], &[], SHOWN))?;
    found.iter().map(|(_, bytes)| serde_json::from_slice(bytes).map_err(holdfast_sdk::Error::internal)).collect()
}

/// That of one log.
pub(super) fn checkpoint_of(tx: &mut Tx, log: &str) -> Result<Option<Checkpoint>> {
    let stored = tx.within(STORE, |tx| tx.get(Place::Ordered(AUDIT_CHECKPOINTS, log.as_bytes())))?;
    stored.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(holdfast_sdk::Error::internal)
}

/// How one file's chain is sealed.
pub struct Sealing {
    /// Node and device, with a slash between them.
    log: String,
    by: ArcSwap<By>,
    /// The last checkpoint that the store had when the file was opened.
    stored: Option<Checkpoint>,
    /// One that the store does not have yet.
    newest: Mutex<Option<Checkpoint>>,
}

/// What signs the checkpoints.
enum By {
    /// The server's own key: with the line that makes one due.
    Own(Signer),
    /// A key in a device: when it has signed.
    Device(Arc<InDevice>),
}

impl Sealing {
    #[cfg(test)]
    pub fn for_tests() -> Sealing {
        let by = ArcSwap::from_pointee(By::Own(Signer::from_seed(&[1; 32]).unwrap()));
        Sealing { log: "node/file/".into(), by, stored: None, newest: Mutex::default() }
    }

    /// The key in a device that signs, if one does.
    pub(super) fn in_device(&self) -> Option<Arc<InDevice>> {
        match &**self.by.load() {
            By::Own(_) => None,
            By::Device(key) => Some(key.clone()),
        }
    }

    /// Why no more lines are taken, if so: for so long none was sealed.
    pub fn refuses(&self, unsealed_for: Duration) -> Option<std::io::Error> {
        match &**self.by.load() {
            By::Device(key) if key.refuse_after().is_some_and(|limit| unsealed_for >= limit) => {
                let text = format!("no line was sealed for {} s: the signing key is away", unsealed_for.as_secs());
                Some(std::io::Error::other(text))
            }
            _ => None,
        }
    }

    pub fn stored(&self) -> Option<&Checkpoint> {
        self.stored.as_ref()
    }

    /// A checkpoint of the last line that is about to be written, or of the chain's last. `None`: the device is asked, and
    /// its checkpoint comes later.
    pub fn checkpoint(&self, chain: &Chain, ahead: Option<&Linked>) -> Option<Checkpoint> {
        match &**self.by.load() {
            By::Own(signer) => {
                let (seq, head) = ahead.map_or((chain.seq(), chain.head()), |l| (l.seq(), l.head()));
                Some(self.unsigned(chain, (seq, head), KEPT_IN.to_owned()).signed(signer))
            }
            By::Device(key) => {
                key.wanted.notify_one();
                None
            }
        }
    }

    /// A checkpoint of the chain's last line, for a device to sign.
    pub fn for_device(&self, chain: &Chain) -> Option<Checkpoint> {
        let key = self.in_device()?;
        Some(self.unsigned(chain, (chain.seq(), chain.head()), key.kept_in()))
    }

    fn unsigned(&self, chain: &Chain, (seq, head): (u64, &str), kept_in: String) -> Checkpoint {
        Checkpoint {
            id: chain.id().to_owned(),
            log: self.log.clone(),
            seq,
            head: head.to_owned(),
            time: clock::now().rfc3339(),
            key: String::new(),
            kept_in,
            signature: String::new(),
        }
    }

    /// It is in the file; the store is to have it too.
    pub fn is_written(&self, checkpoint: Checkpoint) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
    }

    pub(super) fn newest(&self) -> Option<Checkpoint> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store has it.
    pub(super) fn is_stored(&self, checkpoint: &Checkpoint) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref() == Some(checkpoint) {
            *newest = None;
        }
    }
}

impl Core {
    /// How the device of this path on this node is sealed. The first one makes the key.
    pub(crate) async fn sealing(&self, barrier: &Barrier, path: &str) -> Result<Sealing> {
        let mut tx = Tx::new(self.store.view(), barrier.clone());
        let mut keys = SigningKeys::load(&mut tx)?;
        if keys.seeds.is_empty() {
            SigningKeys::rotate(&mut tx)?;
            keys = SigningKeys::load(&mut tx)?;
            let ticket = self.store.propose(tx.into_proposal()?).map_err(holdfast_sdk::Error::internal)?;
            ticket.committed().await.map_err(holdfast_sdk::Error::internal)?;
            tx = Tx::new(self.store.view(), barrier.clone());
        }
        let by = self.audit_signer(&keys)?.ok_or_else(|| holdfast_sdk::Error::Internal("no signing key".into()))?;
        let log = format!("{}/{path}", self.node_id().unwrap_or("node"));
        let stored = checkpoint_of(&mut tx, &log)?;
        Ok(Sealing { log, by: ArcSwap::new(by), stored, newest: Mutex::default() })
    }

    /// What signs now.
    fn audit_signer(&self, keys: &SigningKeys) -> Result<Option<Arc<By>>> {
        if let Some(key) = self.audit_key.load_full() {
            return Ok(Some(Arc::new(By::Device(key))));
        }
        Ok(keys.signers()?.pop().map(|own| Arc::new(By::Own(own))))
    }

    /// Sign by the newest key from now on, or by the one in a device.
    pub(crate) fn follow_audit_key(&self, open: &Open) -> Result<()> {
        self.look_for_audit_key_again();
        let mut tx = Tx::read_only(self.store.view(), Barrier::clone(&open.barrier.load()));
        let keys = SigningKeys::load(&mut tx)?;
        let Some(newest) = self.audit_signer(&keys)? else { return Ok(()) };
        for device in open.audit.devices().iter() {
            if let Some(sealing) = device.sealing() {
                sealing.by.store(newest.clone());
            }
        }
        Ok(())
    }

    /// Keep the newest checkpoints in the store, where whoever holds a file cannot change them.
    pub(super) async fn store_checkpoints(&self, open: &Open, broker: &Broker) -> Result<()> {
        for device in broker.devices().iter() {
            let Some(sealing) = device.sealing() else { continue };
            let Some(newest) = sealing.newest() else { continue };
            let bytes = serde_json::to_vec(&newest).map_err(holdfast_sdk::Error::internal)?;
            let put = |tx: &mut Tx| {
                tx.within(STORE, |tx| tx.put(Place::Ordered(AUDIT_CHECKPOINTS, newest.log.as_bytes()), bytes.clone()))
            };
            self.transact(open, put).await?;
            sealing.is_stored(&newest);
        }
        Ok(())
    }

    /// Seal what is written by now, in the files and in the store.
    pub(crate) async fn seal_audit(&self, open: &Open) {
        self.sign_the_last(&open.audit).await;
        open.audit.seal().await;
        // A node that has lost its cluster is sealed all the same.
        let stored = tokio::time::timeout(STORE_WAIT, self.store_checkpoints(open, &open.audit)).await;
        if !matches!(stored, Ok(Ok(()))) {
            tracing::warn!("the last checkpoints of the audit logs are in their files alone");
        }
    }
}
