//! The device of the seal stanza, as the core uses it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use holdfast_config::{Pin, PinSource, Pkcs11Seal, SealKind, TpmSeal, YubiHsm, YubiHsmSeal};
use holdfast_hsm::device::{
    Challenge, CipherMechanism, CounterAct, CustodianSignature, DeviceError, DeviceErrorClass, DeviceInfo,
};
use holdfast_hsm::memory::{Key, Secret};
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::software::SoftwareConfig;
use holdfast_hsm::tpm::{Approval, Custodians, Hierarchy, PcrBank, PcrHash, TpmConfig};
use holdfast_hsm::yubihsm::YubiHsmConfig;
use holdfast_hsm::{DeviceClient, FileUse, HelperLimits, Spawner, WrapKeyConfig, WrapKeyInfo, with_reason};
use holdfast_seal::{DeviceRefusal, Lock, RollbackCounter, SealDevice, Step, Wrapped};

use crate::seal_trial;

/// The wrapping key of a stanza that names none.
const USUAL_LABEL: &str = "holdfast-root";

/// How the device is reached.
pub enum DeviceSetUp {
    Pkcs11(Box<Pkcs11Seal>),
    Software(PathBuf),
    Tpm(Box<TpmSeal>),
    YubiHsm(Box<YubiHsmSeal>),
}

impl DeviceSetUp {
    /// Whether a seal has a device, and so a helper.
    pub fn is_needed_for(kind: &SealKind) -> bool {
        !matches!(kind, SealKind::Shamir | SealKind::Static(_))
    }

    /// `None`: the seal has no device.
    pub fn of(kind: &SealKind) -> Option<DeviceSetUp> {
        match kind {
            SealKind::Shamir | SealKind::Static(_) => None,
            SealKind::Software { key_file } => Some(DeviceSetUp::Software(key_file.clone())),
            SealKind::Pkcs11(p) => Some(DeviceSetUp::Pkcs11(p.clone())),
            SealKind::Tpm(t) => Some(DeviceSetUp::Tpm(t.clone())),
            SealKind::YubiHsm(y) => Some(DeviceSetUp::YubiHsm(y.clone())),
        }
    }

    /// Where the PIN comes from.
    pub fn pin(&self) -> Option<&PinSource> {
        match self {
            DeviceSetUp::Pkcs11(p) => p.pin.as_ref(),
            DeviceSetUp::Tpm(t) => t.pin.as_ref(),
            DeviceSetUp::YubiHsm(y) => y.hsm.password.as_ref(),
            DeviceSetUp::Software(_) => None,
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

pub fn refusal(e: DeviceError) -> DeviceRefusal {
    let retry = !matches!(e.class, DeviceErrorClass::PinWrong | DeviceErrorClass::PinLocked);
    let custodians = e.class == DeviceErrorClass::NeedsCustodians;
    DeviceRefusal { custodians, away: e.class.is_away(), ..DeviceRefusal::new(e.text, retry) }
}

/// The PIN, from where it comes.
pub fn pin(source: &PinSource) -> Result<Secret<String>, String> {
    match source {
        PinSource::Given(p) => Ok(Secret::new(Pin::expose(p).to_owned())),
        PinSource::File(path) => first_line(path, "PIN file", "the PIN"),
        PinSource::Environment(name) => std::env::var(name)
            .map(Secret::new)
            .map_err(|_| format!("the PIN is to come from the variable {name}, which is not set")),
    }
}

/// A secret in a file, with or without the end of its line.
pub fn first_line(path: &Path, file: &str, what: &str) -> Result<Secret<String>, String> {
    let text = std::fs::read_to_string(path).map(Secret::new).map_err(|e| {
        let e = with_reason(e, path, FileUse::Read);
        format!("the {file} {} cannot be read: {e}; make it readable for the server's user alone", path.display())
    })?;
    match text.expose().lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line.to_owned())),
        _ => Err(format!("the {file} {} is empty: write {what} into its first line", path.display())),
    }
}

