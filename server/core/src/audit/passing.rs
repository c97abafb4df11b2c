//! What seals the audit files of nodes that stand by. They write nothing into the store: the active node keeps the
//! public key of a device that signs there, and the last checkpoint of each file, when it has looked at them.

use holdfast_chain::{Checkpoint, PublicKey, PublicKeys};
use holdfast_sdk::{Error, Place, Result, Transaction};
use serde::{Deserialize, Serialize};

use super::sealing;
use super::signing::{self, KnownKey};
use crate::layout::{AUDIT_CHECKPOINTS, STORE};
use crate::tx::Tx;
use crate::{Core, Open};

/// What one node passes on at a time, at most.
const BYTES: usize = 256 << 10;
const CHECKPOINTS: usize = 64;

/// JSON between members.
#[derive(Default, Serialize, Deserialize)]
struct Seals {
    key: Option<KnownKey>,
    checkpoints: Vec<Checkpoint>,
}

impl Core {
    /// Give the active node what the store does not have yet, if there is something.
    pub(super) async fn pass_seals_on(&self, open: &Open) -> std::result::Result<(), String> {
        let Some(cluster) = &self.options.cluster else { return Ok(()) };
        let key = self.audit_key.load_full().and_then(|key| key.known());
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        let key = match key {
            Some(key) if !signing::is_known(&mut tx, &key).map_err(|e| e.to_string())? => Some(key),
            _ => None,
        };
        drop(tx);
        let devices = open.audit.devices();
        let newest = devices.iter().filter_map(|d| Some((d, d.sealing()?.newest()?)));
        let newest: Vec<_> = newest.take(CHECKPOINTS).collect();
        if key.is_none() && newest.is_empty() {
            return Ok(());
        }
        let checkpoints = newest.iter().map(|(_, checkpoint)| checkpoint.clone()).collect();
        let seals = serde_json::to_vec(&Seals { key, checkpoints }).map_err(|e| e.to_string())?;
        cluster.pass_seals_on(seals).await?;
        for (device, checkpoint) in newest {
            if let Some(sealing) = device.sealing() {
                sealing.is_stored(&checkpoint);
            }
        }
        Ok(())
    }

    /// As the active node: keep what the member of this name passed on. False: it is not kept.
    pub async fn take_seals(&self, from: &str, seals: &[u8]) -> bool {
        let Some(open) = self.open.load_full() else { return false };
        let Some(seals) = read(seals) else {
            tracing::warn!(node = from, "what seals that node's audit files cannot be read; it is not kept");
            return false;
        };
        match self.transact(&open, |tx| seals.keep(tx, from)).await {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!(node = from, error = %e, "what seals that node's audit files is not kept");
                false
            }
        }
    }
}

fn read(seals: &[u8]) -> Option<Seals> {
    let seals: Seals = (seals.len() <= BYTES).then(|| serde_json::from_slice(seals).ok())??;
    let is_a_key = |key: &KnownKey| PublicKey::from_info(&key.info).is_ok();
    (seals.checkpoints.len() <= CHECKPOINTS && seals.key.as_ref().is_none_or(is_a_key)).then_some(seals)
}

impl Seals {
    /// A checkpoint counts if it is of a file of that node, a known key has signed it, and none that is further is kept.
    fn keep(&self, tx: &mut Tx, from: &str) -> Result<()> {
        if let Some(key) = &self.key {
            signing::add(tx, key, signing::Full::Refuse)?;
        }
        let keys = PublicKeys::from_pem(&sealing::public_keys(tx)?).map_err(Error::internal)?;
        for checkpoint in &self.checkpoints {
            let is_its_own = checkpoint.log.strip_prefix(from).is_some_and(|rest| rest.starts_with('/'));
            if !is_its_own || !checkpoint.is_signed_by(&keys) {
                return Err(Error::bad_request(
                    "a checkpoint is of another node's file, or no known key has signed it",
                ));
            }
            let before = sealing::checkpoint_of(tx, &checkpoint.log)?;
            if before.is_some_and(|before| before.id == checkpoint.id && before.seq >= checkpoint.seq) {
                continue;
            }
            let bytes = serde_json::to_vec(checkpoint).map_err(Error::internal)?;
            tx.within(STORE, |tx| tx.put(Place::Ordered(AUDIT_CHECKPOINTS, checkpoint.log.as_bytes()), bytes.clone()))?;
        }
        Ok(())
    }
}
