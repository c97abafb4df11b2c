//! Destroys a key.

use super::find::only;
use super::object::Object;
use super::protocol::{Capabilities, Command, ObjectType};
use super::session::{Repeat, YubiHsm};
use crate::device::{DeviceError, KeyRef};

pub(super) fn destroy(hsm: &YubiHsm, key: &KeyRef) -> Result<(), DeviceError> {
    if key.label.is_none() && key.id.is_none() {
        return Err(DeviceError::invalid("a key to destroy must be named by label or id"));
    }
    hsm.run(&format!("destroy {key}"), Repeat::Never, |session| {
        let found = Object::matching(session, key)?;
        let object = only(session, key, found)?;
        session.may(
            match object.of {
                ObjectType::Wrap => Capabilities::DELETE_WRAP_KEY,
                ObjectType::Hmac => Capabilities::DELETE_HMAC_KEY,
                ObjectType::Asymmetric | ObjectType::Authentication => Capabilities::DELETE_ASYMMETRIC_KEY,
            },
            None,
        )?;
        let [high, low] = object.id.to_be_bytes();
        session.known.forget();
        session.command(Command::DeleteObject, &[high, low, object.of as u8]).map(drop)
    })
}
