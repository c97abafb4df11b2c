//! Whether a seal's device would do what it is wanted for, tried step by step: what `operator seal plan` shows.
//!
//! A key that is yet to be made stands on a promise of the device's list of mechanisms, so one of the same kind is made
//! under another name, used, and destroyed. No PIN is spent on a token that has seen a wrong one.

use holdfast_hsm::device::{CipherMechanism, CounterAct, DeviceErrorClass, DeviceInfo, KeyKind, KeyRef, PinTries};
use holdfast_hsm::memory::Key;
use holdfast_hsm::{DeviceClient, WrapKeyConfig, WrapKeyInfo};
use holdfast_seal::Step;
use holdfast_seal::device::{TRIAL, unwrap_step};

use crate::seal_device::refusal;

/// What the names of trial keys begin with: one that a killed server left is known by it.
const TRIAL_LABEL: &str = "holdfast-trial-";

/// What was tried, in order, up to what fails.
struct Trial(Vec<Step>);

impl Trial {
    fn good(&mut self, what: &'static str, said: impl Into<String>) {
        self.0.push(Step { what, said: Ok(said.into()) });
    }

    /// None: it failed, and nothing comes after it.
    fn step<T>(&mut self, what: &'static str, done: Result<T, String>) -> Option<T> {
        done.map_err(|why| self.0.push(Step { what, said: Err(why) })).ok()
    }
}

/// Try a wrapping key, or one like it, and the counter that names the store's age where there is one. The last step may have failed.
pub fn steps(client: &DeviceClient, key: &WrapKeyConfig, counts: bool) -> Vec<Step> {
    let mut trial = Trial(Vec::new());
    try_all(&mut trial, client, key, counts);
    trial.0
}

fn try_all(trial: &mut Trial, client: &DeviceClient, key: &WrapKeyConfig, counts: bool) -> Option<()> {
    let info = trial.step("library", client.info().map_err(|e| e.text))?;
    trial.good("library", info.library.trim());
    trial.good("token", format!("{:?}, serial {}", info.token_label, info.serial.trim()));
    trial.step("pin", may_log_in(&info))?;
    let wraps: Vec<&str> = info.capabilities.cipher.iter().map(|m| m.name()).collect();
    let can = if wraps.is_empty() { Err("it can wrap with nothing that this program knows".into()) } else { Ok(()) };
    trial.step("mechanisms", can)?;
    trial.good("mechanisms", wraps.join(", "));
    if counts {
        let said = match trial.step("rollback counter", client.counter(CounterAct::Read).map_err(|e| e.text))? {
            Some(value) => format!("at {value}"),
            None => "it is not there and would be made".to_owned(),
        };
        trial.good("rollback counter", said);
    }
    // A key is looked for, which takes a login, and not made.
    let looked_for = WrapKeyConfig { generate_key: false, ..key.clone() };
    match client.ensure_wrapping_key(&looked_for) {
        Ok(found) => {
            trial.good("key", shown(&found));
            wrap_and_unwrap(trial, client, &found)
        }
        Err(e) if e.class == DeviceErrorClass::KeyMissing && key.generate_key => {
            trial.good("key", "it is not there and would be made");
            with_a_key_of_its_kind(trial, client, key, &info)
        }
        Err(e) => {
            let what = match e.class {
                DeviceErrorClass::PinWrong | DeviceErrorClass::PinLocked | DeviceErrorClass::NeedsLogin => "pin",
                _ => "key",
            };
            trial.step(what, Err(e.text))
        }
    }
}

/// A login with a PIN that may be wrong is one of few: it is not made where an earlier one failed.
fn may_log_in(info: &DeviceInfo) -> Result<(), String> {
    match info.pin_tries {
        PinTries::All => Ok(()),
        PinTries::Locked => Err("its PIN is locked: unlock it with the security officer's PIN".to_owned()),
        PinTries::Last => {
            Err("one more wrong PIN locks it: log in once with the vendor's tool and the right PIN".to_owned())
        }
        PinTries::Fewer => Err("a wrong PIN was tried since the last right one, so none is tried here".to_owned()),
    }
}

fn shown(key: &WrapKeyInfo) -> String {
    format!("{:?}, id 0x{}", key.key_label, hex::encode(&key.key_id))
}

fn wrap_and_unwrap(trial: &mut Trial, client: &DeviceClient, key: &WrapKeyInfo) -> Option<()> {
    let secret = trial.step("wrap", Key::random(32).map_err(|e| e.to_string()))?;
    let wrapped = trial.step("wrap", client.wrap(key, secret.expose(), TRIAL).map_err(|e| e.text))?;
    trial.good("wrap", format!("with {}", key.mechanism.name()));
    if key.mechanism.needs_custodians() {
        trial.good(
            "unwrap",
            "takes its custodians' signatures, who are not asked here; its part was tried with a key of its own",
        );
        return Some(());
    }
    trial.0.push(unwrap_step(client.unwrap(key, &wrapped, TRIAL).map_err(refusal), &secret));
    Some(())
}

/// Make a key of the kind that would be made, let it wrap and unwrap, and destroy it.
fn with_a_key_of_its_kind(
    trial: &mut Trial,
    client: &DeviceClient,
    key: &WrapKeyConfig,
    info: &DeviceInfo,
) -> Option<()> {
    let is_yubihsm = info.capabilities.cipher.contains(&CipherMechanism::YubiHsmWrap);
    if is_yubihsm && info.capabilities.never_destroys.contains(&KeyKind::AesCcm(256)) {
        trial.good(
            "trial key",
            "none was made, since the login may not destroy keys (delete-wrap-key): only the mechanisms were checked",
        );
        return Some(());
    }
    let mark = trial.step("trial key", Key::random(8).map_err(|e| e.to_string()))?;
    let label = format!("{TRIAL_LABEL}{}", hex::encode(mark.expose()));
    // Without a label it could not be made under its own name either, which the device's client says.
    let other = WrapKeyConfig {
        key_label: key.key_label.as_ref().map(|_| label.clone()),
        key_id: if key.key_label.is_some() { None } else { key.key_id.clone() },
        ..key.clone()
    };
    let made = trial.step("trial key", client.ensure_wrapping_key(&other).map_err(|e| e.text));
    if let Some(made) = &made {
        trial.good("trial key", format!("{} was made in its place", shown(made)));
        wrap_and_unwrap(trial, client, made);
    }
    // Whatever came of it, and also one that was made and could not be used.
    match client.destroy(KeyRef::label(&label)) {
        Ok(()) => trial.good("destroy", "the trial key is gone"),
        Err(e) if e.class == DeviceErrorClass::KeyMissing && made.is_none() => {}
        Err(e) => drop(trial.step::<()>(
            "destroy",
            Err(format!("the trial key {label:?} is left: destroy it with the vendor's tool ({})", e.text)),
        )),
    }
    Some(())
}
