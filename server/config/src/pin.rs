//! The PIN of a token, or another secret of a stanza, and where it comes from.

use std::fmt;
use std::path::PathBuf;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A PIN, or another secret. It is wiped when dropped and shown by no `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Pin(String);

impl Pin {
    /// Takes a PIN.
    pub fn new(pin: String) -> Pin {
        Pin(pin)
    }

    /// Shows the PIN, for handing it to the token.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// Where a PIN, or another secret, comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// It was given.
    Given(Pin),
    /// The first line of a file.
    File(PathBuf),
    /// A variable of the environment, read when the token is opened.
    Environment(String),
}
