//! Attempts to get keys out of tokens, by another program than the one that made them: this one, run again, which loads the
//! module itself and logs in as the user.

use super::modules::{nss_config, opencryptoki_config, tpm_config};
use super::{Test, softhsm};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use holdfast_hsm::device::{KeyKind, KeySpec, KeyUsage};
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::{DeviceClient, Spawner};
use holdfast_tests::nss::Database;
use holdfast_tests::program::run;
use holdfast_tests::tpm2_pkcs11::TpmToken;
use std::ffi::CString;
use std::process::{Command, ExitCode};
use std::ptr::NonNull;
use std::sync::Arc;

/// The argument with which this program is started to try. Library, PIN and parameters follow.
pub const ATTEMPT: &str = "export-attempt";
const LABELS: [&str; 2] = ["kept-secret", "kept-pair"];

pub const TESTS: &[Test] = &[
    ("softhsm_lets_no_key_out", |bench| attempts(&bench.spawner, || softhsm::token("kept"))),
    ("nss_lets_no_key_out", |bench| {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::make(folder.path());
        attempts(&bench.spawner, || nss_config(&database));
    }),
    ("tpm2_pkcs11_lets_no_key_out", |bench| {
        let folder = tempfile::tempdir().unwrap();
        let token = TpmToken::start(folder.path());
        attempts(&bench.spawner, || tpm_config(&token));
    }),
    ("opencryptoki_lets_no_key_out", |_| drop(super::modules::inside("export"))),
];

pub fn opencryptoki(spawner: &Arc<Spawner>) {
    attempts(spawner, opencryptoki_config);
}

/// Keys are made as the server makes them, and then asked for.
fn attempts(spawner: &Arc<Spawner>, config: impl Fn() -> Pkcs11Config) {
    let config = config();
    let mut again = Command::new(std::env::current_exe().expect("own path"));
    let pin = config.pin.as_ref().map(|pin| pin.expose().clone()).expect("a PIN");
    again.args([ATTEMPT, &config.lib, &pin]).args(&config.parameters).envs(config.environment.iter().cloned());
    let device = DeviceClient::spawned(Arc::clone(spawner), config);
    let spec = |label: &str, kind, usage| KeySpec { label: label.to_owned(), id: None, kind, usage };
    // Not every token makes secret keys; each makes pairs.
    let _ = device.generate(spec(LABELS[0], KeyKind::Aes(256), KeyUsage::Encrypt));
    device.generate(spec(LABELS[1], KeyKind::Rsa(2048), KeyUsage::Encrypt)).unwrap();
    device.log_out();
    let said = run(&mut again).good();
    assert!(said.contains("kept-pair: refused") && !said.contains("OUT"), "{said}");
}

/// What the program does then.
pub fn attempt(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (lib, pin) = (arguments.next().expect("a library"), arguments.next().expect("a PIN"));
    let parameters = arguments.next().map(|text| CString::new(text).expect("no NUL in it"));
    let module = Pkcs11::new(lib).expect("the module");
    let flags = CInitializeFlags::OS_LOCKING_OK;
    let arguments = match &parameters {
        None => CInitializeArgs::new(flags),
        Some(text) => {
            let text = NonNull::new(text.as_ptr().cast_mut().cast()).expect("not null");
            // SAFETY: a C string that lives as long as this program, as NSS wants it.
            unsafe { CInitializeArgs::new_with_reserved(flags, text) }
        }
    };
    module.initialize(arguments).expect("it initialises");
    for slot in module.get_slots_with_token().expect("slots") {
        try_slot(&module, slot, &pin);
    }
    ExitCode::SUCCESS
}

fn try_slot(module: &Pkcs11, slot: Slot, pin: &str) {
    let Ok(session) = module.open_rw_session(slot) else { return };
    if session.login(UserType::User, Some(&pin.to_owned().into())).is_err() {
        return;
    }
    let public = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Label(LABELS[1].into())];
    let public = session.find_objects(&public).expect("a search").first().copied();
    for label in LABELS {
        for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
            let wanted = [Attribute::Class(class), Attribute::Label(label.into())];
            for key in session.find_objects(&wanted).expect("a search") {
                println!(
                    "{label}: {}",
                    comes_out(&session, key, public).map_or("refused".into(), |how| format!("OUT, {how}"))
                );
            }
        }
    }
}

/// How, if it does: read, wrapped under another key, or after it was made one that may be let out.
fn comes_out(session: &Session, key: ObjectHandle, public: Option<ObjectHandle>) -> Option<&'static str> {
    let secrets = [AttributeType::Value, AttributeType::PrivateExponent, AttributeType::Prime1];
    let is_read = |key| {
        let each = secrets.iter().map(|secret| session.get_attributes(key, &[*secret]).unwrap_or_default());
        each.flatten().any(|attribute| match attribute {
            Attribute::Value(bytes) | Attribute::PrivateExponent(bytes) | Attribute::Prime1(bytes) => !bytes.is_empty(),
            _ => false,
        })
    };
    let is_wrapped = |key| public.is_some_and(|public| session.wrap_key(&Mechanism::RsaPkcs, public, key).is_ok());
    if is_read(key) {
        return Some("read");
    }
    if is_wrapped(key) {
        return Some("wrapped");
    }
    let opened_up = [Attribute::Extractable(true), Attribute::Sensitive(false)];
    for change in &opened_up {
        let copy = session.copy_object(key, std::slice::from_ref(change));
        if copy.is_ok_and(|copy| is_read(copy) || is_wrapped(copy)) {
            return Some("copied");
        }
        let _ = session.update_attributes(key, std::slice::from_ref(change));
        if is_read(key) || is_wrapped(key) {
            return Some("changed");
        }
    }
    None
}
