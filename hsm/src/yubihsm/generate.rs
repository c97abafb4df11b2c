//! Makes keys: in the device, never to leave it.

use super::fault::Fault;
use super::object::{Object, label_field, object_id};
use super::protocol::{Capabilities, Command, ObjectType, Refusal, algorithm_of, domains_text};
use super::session::{Repeat, Session, YubiHsm};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeyRef, KeySpec, KeyUsage};

pub(super) fn generate(hsm: &YubiHsm, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
    let plan = Plan::of(spec)?;
    let label = label_field(&spec.label).filter(|_| !spec.label.is_empty()).ok_or_else(|| {
        DeviceError::invalid(format!("a key on a YubiHSM needs a label of 1 to 40 bytes, not '{}'", spec.label))
    })?;
    // 0: the device chooses.
    let id = match spec.id.as_deref().filter(|id| !id.is_empty()) {
        None => 0,
        Some(id) => object_id(id).filter(|id| (1..0xffff).contains(id)).ok_or_else(|| {
            DeviceError::invalid(format!("0x{} is no id of a YubiHSM's object: they have two bytes", hex::encode(id)))
        })?,
    };
    hsm.run(&format!("make {} key '{}'", spec.kind, spec.label), Repeat::Never, |session| {
        if !session.device.algorithms.contains(&plan.algorithm) {
            return Err(DeviceError::unsupported(format!(
                "the YubiHSM {} does not make {} keys: the algorithm is not in its firmware, or switched off",
                session.device.serial, spec.kind
            ))
            .into());
        }
        session.may(plan.right, None)?;
        let domains = if hsm.config.domains == 0 { session.authority.domains } else { hsm.config.domains };
        may_give(session, plan.capabilities, domains)?;
        refuse_existing(session, &KeyRef::label(&spec.label))?;
        if id != 0 {
            refuse_existing(session, &KeyRef::id(id.to_be_bytes()))?;
        }
        let mut data = Vec::with_capacity(64);
        data.extend_from_slice(&id.to_be_bytes());
        data.extend_from_slice(&label);
        data.extend_from_slice(&domains.to_be_bytes());
        data.extend_from_slice(&plan.capabilities.0.to_be_bytes());
        data.push(plan.algorithm);
        if plan.of == ObjectType::Wrap {
            // It wraps data alone: no object can be taken in or let out under it.
            data.extend_from_slice(&Capabilities::default().0.to_be_bytes());
        }
        session.known.forget();
        let made = session.command(plan.command, &data);
        if matches!(made, Err(Fault::Refused(Refusal::StorageFailed))) {
            return Err(full(session)?.into());
        }
        let id = object_id(&made?).ok_or(Fault::Garbled)?;
        Ok(Object::of(session, id, plan.of)?.info())
    })
}

/// How a kind of key is made.
struct Plan {
    command: Command,
    of: ObjectType,
    algorithm: u8,
    /// What the session needs.
    right: Capabilities,
    /// What the key may do.
    capabilities: Capabilities,
}

impl Plan {
    fn of(spec: &KeySpec) -> Result<Self, DeviceError> {
        use Capabilities as C;
        let algorithm = algorithm_of(spec.kind)?;
        if spec.kind == KeyKind::AesCcm(256) && spec.usage == KeyUsage::Encrypt {
            return Ok(Self {
                command: Command::GenerateWrapKey,
                of: ObjectType::Wrap,
                algorithm,
                right: C::GENERATE_WRAP_KEY,
                capabilities: C::WRAP_DATA.and(C::UNWRAP_DATA),
            });
        }
        if let (KeyKind::Hmac(_), KeyUsage::Sign) = (spec.kind, spec.usage) {
            return Ok(Self {
                command: Command::GenerateHmacKey,
                of: ObjectType::Hmac,
                algorithm,
                right: C::GENERATE_HMAC_KEY,
                capabilities: C::SIGN_HMAC.and(C::VERIFY_HMAC),
            });
        }
        let capabilities = match (spec.kind, spec.usage) {
            (KeyKind::Rsa(_), KeyUsage::Sign) => C::SIGN_PKCS.and(C::SIGN_PSS),
            (KeyKind::Rsa(_), KeyUsage::Encrypt) => C::DECRYPT_OAEP,
            (KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521, KeyUsage::Sign) => C::SIGN_ECDSA,
            (KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521, KeyUsage::Derive) => C::DERIVE_ECDH,
            (KeyKind::Ed25519, KeyUsage::Sign) => C::SIGN_EDDSA,
            (kind, usage) => return Err(DeviceError::invalid(format!("a key of {kind} is not for {usage:?}"))),
        };
        Ok(Self {
            command: Command::GenerateAsymmetricKey,
            of: ObjectType::Asymmetric,
            algorithm,
            right: C::GENERATE_ASYMMETRIC_KEY,
            capabilities,
        })
    }
}

/// The authentication key says what keys that it makes may do, and where they are.
fn may_give(session: &Session, capabilities: Capabilities, domains: u16) -> Result<(), Fault> {
    let authority = &session.authority;
    let missing = authority.delegated.lacks(capabilities);
    let elsewhere = domains & !authority.domains;
    let text = if !missing.is_empty() {
        format!("has not the delegated capability {}", missing.join(", "))
    } else if elsewhere != 0 {
        format!(
            "is in the domains {}, and makes no key in {}: correct 'domains'",
            domains_text(authority.domains),
            domains_text(elsewhere)
        )
    } else {
        return Ok(());
    };
    let text = format!("authentication key {} on the YubiHSM {} {text}", authority.id, session.device.serial);
    Err(DeviceError::new(Class::PolicyRefused, text).into())
}

/// Labels need not be unique on a YubiHSM; here they name keys.
fn refuse_existing(session: &mut Session, name: &KeyRef) -> Result<(), Fault> {
    match Object::matching(session, name)?.is_empty() {
        true => Ok(()),
        false => Err(DeviceError::invalid(format!("{name} exists already: use it, or choose another name")).into()),
    }
}

fn full(session: &mut Session) -> Result<DeviceError, Fault> {
    let storage = session.command(Command::GetStorageInfo, &[])?;
    let number = |at: usize| storage.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    let text = format!(
        "the YubiHSM {} is full: of {} places for objects {} are free, of {} pages {}: delete objects that are not used, or use \
         another device",
        session.device.serial,
        number(0),
        number(2),
        number(4),
        number(6)
    );
    Ok(DeviceError::new(Class::Failed, text))
}
