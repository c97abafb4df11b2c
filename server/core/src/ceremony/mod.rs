//! Acts that need several key holders: making new shares or a new root key, and a root token; of the store, or of a
//! namespace with a seal of its own.
//!
//! Each holder gives a share; when enough of them are there, the act is carried out. What was given is kept
//! in memory alone, until the act is done, given up, or the server sealed.

pub(crate) mod authority;
mod generation;
mod holders;
mod locks;
mod migration;
mod own_seals;
mod recovery_mode;
mod rewrap;
mod rotation;

pub use generation::{Attempt, covered};
pub(crate) use locks::Away;
pub(crate) use recovery_mode::RecoveryMode;
pub use rewrap::{Became, Rewrap};
pub use rotation::{Asked, Backup, Outcome, Progress, Target};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::Error;
use holdfast_seal::Barrier;

use crate::layout::NamespaceId;
use crate::seal_state::{Refusal, failed, refuse};
use crate::{Core, Open, random};
use generation::Generation;
use rotation::Rotation;

/// What is under way on this node.
#[derive(Default)]
pub(crate) struct Ceremonies(Mutex<State>);

/// By whose they are; the root's are the store's.
#[derive(Default)]
struct State(BTreeMap<NamespaceId, Acts>);

#[derive(Default)]
struct Acts {
    root: Option<Rotation>,
    recovery: Option<Rotation>,
    generation: Option<Generation>,
}

impl State {
    fn generation(&mut self, of: NamespaceId) -> &mut Option<Generation> {
        &mut self.0.entry(of).or_default().generation
    }
}

impl Ceremonies {
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.retain(|_, acts| acts.root.is_some() || acts.recovery.is_some() || acts.generation.is_some());
        state
    }

    /// What was under way in namespaces that are sealed is given up.
    pub(crate) fn forget_sealed(&self, barrier: &Barrier) {
        self.state().0.retain(|of, _| !barrier.is_sealed(of));
    }
}

/// Shares as they are given, one by one.
struct Gathering {
    nonce: String,
    shares: Vec<Secret<Vec<u8>>>,
}

impl Gathering {
    fn new() -> Result<Gathering, Refusal> {
        Ok(Gathering { nonce: random::uuid_text(&random::uuid().map_err(failed)?), shares: Vec::new() })
    }

    /// Take a share. All of them, and none is left, if they are enough now.
    fn add(&mut self, share: Secret<Vec<u8>>, enough: u8, act: &str) -> Result<Option<Vec<Secret<Vec<u8>>>>, Refusal> {
        if self.shares.iter().any(|s| s.ct_eq(share.expose())) {
            return refuse(format!("given key has already been provided during this {act}"));
        }
        self.shares.push(share);
        if self.shares.len() < usize::from(enough) {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.shares)))
    }
}

/// A share in hex (any case) or base64. Shorter ones than 16 bytes are taken for a mistake.
pub fn share(text: &str) -> Option<Secret<Vec<u8>>> {
    bytes_of(text).filter(|bytes| bytes.expose().len() >= 16)
}

/// What was given in hex (any case) or base64.
pub(crate) fn bytes_of(text: &str) -> Option<Secret<Vec<u8>>> {
    let text = text.trim();
    let bytes = hex::decode(text).ok().or_else(|| base64::engine::general_purpose::STANDARD.decode(text).ok())?;
    Some(Secret::new(bytes))
}

/// What holders are told where the store did not say whether a change is in it.
pub fn doubt(why: &str) -> String {
    format!(
        "the store has not confirmed the change ({why}): keep the old shares too, until the new ones have unsealed it"
    )
}

fn unsealed(core: &Core) -> Result<Arc<Open>, Refusal> {
    core.open().ok_or_else(|| Refusal(503, "Vault is sealed".into()))
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        match e {
            Error::BadRequest(texts) => Refusal(400, texts.join("; ")),
            Error::Status(status, texts) => Refusal(status, texts.join("; ")),
            Error::Unavailable(text) => Refusal(503, text),
            other => failed(other),
        }
    }
}

impl From<Refusal> for Error {
    fn from(Refusal(status, text): Refusal) -> Error {
        if status == 500 { Error::Internal(text) } else { Error::Status(status, vec![text]) }
    }
}
