//! Tokens of SoftHSM 2 in a directory of the test's own.

use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::Pkcs11Config;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const CONF: &str = "SOFTHSM2_CONF";
pub const PIN: &str = "correct-horse";

pub fn write_conf(directory: &Path) -> PathBuf {
    let tokens = directory.join("tokens");
    fs::create_dir(&tokens).expect("a directory for tokens");
    let conf = directory.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    fs::write(&conf, text).expect("a configuration for SoftHSM");
    conf
}

/// A new token, and the configuration that finds it.
pub fn token(label: &str) -> Pkcs11Config {
    run("softhsm2-util", &["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "security-officer"]);
    config(label)
}

/// The configuration for a token that may not be there.
pub fn config(label: &str) -> Pkcs11Config {
    Pkcs11Config {
        token_label: Some(label.to_owned()),
        pin: Some(Secret::new(PIN.to_owned())),
        ..Pkcs11Config::new(MODULE)
    }
}

/// What OpenSC says of a token.
pub fn pkcs11_tool(arguments: &[&str]) -> String {
    run("pkcs11-tool", &[&["--module", MODULE], arguments].concat())
}

/// Whether the token has seen a wrong PIN since the last right one.
pub fn has_seen_a_wrong_pin(label: &str) -> bool {
    let slots = pkcs11_tool(&["--list-token-slots"]);
    let own = slots.split("Slot ").find(|slot| slot.contains(&format!(": {label}\n"))).expect("the token is listed");
    own.contains("PIN count low")
}

/// Runs a program that must be there and succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
