//! Keys of `seal` that come from the environment: `HOLDFAST_HSM_LIB`,
//! `BAO_HSM_LIB` or `VAULT_HSM_LIB` and their kin, which count more than the
//! file, and `…_SEAL_TYPE`, which stands for a stanza.

use std::path::PathBuf;

use crate::seal::{BOOL_EXPECTED, KEY_ID_EXPECTED, MECHANISM_EXPECTED, SLOT_EXPECTED, key_id, mechanism, number};
use crate::stanza::boolean;
use crate::{ConfigError, ConfigErrorKind, Offer, Pin, PinSource, Pkcs11Seal, Seal, SealKind};

/// Completes seals by the environment, and looks that nothing is missing.
pub(crate) fn complete(seals: &mut Vec<Seal>, offer: &Offer<'_>) -> Result<(), ConfigError> {
    if seals.is_empty()
        && let Some((name, kind)) = offer.variable("SEAL_TYPE")
    {
        seals.push(Seal {
            kind: kind_of(&name, &kind, offer)?,
            name: None,
            priority: None,
            disabled: false,
            place: None,
        });
    }
    let tokens = seals.iter().filter(|seal| matches!(seal.kind, SealKind::Pkcs11(_))).count();
    for seal in seals {
        if let SealKind::Pkcs11(pkcs11) = &mut seal.kind {
            fill(pkcs11, tokens, seal.name.as_deref(), offer)?;
            if let Some((key, next)) = missing(pkcs11) {
                let stanza = "seal \"pkcs11\"".to_owned();
                return Err(ConfigError {
                    place: seal.place.clone(),
                    kind: ConfigErrorKind::Missing { stanza, key, next },
                });
            }
        }
    }
    Ok(())
}

fn kind_of(variable: &str, kind: &str, offer: &Offer<'_>) -> Result<SealKind, ConfigError> {
    match kind {
        "shamir" if offer.seals.contains(&kind) => Ok(SealKind::Shamir),
        "pkcs11" if offer.seals.contains(&kind) => Ok(SealKind::Pkcs11(Box::default())),
        _ => Err(ConfigError::without_place(ConfigErrorKind::Environment {
            name: variable.to_owned(),
            expected: "shamir or pkcs11".to_owned(),
        })),
    }
}

/// Takes what the environment has. Of several tokens a variable has to say to which one it belongs, by the seal's name
/// at its end (`HOLDFAST_HSM_PIN_main`): a PIN sent to the wrong token may lock it.
fn fill(pkcs11: &mut Pkcs11Seal, tokens: usize, seal: Option<&str>, offer: &Offer<'_>) -> Result<(), ConfigError> {
    let read = |suffix: &str| {
        if let Some(named) = seal.and_then(|seal| offer.variable(&format!("{suffix}_{seal}"))) {
            return Ok(Some(named));
        }
        match offer.variable(suffix) {
            Some((name, _)) if tokens > 1 => {
                Err(ConfigError::without_place(ConfigErrorKind::EnvironmentAmbiguous { name, count: tokens }))
            }
            variable => Ok(variable),
        }
    };
    let wrong = |name: String, expected: &str| {
        let expected = expected.to_owned();
        ConfigError::without_place(ConfigErrorKind::Environment { name, expected })
    };
    if let Some((_, value)) = read("HSM_LIB")? {
        pkcs11.lib = PathBuf::from(value);
    }
    if let Some((name, value)) = read("HSM_SLOT")? {
        pkcs11.slot = Some(number(&value, &[]).ok_or_else(|| wrong(name, SLOT_EXPECTED))?);
    }
    if let Some((_, value)) = read("HSM_TOKEN_LABEL")? {
        pkcs11.token_label = Some(value);
    }
    if let Some((_, value)) = read("HSM_TOKEN_SERIAL")? {
        pkcs11.token_serial = Some(value);
    }
    if let Some((_, value)) = read("HSM_PIN")? {
        pkcs11.pin = Some(PinSource::Given(Pin::new(value)));
    }
    if let Some((_, value)) = read("HSM_KEY_LABEL")? {
        pkcs11.key_label = Some(value);
    }
    if let Some((name, value)) = read("HSM_KEY_ID")? {
        pkcs11.key_id = Some(key_id(&value).ok_or_else(|| wrong(name, KEY_ID_EXPECTED))?);
    }
    if let Some((name, value)) = read("HSM_MECHANISM")? {
        pkcs11.mechanism = Some(mechanism(&value).ok_or_else(|| wrong(name, MECHANISM_EXPECTED))?);
    }
    if let Some((name, value)) = read("HSM_GENERATE_KEY")? {
        pkcs11.generate_key = boolean(&value).ok_or_else(|| wrong(name, BOOL_EXPECTED))?;
    }
    Ok(())
}

fn missing(pkcs11: &Pkcs11Seal) -> Option<(&'static str, &'static str)> {
    if pkcs11.lib.as_os_str().is_empty() {
        return Some(("lib", "set it to the path of the vendor's PKCS#11 library, or set HOLDFAST_HSM_LIB"));
    }
    if pkcs11.slot.is_none() && pkcs11.token_label.is_none() && pkcs11.token_serial.is_none() {
        return Some(("token_label", "say which token with token_label, token_serial or slot"));
    }
    if pkcs11.key_label.is_none() && pkcs11.key_id.is_none() {
        return Some(("key_label", "say which key with key_label or key_id"));
    }
    None
}