impl WrappingDevice {
    /// Read the PIN's file again. A PIN that the token refused is not tried again unless the file has another one.
    pub fn read_pin_again(&self) {
        let (Some(source @ PinSource::File(path)), Some((client, _))) = (self.set_up.pin(), self.ready.get()) else {
            return;
        };
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
        let Some(spawner) = spawner else {
            return Err("this server was started without a device, so that it cannot start the helper of one now: restart it with this \
                        configuration (operator seal plan -config=FILE tries it beforehand)"
                .into());
        };
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
            DeviceSetUp::Tpm(_) => "tpm",
            DeviceSetUp::YubiHsm(_) => "yubihsm",
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
                    key_label: Some(USUAL_LABEL.into()),
                    generate_key: true,
                    ..WrapKeyConfig::default()
                };
                (DeviceClient::spawned(self.spawner.clone(), config), key)
            }
            DeviceSetUp::Pkcs11(p) => {
                let config = pkcs11(p).map_err(|text| DeviceRefusal::new(text, true))?;
                let key = WrapKeyConfig::from(&config);
                (DeviceClient::spawned(self.spawner.clone(), config), key)
            }
            DeviceSetUp::Tpm(t) => {
                let config = tpm(t).map_err(|text| DeviceRefusal::new(text, true))?;
                let key = WrapKeyConfig::from(&config);
                (DeviceClient::spawned(self.spawner.clone(), config), key)
            }
            DeviceSetUp::YubiHsm(y) => {
                let config = wrap_key(y).map_err(|text| DeviceRefusal::new(text, true))?;
                let key = WrapKeyConfig::from(&config);
                (DeviceClient::spawned(self.spawner.clone(), config), key)
            }
        };
        Ok(self.ready.get_or_init(|| made))
    }
}

/// Ask a device what it is and can do. No PIN is sent to it.
pub fn look(set_up: &DeviceSetUp, spawner: Arc<Spawner>, within: Duration) -> Result<DeviceInfo, String> {
    let client = match set_up {
        DeviceSetUp::Pkcs11(p) => {
            let config = pkcs11(&Pkcs11Seal { pin: None, ..(**p).clone() })?;
            DeviceClient::spawned_with_timeout(spawner, config, within)
        }
        DeviceSetUp::Tpm(t) => {
            let config = tpm(&TpmSeal { pin: None, ..(**t).clone() })?;
            DeviceClient::spawned_with_timeout(spawner, config, within)
        }
        DeviceSetUp::YubiHsm(y) => {
            let config = yubihsm(&YubiHsm { password: None, ..y.hsm.clone() })?;
            DeviceClient::spawned_with_timeout(spawner, config, within)
        }
        DeviceSetUp::Software(path) => {
            let config = SoftwareConfig { path: Some(path.display().to_string()) };
            DeviceClient::spawned_with_timeout(spawner, config, within)
        }
    };
    client.info().map_err(|e| e.text)
}

fn pkcs11(p: &Pkcs11Seal) -> Result<Pkcs11Config, String> {
    let mut config = Pkcs11Config::new(p.lib.display().to_string());
    config.parameters.clone_from(&p.library.parameters);
    config.environment.clone_from(&p.library.environment);
    config.slot = p.slot;
    config.token_label.clone_from(&p.token_label);
    config.token_serial.clone_from(&p.token_serial);
    config.pin = p.pin.as_ref().map(pin).transpose()?;
    config.key_label.clone_from(&p.key_label);
    if config.key_label.is_none() && p.key_id.is_none() {
        config.key_label = Some(USUAL_LABEL.into());
    }
    config.key_id = p.key_id.as_ref().map(hex::encode);
    config.mechanism = mechanism(p)?;
    config.generate_key = p.generate_key;
    config.limits = limits(p.helper_user.as_ref(), &p.helper_read_paths, &p.helper_write_paths);
    Ok(config)
}

