//! `node_key` of a `storage "raft"`: the key in a device that closes the key of this node.

use crate::seal::{KEY_ID_EXPECTED, key_id};
use crate::stanza::Stanza;
use crate::{Config, ConfigError, ConfigErrorKind, DeviceKind, Place, Storage};

/// `node_key`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKey {
    /// The name of the device.
    pub device: String,
    /// The key that wraps, by label.
    pub key_label: Option<String>,
    /// The same, by id (hex).
    pub key_id: Option<String>,
    /// How it wraps; `None`: as the device does.
    pub mechanism: Option<String>,
    /// Whether to make the key if it is missing.
    pub generate_key: bool,
    /// The node's key is to lie in a file again.
    pub disabled: bool,
    /// Where the device is named.
    pub place: Place,
}

pub(crate) fn read(mut s: Stanza<'_>) -> Result<NodeKey, ConfigError> {
    let device = s.text("device")?.ok_or_else(|| s.missing("device", "set it to the name of a device stanza"))?;
    let id = s.text("key_id")?;
    if let Some(wrong) = id.as_deref().filter(|text| key_id(text).is_none()) {
        return Err(s.wrong("key_id", wrong, KEY_ID_EXPECTED));
    }
    let key = NodeKey {
        device,
        key_label: s.text("key_label")?,
        key_id: id,
        mechanism: s.text("mechanism")?,
        generate_key: s.bool("generate_key")?.unwrap_or_default(),
        disabled: s.bool("disabled")?.unwrap_or_default(),
        place: s.place("device"),
    };
    s.finish_strictly()?;
    Ok(key)
}

/// The device may be in another file than the stanza.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    let Some(Storage::Raft(raft)) = &config.storage else { return Ok(()) };
    let Some(key) = &raft.node_key else { return Ok(()) };
    let conflict =
        |text: String| Err(ConfigError { place: Some(key.place.clone()), kind: ConfigErrorKind::Conflict(text) });
    let named = config.devices.iter().find(|device| device.name == key.device);
    let kind = match named {
        None => {
            return conflict(format!(
                "node_key names the device {:?}, and there is no stanza of that name",
                key.device
            ));
        }
        Some(device) => &device.kind,
    };
    match (kind, key.key_label.is_some() || key.key_id.is_some()) {
        (DeviceKind::Software { .. }, _) => conflict(
            "node_key names a software device, whose keys lie in a file too: name a device of hardware, or leave node_key \
             out"
            .into(),
        ),
        (DeviceKind::Tpm(_), true) => {
            conflict("a TPM closes with its storage root key: leave out key_label and key_id of node_key".into())
        }
        (DeviceKind::Tpm(_), false) | (_, true) => Ok(()),
        (_, false) => conflict("say which key of the device closes the node's: key_label or key_id of node_key".into()),
    }
}
