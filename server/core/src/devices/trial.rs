//! What a device says that it does, tried: a key of each kind is made, used and destroyed.
//!
//! What it signs is checked by the public key alone, so that it is not believed for its own word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_hsm::device::{
    CipherMechanism, DeviceError, DeviceErrorClass as Class, Hash, KeyKind, KeyRef, KeySpec, KeyUsage, SignInput,
    SignMechanism,
};
use holdfast_hsm::health;
use holdfast_hsm::memory::Secret;
use holdfast_hsm::verify::verify;
use holdfast_sdk::Result;

use super::{Device, Repeat, refusal};
use crate::random;

/// Keys of trials begin with this, and end in random letters.
const LABEL: &str = "holdfast-trial-";
const SAMPLE: &[u8] = b"what a trial signs and encrypts";

/// One thing that was tried.
pub struct Tried {
    pub what: String,
    pub outcome: Outcome,
    pub took: Duration,
}

pub enum Outcome {
    Works,
    NotSupported,
    Failed(String),
}

/// The kinds that are tried. Larger RSA keys are like the smallest, and take their time.
const KINDS: [(KeyKind, KeyUsage); 9] = [
    (KeyKind::Aes(256), KeyUsage::Encrypt),
    (KeyKind::AesCcm(256), KeyUsage::Encrypt),
    (KeyKind::Rsa(2048), KeyUsage::Sign),
    (KeyKind::Rsa(2048), KeyUsage::Encrypt),
    (KeyKind::EcP256, KeyUsage::Sign),
    (KeyKind::EcP384, KeyUsage::Sign),
    (KeyKind::EcP521, KeyUsage::Sign),
    (KeyKind::Ed25519, KeyUsage::Sign),
    (KeyKind::Hmac(Hash::Sha256), KeyUsage::Sign),
];

/// Try everything. Keys of the trial are destroyed again.
pub async fn run(device: &Arc<Device>) -> Result<Vec<Tried>> {
    // A device that lets nobody in has nothing to show.
    device.check().await.map_err(refusal)?;
    let info = device.info().await.map_err(refusal)?;
    let mut all = vec![random_bytes(device, info.capabilities.random).await];
    for (kind, usage) in KINDS {
        let make = format!("{kind}: make, for {}", word(usage));
        if !info.capabilities.generate.contains(&kind) {
            all.push(Tried { what: make, outcome: Outcome::NotSupported, took: Duration::ZERO });
            continue;
        }
        let begun = Instant::now();
        let made = temporary(device, kind, usage).await;
        let took = begun.elapsed();
        let label = match made {
            Ok(label) => label,
            Err(error) => {
                all.push(Tried { what: make, outcome: failed(error), took });
                continue;
            }
        };
        all.push(Tried { what: make, outcome: Outcome::Works, took });
        let key = KeyRef::label(&label);
        match usage {
            KeyUsage::Sign if kind == KeyKind::Hmac(Hash::Sha256) => all.push(tag(device, &key, kind).await),
            KeyUsage::Sign => {
                for mechanism in info.capabilities.sign.iter().filter(|mechanism| fits(kind, **mechanism)) {
                    all.push(sign(device, &key, kind, *mechanism).await);
                }
            }
            _ => {
                for mechanism in info.capabilities.cipher.iter().filter(|mechanism| encrypts(kind, **mechanism)) {
                    all.push(encrypt(device, &key, kind, *mechanism).await);
                }
            }
        }
        let begun = Instant::now();
        let destroyed = destroy(device, label).await;
        let outcome = destroyed.map_or_else(failed, |()| Outcome::Works);
        all.push(Tried { what: format!("{kind}: destroy"), outcome, took: begun.elapsed() });
    }
    Ok(all)
}

/// A key that nobody else knows, not to be let out.
pub(super) async fn temporary(
    device: &Arc<Device>,
    kind: KeyKind,
    usage: KeyUsage,
) -> std::result::Result<String, DeviceError> {
    let letters = random::alphanumeric(12).map_err(|e| DeviceError::new(Class::Failed, e.to_string()))?;
    let label = format!("{LABEL}{letters}");
    let spec = KeySpec { label: label.clone(), id: None, kind, usage };
    let made = device.run(Repeat::Never, move |client| client.generate(spec.clone())).await?;
    match made.extractable {
        false => Ok(label),
        true => {
            destroy(device, label).await?;
            Err(DeviceError::new(Class::Failed, "the device made a key that it would let out"))
        }
    }
}

pub(super) async fn destroy(device: &Arc<Device>, label: String) -> std::result::Result<(), DeviceError> {
    device.run(Repeat::Never, move |client| client.destroy(KeyRef::label(&label))).await
}

