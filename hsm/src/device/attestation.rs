//! What a TPM says of itself, for a verifier who does not take this machine's word for it.

use crate::tpm::{PcrBank, PcrHash};
use minicbor::{Decode, Encode};
use std::fmt;

/// The endorsement keys that manufacturers certify (TCG EK Credential Profile, annex B).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EndorsementKey {
    /// RSA-2048, template L-1.
    #[n(0)]
    Rsa2048,
    /// NIST P-256, template L-2.
    #[n(1)]
    P256,
    /// NIST P-384, template H-3.
    #[n(2)]
    P384,
}

impl EndorsementKey {
    /// All of them, in the order in which they are looked for, with their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("rsa-2048", Self::Rsa2048), ("p256", Self::P256), ("p384", Self::P384)];

    /// By its name, as in `rsa-2048`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, key)| *key)
    }
}

impl fmt::Display for EndorsementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, key)| key == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// What a quote is to be about.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct QuoteRequest {
    /// The verifier's, so that no older quote stands in.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: Vec<u8>,
    /// Which registers.
    #[n(1)]
    pub pcrs: Vec<PcrBank>,
    /// Which endorsement key comes with it; `None` for the first that has a certificate, else the first.
    #[n(2)]
    pub endorsement: Option<EndorsementKey>,
}

/// A quote, and what there is to judge it by. Nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Evidence {
    /// TPMT_PUBLIC of the endorsement key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub endorsement_key: Vec<u8>,
    /// The manufacturer's certificate for it, DER, where the TPM holds one.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub certificate: Option<Vec<u8>>,
    /// TPMT_PUBLIC of the attestation key.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub attestation_key: Vec<u8>,
    /// TPMS_ATTEST.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub quoted: Vec<u8>,
    /// ECDSA with SHA-256 over it, DER.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
    /// What the registers hold, in the order of the quote.
    #[n(5)]
    pub values: Vec<PcrValue>,
    /// Which endorsement key it is.
    #[n(6)]
    pub endorsement: EndorsementKey,
}

/// A register and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PcrValue {
    /// Its bank.
    #[n(0)]
    pub hash: PcrHash,
    /// Its number.
    #[n(1)]
    pub index: u8,
    /// What is in it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// A secret that only the TPM with an endorsement key can read, and only beside the attestation key that it names
/// (TPM2_MakeCredential).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Credential {
    /// TPMS_ID_OBJECT.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub blob: Vec<u8>,
    /// The seed, encrypted to the endorsement key or agreed with it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: Vec<u8>,
    /// Which endorsement key.
    #[n(2)]
    pub endorsement: EndorsementKey,
}
