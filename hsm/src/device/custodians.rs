//! Custodians: people with signing keys, so many of whom have to sign before a device opens something.

use super::SignMechanism;
use minicbor::{Decode, Encode};

/// What custodians have to sign, while the device waits for it. Nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Challenge {
    /// What each of them signs, with the key's own mechanism. It is good once, in the device that made it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub message: Vec<u8>,
    /// How many of them.
    #[n(1)]
    pub threshold: u8,
    /// Who may.
    #[n(2)]
    pub custodians: Vec<Custodian>,
    /// How long the device waits.
    #[n(3)]
    pub valid_secs: u32,
}

/// One who may sign.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Custodian {
    /// What people call them.
    #[n(0)]
    pub name: String,
    /// SubjectPublicKeyInfo, DER.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub public_key: Vec<u8>,
    /// How their key signs.
    #[n(2)]
    pub mechanism: SignMechanism,
}

/// What one of them signed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CustodianSignature {
    /// Place in [`Challenge::custodians`].
    #[n(0)]
    pub custodian: u8,
    /// Over [`Challenge::message`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}
