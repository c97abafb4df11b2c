//! New shares, and a new root key with them.

use std::sync::Arc;

use holdfast_hsm::memory::{Key, Secret};
use holdfast_pgp::PublicKey;
use holdfast_sdk::{Place, Result, Transaction, record};
use holdfast_seal::{Entropy, shares};
use minicbor::{Decode, Encode};

use super::holders::Holders;
use super::locks::{Change, Changed, Fresh};
use super::{Gathering, State, unsealed};
use crate::init::counts;
use crate::layout::{NamespaceId, SETTINGS, SYSTEM};
use crate::seal_state::{Refusal, failed, refuse};
use crate::tx::Tx;
use crate::{Core, Open};

/// Which shares are made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Those that open the store; where a device does, its root key alone.
    Root,
    /// Those that authorise acts where a device opens the store.
    Recovery,
}

impl Target {
    pub(super) fn backup_place(self) -> &'static [u8] {
        match self {
            Target::Root => b"shares-backup/root",
            Target::Recovery => b"shares-backup/recovery",
        }
    }
}

/// Parameters of a rotation.
#[derive(Default)]
pub struct Asked {
    pub shares: i64,
    pub threshold: i64,
    pub pgp_keys: Vec<String>,
    pub backup: bool,
    pub verify: bool,
}

/// A rotation that is under way.
pub(super) struct Rotation {
    gathering: Gathering,
    shares: u8,
    threshold: u8,
    recipients: Vec<PublicKey>,
    backup: bool,
    verify: bool,
    /// The new shares were handed out and wait to be given back.
    made: Option<Made>,
}

struct Made {
    gathering: Gathering,
    change: Change,
}

/// How far a rotation is.
pub struct Progress {
    pub nonce: String,
    pub shares: u8,
    pub threshold: u8,
    pub given: usize,
    pub required: u8,
    pub fingerprints: Vec<String>,
    pub backup: bool,
    pub verify: bool,
    pub verification_nonce: String,
    /// New shares that were given back.
    pub verified: usize,
}

/// What a share brought about.
pub enum Outcome {
    More(Progress),
    /// The new shares.
    Complete {
        progress: Progress,
        keys: Vec<Secret<Vec<u8>>>,
        /// That the store did not confirm them; seals that have not wrapped the new root key.
        warnings: Vec<String>,
    },
    Verified {
        nonce: String,
        warnings: Vec<String>,
    },
}

/// Encrypted shares that the server keeps: fingerprint, and the shares of that key.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Backup {
    #[n(0)]
    pub nonce: String,
    #[n(1)]
    pub keys: Vec<(String, Vec<Vec<u8>>)>,
}
holdfast_sdk::record!(Backup);

impl Rotation {
    fn progress(&self, required: u8) -> Progress {
        let made = self.made.as_ref();
        Progress {
            nonce: self.gathering.nonce.clone(),
            shares: self.shares,
            threshold: self.threshold,
            given: self.gathering.shares.len(),
            required,
            fingerprints: self.recipients.iter().map(PublicKey::fingerprint).collect(),
            backup: self.backup,
            verify: self.verify,
            verification_nonce: made.map_or_else(String::new, |m| m.gathering.nonce.clone()),
            verified: made.map_or(0, |m| m.gathering.shares.len()),
        }
    }
}

impl State {
    fn rotation(&mut self, of: NamespaceId, target: Target) -> &mut Option<Rotation> {
        let acts = self.0.entry(of).or_default();
        match target {
            Target::Root => &mut acts.root,
            Target::Recovery => &mut acts.recovery,
        }
    }
}

impl Core {
    /// How far a rotation is, if one is under way; and how many shares it needs.
    pub fn rotation(&self, of: NamespaceId, target: Target) -> Result<(Option<Progress>, u8), Refusal> {
        let open = unsealed(self)?;
        let required = self.holders(&open, of)?.required();
        let mut state = open.ceremonies.state();
        Ok((state.rotation(of, target).as_ref().map(|r| r.progress(required)), required))
    }

