//! Attempts to get keys out of tokens, by another program than the one that made them: this one, run again, which loads the
//! module itself and logs in as the user.

use super::suite::Cell;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, CertificateType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::Ulong;
use holdfast_hsm::device::{DeviceErrorClass as Class, Hash, KeyKind, KeySpec, KeyUsage};
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::{DeviceClient, Spawner};
use holdfast_tests::program::run;
use std::ffi::CString;
use std::process::{Command, ExitCode};
use std::ptr::NonNull;
use std::sync::Arc;

/// The argument with which this program is started to try. Library, PIN and parameters follow.
pub const ATTEMPT: &str = "export-attempt";
/// What is made as the server makes it, and must stay.
const KEPT: [(&str, KeyKind, KeyUsage); 12] = [
    ("kept-secret", KeyKind::Aes(256), KeyUsage::Encrypt),
    ("kept-mac", KeyKind::Hmac(Hash::Sha256), KeyUsage::Sign),
    ("kept-pair", KeyKind::Rsa(2048), KeyUsage::Encrypt),
    ("kept-rsa-2048", KeyKind::Rsa(2048), KeyUsage::Sign),
    ("kept-rsa-3072", KeyKind::Rsa(3072), KeyUsage::Sign),
    ("kept-rsa-4096", KeyKind::Rsa(4096), KeyUsage::Sign),
    ("kept-p256", KeyKind::EcP256, KeyUsage::Sign),
    ("kept-p384", KeyKind::EcP384, KeyUsage::Sign),
    ("kept-p521", KeyKind::EcP521, KeyUsage::Sign),
    ("kept-ed25519", KeyKind::Ed25519, KeyUsage::Sign),
    ("kept-ecdh-p256", KeyKind::EcP256, KeyUsage::Derive),
    ("kept-ecdh-p384", KeyKind::EcP384, KeyUsage::Derive),
];
/// What is made so that it comes out, that the attempts are known to be good ones: read, and wrapped alone.
const OPEN: [(&str, bool); 2] = [("open-read", false), ("open-wrap", true)];
/// What comes out of every token, so that reading is known to be a real attempt where nothing that is made can be open.
const OPEN_CERTIFICATE: &str = "open-certificate";

const CERTIFICATE: &[u8] = b"bytes that everybody may have";

/// Keys of each kind are made as the server makes them, and then asked for. A TPM behind PKCS#11 makes no secret keys: what comes
/// out of it by the same reading is a certificate.
pub fn attempts(spawner: &Arc<Spawner>, config: Pkcs11Config) -> Cell {
    let mut again = Command::new(std::env::current_exe().expect("own path"));
    let pin = config.pin.as_ref().map(|pin| pin.expose().clone()).expect("a PIN");
    again.args([ATTEMPT, &config.lib, &pin]).args(&config.parameters).envs(config.environment.iter().cloned());
    let device = DeviceClient::spawned(Arc::clone(spawner), config);
    let mut made = Vec::new();
    for (label, kind, usage) in KEPT {
        match device.generate(KeySpec { label: label.to_owned(), id: None, kind, usage }) {
            Ok(_) => made.push(label),
            Err(error) => assert_eq!(error.class, Class::Unsupported, "{error}"),
        }
    }
    assert!(made.contains(&"kept-pair"), "each makes pairs: {made:?}");
    let info = device.info().unwrap();
    let is_tpm = info.library.starts_with("TPM2");
    assert!(!info.model.starts_with("SoftHSM") || made.len() == KEPT.len(), "SoftHSM makes all: {made:?}");
    device.log_out();
    let said = run(&mut again).good();
    // What a module lets out is said of it, so that nobody trusts it with more.
    let lets_out = !info.warnings.is_empty();
    for label in &made {
        let wanted = if lets_out { format!("{label}: OUT, wrapped") } else { format!("{label}: refused") };
        assert!(said.contains(&wanted), "{label}: {said}");
    }
    assert!(lets_out || said.lines().all(|line| !line.starts_with("kept") || line.ends_with("refused")), "{said}");
    assert!(!lets_out || info.warnings[0].contains("who knows the PIN has them"), "{:?}", info.warnings);
    let open: &[_] = match is_tpm {
        true => &["open-certificate: OUT, read"],
        false => &["open-read: OUT, read", "open-wrap: OUT, wrapped", "open-certificate: OUT, read"],
    };
    for line in open {
        assert!(said.contains(line), "{line}: {said}");
    }
    match lets_out {
        true => Cell::not_supported("its C_WrapKey gives every key to who knows the PIN, which the driver warns of"),
        false => Cell::WORKS,
    }
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
    let under = wrapping_keys(&session);
    for (label, ..) in KEPT {
        for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
            let wanted = [Attribute::Class(class), Attribute::Label(label.into())];
            for key in session.find_objects(&wanted).expect("a search") {
                println!("{label}: {}", said(comes_out(&session, key, &under)));
            }
        }
    }
    for (label, sensitive) in OPEN {
        let template = [
            Attribute::Token(false),
            Attribute::Extractable(true),
            Attribute::Sensitive(sensitive),
            Attribute::ValueLen(Ulong::from(32_u64)),
        ];
        match session.generate_key(&Mechanism::AesKeyGen, &template) {
            Ok(key) => println!("{label}: {}", said(comes_out(&session, key, &under))),
            Err(error) => println!("{label}: not made ({error})"),
        }
    }
    match certificate(&session) {
        Ok(certificate) => println!("{OPEN_CERTIFICATE}: {}", said(comes_out(&session, certificate, &[]))),
        Err(error) => println!("{OPEN_CERTIFICATE}: not made ({error})"),
    }
}

