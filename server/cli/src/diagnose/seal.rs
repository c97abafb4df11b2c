//! What opens the store: whether the stanza can be followed, and whether the device is there and can do what is needed.
//! Its counters of wrong PINs are read. Where a login is wanted and no wrong one was tried, its PIN is, and its key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Config, PinSource, SealInUse, SealKind};
use holdfast_hsm::device::{CipherMechanism, DeviceInfo, PinTries};
use holdfast_hsm::{Spawner, memory};
use holdfast_seal::{SealDevice, Step};

use super::report::{Check, Status};
use crate::seal_device::{self, DeviceSetUp, WrappingDevice};
use crate::static_key::StaticKeys;

/// How long a device may take to say who it is.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);

pub fn check(config: &Config, helpers: &Helpers, login: bool) -> Check {
    const NAME: &str = "Check Seal";
    let seals = match config.seals_in_use() {
        Ok(seals) => seals,
        Err(e) => return Check::fail(NAME, e.to_string(), "Correct the seal stanzas."),
    };
    let mut all: Vec<Check> = match &seals.present[..] {
        [] => vec![Check::ok("Seal", "shares open the store: operator unseal")],
        [only] => vec![one("Seal", only.kind, helpers, login)],
        several => {
            several.iter().map(|seal| one(&format!("Seal {:?}", seal.shown()), seal.kind, helpers, login)).collect()
        }
    };
    if let Some(SealInUse { kind, .. }) = &seals.former {
        all.push(Check::warn(
            "Seal Migration",
            format!("seal {:?} is disabled", kind.word()),
            "If the store was moved away from it already, its stanza can be taken away; seal-status says so.",
        ));
        all.push(one("Former Seal", kind, helpers, login));
    }
    Check::of(NAME, all)
}

fn one(name: &str, kind: &SealKind, helpers: &Helpers, login: bool) -> Check {
    if let SealKind::Static(seal) = kind {
        memory::allow_unlocked();
        return match StaticKeys::read(seal) {
            Ok(_) => Check::warn(
                name,
                format!("seal \"static\" has its key {:?}, and no hardware keeps it", seal.current.id),
                "Use a device where there is one (docs/seal.md); operator unseal -migrate moves the store there.",
            ),
            Err(e) => Check::fail(name, e, "Give the key in the file or variable that the stanza names."),
        };
    }
    if let SealKind::Software { key_file } = kind {
        return Check::warn(
            name,
            format!("seal \"software\" keeps its key in the file {}", key_file.display()),
            "It is for development: use a device.",
        );
    }
    let Some(set_up) = DeviceSetUp::of(kind) else { return Check::ok(name, "shares") };
    if let Some(missing) = set_up.pin().and_then(missing_pin) {
        return Check::fail(name, missing, "Give the PIN where the stanza says that it is.");
    }
    if let SealKind::Pkcs11(p) = kind
        && !p.lib.is_file()
    {
        return no_library(name, &p.lib);
    }
    let spawner = match helpers.for_check(name) {
        Ok(spawner) => spawner,
        Err(check) => return check,
    };
    const ADVICE: &str = "Until the device answers the store stays sealed; docs/seal.md, docs/tpm.md and docs/yubihsm.md say \
                          what each needs.";
    let info = match seal_device::look(&set_up, spawner.clone(), ANSWER_WITHIN) {
        Ok(info) => info,
        Err(text) => return Check::fail(name, text, ADVICE),
    };
    let wraps = info.capabilities.cipher.iter().filter(|m| WRAPS.contains(m)).map(|m| m.name()).collect::<Vec<_>>();
    let check =
        told(name, &info, if wraps.is_empty() { None } else { Some(format!("wraps with {}", wraps.join(", "))) });
    if !login || check.status() != Status::Ok {
        return check;
    }
    match WrappingDevice::new(set_up, Some(spawner)) {
        Ok(device) => tried(check, device.trial()),
        Err(text) => Check::fail(name, text, ADVICE),
    }
}

const WRAPS: [CipherMechanism; 5] = [
    CipherMechanism::AesGcm,
    CipherMechanism::RsaOaepSha256,
    CipherMechanism::TpmSeal,
    CipherMechanism::TpmSealSigned,
    CipherMechanism::YubiHsmWrap,
];

/// What the steps of a trial have come to: login, key, wrapping and unwrapping.
fn tried(check: Check, steps: Vec<Step>) -> Check {
    steps.into_iter().fold(check, |check, step| match step.said {
        Ok(said) => check.seen(format!("{}: {said}", step.what)),
        Err(why) => check.failing(
            format!("{}: {why}", step.what),
            "Correct it before the server is started: a seal that does not work leaves the store sealed.",
        ),
    })
}

/// The process that starts the helpers of all devices. It is made before the first of them is asked: then there are threads.
pub struct Helpers(Result<Arc<Spawner>, String>);

impl Helpers {
    pub fn of(config: &Config) -> Helpers {
        let seals = config.seals.iter().any(|seal| DeviceSetUp::is_needed_for(&seal.kind));
        Helpers(match seals || !config.devices.is_empty() {
            true => Spawner::start().map(Arc::new).map_err(|e| e.to_string()),
            false => Err("no device needs one".into()),
        })
    }

    pub fn for_check(&self, name: &str) -> Result<Arc<Spawner>, Check> {
        self.0.clone().map_err(|e| {
            let text = format!("the device's helper cannot be started: {e}");
            Check::fail(name, text, "Look at the limit of processes.")
        })
    }
}

pub fn no_library(name: &str, lib: &Path) -> Check {
    Check::fail(
        name,
        format!("the PKCS#11 library {} is not there", lib.display()),
        "Install the vendor's library, or correct lib in the stanza.",
    )
}

/// What is wrong with where the PIN is to come from. It is not shown.
pub fn missing_pin(source: &PinSource) -> Option<String> {
    match source {
        PinSource::Given(_) => None,
        PinSource::Environment(name) => std::env::var_os(name)
            .is_none()
            .then(|| format!("the PIN is to come from the variable {name}, which is not set here")),
        PinSource::File(path) => match std::fs::metadata(path) {
            Ok(m) if m.len() > 0 => None,
            Ok(_) => Some(format!("the PIN file {} is empty", path.display())),
            Err(e) => Some(format!("the PIN file {}: {e}", path.display())),
        },
    }
}

/// What a device has answered, and whether it can do what it is there for.
pub fn told(name: &str, info: &DeviceInfo, can: Option<String>) -> Check {
    let what = format!("{} {:?}, {}", info.backend, info.token_label, info.model.trim());
    let check = match info.pin_tries {
        PinTries::Locked => {
            Check::fail(name, format!("{what}: its PIN is locked"), "Unlock it with the security officer's PIN.")
        }
        PinTries::Last => Check::fail(
            name,
            format!("{what}: one more wrong PIN locks it, so the server does not try any"),
            "Log in once with the vendor's tool and the right PIN, then start the server.",
        ),
        _ if can.is_none() => Check::fail(
            name,
            format!("{what}: it can wrap neither with AES-GCM nor with RSA-OAEP"),
            "Use another token, or let its vendor's configuration allow these mechanisms.",
        ),
        PinTries::Fewer => Check::warn(
            name,
            format!("{what}: a wrong PIN was tried since the last right one"),
            "Compare the PIN of the stanza with the token's before the server is started.",
        ),
        PinTries::All => Check::ok(name, format!("{what} answers and {}", can.unwrap_or_default())),
    };
    check
        .seen(format!("library {}, serial {}, slot {}", info.library, info.serial, info.slot))
        .seen(format!("mechanisms: {}", info.mechanisms.join(" ")))
}
