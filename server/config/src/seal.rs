//! `seal`: what opens the root key.

use std::path::PathBuf;

use holdfast_hcl::Block;

use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Offer, Pin, PinSource, Place, StaticSeal, TpmSeal, Warning};
use crate::{YubiHsmSeal, seal_static, seal_tpm, yubihsm};

/// One `seal` stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// What it is.
    pub kind: SealKind,
    /// Its name, for several of one kind.
    pub name: Option<String>,
    /// The lower opens first.
    pub priority: Option<u64>,
    /// It is being migrated away from.
    pub disabled: bool,
    /// Where it stands; `None`: it comes from the environment.
    pub place: Option<Place>,
}

/// What a seal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealKind {
    /// Shares of Shamir's scheme, entered by people.
    Shamir,
    /// A key in a file: for development only.
    Software {
        /// The file.
        key_file: PathBuf,
    },
    /// A key that was given.
    Static(Box<StaticSeal>),
    /// A key in a token, reached through PKCS#11.
    Pkcs11(Box<Pkcs11Seal>),
    /// A TPM 2.0.
    Tpm(Box<TpmSeal>),
    /// A wrap key in a YubiHSM 2.
    YubiHsm(Box<YubiHsmSeal>),
}

impl SealKind {
    /// The type of the stanza.
    pub fn word(&self) -> &'static str {
        match self {
            SealKind::Shamir => "shamir",
            SealKind::Software { .. } => "software",
            SealKind::Static(_) => "static",
            SealKind::Pkcs11(_) => "pkcs11",
            SealKind::Tpm(_) => "tpm",
            SealKind::YubiHsm(_) => "yubihsm",
        }
    }
}

/// `seal "pkcs11"`
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pkcs11Seal {
    /// The vendor's library.
    pub lib: PathBuf,
    /// How that library is told its own configuration.
    pub library: LibrarySettings,
    /// The slot, by number.
    pub slot: Option<u64>,
    /// The token, by label.
    pub token_label: Option<String>,
    /// The token, by serial number.
    pub token_serial: Option<String>,
    /// The PIN; `None`: the token asks for none.
    pub pin: Option<PinSource>,
    /// The label of the wrapping key.
    pub key_label: Option<String>,
    /// The `CKA_ID` of the wrapping key.
    pub key_id: Option<Vec<u8>>,
    /// The mechanism (`CKM_…`) by number; `None`: chosen by the key.
    pub mechanism: Option<u64>,
    /// The hash of RSA-OAEP (`sha1`, `sha256`, …); `None`: chosen.
    pub rsa_oaep_hash: Option<String>,
    /// Make the key if it is not there.
    pub generate_key: bool,
    /// The user that the device helper becomes, by name or number; `None`: the server's.
    pub helper_user: Option<String>,
    /// What the helper may read beside the module and the system's libraries.
    pub helper_read_paths: Vec<PathBuf>,
    /// What it may write too, as a vendor's folder for sockets or state.
    pub helper_write_paths: Vec<PathBuf>,
}

/// What a vendor's library is told beside the standard: of use to those that want it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LibrarySettings {
    /// Text for `C_Initialize` (NSS softokn takes its configuration so).
    pub parameters: Option<String>,
    /// Variables that only its helper's process has.
    pub environment: Vec<(String, String)>,
}

const MOST_PRIORITY: u64 = 1_000_000;
const NAME_BYTES: usize = 64;

/// The names of mechanisms that a seal may use.
const MECHANISMS: [(&str, u64); 4] =
    [("CKM_RSA_PKCS_OAEP", 0x0009), ("CKM_AES_CBC_PAD", 0x1085), ("CKM_AES_GCM", 0x1087), ("CKM_ECDH1_DERIVE", 0x1050)];

