//! What opens the store: whether the stanza can be followed, and whether the device is there and can do what is needed.
//! No PIN is sent to it: its counters are read.

use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Config, PinSource, SealInUse, SealKind};
use holdfast_hsm::device::{CipherMechanism, DeviceInfo, PinTries};
use holdfast_hsm::{Spawner, memory};

use super::report::Check;
use crate::seal_device::{self, DeviceSetUp};
use crate::static_key::StaticKeys;

/// How long a device may take to say who it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

pub fn check(config: &Config) -> Check {
    const NAME: &str = "Check Seal";
    let seals = match config.seals_in_use() {
        Ok(seals) => seals,
        Err(e) => return Check::fail(NAME, e.to_string(), "Correct the seal stanzas."),
    };
    let mut all: Vec<Check> = match &seals.present[..] {
        [] => vec![Check::ok("Seal", "shares open the store: operator unseal")],
        [only] => vec![one("Seal", only.kind)],
        several => several.iter().map(|seal| one(&format!("Seal {:?}", seal.shown()), seal.kind)).collect(),
    };
    if let Some(SealInUse { kind, .. }) = &seals.former {
        all.push(Check::warn(
            "Seal Migration",
            format!("seal {:?} is disabled", kind.word()),
            "If the store was moved away from it already, its stanza can be taken away; seal-status says so.",
        ));
        all.push(one("Former Seal", kind));
    }
    Check::of(NAME, all)
}

fn one(name: &str, kind: &SealKind) -> Check {
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
    if let Some(missing) = missing_pin(&set_up) {
        return Check::fail(name, missing, "Give the PIN where the stanza says that it is.");
    }
    if let SealKind::Pkcs11(p) = kind
        && !p.lib.is_file()
    {
        return Check::fail(
            name,
            format!("the PKCS#11 library {} is not there", p.lib.display()),
            "Install the vendor's library, or correct lib in the seal stanza.",
        );
    }
    let spawner = match Spawner::start() {
        Ok(spawner) => Arc::new(spawner),
        Err(e) => {
            return Check::fail(
                name,
                format!("the device's helper cannot be started: {e}"),
                "Look at the limit of processes.",
            );
        }
    };
    match seal_device::look(&set_up, spawner, ANSWER_WITHIN) {
        Ok(info) => told(name, &info),
        Err(text) => Check::fail(
            name,
            text,
            "Until the device answers the store stays sealed; docs/seal.md, docs/tpm.md and docs/yubihsm.md say what each needs.",
        ),
    }
}

/// What is wrong with where the PIN is to come from. It is not shown.
fn missing_pin(set_up: &DeviceSetUp) -> Option<String> {
    match set_up.pin()? {
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

fn told(name: &str, info: &DeviceInfo) -> Check {
    let what = format!("{} {:?}, {}", info.backend, info.token_label, info.model.trim());
    use CipherMechanism::{AesGcm, RsaOaepSha256, TpmSeal, TpmSealSigned, YubiHsmWrap};
    let wraps = [AesGcm, RsaOaepSha256, TpmSeal, TpmSealSigned, YubiHsmWrap];
    let can: Vec<&str> = info.capabilities.cipher.iter().filter(|m| wraps.contains(m)).map(|m| m.name()).collect();
    let check = match info.pin_tries {
        PinTries::Locked => {
            Check::fail(name, format!("{what}: its PIN is locked"), "Unlock it with the security officer's PIN.")
        }
        PinTries::Last => Check::fail(
            name,
            format!("{what}: one more wrong PIN locks it, so the server does not try any"),
            "Log in once with the vendor's tool and the right PIN, then start the server.",
        ),
        _ if can.is_empty() => Check::fail(
            name,
            format!("{what}: it can wrap neither with AES-GCM nor with RSA-OAEP"),
            "Use another token, or let its vendor's configuration allow these mechanisms.",
        ),
        PinTries::Fewer => Check::warn(
            name,
            format!("{what}: a wrong PIN was tried since the last right one"),
            "Compare the PIN of the stanza with the token's before the server is started.",
        ),
        PinTries::All => Check::ok(name, format!("{what} answers and wraps with {}", can.join(", "))),
    };
    check
        .seen(format!("library {}, serial {}, slot {}", info.library, info.serial, info.slot))
        .seen(format!("mechanisms: {}", info.mechanisms.join(" ")))
}
