//! `KeyDevice`: what a device that holds keys can be asked, in words of our own.
//!
//! The same messages ([`Call`], [`Answer`]) go over the socket to a device helper and
//! straight to a device in this process. A backend (PKCS#11, software, TPM) implements
//! [`KeyDevice`]; what it cannot do it reports as
//! [`Unsupported`](DeviceErrorClass::Unsupported), and nothing is emulated for it.

mod attestation;
mod call;
mod counter;
mod custodians;
mod ecdsa;
mod error;
mod key;
mod mechanism;
mod spki;
mod traits;
mod wire;

pub use attestation::{Credential, EndorsementKey, Evidence, PcrValue, QuoteRequest};
pub use call::{Answer, Call};
pub use counter::CounterAct;
pub use custodians::{Challenge, Custodian, CustodianSignature};
pub use ecdsa::{signature_from_der, signature_to_der};
pub use error::{DeviceError, DeviceErrorClass};
pub use key::{DeviceInfo, KeyInfo, KeyKind, KeyRef, KeySpec, KeyUsage, PinTries, parse_key_id};
pub use mechanism::{Capabilities, CipherMechanism, Hash, SignInput, SignMechanism};
pub use spki::{ec_point_of_spki, ec_spki, ed25519_spki, rsa_spki};
pub use traits::{Ciphertext, KeyDevice};

pub(crate) use spki::{OID_ED25519, curve_oid, kind_of_curve};
pub(crate) use traits::dispatch;
pub(crate) use wire::{decode, encode, secret_bytes, secret_text};
