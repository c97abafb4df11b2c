//! Takes AES-256 keys in, where the token allows it.

use super::abilities::Ability;
use super::find::{describe, read};
use super::generate::{new_id, refuse_existing, secret_half};
use super::session::{Repeat, Sessions};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeySpec, KeyUsage};
use crate::memory::Secret;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::types::Ulong;
use zeroize::Zeroize;

pub(super) fn import(sessions: &Sessions, spec: &KeySpec, material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
    if (spec.kind, spec.usage) != (KeyKind::Aes(256), KeyUsage::Encrypt) {
        return Err(DeviceError::unsupported(format!(
            "{} keys are not imported: make them on the token, so that they never were outside",
            spec.kind
        )));
    }
    if material.expose().len() != 32 {
        return Err(DeviceError::invalid(format!("{} bytes are no AES-256 key", material.expose().len())));
    }
    let id = new_id(spec)?;
    let result = sessions.try_to(
        Ability::Import(spec.kind),
        &format!("import {} key '{}'", spec.kind, spec.label),
        Repeat::Never,
        |work| {
            refuse_existing(work, spec, &id)?;
            let mut template = secret_half(spec, &id);
            template.extend([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Value(material.expose().clone()),
            ]);
            if work.quirks.import_tells_the_length {
                template.push(Attribute::ValueLen(Ulong::from(material.expose().len() as u64)));
            }
            let created = work.session.create_object(&template);
            wipe(&mut template);
            let made: Vec<_> = read(work, created?)?.into_iter().collect();
            describe(work, &made)
        },
    );
    // Tokens that forbid importing say so in many ways; all come from C_CreateObject.
    result.map_err(|error| match error.class {
        Class::Invalid if error.text.contains("C_CreateObject") => {
            sessions.refusals.refused(Ability::Import(spec.kind));
            DeviceError::unsupported(format!("{}; the token may forbid importing", error.text))
        }
        _ => error,
    })
}

fn wipe(template: &mut [Attribute]) {
    for attribute in template {
        if let Attribute::Value(value) = attribute {
            value.zeroize();
        }
    }
}