/// Reads one `seal` block.
pub(crate) fn read(
    top: &Stanza<'_>,
    block: &Block<'_>,
    offer: &Offer<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Seal, ConfigError> {
    let kind = block.label(0);
    let mut s = top.inner("seal", block);
    if !offer.seals.contains(&kind) {
        return Err(not_offered(&s, block, offer));
    }
    let kind = match kind {
        "shamir" => SealKind::Shamir,
        "software" => {
            let key_file = s.path("key_file")?;
            let next = "set it to a file that only the server's user may read";
            let key_file = key_file.ok_or_else(|| s.missing("key_file", next))?;
            SealKind::Software { key_file }
        }
        "static" => SealKind::Static(Box::new(seal_static::read(&mut s)?)),
        "pkcs11" => SealKind::Pkcs11(Box::new(pkcs11(&mut s, warnings)?)),
        "tpm" => SealKind::Tpm(Box::new(seal_tpm::read(&mut s)?)),
        "yubihsm" => SealKind::YubiHsm(Box::new(yubihsm::seal(&mut s)?)),
        _ => return Err(not_offered(&s, block, offer)),
    };
    let seal = Seal {
        kind,
        name: name(&mut s, block)?,
        priority: s.number("priority")?,
        disabled: s.bool("disabled")?.unwrap_or(false),
        place: Some(s.place("")),
    };
    if let Some(priority) = seal.priority.filter(|p| *p == 0 || *p > MOST_PRIORITY) {
        let expected = format!("a number from 1 to {MOST_PRIORITY}; 1 opens first");
        return Err(s.wrong("priority", &priority.to_string(), expected));
    }
    s.finish(warnings);
    Ok(seal)
}

/// Its name, as `name` or as the second label.
fn name(s: &mut Stanza<'_>, block: &Block<'_>) -> Result<Option<String>, ConfigError> {
    let label = block.labels.get(1).map(|label| label.text.clone());
    let name = match (label, s.text("name")?) {
        (Some(label), Some(name)) if label != name => {
            return Err(s.wrong("name", &name, format!("the name that the stanza has already: {label:?}")));
        }
        (label, name) => label.or(name),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match name.filter(|n| !n.is_empty()) {
        Some(name) if name.len() > NAME_BYTES || !name.bytes().all(plain) => {
            Err(s.wrong("name", &name, format!("a name of letters, digits, -, _ and ., at most {NAME_BYTES}")))
        }
        name => Ok(name),
    }
}

fn not_offered(s: &Stanza<'_>, block: &Block<'_>, offer: &Offer<'_>) -> ConfigError {
    let kind =
        ConfigErrorKind::NotOffered { what: "seal", name: block.label(0).to_owned(), offered: offer.seals.join(", ") };
    s.error(block.labels[0].position, kind)
}

/// Reads the keys of a token. That none is missing is looked at when the
/// environment has been read too.
fn pkcs11(s: &mut Stanza<'_>, warnings: &mut Vec<Warning>) -> Result<Pkcs11Seal, ConfigError> {
    s.ignored(
        &["hmac_key_label", "hmac_key_id", "hmac_mechanism", "default_hmac_key_label", "hmac_generate_key"],
        "what is wrapped here is authenticated by the wrapping key alone",
        warnings,
    );
    s.ignored(
        &["default_key_label", "force_rw_session", "rsa_encrypt_local", "max_parallel", "disable_software_encryption"],
        "it is decided by what the token can do",
        warnings,
    );
    let number = |s: &mut Stanza<'_>, key, names: &[(&str, u64)], expected: &str| match s.text(key)? {
        None => Ok(None),
        Some(text) => match number(&text, names) {
            Some(number) => Ok(Some(number)),
            None => Err(s.wrong(key, &text, expected)),
        },
    };
    let key_id = match s.text("key_id")? {
        None => None,
        Some(text) => Some(key_id(&text).ok_or_else(|| s.wrong("key_id", &text, KEY_ID_EXPECTED))?),
    };
    Ok(Pkcs11Seal {
        lib: s.path("lib")?.unwrap_or_default(),
        library: library_settings(s)?,
        slot: number(s, "slot", &[], SLOT_EXPECTED)?,
        token_label: s.text("token_label")?,
        token_serial: s.text("token_serial")?,
        pin: pin(s)?,
        key_label: s.text("key_label")?,
        key_id,
        mechanism: number(s, "mechanism", &MECHANISMS, MECHANISM_EXPECTED)?,
        rsa_oaep_hash: {
            let hashes = [
                ("sha1", "sha1"),
                ("sha224", "sha224"),
                ("sha256", "sha256"),
                ("sha384", "sha384"),
                ("sha512", "sha512"),
            ];
            s.choice("rsa_oaep_hash", &hashes)?.map(str::to_owned)
        },
        generate_key: s.bool("generate_key")?.unwrap_or(false),
        helper_user: s.text("helper_user")?,
        helper_read_paths: absolute(s, "helper_read_paths")?,
        helper_write_paths: absolute(s, "helper_write_paths")?,
    })
}

pub(crate) const SLOT_EXPECTED: &str = "the number of a slot, as in \"0\" or \"0x1f\"";
pub(crate) const MECHANISM_EXPECTED: &str = "a mechanism, as in \"0x1087\", \"CKM_AES_GCM\" or \"CKM_RSA_PKCS_OAEP\"";
pub(crate) const KEY_ID_EXPECTED: &str = "bytes in hex, as in \"0x1a2b\"";
pub(crate) const BOOL_EXPECTED: &str = "true or false";

pub(crate) fn absolute(s: &mut Stanza<'_>, key: &'static str) -> Result<Vec<PathBuf>, ConfigError> {
    let paths: Vec<PathBuf> = s.strings(key)?.unwrap_or_default().into_iter().map(PathBuf::from).collect();
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(s.wrong(key, &path.display().to_string(), "paths from the root, as in \"/opt/vendor/etc\"")),
        None => Ok(paths),
    }
}