    /// Begin a rotation. Where a device opens the store and nobody has shares yet, its first recovery shares are made at
    /// once: whoever may do everything (`sudo`) is all there is to ask.
    pub async fn begin_rotation(
        self: &Arc<Self>,
        of: NamespaceId,
        target: Target,
        asked: &Asked,
        sudo: bool,
    ) -> Result<Outcome, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        if open.ceremonies.state().rotation(of, target).is_some() {
            return refuse("rotation already in progress");
        }
        let holders = self.holders(&open, of)?;
        let what = match target {
            Target::Root => "rotate seal",
            Target::Recovery if !holders.have_recovery() => {
                return refuse("recovery keys not supported");
            }
            Target::Recovery => "recovery",
        };
        let wrong = |text: &str| Refusal(400, format!("invalid {what} configuration: {text}"));
        let (shares, threshold) = counts(asked.shares, asked.threshold).map_err(wrong)?;
        let has_shares = target == Target::Recovery || !holders.have_a_device();
        if !has_shares && (shares, threshold) != (1, 1) {
            return Err(wrong(
                "a device opens this store: its root key has no shares, so that one of one is all that can be asked for \
                 (-key-shares=1 -key-threshold=1), and none is made; recovery shares are the target recovery",
            ));
        }
        if !asked.pgp_keys.is_empty() && asked.pgp_keys.len() != usize::from(shares) {
            return Err(wrong("count mismatch between number of provided PGP keys and number of shares"));
        }
        let first = target == Target::Recovery && holders.are_none_yet();
        if holders.required() == 0 && !first {
            return refuse(
                "the store was initialised without shares that could authorise this: make recovery shares first \
                 (sys/rotate/recovery/init)",
            );
        }
        if first && !sudo {
            return Err(Refusal(
                403,
                "the first recovery shares of a store are made by a root token, or by one with sudo on this path"
                    .into(),
            ));
        }
        let recipients = asked.pgp_keys.iter().map(|t| PublicKey::parse(t)).collect::<Result<Vec<_>, _>>();
        let recipients = recipients.map_err(|e| Refusal(400, format!("error decoding given PGP key: {e}")))?;
        let rotation = Rotation {
            gathering: Gathering::new()?,
            shares,
            threshold,
            backup: asked.backup && !recipients.is_empty(),
            recipients,
            verify: asked.verify && has_shares,
            made: None,
        };
        let progress = rotation.progress(holders.required());
        *open.ceremonies.state().rotation(of, target) = Some(rotation);
        if !first {
            return Ok(Outcome::More(progress));
        }
        let made = self.complete_rotation(&open, of, target, holders, None).await;
        if made.is_err() {
            *open.ceremonies.state().rotation(of, target) = None;
        }
        made
    }

    /// Make the new shares of the rotation that is under way. They count at once, or when they were given back.
    async fn complete_rotation(
        self: &Arc<Self>,
        open: &Arc<Open>,
        of: NamespaceId,
        target: Target,
        holders: Holders,
        known: Option<Key>,
    ) -> Result<Outcome, Refusal> {
        let entropy = self.entropy().await?;
        let (mut progress, made, verify) = {
            let mut state = open.ceremonies.state();
            let Some(rotation) = state.rotation(of, target) else { return refuse("no rotation in progress") };
            let made = make(rotation, target, &holders, known, &entropy)?;
            (rotation.progress(holders.required()), made, rotation.verify)
        };
        let New { change, keys } = made;
        let changed = if verify {
            let gathering = Gathering::new()?;
            progress.verification_nonce = gathering.nonce.clone();
            if let Some(rotation) = open.ceremonies.state().rotation(of, target) {
                rotation.made = Some(Made { gathering, change });
            }
            Changed::default()
        } else {
            let changed = self.change(open, holders, change).await?;
            *open.ceremonies.state().rotation(of, target) = None;
            changed
        };
        Ok(Outcome::Complete { progress, keys, warnings: changed.warnings() })
    }

    pub async fn cancel_rotation(&self, of: NamespaceId, target: Target) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        *unsealed(self)?.ceremonies.state().rotation(of, target) = None;
        Ok(())
    }

    /// Take a share of the present holders.
    pub async fn give_rotation_share(
        self: &Arc<Self>,
        of: NamespaceId,
        target: Target,
        nonce: &str,
        share: Secret<Vec<u8>>,
    ) -> Result<Outcome, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let holders = self.holders(&open, of)?;
        let required = holders.required();
        let given = {
            let mut state = open.ceremonies.state();
            let Some(rotation) = state.rotation(of, target) else { return refuse("no rotation in progress") };
            if rotation.made.is_some() {
                return refuse("the new shares are made: give them back to rotate/…/verify");
            }
            if rotation.gathering.nonce != nonce {
                let right = &rotation.gathering.nonce;
                return refuse(format!("incorrect nonce supplied; nonce for rotation is {right:?}"));
            }
            match rotation.gathering.add(share, required, "rotation")? {
                None => return Ok(Outcome::More(rotation.progress(required))),
                Some(given) => given,
            }
        };
        let known = self.authorise(&open, &holders, &given)?;
        drop(given);
        self.complete_rotation(&open, of, target, holders, known).await
    }

    /// Take a new share back. When enough of them are there, the new ones count.
    pub async fn verify_rotation_share(
        self: &Arc<Self>,
        of: NamespaceId,
        target: Target,
        nonce: &str,
        share: Secret<Vec<u8>>,
    ) -> Result<Outcome, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let holders = self.holders(&open, of)?;
        let change = {
            let mut state = open.ceremonies.state();
            let Some(rotation) = state.rotation(of, target) else { return refuse("no rotation in progress") };
            let threshold = rotation.threshold;
            let Some(made) = &mut rotation.made else { return refuse("no rotation verification in progress") };
            if made.gathering.nonce != nonce {
                let right = &made.gathering.nonce;
                return refuse(format!("incorrect nonce supplied; nonce for this verify operation is {right:?}"));
            }
            let Some(given) = made.gathering.add(share, threshold, "verification")? else {
                return Ok(Outcome::More(rotation.progress(holders.required())));
            };
            let joined = shares::join(&given, threshold);
            let right = made.change.fresh.as_ref().is_some_and(|f| joined.is_ok_and(|k| k.ct_eq(f.key.expose())));
            if !right {
                return refuse("rotation verification failed; incorrect key shares supplied");
            }
            match rotation.made.take() {
                Some(made) => made.change,
                None => return refuse("no rotation verification in progress"),
            }
        };
        *open.ceremonies.state().rotation(of, target) = None;
        let changed = self.change(&open, holders, change).await?;
        Ok(Outcome::Verified { nonce: nonce.to_owned(), warnings: changed.warnings() })
    }

    /// Begin the verification anew, with another nonce.
    pub async fn restart_verification(&self, of: NamespaceId, target: Target) -> Result<Progress, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let required = self.holders(&open, of)?.required();
        let mut state = open.ceremonies.state();
        let Some(rotation) = state.rotation(of, target) else { return refuse("no rotation configuration found") };
        let Some(made) = &mut rotation.made else { return refuse("no rotation verification in progress") };
        made.gathering = Gathering::new()?;
        Ok(rotation.progress(required))
    }

    /// A new root key under the present locks.
    pub async fn replace_root_key(self: &Arc<Self>, of: NamespaceId) -> Result<Changed, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let holders = self.holders(&open, of)?;
        let change = Change { target: Target::Root, fresh: None, known: None, backup: None };
        self.change(&open, holders, change).await
    }

    /// Bring a change about, of the store's locks or of a namespace's seal.
    async fn change(self: &Arc<Self>, open: &Arc<Open>, holders: Holders, change: Change) -> Result<Changed, Refusal> {
        match holders {
            Holders::Store(list) => self.change_locks(open, list, change).await,
            Holders::Namespace(namespace) => self.change_own_seal(open, &namespace, change).await,
        }
    }

    /// Encrypted shares that the server keeps of the present namespace, or of the store. While new ones wait to be given
    /// back, these: their holders may never have got them. The former ones stay in the store until then.
    pub(crate) fn shares_backup(&self, tx: &mut Tx, target: Target) -> Result<Option<Backup>> {
        let of = tx.namespace();
        if let Some(made) = self.waiting(of, target, |made| made.change.backup.clone()) {
            return Ok(Some(made));
        }
        tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(SETTINGS, target.backup_place())))
    }

    pub(crate) fn forget_shares_backup(&self, tx: &mut Tx, target: Target) -> Result<()> {
        let of = tx.namespace();
        self.waiting(of, target, |made| made.change.backup.take());
        tx.within(SYSTEM, |tx| tx.delete(Place::Ordered(SETTINGS, target.backup_place())))
    }

    /// Something of the new shares that wait to be given back.
    fn waiting<T>(&self, of: NamespaceId, target: Target, take: impl FnOnce(&mut Made) -> Option<T>) -> Option<T> {
        let open = unsealed(self).ok()?;
        let mut state = open.ceremonies.state();
        state.rotation(of, target).as_mut()?.made.as_mut().and_then(take)
    }
}

