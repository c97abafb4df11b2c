//! A managed key for use: what is allowed of it is looked at here, and that it is still the one that was recorded.

use std::sync::Arc;

use holdfast_hsm::device::{
    CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class, KeyKind, KeyRef, SignInput, SignMechanism,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::software::keys;
use holdfast_hsm::verify::verify;
use holdfast_sdk::{Error, ManagedKey, Result, Work};

use super::{Record, Seen};
use crate::devices::{Device, Repeat, refusal};

/// A key of `sys/managed-keys`.
pub struct Key {
    record: Record,
    place: Located,
}

enum Located {
    Device(DeviceKey),
    Software(Arc<Secret<Vec<u8>>>),
}

/// A key in a device of the configuration, which is known. It is what the server's own keys are, too.
#[derive(Clone)]
pub struct DeviceKey {
    device: Arc<Device>,
    key: KeyRef,
    seen: Seen,
}

impl DeviceKey {
    /// A key that was seen before.
    pub fn new(device: Arc<Device>, key: KeyRef, seen: Seen) -> DeviceKey {
        DeviceKey { device, key, seen }
    }

    /// What the device has under a name now: one key, with its private half.
    pub async fn look(device: &Arc<Device>, key: &KeyRef) -> Result<Seen, DeviceError> {
        let (asked, name) = (key.clone(), device.name.clone());
        device
            .run(Repeat::Safe, move |client| {
                let mut found = client.find(asked.clone())?;
                found.retain(|key| key.private);
                match &found[..] {
                    [one] => {
                        let public = has_pair(one.kind).then(|| client.public_key(one.key_ref())).transpose()?;
                        Ok(Seen { kind: one.kind, public, id: one.id.clone() })
                    }
                    [] => Err(DeviceError::new(
                        Class::KeyMissing,
                        format!("no private or secret {asked} is in device '{name}'"),
                    )),
                    several => Err(DeviceError::invalid(format!(
                        "{} keys of device '{name}' match {asked}: give both key_label and key_id of the one that is meant",
                        several.len()
                    ))),
                }
            })
            .await
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Sign, if the key is the one that was seen. What the device gives is checked by the public half before anybody has
    /// it: a device that errs would tell its key (RSA-CRT), and one that was exchanged signs in another's name.
    pub async fn sign(&self, scheme: SignMechanism, input: SignInput) -> Result<Vec<u8>> {
        self.check().await?;
        let (key, sent) = (self.key.clone(), input.clone());
        let signed = self.device.run(Repeat::Safe, move |client| client.sign(key.clone(), scheme, sent.clone()));
        let signed = match signed.await {
            Ok(signed) => signed,
            Err(e) => return Err(self.explain_anew(e).await),
        };
        let Some(public) = &self.seen.public else { return Ok(signed) };
        if verify(self.seen.kind, public, scheme, &input, &signed).map_err(refusal)? {
            return Ok(signed);
        }
        self.device.forget_key(&self.key);
        self.check().await?;
        let (of, key) = (self.device.shown(), &self.key);
        Err(Error::Internal(format!("device {of} gave a signature that is not one of {key}: do not use this device")))
    }

    /// Refuse a way to sign that the device does not say it has.
    pub async fn check_scheme(&self, scheme: SignMechanism) -> Result<()> {
        let info = self.device.info().await.map_err(|e| self.explain(e))?;
        match info.capabilities.sign.contains(&scheme) {
            true => Ok(()),
            false => Err(Error::bad_request(format!("device {} does not sign with {scheme}", self.device.shown()))),
        }
    }

    async fn encrypt(
        &self,
        mechanism: CipherMechanism,
        plaintext: Secret<Vec<u8>>,
        aad: Vec<u8>,
    ) -> Result<Ciphertext> {
        self.check().await?;
        let key = self.key.clone();
        let sealed = self.device.run(Repeat::Safe, move |client| {
            client.encrypt(key.clone(), mechanism, Secret::new(plaintext.expose().clone()), &aad)
        });
        match sealed.await {
            Ok(sealed) => Ok(sealed),
            Err(e) => Err(self.explain_anew(e).await),
        }
    }

    async fn decrypt(&self, mechanism: CipherMechanism, sealed: Vec<u8>, aad: Vec<u8>) -> Result<Secret<Vec<u8>>> {
        self.check().await?;
        let key = self.key.clone();
        let opened = self.device.run(Repeat::Safe, move |client| client.decrypt(key.clone(), mechanism, &sealed, &aad));
        match opened.await {
            Ok(opened) => Ok(opened),
            Err(e) => Err(self.explain_anew(e).await),
        }
    }

    /// That the device still has the key that was seen. Looked at again when the device was away, and once a minute.
    async fn check(&self) -> Result<()> {
        let present = match self.device.known_key(&self.key) {
            Some(present) => present,
            None => {
                let era = self.device.era();
                let found = Arc::new(DeviceKey::look(&self.device, &self.key).await.map_err(|e| self.explain(e))?);
                self.device.note_key(self.key.clone(), era, found.clone());
                found
            }
        };
        let (of, key) = (self.device.shown(), &self.key);
        if present.kind != self.seen.kind {
            return Err(Error::Internal(format!(
                "the {key} of device {of} is {} now, and {} was recorded: another token is there, or the key was replaced",
                present.kind, self.seen.kind
            )));
        }
        if present.public != self.seen.public || (self.seen.public.is_none() && present.id != self.seen.id) {
            return Err(Error::Internal(format!(
                "the {key} of device {of} is another key than the one that was recorded ({} now, {} then): another token is \
                 there, or the key was replaced",
                print_of(&present),
                print_of(&self.seen)
            )));
        }
        Ok(())
    }

    /// What a device says of a use may come from a key that is not there any more, or is another: that is said then.
    async fn explain_anew(&self, error: DeviceError) -> Error {
        if matches!(error.class, Class::KeyMissing | Class::Invalid | Class::Unsupported) {
            self.device.forget_key(&self.key);
            if let Err(why) = self.check().await {
                return why;
            }
        }
        self.explain(error)
    }

    fn explain(&self, error: DeviceError) -> Error {
        match error.class {
            Class::KeyMissing => Error::Internal(format!(
                "the {} that was recorded is not in device {} any more: it was destroyed, or another token is there ({})",
                self.key,
                self.device.shown(),
                error.text
            )),
            // What its driver says names the token, and not the stanza.
            class => {
                let device = format!("device {}", self.device.shown());
                let is_named = error.text.starts_with(&device);
                let text = if is_named { error.text } else { format!("{device}: {}", error.text) };
                refusal(DeviceError::new(class, text))
            }
        }
    }
}

/// Whether a key of this kind has a public half.
fn has_pair(kind: KeyKind) -> bool {
    match kind {
        KeyKind::Rsa(_) | KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 | KeyKind::Ed25519 => true,
        KeyKind::Aes(_) | KeyKind::AesCcm(_) | KeyKind::Hmac(_) | KeyKind::TpmStorage | KeyKind::Other => false,
    }
}

/// What tells keys apart, for people: the SHA-256 of the public half, or the id.
pub fn print_of(seen: &Seen) -> String {
    use sha2::{Digest, Sha256};
    match &seen.public {
        Some(public) => format!("SHA-256 {}", hex::encode(Sha256::digest(public))),
        None => format!("id 0x{}", hex::encode(&seen.id)),
    }
}

impl Key {
    pub(super) fn in_device(record: Record, device: Arc<Device>) -> Result<Key> {
        let key = DeviceKey::new(device, record.key_ref()?, record.seen.clone());
        Ok(Key { record, place: Located::Device(key) })
    }

    pub(super) fn in_software(mut record: Record) -> Key {
        let private = Secret::new(std::mem::take(&mut record.private));
        Key { record, place: Located::Software(Arc::new(private)) }
    }

    fn must_allow(&self, usage: &str) -> Result<()> {
        match self.record.allows(usage) {
            true => Ok(()),
            false => Err(Error::bad_request(format!(
                "managed key {:?} may not be used to {usage}: its usages are {}",
                self.record.name,
                self.record.usages.join(", ")
            ))),
        }
    }

    fn must_sign(&self, scheme: SignMechanism) -> Result<()> {
        self.must_allow("sign")?;
        match self.record.mechanism.signs(scheme) {
            true => Ok(()),
            false => Err(Error::bad_request(format!(
                "managed key {:?} is for {} and does not sign with {scheme}",
                self.record.name,
                self.record.mechanism.name()
            ))),
        }
    }

    fn must_encrypt(&self, usage: &str, mechanism: CipherMechanism) -> Result<()> {
        self.must_allow(usage)?;
        match self.record.mechanism.encrypts(mechanism) {
            true => Ok(()),
            false => Err(Error::bad_request(format!(
                "managed key {:?} is for {} and does not {usage} with {mechanism}",
                self.record.name,
                self.record.mechanism.name()
            ))),
        }
    }

    /// An error says which key it is about.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| {
            let said = |text: String| format!("managed key {:?}: {text}", self.record.name);
            match e {
                Error::BadRequest(texts) => Error::bad_request(said(texts.join("; "))),
                Error::Internal(text) => Error::Internal(said(text)),
                Error::Unavailable(text) => Error::Unavailable(said(text)),
                other => other,
            }
        })
    }
}

