//! Which slot holds the configured token.

use super::Pkcs11Config;
use super::fault::Fault;
use super::module::Opened;
use crate::device::{DeviceError, DeviceErrorClass as Class};
use cryptoki::slot::Slot;
use cryptoki_sys::{CK_FLAGS, CK_TOKEN_INFO};

/// What a token says of itself, as far as it is of use.
#[derive(Debug, Clone)]
pub(super) struct TokenInfo {
    pub(super) label: String,
    pub(super) manufacturer: String,
    pub(super) model: String,
    pub(super) serial: String,
    flags: CK_FLAGS,
}

impl From<&CK_TOKEN_INFO> for TokenInfo {
    fn from(info: &CK_TOKEN_INFO) -> Self {
        // Padded with blanks by the standard's word, and with NUL by some.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned();
        Self {
            label: text(&info.label),
            manufacturer: text(&info.manufacturerID),
            model: text(&info.model),
            serial: text(&info.serialNumber),
            flags: info.flags,
        }
    }
}

impl From<&cryptoki::slot::TokenInfo> for TokenInfo {
    fn from(info: &cryptoki::slot::TokenInfo) -> Self {
        let said = [
            (info.token_initialized(), cryptoki_sys::CKF_TOKEN_INITIALIZED),
            (info.rng(), cryptoki_sys::CKF_RNG),
            (info.write_protected(), cryptoki_sys::CKF_WRITE_PROTECTED),
            (info.login_required(), cryptoki_sys::CKF_LOGIN_REQUIRED),
            (info.protected_authentication_path(), cryptoki_sys::CKF_PROTECTED_AUTHENTICATION_PATH),
            (info.user_pin_count_low(), cryptoki_sys::CKF_USER_PIN_COUNT_LOW),
            (info.user_pin_final_try(), cryptoki_sys::CKF_USER_PIN_FINAL_TRY),
            (info.user_pin_locked(), cryptoki_sys::CKF_USER_PIN_LOCKED),
        ];
        Self {
            label: info.label().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            serial: info.serial_number().to_owned(),
            flags: said.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum(),
        }
    }
}

impl TokenInfo {
    pub(super) fn initialised(&self) -> bool {
        self.has(cryptoki_sys::CKF_TOKEN_INITIALIZED)
    }

    pub(super) fn random(&self) -> bool {
        self.has(cryptoki_sys::CKF_RNG)
    }

    pub(super) fn write_protected(&self) -> bool {
        self.has(cryptoki_sys::CKF_WRITE_PROTECTED)
    }

    pub(super) fn login_required(&self) -> bool {
        self.has(cryptoki_sys::CKF_LOGIN_REQUIRED)
    }

    /// The PIN is typed at the device itself.
    pub(super) fn protected_authentication_path(&self) -> bool {
        self.has(cryptoki_sys::CKF_PROTECTED_AUTHENTICATION_PATH)
    }

    pub(super) fn user_pin_count_low(&self) -> bool {
        self.has(cryptoki_sys::CKF_USER_PIN_COUNT_LOW)
    }

    pub(super) fn user_pin_final_try(&self) -> bool {
        self.has(cryptoki_sys::CKF_USER_PIN_FINAL_TRY)
    }

    pub(super) fn user_pin_locked(&self) -> bool {
        self.has(cryptoki_sys::CKF_USER_PIN_LOCKED)
    }

    fn has(&self, flag: CK_FLAGS) -> bool {
        self.flags & flag != 0
    }
}

/// The slot of the configured token, which is told apart by serial, label, slot id, or
/// by being the only one.
pub(super) fn choose(opened: &Opened<'_>, config: &Pkcs11Config) -> Result<(Slot, TokenInfo), Fault> {
    let tokens = tokens(opened)?;
    if let Some(id) = config.slot {
        return in_slot(&tokens, id, config);
    }
    let named = config.token_label.is_some() || config.token_serial.is_some();
    let mut matching = tokens.iter().filter(|(_, token)| is_configured(token, config));
    match (matching.next(), matching.next()) {
        (Some((slot, token)), None) => Ok((*slot, token.clone())),
        (None, _) if named => Err(Fault::Absent(gone(format!(
            "{} is not there: connect or initialise it; the module shows {}",
            config.token_name(),
            list(&tokens)
        )))),
        (None, _) => Err(Fault::Absent(gone(format!(
            "module {} shows no initialised token: connect or initialise one",
            config.lib
        )))),
        (Some(_), Some(_)) => Err(Fault::Final(DeviceError::config(format!(
            "several tokens match in module {}: set 'token_label' or 'token_serial' to one of {}",
            config.lib,
            list(&tokens)
        )))),
    }
}

fn in_slot(tokens: &[(Slot, TokenInfo)], id: u64, config: &Pkcs11Config) -> Result<(Slot, TokenInfo), Fault> {
    let Some((slot, token)) = tokens.iter().find(|(slot, _)| slot.id() == id) else {
        return Err(Fault::Absent(gone(format!(
            "slot {id} of module {} holds no token: slot ids change, so set 'token_label' instead; the module shows {}",
            config.lib,
            list(tokens)
        ))));
    };
    if !is_configured(token, config) {
        return Err(Fault::Absent(gone(format!(
            "slot {id} of module {} holds token '{}' (serial {}), but {} is configured: remove 'slot' or correct it; the module shows {}",
            config.lib,
            token.label,
            token.serial,
            wanted(config),
            list(tokens)
        ))));
    }
    Ok((*slot, token.clone()))
}

/// The initialised tokens. A slot that fails to answer is passed over, so that one
/// broken reader does not hide the others.
fn tokens(opened: &Opened<'_>) -> Result<Vec<(Slot, TokenInfo)>, Fault> {
    let slots = opened.context.get_slots_with_token()?;
    let tokens = slots.into_iter().filter_map(|slot| Some((slot, opened.token_info(slot).ok()?)));
    Ok(tokens.filter(|(_, token)| token.initialised()).collect())
}

fn is_configured(token: &TokenInfo, config: &Pkcs11Config) -> bool {
    let label_fits = config.token_label.as_deref().is_none_or(|label| label.trim_end() == token.label);
    let serial_fits = config.token_serial.as_deref().is_none_or(|serial| serial.trim() == token.serial);
    label_fits && serial_fits
}

fn wanted(config: &Pkcs11Config) -> String {
    match (&config.token_label, &config.token_serial) {
        (Some(label), Some(serial)) => format!("'{label}' (serial {serial})"),
        (Some(label), None) => format!("'{label}'"),
        (None, serial) => format!("serial {}", serial.as_deref().unwrap_or_default()),
    }
}

fn list(tokens: &[(Slot, TokenInfo)]) -> String {
    if tokens.is_empty() {
        return "no token".to_owned();
    }
    let named: Vec<String> = tokens
        .iter()
        .take(16)
        .map(|(slot, token)| format!("'{}' (serial {}, slot {})", token.label, token.serial, slot.id()))
        .collect();
    named.join(", ")
}

/// It may come, or come back.
fn gone(text: String) -> DeviceError {
    DeviceError::new(Class::Gone, text)
}
