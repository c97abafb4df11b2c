//! Checkpoints that a key in a device signs (`audit_signing` of the configuration).
//!
//! A device may take its time, or be away. Nobody who writes a line waits for it: the checkpoint says which line it seals,
//! and stands in the log behind the lines that came meanwhile. For as long as nothing is signed the lines are not sealed;
//! the log, the metrics and the audit log itself say so, and `refuse_after` says how long that may last.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use holdfast_chain::{Checkpoint, PublicKey, Scheme};
use holdfast_hsm::device::{Hash, KeyRef, SignInput, SignMechanism};
use holdfast_sdk::{Error, Place, Result, record};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Act, Broker};
use crate::devices::refusal;
use crate::layout::{SETTINGS, STORE};
use crate::managed_keys::{DeviceKey, print_of};
use crate::tx::Tx;
use crate::{Core, Open};

const NAME: &[u8] = b"audit-signing-in-devices";
/// Keys that checkpoints were ever signed by; an older one is forgotten.
const KEYS: usize = 256;
/// How often it is looked whether something is to be sealed, if nothing says so.
const LOOK: Duration = Duration::from_secs(1);
/// How long the last checkpoint may take when the server is sealed.
const LAST: Duration = Duration::from_secs(2);
/// The route that the audit log names when a key is away, and when it is back.
const ROUTE: &str = "sys/audit-chain/sign";

/// The key that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// A `device` stanza's name.
    pub device: String,
    pub key: KeyRef,
    /// Audit files take no lines when the first one that is not sealed is older. `None`: they go on.
    pub refuse_after: Option<Duration>,
}

/// That key in use.
pub struct InDevice {
    named: SigningKey,
    /// Woken when enough lines wait.
    pub(super) wanted: Arc<Notify>,
    /// Once the device has shown it.
    found: ArcSwapOption<Found>,
    is_away: AtomicBool,
}

struct Found {
    key: DeviceKey,
    public: PublicKey,
}

/// Public keys of devices that have signed checkpoints, oldest first.
#[derive(Debug, Clone, Default, Encode, Decode)]
struct Known {
    #[n(0)]
    keys: Vec<KnownKey>,
}
record!(Known);

/// As a record, and as JSON between members.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub(super) struct KnownKey {
    /// SubjectPublicKeyInfo, DER.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub info: Vec<u8>,
    #[n(1)]
    kept_in: String,
}

/// What is done where there is no room for another key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    ForgetOldest,
    /// A node that stands by makes others' keys be forgotten by none of its own.
    Refuse,
}

/// Keep a key, if it is not known yet.
pub(super) fn add(tx: &mut Tx, key: &KnownKey, full: Full) -> Result<()> {
    let mut all = Known::load(tx)?;
    if all.keys.iter().any(|k| k.info == key.info) {
        return Ok(());
    }
    if all.keys.len() >= KEYS && full == Full::Refuse {
        return Err(Error::bad_request(format!("{KEYS} public keys of devices are kept, and no more")));
    }
    all.keys.push(key.clone());
    let too_many = all.keys.len().saturating_sub(KEYS);
    all.keys.drain(..too_many);
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, NAME), &all))
}

pub(super) fn is_known(tx: &mut Tx, key: &KnownKey) -> Result<bool> {
    Ok(Known::load(tx)?.keys.iter().any(|k| k.info == key.info))
}

impl Known {
    fn load(tx: &mut Tx) -> Result<Known> {
        Ok(tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, NAME)))?.unwrap_or_default())
    }
}

/// The public keys as PEM, the newest first.
pub(super) fn public_keys(tx: &mut Tx) -> Result<String> {
    let keys = Known::load(tx)?.keys;
    let pem = keys.iter().rev().map(|key| PublicKey::from_info(&key.info).map(|k| k.pem()));
    pem.collect::<Result<String, _>>().map_err(Error::internal)
}

impl InDevice {
    fn new(named: SigningKey, wanted: Arc<Notify>) -> InDevice {
        InDevice { named, wanted, found: ArcSwapOption::empty(), is_away: AtomicBool::new(false) }
    }

    pub(super) fn kept_in(&self) -> String {
        format!("device {:?}", self.named.device)
    }

    /// The public half, once the device has shown it.
    pub(super) fn known(&self) -> Option<KnownKey> {
        let found = self.found.load_full()?;
        Some(KnownKey { info: found.public.info().to_vec(), kept_in: self.kept_in() })
    }

    pub(super) fn refuse_after(&self) -> Option<Duration> {
        self.named.refuse_after
    }

    async fn sign(&self, core: &Core, unsigned: Checkpoint) -> Result<Checkpoint> {
        let found = match self.found.load_full() {
            Some(found) => found,
            None => {
                let found = Arc::new(self.find(core).await?);
                self.found.store(Some(found.clone()));
                found
            }
        };
        let unsigned = unsigned.to_be_signed_by(&found.public);
        let mechanism = match found.public.scheme() {
            Scheme::Ed25519 => SignMechanism::Ed25519,
            Scheme::P256 => SignMechanism::Ecdsa(Hash::Sha256),
            Scheme::P384 => SignMechanism::Ecdsa(Hash::Sha384),
            Scheme::Rsa => SignMechanism::RsaPkcs1(Hash::Sha256),
        };
        let signature = found.key.sign(mechanism, SignInput::Message(unsigned.message())).await?;
        Ok(unsigned.with_signature(&signature))
    }

