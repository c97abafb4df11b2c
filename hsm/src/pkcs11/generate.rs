//! Makes keys on the token: permanent, private, sensitive, never extractable.

use super::abilities::Ability;
use super::fault::Fault;
use super::find::{Half, describe, objects, read};
use super::session::{Repeat, Sessions, Work};
use crate::device::{DeviceError, KeyInfo, KeyKind, KeyRef, KeySpec, KeyUsage};
use crate::device::{OID_ED25519, curve_oid};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::types::Ulong;

pub(super) fn generate(sessions: &Sessions, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
    let id = new_id(spec)?;
    let plan = plan(spec)?;
    sessions.try_to(
        Ability::Make(spec.kind),
        &format!("make {} key '{}'", spec.kind, spec.label),
        Repeat::Never,
        |work| {
            refuse_existing(work, spec, &id)?;
            let handles = make(work, spec, &id, &plan).inspect_err(|_| tidy(work, spec, &id))?;
            let mut made = Vec::new();
            for handle in handles {
                made.extend(read(work, handle)?);
            }
            debug_assert!(made.iter().any(|object| object.half != Half::Public));
            describe(work, &made)
        },
    )
}

fn make(work: &Work<'_>, spec: &KeySpec, id: &[u8], plan: &Plan) -> Result<Vec<ObjectHandle>, Error> {
    match plan {
        Plan::Secret(mechanism, bytes) => {
            let mut template = secret_half(spec, id);
            template.push(Attribute::ValueLen(Ulong::from(*bytes)));
            Ok(vec![work.session.generate_key(mechanism, &template)?])
        }
        Plan::Pair(mechanism, public) => {
            let public = [public_half(spec, id), public.clone()].concat();
            let (public, private) = work.session.generate_key_pair(mechanism, &public, &private_half(spec, id))?;
            Ok(vec![private, public])
        }
    }
}

/// Some modules leave half a pair behind when there is room for one half. Nothing of this name was there before.
fn tidy(work: &Work<'_>, spec: &KeySpec, id: &[u8]) {
    let name = KeyRef { label: Some(spec.label.clone()), id: Some(id.to_vec()) };
    // If that fails too, the device is away.
    for half in objects(work, &name).unwrap_or_default() {
        if work.session.destroy_object(half.handle).is_err() {
            tracing::warn!(label = spec.label, id = hex::encode(id), "half a key is left on the token: destroy it");
        }
    }
}

/// The id that was asked for, or sixteen random bytes.
pub(super) fn new_id(spec: &KeySpec) -> Result<Vec<u8>, DeviceError> {
    if spec.label.is_empty() {
        return Err(DeviceError::invalid("a new key needs a label that names its owner"));
    }
    if let Some(id) = spec.id.as_ref().filter(|id| !id.is_empty()) {
        return Ok(id.clone());
    }
    let mut id = vec![0; 16];
    getrandom::fill(&mut id).map_err(|error| DeviceError::invalid(format!("no random bytes for a key id: {error}")))?;
    Ok(id)
}

/// A second key under a name would make both hard to tell apart.
pub(super) fn refuse_existing(work: &Work<'_>, spec: &KeySpec, id: &[u8]) -> Result<(), Fault> {
    for name in [KeyRef::label(&spec.label), KeyRef::id(id)] {
        if !objects(work, &name)?.is_empty() {
            return Err(DeviceError::invalid(format!("{name} exists already: use it, or choose another name")).into());
        }
    }
    Ok(())
}

enum Plan {
    Secret(Mechanism<'static>, u64),
    Pair(Mechanism<'static>, Vec<Attribute>),
}

fn plan(spec: &KeySpec) -> Result<Plan, DeviceError> {
    if matches!(spec.kind, KeyKind::AesCcm(_)) {
        return Err(not_made(spec.kind));
    }
    let fits = match spec.usage {
        KeyUsage::Encrypt => matches!(spec.kind, KeyKind::Aes(_) | KeyKind::Rsa(_)),
        KeyUsage::Sign => {
            matches!(spec.kind, KeyKind::Rsa(_) | KeyKind::Ed25519 | KeyKind::Hmac(_)) || curve_oid(spec.kind).is_some()
        }
        KeyUsage::Derive => curve_oid(spec.kind).is_some(),
    };
    if !fits {
        return Err(DeviceError::invalid(format!("a key of {} is not for {:?}", spec.kind, spec.usage)));
    }
    if let Some(curve) = curve_oid(spec.kind) {
        return Ok(Plan::Pair(Mechanism::EccKeyPairGen, vec![Attribute::EcParams(curve.to_vec())]));
    }
    Ok(match spec.kind {
        KeyKind::Aes(256) => Plan::Secret(Mechanism::AesKeyGen, 32),
        // As long as the tag (RFC 2104, 3): by its length the hash of a key without a type of its own is told.
        KeyKind::Hmac(hash) => Plan::Secret(Mechanism::GenericSecretKeyGen, hash.digest_bytes() as u64),
        KeyKind::Rsa(bits @ (2048 | 3072 | 4096)) => Plan::Pair(
            Mechanism::RsaPkcsKeyPairGen,
            vec![Attribute::ModulusBits(Ulong::from(u64::from(bits))), Attribute::PublicExponent(vec![1, 0, 1])],
        ),
        KeyKind::Ed25519 => {
            Plan::Pair(Mechanism::EccEdwardsKeyPairGen, vec![Attribute::EcParams(OID_ED25519.to_vec())])
        }
        other => return Err(not_made(other)),
    })
}

fn not_made(kind: KeyKind) -> DeviceError {
    DeviceError::unsupported(format!(
        "{kind} keys are not made: use AES-256, RSA-2048/3072/4096, EC P-256/P-384/P-521, Ed25519 or HMAC"
    ))
}

/// The template of a secret key, without its length or value.
pub(super) fn secret_half(spec: &KeySpec, id: &[u8]) -> Vec<Attribute> {
    let usage = match spec.usage {
        KeyUsage::Sign => vec![Attribute::Sign(true), Attribute::Verify(true)],
        _ => vec![Attribute::Encrypt(true), Attribute::Decrypt(true)],
    };
    [named(spec, id), protected(), usage].concat()
}

fn private_half(spec: &KeySpec, id: &[u8]) -> Vec<Attribute> {
    let usage = match spec.usage {
        KeyUsage::Encrypt => Attribute::Decrypt(true),
        KeyUsage::Sign => Attribute::Sign(true),
        KeyUsage::Derive => Attribute::Derive(true),
    };
    [named(spec, id), protected(), vec![usage]].concat()
}

fn public_half(spec: &KeySpec, id: &[u8]) -> Vec<Attribute> {
    let mut template = named(spec, id);
    template.push(Attribute::Private(false));
    match spec.usage {
        KeyUsage::Encrypt => template.push(Attribute::Encrypt(true)),
        KeyUsage::Sign => template.push(Attribute::Verify(true)),
        KeyUsage::Derive => {}
    }
    template
}

fn named(spec: &KeySpec, id: &[u8]) -> Vec<Attribute> {
    vec![Attribute::Token(true), Attribute::Label(spec.label.clone().into_bytes()), Attribute::Id(id.to_vec())]
}

fn protected() -> Vec<Attribute> {
    vec![Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)]
}