/// Nobody looks into it: it is an object that holds bytes, and may be read.
fn certificate(session: &Session) -> Result<ObjectHandle, cryptoki::error::Error> {
    session.create_object(&[
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Label(OPEN_CERTIFICATE.into()),
        Attribute::Id(b"open".to_vec()),
        Attribute::Subject(b"\x30\x00".to_vec()),
        Attribute::Issuer(b"\x30\x00".to_vec()),
        Attribute::SerialNumber(b"\x02\x01\x01".to_vec()),
        Attribute::Value(CERTIFICATE.to_vec()),
    ])
}

fn said(how: Option<&str>) -> String {
    how.map_or_else(|| "refused".to_owned(), |how| format!("OUT, {how}"))
}

/// What keys are wrapped under: our own pair's public half, and AES keys of this session.
fn wrapping_keys(session: &Session) -> Vec<(Mechanism<'static>, ObjectHandle)> {
    let public = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Label("kept-pair".into())];
    let public = session.find_objects(&public).expect("a search").first().copied();
    let mut under: Vec<_> = public.into_iter().map(|public| (Mechanism::RsaPkcs, public)).collect();
    let template = [
        Attribute::Token(false),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
        Attribute::ValueLen(Ulong::from(32_u64)),
    ];
    if let Ok(secret) = session.generate_key(&Mechanism::AesKeyGen, &template) {
        let ways = [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad, Mechanism::AesCbcPad([0; 16])];
        under.extend(ways.into_iter().map(|way| (way, secret)));
    }
    under
}

/// How, if it does: read, wrapped under another key, or after it was made one that may be let out.
fn comes_out(
    session: &Session,
    key: ObjectHandle,
    under: &[(Mechanism<'static>, ObjectHandle)],
) -> Option<&'static str> {
    let secrets = [AttributeType::Value, AttributeType::PrivateExponent, AttributeType::Prime1];
    let is_read = |key| {
        let each = secrets.iter().map(|secret| session.get_attributes(key, &[*secret]).unwrap_or_default());
        each.flatten().any(|attribute| match attribute {
            Attribute::Value(bytes) | Attribute::PrivateExponent(bytes) | Attribute::Prime1(bytes) => !bytes.is_empty(),
            _ => false,
        })
    };
    let is_wrapped = |key| under.iter().any(|(way, wrapping)| session.wrap_key(way, *wrapping, key).is_ok());
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