async fn random_bytes(device: &Arc<Device>, supported: bool) -> Tried {
    let bytes = health::DRAW_BYTES as u32;
    let begun = Instant::now();
    let outcome = match supported {
        false => Outcome::NotSupported,
        true => {
            match device.run(Repeat::Safe, move |client| Ok((client.random(bytes)?, client.random(bytes)?))).await {
                Ok((one, other)) if health::looks_random(&one, &other) => Outcome::Works,
                Ok(_) => Outcome::Failed("its random bytes do not look like any".into()),
                Err(error) => failed(error),
            }
        }
    };
    Tried { what: "random bytes".into(), outcome, took: begun.elapsed() }
}

async fn sign(device: &Arc<Device>, key: &KeyRef, kind: KeyKind, mechanism: SignMechanism) -> Tried {
    let begun = Instant::now();
    let input = SignInput::Message(SAMPLE.to_vec());
    let (key, sent) = (key.clone(), input.clone());
    let signed = device.run(Repeat::Safe, move |client| {
        Ok((client.public_key(key.clone())?, client.sign(key.clone(), mechanism, sent.clone())?))
    });
    let outcome = match signed.await {
        Err(error) => failed(error),
        Ok((public_key, signature)) => match verify(kind, &public_key, mechanism, &input, &signature) {
            Ok(true) => Outcome::Works,
            Ok(false) => Outcome::Failed("its signature is not one of its public key".into()),
            Err(e) => Outcome::Failed(e.to_string()),
        },
    };
    Tried { what: format!("{kind}: sign, {mechanism}"), outcome, took: begun.elapsed() }
}

/// A tag is checked by the device itself, since nobody else has the key: it must know its own and no other.
async fn tag(device: &Arc<Device>, key: &KeyRef, kind: KeyKind) -> Tried {
    let begun = Instant::now();
    let key = key.clone();
    let tagged = device.run(Repeat::Safe, move |client| {
        let tag = client.mac(key.clone(), Hash::Sha256, SAMPLE.to_vec())?;
        let checks = |message: &[u8]| client.verify_mac(key.clone(), Hash::Sha256, message.to_vec(), tag.clone());
        Ok(tag.len() == Hash::Sha256.digest_bytes() && checks(SAMPLE)? && !checks(b"something else")?)
    });
    let outcome = match tagged.await {
        Ok(true) => Outcome::Works,
        Ok(false) => Outcome::Failed("it does not tell its tags from others".into()),
        Err(error) => failed(error),
    };
    Tried { what: format!("{kind}: tag, and check it"), outcome, took: begun.elapsed() }
}

async fn encrypt(device: &Arc<Device>, key: &KeyRef, kind: KeyKind, mechanism: CipherMechanism) -> Tried {
    let begun = Instant::now();
    let key = key.clone();
    let opened = device.run(Repeat::Safe, move |client| {
        let sealed = client.encrypt(key.clone(), mechanism, Secret::new(SAMPLE.to_vec()), &[])?;
        client.decrypt(key.clone(), sealed.mechanism, &sealed.bytes, &[])
    });
    let outcome = match opened.await {
        Ok(opened) if opened.ct_eq(SAMPLE) => Outcome::Works,
        Ok(_) => Outcome::Failed("it does not open what it closed".into()),
        Err(error) => failed(error),
    };
    Tried { what: format!("{kind}: encrypt and decrypt, {mechanism}"), outcome, took: begun.elapsed() }
}

fn failed(error: DeviceError) -> Outcome {
    match error.class {
        Class::Unsupported => Outcome::NotSupported,
        _ => Outcome::Failed(error.text),
    }
}

fn fits(kind: KeyKind, mechanism: SignMechanism) -> bool {
    match mechanism {
        // A hash that is longer than the curve adds nothing, and some devices refuse it.
        SignMechanism::Ecdsa(hash) => {
            use {Hash as H, KeyKind as K};
            matches!((kind, hash), (K::EcP256, H::Sha256) | (K::EcP384, H::Sha384) | (K::EcP521, H::Sha512))
        }
        SignMechanism::RsaPkcs1(_) | SignMechanism::RsaPss(_) => matches!(kind, KeyKind::Rsa(_)),
        SignMechanism::Ed25519 => kind == KeyKind::Ed25519,
    }
}

fn encrypts(kind: KeyKind, mechanism: CipherMechanism) -> bool {
    match mechanism {
        CipherMechanism::AesGcm => matches!(kind, KeyKind::Aes(_)),
        CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1 => matches!(kind, KeyKind::Rsa(_)),
        CipherMechanism::YubiHsmWrap => matches!(kind, KeyKind::AesCcm(_)),
        CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned => false,
    }
}

fn word(usage: KeyUsage) -> &'static str {
    match usage {
        KeyUsage::Encrypt => "encryption",
        KeyUsage::Sign => "signatures",
        KeyUsage::Derive => "key agreement",
    }
}
