//! A simulator of a YubiHSM 2, set up as docs/yubihsm.md says. It is no YubiHSM.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use holdfast_yubihsm_simulator::{Simulator, capability as c};

/// The authentication key that the server has.
pub const AUTH_KEY: u16 = 2;
/// What it is derived from.
pub const PASSWORD: &str = "the servers own";

/// What keys of the server may do.
const GIVES: u64 = c::SIGN_PKCS
    | c::SIGN_PSS
    | c::SIGN_ECDSA
    | c::SIGN_EDDSA
    | c::DECRYPT_OAEP
    | c::DERIVE_ECDH
    | c::WRAP_DATA
    | c::UNWRAP_DATA;
/// What the server may do itself: use such keys, make and destroy them, draw random bytes, read the log.
const DOES: u64 = GIVES
    | c::GENERATE_ASYMMETRIC_KEY
    | c::GENERATE_WRAP_KEY
    | c::DELETE_ASYMMETRIC_KEY
    | c::DELETE_WRAP_KEY
    | c::GET_PSEUDO_RANDOM
    | c::GET_LOG_ENTRIES;

/// The simulator, and where the password is.
pub struct Hsm {
    simulator: Simulator,
    password: PathBuf,
}

impl Hsm {
    /// A new one, with an authentication key of the server's own in domain 1.
    pub fn start(folder: &Path) -> Hsm {
        let hsm = Hsm { simulator: Simulator::start(), password: folder.join("yubihsm-password") };
        hsm.set_up();
        hsm.write_password(PASSWORD);
        hsm
    }

    /// Makes the server's authentication key, as on a device that is new.
    pub fn set_up(&self) {
        self.simulator.authentication_key(AUTH_KEY, PASSWORD, 0b1, DOES, GIVES);
    }

    pub fn write_password(&self, password: &str) {
        fs::write(&self.password, format!("{password}\n")).expect("the password's file");
    }

    /// The keys of a stanza.
    pub fn keys(&self) -> String {
        format!(
            "connector = \"{}\"\n  auth_key = {AUTH_KEY}\n  password_file = \"{}\"",
            self.simulator.connector(),
            self.password.display()
        )
    }
}

impl Deref for Hsm {
    type Target = Simulator;

    fn deref(&self) -> &Simulator {
        &self.simulator
    }
}

impl DerefMut for Hsm {
    fn deref_mut(&mut self) -> &mut Simulator {
        &mut self.simulator
    }
}
