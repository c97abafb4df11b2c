//! The key of a cluster's node, closed by a device that the configuration names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_cluster::{KeyKeeper, KeyKept};
use holdfast_config::{Config, NodeKey, Storage};
use holdfast_core::devices::Declared;
use holdfast_hsm::device::{CipherMechanism, DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::memory::Key;
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::{DeviceClient, WrapKeyConfig, WrapKeyInfo};
use serde::{Deserialize, Serialize};

/// The form of what is written.
const FORMAT: u32 = 1;
/// A device that is away at the start is waited for, but not for ever: whoever started the server is told.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How the configuration wants the key of this node to be kept.
pub fn kept(config: &Config, devices: &[Declared]) -> Result<KeyKept, String> {
    let Some(Storage::Raft(raft)) = &config.storage else { return Ok(KeyKept::InFile) };
    let Some(wanted) = &raft.node_key else { return Ok(KeyKept::InFile) };
    // That there is such a stanza was looked at when the configuration was read.
    let device = devices.iter().find(|device| device.name == wanted.device);
    let device = device.ok_or_else(|| format!("node_key: there is no device {:?}", wanted.device))?;
    let client = device.client.clone().map_err(|e| format!("node_key: device {:?}: {e}", wanted.device))?;
    let keeper = Arc::new(Keeper { name: wanted.device.clone(), client, key: wrapping_key(wanted, device.kind) });
    Ok(if wanted.disabled { KeyKept::NoLongerBy(keeper) } else { KeyKept::By(keeper) })
}

fn wrapping_key(wanted: &NodeKey, device: &str) -> WrapKeyConfig {
    let tpm = (device == "tpm").then(|| TpmConfig::ROOT_LABEL.to_owned());
    let way = match device {
        "tpm" => Some(CipherMechanism::TpmSeal),
        "yubihsm" => Some(CipherMechanism::YubiHsmWrap),
        _ => None,
    };
    WrapKeyConfig {
        key_label: tpm.or_else(|| wanted.key_label.clone()),
        key_id: wanted.key_id.clone(),
        mechanism: wanted.mechanism.clone().or_else(|| way.map(|way| way.name().to_owned())),
        generate_key: wanted.generate_key,
    }
}

/// A device, and its key that closes.
struct Keeper {
    name: String,
    client: DeviceClient,
    key: WrapKeyConfig,
}

/// What is written beside the store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Closed {
    format: u32,
    /// The key of the device that closed it.
    key_label: String,
    /// Hex.
    key_id: String,
    mechanism: String,
    /// Hex.
    wrapped: String,
}

impl Keeper {
    /// Ask the device until it answers, or has been away for too long.
    fn ask<T>(&self, call: impl Fn() -> Result<T, DeviceError>) -> Result<T, String> {
        let start = Instant::now();
        let mut told = false;
        loop {
            match call() {
                Ok(answer) => return Ok(answer),
                Err(e) => {
                    let passes = matches!(e.class, Class::Busy | Class::Gone | Class::HelperDied | Class::Timeout);
                    if !passes || start.elapsed() >= PATIENCE {
                        return Err(e.text);
                    }
                    if !told {
                        tracing::warn!(
                            device = self.name,
                            error = %e,
                            "the device that closes the key of this node does not answer: the start waits for it"
                        );
                        told = true;
                    }
                    std::thread::sleep(ASK_AGAIN);
                }
            }
        }
    }
}

impl KeyKeeper for Keeper {
    fn name(&self) -> &str {
        &self.name
    }

    fn close(&self, key: &[u8], about: &str) -> Result<Vec<u8>, String> {
        let by = self.ask(|| self.client.ensure_wrapping_key(&self.key))?;
        let wrapped = self.ask(|| self.client.wrap(&by, key, about.as_bytes()))?;
        let closed = Closed {
            format: FORMAT,
            key_label: by.key_label,
            key_id: hex::encode(by.key_id),
            mechanism: by.mechanism.name().to_owned(),
            wrapped: hex::encode(wrapped),
        };
        serde_json::to_vec(&closed).map_err(|e| e.to_string())
    }

    fn open(&self, closed: &[u8], about: &str) -> Result<Key, String> {
        let closed: Closed = serde_json::from_slice(closed).map_err(|e| format!("it is not what was written: {e}"))?;
        if closed.format != FORMAT {
            return Err(format!("it has format {}, and this program reads {FORMAT}", closed.format));
        }
        let bytes = |text: &str| hex::decode(text).map_err(|e| format!("it is not what was written: {e}"));
        let by = WrapKeyInfo {
            key_label: closed.key_label,
            key_id: bytes(&closed.key_id)?,
            mechanism: CipherMechanism::from_name(&closed.mechanism).map_err(|e| e.text)?,
            public_part: None,
        };
        let wrapped = bytes(&closed.wrapped)?;
        self.ask(|| self.client.unwrap(&by, &wrapped, about.as_bytes()))
    }
}
