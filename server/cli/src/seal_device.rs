//! The device of the seal stanza, as the core uses it.

use std::sync::{Arc, OnceLock};

use holdfast_config::{Pin, PinSource, Pkcs11Seal, SealKind};
use holdfast_hsm::device::{CipherMechanism, DeviceError, DeviceErrorClass};
use holdfast_hsm::memory::{Key, Secret};
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::software::SoftwareConfig;
use holdfast_hsm::{DeviceClient, HelperLimits, Spawner, WrapKeyConfig, WrapKeyInfo};
use holdfast_seal::{DeviceRefusal, Lock, SealDevice, Wrapped};

/// How the device is reached.
pub enum DeviceSetUp {
    Pkcs11(Box<Pkcs11Seal>),
    Software(std::path::PathBuf),
}

impl DeviceSetUp {
    /// `None`: the seal has no device.
    pub fn of(kind: &SealKind) -> Option<DeviceSetUp> {
        match kind {
            SealKind::Shamir | SealKind::Static(_) => None,
            SealKind::Software { key_file } => Some(DeviceSetUp::Software(key_file.clone())),
            SealKind::Pkcs11(p) => Some(DeviceSetUp::Pkcs11(p.clone())),
        }
    }
}

/// The wrapping key in a device, behind its helper process.
pub struct WrappingDevice {
    spawner: Arc<Spawner>,
    backend: &'static str,
    set_up: DeviceSetUp,
    /// Made when the PIN could be read.
    ready: OnceLock<(DeviceClient, WrapKeyConfig)>,
}

fn refusal(e: DeviceError) -> DeviceRefusal {
    let retry = !matches!(e.class, DeviceErrorClass::PinWrong | DeviceErrorClass::PinLocked);
    DeviceRefusal { text: e.text, retry }
}

fn pin(source: &PinSource) -> Result<Secret<String>, String> {
    match source {
        PinSource::Given(p) => Ok(Secret::new(Pin::expose(p).to_owned())),
        PinSource::File(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| {
                format!(
                    "the PIN file {} cannot be read: {e}; make it readable for the server's user alone",
                    path.display()
                )
            })?;
            let line = text.lines().next().unwrap_or("").to_owned();
            drop(text);
            if line.is_empty() {
                return Err(format!(
                    "the PIN file {} is empty: write the token's PIN into its first line",
                    path.display()
                ));
            }
            Ok(Secret::new(line))
        }
        PinSource::Environment(name) => std::env::var(name)
            .map(Secret::new)
            .map_err(|_| format!("the PIN is to come from the variable {name}, which is not set")),
    }
}

impl WrappingDevice {
    /// Read the PIN's file again. A PIN that the token refused is not tried again unless the file has another one.
    pub fn read_pin_again(&self) {
        let DeviceSetUp::Pkcs11(seal) = &self.set_up else { return };
        let (Some(source @ PinSource::File(path)), Some((client, _))) = (&seal.pin, self.ready.get()) else { return };
        match pin(source) {
            Ok(pin) => {
                if client.take_pin(pin) {
                    tracing::info!(file = %path.display(), "the PIN was read again");
                }
            }
            Err(text) => tracing::error!("{text}; the old PIN stays in use"),
        }
    }

    /// Set the device up; nothing of it is loaded before the first call.
    pub fn new(set_up: DeviceSetUp, spawner: Option<Arc<Spawner>>) -> Result<WrappingDevice, String> {
        let Some(spawner) = spawner else { return Err("the device's helper cannot be started".into()) };
        if let DeviceSetUp::Software(path) = &set_up {
            tracing::warn!(
                file = %path.display(),
                "seal \"software\": the wrapping key is a file, not hardware; it protects nothing from who can read that file. \
                 For development only"
            );
        }
        let backend = match &set_up {
            DeviceSetUp::Software(_) => "software",
            DeviceSetUp::Pkcs11(_) => "pkcs11",
        };
        Ok(WrappingDevice { spawner, backend, set_up, ready: OnceLock::new() })
    }