/// New shares as they are handed out, and what they change.
struct New {
    change: Change,
    keys: Vec<Secret<Vec<u8>>>,
}

fn make(
    rotation: &Rotation,
    target: Target,
    holders: &Holders,
    known: Option<Key>,
    entropy: &Entropy,
) -> Result<New, Refusal> {
    if target == Target::Root && holders.have_a_device() {
        return Ok(New { change: Change { target, fresh: None, known, backup: None }, keys: Vec::new() });
    }
    let key = entropy.key(32).map_err(failed)?;
    let (count, threshold) = (rotation.shares, rotation.threshold);
    let mut keys = shares::split(&key, count, threshold).map_err(failed)?;
    // What nobody could open with is not handed out.
    let joined = shares::join(&keys[..usize::from(threshold)], threshold).map_err(failed)?;
    if !joined.ct_eq(key.expose()) {
        return Err(failed("the new shares do not make their key"));
    }
    for (share, recipient) in keys.iter_mut().zip(&rotation.recipients) {
        let text = Secret::new(hex::encode(share.expose()));
        *share = Secret::new(recipient.encrypt(text.expose().as_bytes()).map_err(failed)?);
    }
    let backup = rotation.backup.then(|| backup(rotation, &keys));
    let fresh = Some(Fresh { key, shares: count, threshold });
    Ok(New { change: Change { target, fresh, known, backup }, keys })
}

fn backup(rotation: &Rotation, encrypted: &[Secret<Vec<u8>>]) -> Backup {
    let mut keys: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for (recipient, share) in rotation.recipients.iter().zip(encrypted) {
        let fingerprint = recipient.fingerprint();
        match keys.iter_mut().find(|(f, _)| *f == fingerprint) {
            Some((_, shares)) => shares.push(share.expose().clone()),
            None => keys.push((fingerprint, vec![share.expose().clone()])),
        }
    }
    Backup { nonce: rotation.gathering.nonce.clone(), keys }
}
