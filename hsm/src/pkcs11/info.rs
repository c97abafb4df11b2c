//! What the token is and can do.

use super::abilities::Listed;
use super::quirks::Quirks;
use super::session::Sessions;
use crate::device::{DeviceError, DeviceInfo, PinTries};

const LETS_KEYS_OUT: &str = "this module gives keys out under a key of whoever asks (C_WrapKey), whatever their attributes say: who \
    knows the PIN has them; it is for trial";

pub(super) fn info(sessions: &Sessions) -> Result<DeviceInfo, DeviceError> {
    sessions.look(&"ask for information", |opened, slot| {
        let context = &opened.context;
        let library = context.get_library_info()?;
        let token = opened.token_info(slot)?;
        let quirks = Quirks::of(&library, &token);
        let listed = Listed::ask(context, slot, quirks)?;
        Ok(DeviceInfo {
            backend: "pkcs11".to_owned(),
            module: sessions.config.lib.clone(),
            library: format!("{} {}", library.library_description().trim(), library.library_version()),
            token_label: token.label.clone(),
            serial: token.serial.clone(),
            model: format!("{} {}", token.manufacturer, token.model),
            slot: slot.id(),
            login_required: token.login_required(),
            capabilities: listed.capabilities(token.random(), &sessions.refusals),
            mechanisms: listed.names(),
            pin_tries: match (token.user_pin_locked(), token.user_pin_final_try(), token.user_pin_count_low()) {
                (true, ..) => PinTries::Locked,
                (_, true, _) => PinTries::Last,
                (.., true) => PinTries::Fewer,
                _ => PinTries::All,
            },
            warnings: quirks.lets_keys_out.then(|| LETS_KEYS_OUT.to_owned()).into_iter().collect(),
        })
    })
}