/// RSA in software takes milliseconds: not on a thread that others wait for.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

impl ManagedKey for Key {
    fn name(&self) -> &str {
        &self.record.name
    }

    fn uuid(&self) -> [u8; 16] {
        self.record.uuid
    }

    fn kind(&self) -> KeyKind {
        self.record.seen.kind
    }

    fn public_key(&self) -> Option<&[u8]> {
        self.record.seen.public.as_deref()
    }

    fn check_scheme(&self, scheme: SignMechanism) -> Work<'_, Result<()>> {
        Box::pin(async move {
            self.must_sign(scheme)?;
            let kind = self.kind();
            if !self.record.mechanism.fits(kind) {
                return Err(Error::Internal("a managed key's record does not fit its mechanism".into()));
            }
            let checked = match &self.place {
                Located::Device(key) => key.check_scheme(scheme).await,
                Located::Software(_) => keys::check_scheme(kind, scheme).map_err(refusal),
            };
            self.named(checked)
        })
    }

    fn sign(&self, scheme: SignMechanism, input: SignInput) -> Work<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            self.must_sign(scheme)?;
            let signed = match &self.place {
                Located::Device(key) => key.sign(scheme, input).await,
                Located::Software(private) => {
                    let (private, kind) = (private.clone(), self.kind());
                    aside(move || keys::sign(kind, private.expose(), scheme, &input).map_err(refusal)).await
                }
            };
            self.named(signed)
        })
    }

    fn verify(&self, scheme: SignMechanism, input: &SignInput, signature: &[u8]) -> Result<bool> {
        self.must_allow("verify")?;
        let public = self.public_key().ok_or_else(|| Error::bad_request("a secret key verifies no signatures"))?;
        self.named(verify(self.kind(), public, scheme, input, signature).map_err(refusal))
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        plaintext: Secret<Vec<u8>>,
        aad: Vec<u8>,
    ) -> Work<'_, Result<Ciphertext>> {
        Box::pin(async move {
            self.must_encrypt("encrypt", mechanism)?;
            let sealed = match &self.place {
                Located::Device(key) => key.encrypt(mechanism, plaintext, aad).await,
                Located::Software(private) => {
                    let (private, kind) = (private.clone(), self.kind());
                    aside(move || keys::encrypt(kind, private.expose(), mechanism, &plaintext, &aad).map_err(refusal))
                        .await
                }
            };
            self.named(sealed)
        })
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        ciphertext: Vec<u8>,
        aad: Vec<u8>,
    ) -> Work<'_, Result<Secret<Vec<u8>>>> {
        Box::pin(async move {
            self.must_encrypt("decrypt", mechanism)?;
            let opened = match &self.place {
                Located::Device(key) => key.decrypt(mechanism, ciphertext, aad).await,
                Located::Software(private) => {
                    let (private, kind) = (private.clone(), self.kind());
                    aside(move || keys::decrypt(kind, private.expose(), mechanism, &ciphertext, &aad).map_err(refusal))
                        .await
                }
            };
            self.named(opened)
        })
    }
}
