//! Joining with a device of the node's own. An operator makes a one-use token; the newcomer shows with it that it was
//! approved, is given the root key, locks it with its device, and returns the lock, which is kept in the commit that
//! uses the token up. Then it is a member like any other, and opens the store alone.
//!
//! The token itself never travels: the active node closes the key of the newcomer's challenge with one that follows
//! from it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use holdfast_hsm::memory::{Key, Secret};
use holdfast_sdk::{Error, Place, Result, Timestamp, Transaction};
use holdfast_seal::locks::{LockKind, Scope};
use holdfast_seal::{Lock, LockList};
use holdfast_storage::{CommitError, Proposal, Write};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cluster::JoinSecret;
use crate::layout::{LOCKS, SETTINGS, SYSTEM};
use crate::seal_state::{Refusal, failed, refuse};
use crate::tx::Tx;
use crate::{Core, Open, random};

const PREFIX: &str = "hfj.";
const BYTES: usize = 32;
/// Tokens that may wait for their nodes.
const TOKENS: usize = 64;
const PLACES: &[u8] = b"join-token/";
const PLACES_END: &[u8] = b"join-token0";

/// A token as the newcomer uses it: its name, and the key that follows from it.
pub(crate) struct JoinToken {
    pub id: String,
    pub key: Key,
}

impl JoinToken {
    pub fn of(given: &JoinSecret) -> std::result::Result<JoinToken, Refusal> {
        let wrong = || Refusal(400, "this is no join token".into());
        let text = given.0.expose().trim().strip_prefix(PREFIX).ok_or_else(wrong)?;
        let bytes = Secret::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?);
        if bytes.expose().len() != BYTES {
            return Err(wrong());
        }
        JoinToken::from_bytes(bytes.expose()).map_err(failed)
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<JoinToken, holdfast_hsm::memory::MemoryError> {
        let digest = |what: &str| Sha256::new().chain_update(what).chain_update([0]).chain_update(bytes).finalize();
        let mut key: [u8; 32] = digest("holdfast join token key").into();
        let id = hex::encode(&digest("holdfast join token id")[..16]);
        Ok(JoinToken { id, key: Key::from_slice(&mut key)? })
    }
}

/// What the store keeps of a token.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// In base64.
    key: String,
    expires: u64,
}

fn place(id: &str) -> Vec<u8> {
    [PLACES, id.as_bytes()].concat()
}

/// Make a token that is good until then.
pub(crate) fn make(tx: &mut Tx, now: Timestamp, expires: Timestamp) -> Result<Secret<String>> {
    let bytes: [u8; BYTES] = random::bytes().map_err(Error::internal)?;
    let bytes = Secret::new(bytes);
    let token = JoinToken::from_bytes(bytes.expose()).map_err(Error::internal)?;
    let kept = Kept { key: STANDARD.encode(token.key.expose()), expires: expires.0 };
    let kept = serde_json::to_vec(&kept).map_err(Error::internal)?;
    tx.within(SYSTEM, |tx| {
        let mut waiting = 0;
        for (name, value) in tx.ordered(SETTINGS, PLACES, PLACES_END, 2 * TOKENS)? {
            let is_over = serde_json::from_slice::<Kept>(&value).is_ok_and(|k| k.expires < now.0);
            match is_over {
                true => tx.delete(Place::Ordered(SETTINGS, &name))?,
                false => waiting += 1,
            }
        }
        if waiting >= TOKENS {
            return Err(Error::bad_request("too many join tokens wait for their nodes: use them, or let them end"));
        }
        tx.put(Place::Ordered(SETTINGS, &place(&token.id)), kept)
    })?;
    Ok(Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes.expose()))))
}

impl Core {
    /// The key of a token that is good.
    pub(crate) fn join_token_key(&self, open: &Open, id: &str) -> std::result::Result<Key, Refusal> {
        let unknown = || Refusal(403, "this join token is not known, was used, or has ended".into());
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        let kept = tx.within(SYSTEM, |tx| tx.get(Place::Ordered(SETTINGS, &place(id)))).map_err(failed)?;
        let kept: Kept = serde_json::from_slice(&kept.ok_or_else(unknown)?).map_err(failed)?;
        if kept.expires < self.clock.now().0 {
            return Err(unknown());
        }
        let mut key = STANDARD.decode(kept.key).map_err(failed)?;
        Key::from_slice(&mut key).map_err(failed)
    }

    /// Keep a newcomer's locks of the root key that it was given, and use its token up.
    pub(crate) async fn add_node_locks(
        &self,
        node: &str,
        locks: &[Vec<u8>],
        token: &str,
        given: Option<Arc<Key>>,
    ) -> std::result::Result<(), Refusal> {
        let scope = Scope::Node(node.to_owned());
        let decoded = |lock: &Vec<u8>| {
            let lock: Lock = minicbor::decode(lock).map_err(|e| Refusal(400, format!("this is no lock: {e}")))?;
            match lock.scope == scope && matches!(lock.kind, LockKind::Device { .. }) && lock.stale_since.is_none() {
                true => Ok(lock),
                false => refuse("the lock is not one of this node's device"),
            }
        };
        let locks = locks.iter().map(decoded).collect::<std::result::Result<Vec<Lock>, Refusal>>()?;
        let Some(given) = given else { return refuse("this node was not given the root key") };
        self.change_list(Some((token, given)), |list| {
            list.locks.retain(|l| l.scope != scope);
            list.locks.extend(locks);
            true
        })
        .await
    }

    /// Change the list of locks, if `change` says that it has.
    pub(crate) async fn change_list(
        &self,
        token: Option<(&str, Arc<Key>)>,
        change: impl FnOnce(&mut LockList) -> bool,
    ) -> std::result::Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        let Some(open) = self.open() else { return Err(Refusal(503, "Vault is sealed".into())) };
        let view = self.store.view();
        let (index, mut tx) = (view.index(), Tx::new(view, (**open.barrier.load()).clone()));
        tx.enter(SYSTEM);
        let mut list = self.own_locks(&open)?;
        if !change(&mut list) {
            return Ok(());
        }
        if let Some((id, given)) = token {
            if !open.root.load().ct_eq(given.expose()) {
                return Err(Refusal(503, "the keys of the store were changed meanwhile: join again".into()));
            }
            if tx.get(Place::Ordered(SETTINGS, &place(id))).map_err(failed)?.is_none() {
                return Err(Refusal(403, "this join token was used".into()));
            }
            tx.delete(Place::Ordered(SETTINGS, &place(id))).map_err(failed)?;
        }
        for lock in &list.locks {
            list.minimum.allows(lock).map_err(|why| Refusal(400, why))?;
        }
        list.generation += 1;
        let mut proposal: Proposal = tx.into_proposal().map_err(failed)?;
        proposal.view_index = index;
        proposal.reads.push((LOCKS.into(), index));
        proposal.writes.push(Write::Put(LOCKS.into(), list.encode(&open.root.load()).map_err(failed)?.into()));
        match self.store.propose(proposal).map_err(failed)?.committed().await {
            Ok(_) => Ok(()),
            Err(CommitError::Unknown(why)) => Err(Refusal(503, format!("the outcome is unknown: {why}"))),
            Err(e) => Err(failed(e)),
        }
    }
}