    /// Client and key. A PIN that cannot be read now may be there later.
    fn ready(&self) -> Result<&(DeviceClient, WrapKeyConfig), DeviceRefusal> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let made = match &self.set_up {
            DeviceSetUp::Software(path) => {
                let config = SoftwareConfig { path: Some(path.display().to_string()) };
                let key = WrapKeyConfig {
                    key_label: Some("holdfast-root".into()),
                    generate_key: true,
                    ..WrapKeyConfig::default()
                };
                (DeviceClient::spawned(self.spawner.clone(), config), key)
            }
            DeviceSetUp::Pkcs11(p) => {
                let config = pkcs11(p).map_err(|text| DeviceRefusal { text, retry: true })?;
                let key = WrapKeyConfig::from(&config);
                (DeviceClient::spawned(self.spawner.clone(), config), key)
            }
        };
        Ok(self.ready.get_or_init(|| made))
    }
}

fn pkcs11(p: &Pkcs11Seal) -> Result<Pkcs11Config, String> {
    let mut config = Pkcs11Config::new(p.lib.display().to_string());
    config.slot = p.slot;
    config.token_label.clone_from(&p.token_label);
    config.token_serial.clone_from(&p.token_serial);
    config.pin = p.pin.as_ref().map(pin).transpose()?;
    config.key_label.clone_from(&p.key_label);
    if config.key_label.is_none() && p.key_id.is_none() {
        config.key_label = Some("holdfast-root".into());
    }
    config.key_id = p.key_id.as_ref().map(hex::encode);
    config.mechanism = p.mechanism.map(|m| format!("{m:#x}"));
    config.generate_key = p.generate_key;
    let texts = |paths: &[std::path::PathBuf]| paths.iter().map(|p| p.display().to_string()).collect();
    config.limits = HelperLimits {
        user: p.helper_user.clone(),
        read_paths: texts(&p.helper_read_paths),
        write_paths: texts(&p.helper_write_paths),
    };
    Ok(config)
}

impl SealDevice for WrappingDevice {
    fn backend(&self) -> &str {
        self.backend
    }

    fn wrap(&self, root: &Key, context: &[u8]) -> Result<Wrapped, DeviceRefusal> {
        let (client, key) = self.ready()?;
        let info = client.ensure_wrapping_key(key).map_err(refusal)?;
        let ciphertext = client.wrap(&info, root.expose(), context).map_err(refusal)?;
        Ok(Wrapped {
            ciphertext,
            key_label: info.key_label,
            key_id: hex::encode(&info.key_id),
            mechanism: info.mechanism.name().to_owned(),
            public_part: info.public_part,
        })
    }

    fn unwrap(&self, lock: &Lock, context: &[u8]) -> Result<Key, DeviceRefusal> {
        let bad = |text: &str| DeviceRefusal { text: text.into(), retry: false };
        let info = WrapKeyInfo {
            key_label: lock.key_label.clone(),
            key_id: hex::decode(&lock.key_id).map_err(|_| bad("the lock names a key id that is no hex text"))?,
            mechanism: CipherMechanism::from_name(&lock.mechanism).map_err(|_| {
                bad(&format!("the lock was made with {}, which this program does not know", lock.mechanism))
            })?,
            public_part: lock.public_part.clone(),
        };
        let (client, _) = self.ready()?;
        client.unwrap(&info, &lock.ciphertext, context).map_err(|e| match e.class {
            DeviceErrorClass::KeyMissing => {
                let text = format!(
                    "the key that opens this store (label {:?}, id 0x{}) is not on the token: insert the token that made it, \
                     or correct the seal stanza ({})",
                    lock.key_label, lock.key_id, e.text
                );
                DeviceRefusal { text, retry: true }
            }
            _ => refusal(e),
        })
    }
}
