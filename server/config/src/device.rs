//! `device "TYPE" "NAME"`: a device that holds keys, by a name that managed keys and operators use.

use std::path::PathBuf;

use holdfast_hcl::Block;

use crate::seal::{SLOT_EXPECTED, absolute, library_settings, number, pin};
use crate::seal_tpm::{hierarchy, root_handle, tcti};
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, LibrarySettings, PinSource, Place, YubiHsm, yubihsm};

/// `device "TYPE" "NAME"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// What it is, and how it is reached.
    pub kind: DeviceKind,
    /// Paths of namespaces, beside the root, whose managed keys may be in it.
    pub namespaces: Vec<String>,
    /// Where it stands.
    pub place: Place,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A token, reached through PKCS#11.
    Pkcs11(Box<Pkcs11Device>),
    /// A TPM 2.0, and a folder for the keys that it makes.
    Tpm(Box<TpmDevice>),
    /// A YubiHSM 2.
    YubiHsm(Box<YubiHsm>),
    /// Keys in a file: for development only.
    Software {
        /// The file.
        key_file: PathBuf,
    },
}

impl DeviceKind {
    /// The type of the stanza.
    pub fn word(&self) -> &'static str {
        match self {
            DeviceKind::Pkcs11(_) => "pkcs11",
            DeviceKind::Tpm(_) => "tpm",
            DeviceKind::YubiHsm(_) => "yubihsm",
            DeviceKind::Software { .. } => "software",
        }
    }

    /// Where the PIN comes from.
    pub fn pin(&self) -> Option<&PinSource> {
        match self {
            DeviceKind::Pkcs11(pkcs11) => pkcs11.pin.as_ref(),
            DeviceKind::YubiHsm(hsm) => hsm.password.as_ref(),
            DeviceKind::Tpm(_) | DeviceKind::Software { .. } => None,
        }
    }
}

/// `device "pkcs11"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Device {
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
    /// What its helper may do.
    pub helper: Helper,
}

/// `device "tpm"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmDevice {
    /// How the TPM is reached, as the TCTI loader of tpm2-tss names it.
    pub tcti: String,
    /// Where the storage root key is made: `owner` or `endorsement`.
    pub hierarchy: &'static str,
    /// The file with the authorisation of that hierarchy; `None`: it has none.
    pub hierarchy_auth_file: Option<PathBuf>,
    /// The persistent handle of a storage root key that is there.
    pub root_handle: Option<u32>,
    /// The folder of its keys, which rest there encrypted by the TPM.
    pub keys: PathBuf,
    /// What its helper may do.
    pub helper: Helper,
}

/// The process that a device's library runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// The user that it becomes, by name or number; `None`: the server's.
    pub user: Option<String>,
    /// What it may read beside the module and the system's libraries.
    pub read_paths: Vec<PathBuf>,
    /// What it may write too.
    pub write_paths: Vec<PathBuf>,
}

/// Each has a helper process, so there are not many.
const MOST: usize = 16;
const NAME_BYTES: usize = 64;
const TYPES: [&str; 4] = ["pkcs11", "tpm", "yubihsm", "software"];

/// Adds one `device` block to those that are there.
pub(crate) fn read(top: &Stanza<'_>, block: &Block<'_>, devices: &mut Vec<Device>) -> Result<(), ConfigError> {
    let name = block.label(1);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(plain) {
        let kind = ConfigErrorKind::Value {
            key: "the name of device".to_owned(),
            value: name.to_owned(),
            expected: format!("a name of lower-case letters, digits, - and _, at most {NAME_BYTES}"),
        };
        return Err(top.error(block.labels[1].position, kind));
    }
    if devices.iter().any(|other| other.name == name) {
        return Err(top.error(block.position, ConfigErrorKind::Twice(format!("device named {name:?}"))));
    }
    if devices.len() >= MOST {
        let text = format!("there are more than {MOST} devices, which is the most: remove some");
        return Err(top.error(block.position, ConfigErrorKind::Conflict(text)));
    }
    let mut s = top.inner("device", block);
    let kind = match block.label(0) {
        "pkcs11" => DeviceKind::Pkcs11(Box::new(pkcs11(&mut s)?)),
        "tpm" => DeviceKind::Tpm(Box::new(tpm(&mut s)?)),
        "yubihsm" => DeviceKind::YubiHsm(Box::new(yubihsm::read(&mut s)?)),
        "software" => {
            let next = "set it to a file that only the server's user may read";
            let key_file = s.path("key_file")?.ok_or_else(|| s.missing("key_file", next))?;
            DeviceKind::Software { key_file }
        }
        other => {
            let kind =
                ConfigErrorKind::NotOffered { what: "device", name: other.to_owned(), offered: TYPES.join(", ") };
            return Err(s.error(block.labels[0].position, kind));
        }
    };
    let namespaces = s.strings("namespaces")?.unwrap_or_default();
    let namespaces = namespaces.iter().map(|path| path.trim_matches('/').to_owned());
    devices.push(Device {
        name: name.to_owned(),
        kind,
        namespaces: namespaces.filter(|path| !path.is_empty() && path != "root").collect(),
        place: s.place(""),
    });
    // A word that is passed over may be the one that says which token is meant.
    s.finish_strictly()
}

fn pkcs11(s: &mut Stanza<'_>) -> Result<Pkcs11Device, ConfigError> {
    let slot = match s.text("slot")? {
        None => None,
        Some(text) => Some(number(&text, &[]).ok_or_else(|| s.wrong("slot", &text, SLOT_EXPECTED))?),
    };
    let next = "set it to the path of the vendor's PKCS#11 library";
    let device = Pkcs11Device {
        lib: s.path("lib")?.ok_or_else(|| s.missing("lib", next))?,
        library: library_settings(s)?,
        slot,
        token_label: s.text("token_label")?,
        token_serial: s.text("token_serial")?,
        pin: pin(s)?,
        helper: helper(s)?,
    };
    if device.slot.is_none() && device.token_label.is_none() && device.token_serial.is_none() {
        return Err(s.missing("token_label", "say which token with token_label, token_serial or slot"));
    }
    Ok(device)
}

fn tpm(s: &mut Stanza<'_>) -> Result<TpmDevice, ConfigError> {
    let next = "set it to a folder of this device's own, for the keys that the TPM makes";
    let device = TpmDevice {
        tcti: tcti(s)?,
        hierarchy: hierarchy(s)?,
        hierarchy_auth_file: s.path("hierarchy_auth_file")?,
        root_handle: root_handle(s)?,
        keys: s.path("keys")?.ok_or_else(|| s.missing("keys", next))?,
        helper: helper(s)?,
    };
    if !device.keys.is_absolute() {
        let expected = "a path from the root, as in \"/var/lib/holdfast/tpm-keys\"";
        return Err(s.wrong("keys", &device.keys.display().to_string(), expected));
    }
    if device.root_handle.is_some() && device.hierarchy_auth_file.is_some() {
        let (first, second) = ("root_handle", "hierarchy_auth_file");
        return Err(s.at(second, ConfigErrorKind::Both { stanza: s.name.clone(), first, second }));
    }
    Ok(device)
}

pub(crate) fn helper(s: &mut Stanza<'_>) -> Result<Helper, ConfigError> {
    Ok(Helper {
        user: s.text("helper_user")?,
        read_paths: absolute(s, "helper_read_paths")?,
        write_paths: absolute(s, "helper_write_paths")?,
    })
}
