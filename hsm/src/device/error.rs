//! The error of every device call: a class to act on and one line to read.

use minicbor::{Decode, Encode};
use std::fmt;

/// What a device call failed with. [`class`](Self::class) says what the caller may do;
/// the text is one line that names what failed, on what, and the operator's next step.
/// It never holds a PIN.
#[derive(Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{text}")]
pub struct DeviceError {
    /// What the caller may do about it.
    #[n(0)]
    pub class: DeviceErrorClass,
    /// One line for the operator.
    #[n(1)]
    pub text: String,
}

impl DeviceError {
    /// An error of a class, with its line.
    pub fn new(class: DeviceErrorClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    /// The device cannot do this.
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::new(DeviceErrorClass::Unsupported, text)
    }

    /// Module, slot, token or key is not as configured.
    pub fn config(text: impl Into<String>) -> Self {
        Self::new(DeviceErrorClass::Config, text)
    }

    /// The call makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(DeviceErrorClass::Invalid, text)
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        use DeviceErrorClass as C;
        matches!(self.class, C::Busy | C::Gone | C::HelperDied | C::Timeout)
    }
}

impl fmt::Debug for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.class, self.text)
    }
}

/// The classes of device errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum DeviceErrorClass {
    /// The device is busy or stumbled: try again later, with back-off.
    #[n(0)]
    Busy,
    /// The token wants a login and no PIN is configured.
    #[n(1)]
    NeedsLogin,
    /// The PIN is wrong. It was tried once and is not tried again until the
    /// configuration changes, since tokens lock.
    #[n(2)]
    PinWrong,
    /// The token has locked the PIN, or is one try away from it.
    #[n(3)]
    PinLocked,
    /// No such key on the token.
    #[n(4)]
    KeyMissing,
    /// The device cannot do this.
    #[n(5)]
    Unsupported,
    /// The ciphertext or its associated data was changed, or belongs to another key.
    #[n(6)]
    Tampered,
    /// The device was removed; it is opened again when it returns.
    #[n(7)]
    Gone,
    /// Module, slot or token is not as configured.
    #[n(8)]
    Config,
    /// The helper process ended during the call; it is started again.
    #[n(9)]
    HelperDied,
    /// No answer in time; the helper was ended and is started again.
    #[n(10)]
    Timeout,
    /// The call itself makes no sense (too long, wrong kind of key, key exists).
    #[n(11)]
    Invalid,
    /// The device refused or failed in a way that has no class of its own.
    #[n(12)]
    Failed,
    /// What the device wants to see before it lets the key be used is not there: other measurements of the machine,
    /// an approval that is missing.
    #[n(13)]
    PolicyRefused,
    /// Custodians have to sign a [`Challenge`](super::Challenge) first.
    #[n(14)]
    NeedsCustodians,
}

impl DeviceErrorClass {
    /// Whether the device, or the way to it, is gone. What a device has answered tells that it is there.
    pub fn is_away(self) -> bool {
        matches!(self, DeviceErrorClass::Gone | DeviceErrorClass::HelperDied | DeviceErrorClass::Timeout)
    }
}
