//! Devices that the configuration names: whether each is there and answers, and with a login, whether its PIN is right and
//! the key for audit logs is there.

use std::time::Duration;

use holdfast_config::{Config, Device, DeviceKind};
use holdfast_hsm::device::KeyRef;

use super::report::{Check, Status};
use super::seal::{ANSWER_WITHIN, Helpers, missing_pin, no_library, told};
use crate::named_devices;

pub const NAME: &str = "Check Devices";
const ADVICE: &str = "The server starts without it, and what needs it fails until it answers (docs/devices.md).";
/// A slow token lists its keys.
const LIST_WITHIN: Duration = Duration::from_secs(60);

pub fn check(config: &Config, helpers: &Helpers, login: bool) -> Check {
    match config.devices.is_empty() {
        true => Check::skipped(NAME, "the configuration names none"),
        false => Check::of(NAME, config.devices.iter().map(|device| one(config, device, helpers, login)).collect()),
    }
}

fn one(config: &Config, device: &Device, helpers: &Helpers, login: bool) -> Check {
    let name = format!("Device {:?}", device.name);
    if let Some(missing) = device.kind.pin().and_then(missing_pin) {
        return Check::fail(&name, missing, "Give the PIN where the stanza says that it is.");
    }
    match &device.kind {
        DeviceKind::Pkcs11(pkcs11) if !pkcs11.lib.is_file() => return no_library(&name, &pkcs11.lib),
        DeviceKind::Software { key_file } => {
            let text = format!("keys are kept in the file {}", key_file.display());
            return Check::warn(&name, text, "It is for development: use a device.");
        }
        _ => {}
    }
    let spawner = match helpers.for_check(&name) {
        Ok(spawner) => spawner,
        Err(check) => return check,
    };
    let check = match named_devices::look(&device.kind, spawner.clone(), ANSWER_WITHIN) {
        Ok(info) => told(&name, &info, Some(format!("makes {} kinds of keys", info.capabilities.generate.len()))),
        Err(text) => return Check::fail(&name, text, ADVICE),
    };
    if !login || check.status() != Status::Ok {
        return check;
    }
    let keys = match named_devices::keys(&device.kind, spawner, LIST_WITHIN) {
        Ok(keys) => keys,
        Err(text) => return check.failing(text, "Compare the PIN of the stanza with the token's: it was tried once."),
    };
    let check = check.seen(format!("{} keys", keys.len()));
    let Some(signing) = config.audit_signing.as_ref().filter(|signing| signing.device == device.name) else {
        return check;
    };
    let wanted = KeyRef { label: signing.key_label.clone(), id: signing.key_id.clone() };
    let is_it = |label: &str, id: &[u8]| {
        wanted.label.as_deref().is_none_or(|l| l == label) && wanted.id.as_deref().is_none_or(|i| i == id)
    };
    match keys.iter().any(|key| key.private && is_it(&key.label, &key.id)) {
        true => check.seen(format!("{wanted} for audit logs is there")),
        false => check.failing(
            format!("the stanza audit_signing names {wanted}, which is not there"),
            "Correct key_label or key_id, or make the key: until then the server's own key signs.",
        ),
    }
}
