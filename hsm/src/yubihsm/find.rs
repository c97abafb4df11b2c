//! Finds keys: asymmetric keys, wrap keys and HMAC keys in the session's domains.

use super::fault::Fault;
use super::object::Object;
use super::protocol::{ObjectType, Refusal, domains_text};
use super::session::{Repeat, Session, YubiHsm};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyRef};

/// All keys that match.
pub(super) fn find(hsm: &YubiHsm, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
    hsm.run(&format!("look for {key}"), Repeat::Safe, |session| {
        Ok(Object::matching(session, key)?.iter().map(Object::info).collect())
    })
}

/// Uses the one object of this type that a key names. One that was found before and is gone is looked for again.
pub(super) fn using<T>(
    session: &mut Session,
    key: &KeyRef,
    of: ObjectType,
    mut act: impl FnMut(&mut Session, &Object) -> Result<T, Fault>,
) -> Result<T, Fault> {
    if let Some(object) = session.known.find(key, of).cloned() {
        match act(session, &object) {
            Err(Fault::Refused(Refusal::ObjectNotFound)) => session.known.forget(),
            other => return other,
        }
    }
    let mut found = Object::matching(session, key)?;
    found.retain(|object| object.of == of);
    let object = only(session, key, found)?;
    session.known.remember(key, &object);
    act(session, &object)
}

/// Exactly one, or an error that says what to do.
pub(super) fn only(session: &Session, key: &KeyRef, mut found: Vec<Object>) -> Result<Object, Fault> {
    match (found.pop(), found.len()) {
        (Some(object), 0) => Ok(object),
        (None, _) => Err(DeviceError::new(
            Class::KeyMissing,
            format!(
                "no {key} is on the YubiHSM {}, as far as authentication key {} sees (domains {}): check label and id; if it was \
                 there, the device was reset or exchanged",
                session.device.serial,
                session.authority.id,
                domains_text(session.authority.domains)
            ),
        )
        .into()),
        (Some(_), others) => Err(DeviceError::config(format!(
            "{} keys match {key}: give both label and id of the one that is meant",
            others + 1
        ))
        .into()),
    }
}