/// As the device is told it: number or name, with the hash that OAEP was asked to have.
fn mechanism(p: &Pkcs11Seal) -> Result<Option<String>, String> {
    const OAEP: u64 = 0x9;
    match (p.mechanism, p.rsa_oaep_hash.as_deref()) {
        (None | Some(OAEP), Some("sha1")) => Ok(Some(CipherMechanism::RsaOaepSha1.name().to_owned())),
        (None | Some(OAEP), Some("sha256")) => Ok(Some(CipherMechanism::RsaOaepSha256.name().to_owned())),
        (None | Some(OAEP), Some(hash)) => Err(format!(
            "rsa_oaep_hash = \"{hash}\" is not built: use \"sha256\", or \"sha1\" where a token has no other"
        )),
        (Some(other), Some(_)) => {
            Err(format!("rsa_oaep_hash goes with CKM_RSA_PKCS_OAEP, not with mechanism {other:#x}"))
        }
        (mechanism, None) => Ok(mechanism.map(|m| format!("{m:#x}"))),
    }
}

fn tpm(t: &TpmSeal) -> Result<TpmConfig, String> {
    let text = |path: &PathBuf| path.display().to_string();
    let mut config = TpmConfig::new(&t.tcti);
    config.hierarchy = hierarchy(t.hierarchy);
    let auth_file = t.hierarchy_auth_file.as_deref();
    config.hierarchy_auth =
        auth_file.map(|path| first_line(path, "hierarchy_auth_file", "the authorisation")).transpose()?;
    config.root_handle = t.root_handle;
    for selection in &t.pcrs {
        let hash = PcrHash::from_name(selection.bank).ok_or("a bank of PCRs that this program does not know")?;
        config.pcrs.push(PcrBank { hash, indices: selection.indices.clone() });
    }
    config.approval = t
        .pcr_public_key
        .as_ref()
        .zip(t.pcr_signatures.as_ref())
        .map(|(key, signatures)| Approval { public_key: text(key), signatures: text(signatures) });
    if !t.custodians.is_empty() {
        let public_keys = t.custodians.iter().map(text).collect();
        config.custodians = Some(Custodians { threshold: t.custodian_threshold, public_keys });
    }
    config.pin = t.pin.as_ref().map(pin).transpose()?;
    config.rollback_counter = t.rollback_counter;
    config.limits = limits(t.helper_user.as_ref(), &t.helper_read_paths, &t.helper_write_paths);
    Ok(config)
}

fn wrap_key(y: &YubiHsmSeal) -> Result<YubiHsmConfig, String> {
    let mut config = yubihsm(&y.hsm)?;
    config.key_label.clone_from(&y.key_label);
    if config.key_label.is_none() && y.key_id.is_none() {
        config.key_label = Some(USUAL_LABEL.into());
    }
    config.key_id = y.key_id;
    config.generate_key = y.generate_key;
    Ok(config)
}

pub fn yubihsm(hsm: &YubiHsm) -> Result<YubiHsmConfig, String> {
    let mut config = YubiHsmConfig::new(&hsm.connector);
    config.auth_key = hsm.auth_key;
    config.password = hsm.password.as_ref().map(pin).transpose()?;
    config.domains = hsm.domains;
    config.serial = hsm.serial;
    config.log_file = hsm.log_file.as_ref().map(|file| file.display().to_string());
    config.limits = limits(hsm.helper.user.as_ref(), &hsm.helper.read_paths, &hsm.helper.write_paths);
    Ok(config)
}

/// By the word of the configuration.
pub fn hierarchy(word: &str) -> Hierarchy {
    if word == "endorsement" { Hierarchy::Endorsement } else { Hierarchy::Owner }
}

pub fn limits(user: Option<&String>, read: &[PathBuf], write: &[PathBuf]) -> HelperLimits {
    let texts = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect();
    HelperLimits { user: user.cloned(), read_paths: texts(read), write_paths: texts(write) }
}

impl SealDevice for WrappingDevice {
    fn backend(&self) -> &str {
        self.backend
    }

    fn names(&self, lock: &Lock) -> bool {
        let (label, id) = match &self.set_up {
            DeviceSetUp::Pkcs11(p) => (p.key_label.as_deref(), p.key_id.as_ref().map(hex::encode)),
            DeviceSetUp::YubiHsm(y) => (y.key_label.as_deref(), y.key_id.map(|id| hex::encode(id.to_be_bytes()))),
            DeviceSetUp::Software(_) | DeviceSetUp::Tpm(_) => return true,
        };
        match (label, id) {
            (None, None) => lock.key_label == USUAL_LABEL,
            (label, id) => label.is_none_or(|l| l == lock.key_label) && id.is_none_or(|id| id == lock.key_id),
        }
    }

