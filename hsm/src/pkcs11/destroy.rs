//! Destroys a key, all halves of it.

use super::find::{groups, objects};
use super::session::{Repeat, Sessions};
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyRef};
use std::sync::PoisonError;

pub(super) fn destroy(sessions: &Sessions, key: &KeyRef) -> Result<(), DeviceError> {
    if key.label.is_none() && key.id.is_none() {
        return Err(DeviceError::invalid("a key to destroy must be named by label or id"));
    }
    sessions.let_go()?;
    sessions.run(&format!("destroy {key}"), Repeat::Never, |work| {
        let groups = groups(objects(work, key)?);
        let [group] = &groups[..] else {
            return Err(match groups.len() {
                0 => DeviceError::new(Class::KeyMissing, format!("{key} is not on the token: nothing was destroyed")),
                n => DeviceError::invalid(format!(
                    "{n} keys match {key}: nothing was destroyed; name one by label and id"
                )),
            }
            .into());
        };
        work.handles.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for object in group {
            work.session.destroy_object(object.handle)?;
        }
        Ok(())
    })
}
