//! Why the table of quirks has an entry for P-521: what the module does without our driver. When a release of it can do
//! more, this fails, and the entry goes.

use super::{Bench, Test};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use holdfast_tests::program::run;
use holdfast_tests::tpm2_pkcs11::{self, TpmToken};
use std::process::{Command, ExitCode};

/// The argument with which this program is started to try. Library and PIN follow.
pub const ATTEMPT: &str = "p521-attempt";

pub const TESTS: &[Test] =
    &[("tpm2_pkcs11_makes_keys_on_p521_and_does_not_say_how_long_their_signatures_are", another_program)];

fn another_program(_: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let token = TpmToken::start(folder.path());
    let mut again = Command::new(std::env::current_exe().expect("own path"));
    let library = tpm2_pkcs11::library();
    again.arg(ATTEMPT).arg(library).arg(tpm2_pkcs11::PIN).envs(token.environment()).env("TSS2_LOG", "all+NONE");
    let said = run(&mut again).good();
    assert!(said.contains("P-384: signed, 96 bytes"), "{said}");
    assert!(said.contains("P-521: made, not signed"), "{said}");
}

/// What the program does then.
pub fn attempt(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (lib, pin) = (arguments.next().expect("a library"), arguments.next().expect("a PIN"));
    let module = Pkcs11::new(lib).expect("the module");
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("it initialises");
    for slot in module.get_slots_with_token().expect("slots") {
        let Ok(session) = module.open_rw_session(slot) else { continue };
        if session.login(UserType::User, Some(&pin.clone().into())).is_err() {
            continue;
        }
        try_curve(&session, "P-384", &[0x06, 5, 0x2B, 0x81, 0x04, 0, 0x22], 48);
        try_curve(&session, "P-521", &[0x06, 5, 0x2B, 0x81, 0x04, 0, 0x23], 64);
    }
    ExitCode::SUCCESS
}

fn try_curve(session: &Session, curve: &str, oid: &[u8], digest_bytes: usize) {
    let label = || Attribute::Label(curve.into());
    let public = [Attribute::Token(true), label(), Attribute::EcParams(oid.to_vec())];
    let private = [Attribute::Token(true), Attribute::Private(true), Attribute::Sign(true), label()];
    let made = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
    let (_, private) = match made {
        Ok(pair) => pair,
        Err(error) => return println!("{curve}: not made: {error}"),
    };
    match session.sign(&Mechanism::Ecdsa, private, &vec![0x5A; digest_bytes]) {
        Ok(signature) => println!("{curve}: signed, {} bytes", signature.len()),
        Err(error) => println!("{curve}: made, not signed: {error}"),
    }
}
