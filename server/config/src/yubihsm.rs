//! A YubiHSM 2 in a stanza: `seal "yubihsm"` and `device "yubihsm"`.

use std::path::PathBuf;

use crate::device::{Helper, helper};
use crate::seal::{number, secret};
use crate::stanza::Stanza;
use crate::{ConfigError, PinSource};

/// A YubiHSM 2, behind its connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YubiHsm {
    /// Where its connector listens.
    pub connector: String,
    /// The object id of the authentication key.
    pub auth_key: u16,
    /// What the authentication key is derived from; `None`: it is missing, which its first use tells.
    pub password: Option<PinSource>,
    /// The domains of keys that are made, domain 1 in the lowest bit; 0: those of the authentication key.
    pub domains: u16,
    /// The serial number that it must have.
    pub serial: Option<u32>,
    /// The file that its audit log is kept in; `None`: the log is left to others.
    pub log_file: Option<PathBuf>,
    /// What its helper may do.
    pub helper: Helper,
}

/// `seal "yubihsm"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YubiHsmSeal {
    /// The device.
    pub hsm: YubiHsm,
    /// The label of the wrap key.
    pub key_label: Option<String>,
    /// The object id of the wrap key.
    pub key_id: Option<u16>,
    /// Make the wrap key if it is not there.
    pub generate_key: bool,
}

const DEFAULT_CONNECTOR: &str = "http://127.0.0.1:12345";
const ID_EXPECTED: &str = "the id of an object, from 1 to 65534, as in 2 or \"0x0002\"";
const DOMAINS_EXPECTED: &str = "numbers of domains from 1 to 16, as in \"1,3\"";
const LABEL_BYTES: usize = 40;

/// Reads the keys of a seal.
pub(crate) fn seal(s: &mut Stanza<'_>) -> Result<YubiHsmSeal, ConfigError> {
    let seal = YubiHsmSeal {
        hsm: read(s)?,
        key_label: s.text("key_label")?,
        key_id: id(s, "key_id")?,
        generate_key: s.bool("generate_key")?.unwrap_or(false),
    };
    if let Some(label) = seal.key_label.as_ref().filter(|label| label.len() > LABEL_BYTES) {
        return Err(s.wrong("key_label", label, format!("a label of at most {LABEL_BYTES} bytes")));
    }
    Ok(seal)
}

/// Reads the keys that a seal and a device have.
pub(crate) fn read(s: &mut Stanza<'_>) -> Result<YubiHsm, ConfigError> {
    let next = "set it to the object id of an authentication key that is this server's own";
    let connector = s.text("connector")?.unwrap_or_else(|| DEFAULT_CONNECTOR.to_owned());
    if !connector.starts_with("http://") {
        let expected = format!("the address of a yubihsm-connector, as in \"{DEFAULT_CONNECTOR}\"");
        return Err(s.wrong("connector", &connector, expected));
    }
    let hsm = YubiHsm {
        connector,
        auth_key: id(s, "auth_key")?.ok_or_else(|| s.missing("auth_key", next))?,
        password: secret(s, ["password", "password_file", "password_env"])?,
        domains: domains(s)?,
        serial: match s.text("serial")? {
            None => None,
            Some(text) => {
                let expected = "a serial number, as yubihsm-shell -a get-device-info prints it";
                Some(text.parse().map_err(|_| s.wrong("serial", &text, expected))?)
            }
        },
        log_file: s.path("log_file")?,
        helper: helper(s)?,
    };
    match &hsm.log_file {
        Some(file) if !file.is_absolute() => {
            let expected = "a path from the root, as in \"/var/lib/holdfast/yubihsm-log/log.jsonl\"";
            Err(s.wrong("log_file", &file.display().to_string(), expected))
        }
        _ => Ok(hsm),
    }
}

fn id(s: &mut Stanza<'_>, key: &'static str) -> Result<Option<u16>, ConfigError> {
    let Some(text) = s.text(key)? else { return Ok(None) };
    let found = number(&text, &[]).and_then(|number| u16::try_from(number).ok());
    match found.filter(|id| (1..0xffff).contains(id)) {
        Some(id) => Ok(Some(id)),
        None => Err(s.wrong(key, &text, ID_EXPECTED)),
    }
}

fn domains(s: &mut Stanza<'_>) -> Result<u16, ConfigError> {
    let words = s.strings("domains")?.unwrap_or_default();
    words.iter().try_fold(0, |domains, word| match word.parse::<u32>() {
        Ok(domain @ 1..=16) => Ok(domains | 1 << (domain - 1)),
        _ => Err(s.wrong("domains", &words.join(","), DOMAINS_EXPECTED)),
    })
}