    fn place(&self) -> String {
        match &self.set_up {
            DeviceSetUp::Software(path) => format!("file {}", path.display()),
            DeviceSetUp::Pkcs11(p) => {
                let token = match (&p.token_label, &p.token_serial, p.slot) {
                    (Some(label), ..) => format!("token {label:?}"),
                    (None, Some(serial), _) => format!("token with serial {serial:?}"),
                    (None, None, Some(slot)) => format!("slot {slot}"),
                    (None, None, None) => "a token".to_owned(),
                };
                format!("{token} of {}", p.lib.display())
            }
            DeviceSetUp::Tpm(t) => format!("TPM at {}", t.tcti),
            DeviceSetUp::YubiHsm(y) => format!("YubiHSM 2 at {}", y.hsm.connector),
        }
    }

    fn trial(&self) -> Vec<Step> {
        match self.ready() {
            Ok((client, key)) => seal_trial::steps(client, key, self.rollback_counter().is_some()),
            Err(refusal) => vec![Step { what: "stanza", said: Err(refusal.text) }],
        }
    }

    fn rollback_counter(&self) -> Option<RollbackCounter> {
        match &self.set_up {
            DeviceSetUp::Tpm(t) => t.rollback_counter.map(|_| RollbackCounter { accepted: t.rollback_accept }),
            _ => None,
        }
    }

    fn counter(&self, act: CounterAct) -> Result<Option<u64>, DeviceRefusal> {
        self.ready()?.0.counter(act).map_err(refusal)
    }

    fn log_out(&self) {
        if let Some((client, _)) = self.ready.get() {
            client.log_out();
        }
    }

    fn random(&self, bytes: u32) -> Option<Result<Secret<Vec<u8>>, DeviceRefusal>> {
        // The software device's generator is the system's.
        (self.backend != "software").then(|| self.ready()?.0.random(bytes).map_err(refusal))
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
        let info = wrapping_key(lock)?;
        let (client, _) = self.ready()?;
        client.unwrap(&info, &lock.ciphertext, context).map_err(|e| match (e.class, &self.set_up) {
            (DeviceErrorClass::KeyMissing, DeviceSetUp::Pkcs11(_) | DeviceSetUp::Software(_) | DeviceSetUp::YubiHsm(_)) => {
                let text = format!(
                    "the key that opens this store (label {:?}, id 0x{}) is not on the token: insert the token that made it, \
                     or correct the seal stanza ({})",
                    lock.key_label, lock.key_id, e.text
                );
                DeviceRefusal::new(text, true)
            }
            _ => refusal(e),
        })
    }

    fn challenge(&self, lock: &Lock, context: &[u8], valid: Duration) -> Result<Challenge, DeviceRefusal> {
        let (client, _) = self.ready()?;
        client.challenge(&wrapping_key(lock)?, &lock.ciphertext, context, valid).map_err(refusal)
    }

    fn unwrap_signed(
        &self,
        lock: &Lock,
        context: &[u8],
        message: &[u8],
        signatures: Vec<CustodianSignature>,
    ) -> Result<Key, DeviceRefusal> {
        let (client, _) = self.ready()?;
        client.unwrap_signed(&wrapping_key(lock)?, &lock.ciphertext, context, message, signatures).map_err(refusal)
    }
}

/// The key that made a lock, as the device knows it.
fn wrapping_key(lock: &Lock) -> Result<WrapKeyInfo, DeviceRefusal> {
    let bad = |text: &str| DeviceRefusal::new(text, false);
    Ok(WrapKeyInfo {
        key_label: lock.key_label.clone(),
        key_id: hex::decode(&lock.key_id).map_err(|_| bad("the lock names a key id that is no hex text"))?,
        mechanism: CipherMechanism::from_name(&lock.mechanism).map_err(|_| {
            bad(&format!("the lock was made with {}, which this program does not know", lock.mechanism))
        })?,
        public_part: lock.public_part.clone(),
    })
}