pub(crate) fn library_settings(s: &mut Stanza<'_>) -> Result<LibrarySettings, ConfigError> {
    let parameters = s.text("lib_parameters")?;
    if let Some(text) = parameters.as_deref().filter(|text| text.contains('\0')) {
        return Err(s.wrong("lib_parameters", text, "text without NUL"));
    }
    let lines = s.strings("lib_environment")?.unwrap_or_default();
    let mut environment = Vec::with_capacity(lines.len());
    for line in &lines {
        match line.split_once('=').filter(|(name, _)| !name.is_empty() && !line.contains('\0')) {
            Some((name, value)) => environment.push((name.to_owned(), value.to_owned())),
            None => {
                let expected = "variables as NAME=value, as in [\"TPM2_PKCS11_STORE=/var/lib/holdfast/tpm2-pkcs11\"]";
                return Err(s.wrong("lib_environment", line, expected));
            }
        }
    }
    Ok(LibrarySettings { parameters, environment })
}

pub(crate) fn pin(s: &mut Stanza<'_>) -> Result<Option<PinSource>, ConfigError> {
    secret(s, ["pin", "pin_file", "pin_env"])
}

/// A secret, by the keys for itself, for its file, and for its variable.
pub(crate) fn secret(s: &mut Stanza<'_>, keys: [&'static str; 3]) -> Result<Option<PinSource>, ConfigError> {
    let [itself, file, variable] = keys;
    let sources = [
        (itself, s.text(itself)?.map(|pin| PinSource::Given(Pin::new(pin)))),
        (file, s.path(file)?.map(PinSource::File)),
        (variable, s.text(variable)?.map(PinSource::Environment)),
    ];
    let mut given = sources.into_iter().filter_map(|(key, source)| Some((key, source?)));
    let Some((first, source)) = given.next() else {
        return Ok(None);
    };
    match given.next() {
        None => Ok(Some(source)),
        Some((second, _)) => {
            let stanza = s.name.clone();
            Err(s.at(second, ConfigErrorKind::Both { stanza, first, second }))
        }
    }
}

/// A number in base 10, in base 16 with `0x`, or by name.
pub(crate) fn number(text: &str, names: &[(&str, u64)]) -> Option<u64> {
    if let Some((_, number)) = names.iter().find(|(name, _)| *name == text) {
        return Some(*number);
    }
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The number of a mechanism.
pub(crate) fn mechanism(text: &str) -> Option<u64> {
    number(text, &MECHANISMS)
}

/// Bytes in hex, with or without `0x`.
pub(crate) fn key_id(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}
