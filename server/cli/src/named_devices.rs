//! The devices that the configuration names, each in a helper process of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_config::{Config, Device, DeviceKind, Helper, PinSource, Pkcs11Device, TpmDevice};
use holdfast_core::devices::Declared;
use holdfast_hsm::device::{DeviceInfo, KeyInfo, KeyRef};
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::software::SoftwareConfig;
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::{DeviceClient, DeviceConfig, Spawner};

use crate::seal_device::{first_line, hierarchy, limits, pin, yubihsm};

/// The devices as they were declared last.
pub struct NamedDevices {
    spawner: Option<Arc<Spawner>>,
    present: Mutex<Vec<(Device, DeviceClient)>>,
}

impl NamedDevices {
    pub fn new(spawner: Option<Arc<Spawner>>) -> NamedDevices {
        NamedDevices { spawner, present: Mutex::default() }
    }

    /// What a configuration declares. A device whose stanza is as it was keeps its helper; a PIN's file is read again.
    pub fn declared(&self, config: &Config) -> Result<Vec<Declared>, String> {
        let spawner = match (&self.spawner, config.devices.is_empty()) {
            (_, true) => None,
            (Some(spawner), false) => Some(spawner),
            (None, false) => {
                return Err(
                    "the server was started without any device, and cannot start helpers any more: restart it".into()
                );
            }
        };
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut declared, mut kept) = (Vec::new(), Vec::new());
        for device in &config.devices {
            let Some(spawner) = spawner else { continue };
            let before = present.iter().find(|(other, _)| other.name == device.name && other.kind == device.kind);
            let client = match before {
                Some((_, client)) => {
                    read_pin_again(device, client);
                    Ok(client.clone())
                }
                None => set_up(&device.kind).map(|config| DeviceClient::spawned(spawner.clone(), config)),
            };
            if let Ok(client) = &client {
                kept.push((device.clone(), client.clone()));
            }
            declared.push(shown(device, client));
        }
        // Helpers of devices that are gone, or are set up anew, end.
        let gone = present
            .iter()
            .filter(|(before, _)| !kept.iter().any(|(now, _)| now.kind == before.kind && now.name == before.name));
        gone.for_each(|(_, client)| client.log_out());
        *present = kept;
        Ok(declared)
    }
}

fn shown(device: &Device, client: Result<DeviceClient, String>) -> Declared {
    let (token_label, slot) = match &device.kind {
        DeviceKind::Pkcs11(pkcs11) => (pkcs11.token_label.clone(), pkcs11.slot),
        DeviceKind::Tpm(_) | DeviceKind::YubiHsm(_) | DeviceKind::Software { .. } => (None, None),
    };
    Declared {
        name: device.name.clone(),
        kind: device.kind.word(),
        client,
        token_label,
        slot,
        namespaces: device.namespaces.clone(),
    }
}

fn read_pin_again(device: &Device, client: &DeviceClient) {
    let Some(source @ PinSource::File(path)) = device.kind.pin() else { return };
    match pin(source) {
        Ok(pin) => {
            if client.take_pin(pin) {
                tracing::info!(device = device.name, file = %path.display(), "the PIN was read again");
            }
        }
        Err(text) => tracing::error!(device = device.name, "{text}; the old PIN stays in use"),
    }
}

fn set_up(kind: &DeviceKind) -> Result<DeviceConfig, String> {
    match kind {
        DeviceKind::Pkcs11(pkcs11) => set_up_pkcs11(pkcs11).map(DeviceConfig::from),
        DeviceKind::Tpm(tpm) => set_up_tpm(tpm).map(DeviceConfig::from),
        DeviceKind::YubiHsm(hsm) => yubihsm(hsm).map(DeviceConfig::from),
        DeviceKind::Software { key_file } => Ok(SoftwareConfig { path: Some(key_file.display().to_string()) }.into()),
    }
}

fn set_up_pkcs11(device: &Pkcs11Device) -> Result<Pkcs11Config, String> {
    let mut config = Pkcs11Config::new(device.lib.display().to_string());
    config.parameters.clone_from(&device.library.parameters);
    config.environment.clone_from(&device.library.environment);
    config.slot = device.slot;
    config.token_label.clone_from(&device.token_label);
    config.token_serial.clone_from(&device.token_serial);
    config.pin = device.pin.as_ref().map(pin).transpose()?;
    config.limits = of(&device.helper);
    Ok(config)
}

/// Ask a device what it is. No PIN is sent to it, and nothing is made.
pub fn look(kind: &DeviceKind, spawner: Arc<Spawner>, within: Duration) -> Result<DeviceInfo, String> {
    let mut kind = kind.clone();
    match &mut kind {
        DeviceKind::Pkcs11(pkcs11) => pkcs11.pin = None,
        DeviceKind::YubiHsm(hsm) => hsm.password = None,
        DeviceKind::Tpm(_) | DeviceKind::Software { .. } => {}
    }
    DeviceClient::spawned_with_timeout(spawner, as_it_is(&kind)?, within).info().map_err(|e| e.text)
}

/// The keys of a device, which takes a login. Nothing is made.
pub fn keys(kind: &DeviceKind, spawner: Arc<Spawner>, within: Duration) -> Result<Vec<KeyInfo>, String> {
    let client = DeviceClient::spawned_with_timeout(spawner, as_it_is(kind)?, within);
    client.find(KeyRef::default()).map_err(|e| e.text)
}

fn as_it_is(kind: &DeviceKind) -> Result<DeviceConfig, String> {
    match kind {
        DeviceKind::Tpm(tpm) => tpm_config(tpm).map(DeviceConfig::from),
        other => set_up(other),
    }
}

fn set_up_tpm(device: &TpmDevice) -> Result<TpmConfig, String> {
    let keys = device.keys.display();
    make_folder(&device.keys).map_err(|e| format!("the folder of keys {keys} cannot be made: {e}"))?;
    tpm_config(device)
}

fn tpm_config(device: &TpmDevice) -> Result<TpmConfig, String> {
    let mut config = TpmConfig::new(&device.tcti);
    config.hierarchy = hierarchy(device.hierarchy);
    let auth_file = device.hierarchy_auth_file.as_deref();
    config.hierarchy_auth =
        auth_file.map(|path| first_line(path, "hierarchy_auth_file", "the authorisation")).transpose()?;
    config.root_handle = device.root_handle;
    config.keys = Some(device.keys.display().to_string());
    config.limits = of(&device.helper);
    Ok(config)
}

fn make_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| holdfast_hsm::with_reason(e, folder, holdfast_hsm::FileUse::Write))
}

fn of(helper: &Helper) -> holdfast_hsm::HelperLimits {
    limits(helper.user.as_ref(), &helper.read_paths, &helper.write_paths)
}
