//! `audit_signing`: the key in a device that signs the checkpoints of audit logs.

use std::time::Duration;

use crate::seal::{KEY_ID_EXPECTED, key_id};
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Device, Place};

/// `audit_signing`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSigning {
    /// The name of the device.
    pub device: String,
    /// The key, by label.
    pub key_label: Option<String>,
    /// The key, by id.
    pub key_id: Option<Vec<u8>>,
    /// Audit files take no more lines when nothing was signed for so long; `None`: they go on.
    pub refuse_after: Option<Duration>,
    /// Where the device is named.
    pub place: Place,
}

/// A device may need that long to come back, or to be asked.
const LEAST: Duration = Duration::from_secs(15);

pub(crate) fn read(mut s: Stanza<'_>) -> Result<AuditSigning, ConfigError> {
    let next = "set it to the name of a device stanza";
    let device = s.text("device")?.ok_or_else(|| s.missing("device", next))?;
    let key_id = match s.text("key_id")? {
        None => None,
        Some(text) => Some(key_id(&text).ok_or_else(|| s.wrong("key_id", &text, KEY_ID_EXPECTED))?),
    };
    let key_label = s.text("key_label")?;
    if key_label.is_none() && key_id.is_none() {
        return Err(s.missing("key_label", "say which key of the device with key_label or key_id"));
    }
    let refuse_after = s.duration("refuse_after")?;
    if let Some(short) = refuse_after.filter(|limit| *limit < LEAST) {
        let value = format!("{} s", short.as_secs());
        return Err(s.wrong("refuse_after", &value, format!("at least {} s", LEAST.as_secs())));
    }
    let signing = AuditSigning { device, key_label, key_id, refuse_after, place: s.place("device") };
    s.finish_strictly()?;
    Ok(signing)
}

/// The device may be in another file than the stanza.
pub(crate) fn check(signing: &AuditSigning, devices: &[Device]) -> Result<(), ConfigError> {
    if devices.iter().any(|device| device.name == signing.device) {
        return Ok(());
    }
    let text = format!("audit_signing names the device {:?}, and there is no stanza of that name", signing.device);
    Err(ConfigError { place: Some(signing.place.clone()), kind: ConfigErrorKind::Conflict(text) })
}