    async fn find(&self, core: &Core) -> Result<Found> {
        let device = core.devices.named(&self.named.device)?;
        let seen = DeviceKey::look(&device, &self.named.key).await.map_err(refusal)?;
        let public = seen.public.as_deref().map(PublicKey::from_info);
        let Some(Ok(public)) = public else {
            return Err(Error::bad_request(format!(
                "the {} of device '{}' is {}, which signs no checkpoints: Ed25519, ECDSA on P-256 or P-384, or RSA do",
                self.named.key, self.named.device, seen.kind
            )));
        };
        tracing::info!(
            device = self.named.device, key = public.id(), kind = %seen.kind, public = print_of(&seen),
            "checkpoints of the audit logs are signed by a key in a device"
        );
        Ok(Found { key: DeviceKey::new(device, self.named.key.clone(), seen), public })
    }
}

impl Core {
    /// Let a key in a device sign the checkpoints of audit files from now on, or the server's own one.
    pub fn sign_audit_by(self: &Arc<Self>, key: Option<SigningKey>) {
        let present = self.audit_key.load_full();
        if present.as_ref().map(|p| &p.named) == key.as_ref() {
            return;
        }
        let key = key.map(|named| Arc::new(InDevice::new(named, self.audit_waits.clone())));
        self.audit_key.store(key);
        if let Some(open) = self.open_to_read()
            && let Err(e) = self.follow_audit_key(&open)
        {
            tracing::error!(error = %e, "the audit logs are sealed by the key of before");
        }
    }

    /// Whichever key is under the name now is to sign: it was exchanged on purpose.
    pub(super) fn look_for_audit_key_again(&self) {
        if let Some(key) = &*self.audit_key.load() {
            key.found.store(None);
        }
    }

    /// Sign what is due, or all that is written. Returns how the key did, if it was asked.
    async fn sign_due(&self, broker: &Broker, all: bool) -> Option<(Arc<InDevice>, Result<()>)> {
        let mut asked = None;
        for device in broker.devices().iter() {
            let (Some(file), Some(sealing)) = (device.file(), device.sealing()) else { continue };
            let Some(key) = sealing.in_device() else { continue };
            let Some(unsigned) = file.to_be_sealed(all) else { continue };
            match key.sign(self, unsigned).await {
                Ok(signed) => {
                    let written = device.aside(|device| {
                        if let Some(Err(e)) = device.file().map(|file| file.take_checkpoint(signed)) {
                            device.figures.refused(&e);
                        }
                    });
                    written.await;
                    asked = Some((key, Ok(())));
                }
                // The next file has the same key.
                Err(e) => return Some((key, Err(e))),
            }
        }
        asked
    }

    fn does_not_sign(self: &Arc<Self>, open: &Arc<Open>, key: &InDevice, why: &Error) {
        if key.is_away.swap(true, Ordering::SeqCst) {
            return;
        }
        let why = why.to_string();
        tracing::error!(
            device = key.named.device,
            "checkpoints of the audit logs are not signed, and their lines not sealed: {why}"
        );
        let act = Act::new("update", ROUTE, "the key of the audit logs' checkpoints does not sign");
        self.did(open, vec![act.plain("device", &key.named.device).failed(&why)]);
    }

    async fn signs(self: &Arc<Self>, open: &Arc<Open>, key: &InDevice) {
        if let Err(e) = self.keep_public_key(open, key).await {
            // It is tried with the next checkpoint.
            tracing::debug!(error = %e, "the public key of the audit logs' checkpoints is not in the store yet");
        }
        if !key.is_away.swap(false, Ordering::SeqCst) {
            return;
        }
        tracing::info!(device = key.named.device, "checkpoints of the audit logs are signed again");
        let act = Act::new("update", ROUTE, "the key of the audit logs' checkpoints signs again");
        self.did(open, vec![act.plain("device", &key.named.device)]);
    }

    /// Whoever verifies a log asks the server for its public keys: those of devices are among them.
    async fn keep_public_key(&self, open: &Arc<Open>, key: &InDevice) -> Result<()> {
        let Some(known) = key.known() else { return Ok(()) };
        if self.open.load().as_ref().is_none_or(|active| !Arc::ptr_eq(active, open)) {
            // A node that stands by passes it on: see `passing`.
            return Ok(());
        }
        let mut tx = Tx::read_only(self.store.view(), (**open.barrier.load()).clone());
        if is_known(&mut tx, &known)? {
            return Ok(());
        }
        drop(tx);
        self.transact(open, |tx| add(tx, &known, Full::ForgetOldest)).await
    }

    /// The last checkpoints, if the device gives them in time. Nothing is written after them.
    pub(crate) async fn sign_the_last(&self, broker: &Broker) {
        match tokio::time::timeout(LAST, self.sign_due(broker, true)).await {
            Ok(None | Some((_, Ok(())))) => {}
            Ok(Some((_, Err(e)))) => tracing::warn!(error = %e, "the last lines of the audit logs are not sealed"),
            Err(_) => tracing::warn!("the device did not sign the last checkpoints of the audit logs in time"),
        }
    }
}

/// Sign for as long as the server is unsealed.
pub(crate) fn start(core: &Arc<Core>, open: &Arc<Open>) {
    core.while_open(open, run);
}

async fn run(core: Weak<Core>, open: Weak<Open>) {
    let Some(waits) = core.upgrade().map(|core| core.audit_waits.clone()) else { return };
    loop {
        tokio::select! {
            () = waits.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let (Some(core), Some(open)) = (core.upgrade(), open.upgrade()) else { return };
        match core.sign_due(&open.audit, false).await {
            None => {}
            Some((key, Ok(()))) => core.signs(&open, &key).await,
            Some((key, Err(e))) => core.does_not_sign(&open, &key, &e),
        }
    }
}
