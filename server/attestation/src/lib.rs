#![forbid(unsafe_code)]
//! Judges what a TPM says of itself, for a verifier who takes nobody's word for it: neither the server's nor that of who
//! carries the evidence.
//!
//! Trust goes from the manufacturer's CA to the endorsement key by its certificate ([`chain`]), from there to the
//! attestation key by a credential that only this TPM can read ([`credential`]), and from there to the registers by a
//! quote over the verifier's nonce ([`quote`]). [`judge`] does all but the credential, which takes the TPM.

#![warn(missing_docs)]

pub mod chain;
pub mod credential;
pub mod public;
pub mod quote;
mod reader;

use chain::Authorities;
use public::PublicArea;
use quote::{Quote, Register};

/// Why something is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It is not of the form that the TPM 2.0 Library gives it.
    #[error("{0} is malformed: it was cut or changed on the way")]
    Malformed(&'static str),
    /// It is of a kind that is not judged here.
    #[error("{0}")]
    Unknown(String),
    /// It is well formed, and does not prove what it should.
    #[error("{0}")]
    Refuted(String),
}

/// A quote and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// TPMT_PUBLIC of the endorsement key.
    pub endorsement_key: Vec<u8>,
    /// Its certificate, DER.
    pub certificate: Option<Vec<u8>>,
    /// TPMT_PUBLIC of the attestation key.
    pub attestation_key: Vec<u8>,
    /// TPMS_ATTEST.
    pub quoted: Vec<u8>,
    /// The attestation key's signature over it: ECDSA with SHA-256, DER.
    pub signature: Vec<u8>,
    /// What the registers are said to hold.
    pub registers: Vec<Register>,
}

/// What a verifier knows beforehand.
pub struct Expectation<'a> {
    /// What it has asked with.
    pub nonce: &'a [u8],
    /// Whom it trusts to endorse TPMs.
    pub authorities: Authorities<'a>,
    /// The Name of the attestation key, where it was learnt before.
    pub attestation_key: Option<&'a [u8]>,
    /// What registers have to hold.
    pub registers: &'a [Register],
    /// Seconds since 1970.
    pub now: u64,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// What it was found to be, or why it is not believed.
    pub found: Result<String, Doubt>,
}

/// Look at all of it, without the TPM.
pub fn judge(evidence: &Evidence, expected: &Expectation<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what, found| checks.push(Check { what, found });
    check("endorsement key", endorsement(evidence, expected));
    check("attestation key", attestation_key(evidence, expected));
    let quote = quoted(evidence, expected.nonce);
    check("quote", quote.as_ref().map(Quote::to_string).map_err(Doubt::clone));
    if let Ok(quote) = quote {
        let values = quote.matches(&evidence.registers);
        let are_its_own = values.is_ok();
        check("registers", values.map(|()| format!("{} values are those of the quote", evidence.registers.len())));
        if are_its_own && !expected.registers.is_empty() {
            check("measurements", measured(&evidence.registers, expected.registers));
        }
    }
    checks
}

/// The endorsement key's certificate, by whom it is trusted.
fn endorsement(evidence: &Evidence, expected: &Expectation<'_>) -> Result<String, Doubt> {
    let key = PublicArea::parse(&evidence.endorsement_key)?;
    let Some(certificate) = &evidence.certificate else {
        return Err(Doubt::Refuted(
            "the TPM holds no certificate of its endorsement key: ask its manufacturer for one".into(),
        ));
    };
    chain::endorses(certificate, expected.authorities, expected.now, &key)
}

fn attestation_key(evidence: &Evidence, expected: &Expectation<'_>) -> Result<String, Doubt> {
    let key = PublicArea::parse(&evidence.attestation_key)?;
    if !key.only_attests() {
        return Err(Doubt::Refuted(
            "the attestation key is not restricted to what its TPM makes, or may leave it: its quotes prove nothing"
                .into(),
        ));
    }
    match expected.attestation_key {
        Some(name) if name != key.name() => Err(Doubt::Refuted(format!(
            "its Name is {}, and {} is expected: another TPM, or one that was cleared",
            hex::encode(key.name()),
            hex::encode(name)
        ))),
        _ => Ok(format!("restricted, fixed to its TPM, Name {}", hex::encode(key.name()))),
    }
}

fn quoted(evidence: &Evidence, nonce: &[u8]) -> Result<Quote, Doubt> {
    let key = PublicArea::parse(&evidence.attestation_key)?;
    Quote::verified(&evidence.quoted, &evidence.signature, &key, nonce)
}

fn measured(found: &[Register], expected: &[Register]) -> Result<String, Doubt> {
    for wanted in expected {
        match found.iter().find(|register| (&register.bank, register.index) == (&wanted.bank, wanted.index)) {
            None => {
                return Err(Doubt::Refuted(format!("{} PCR {} was not asked for", wanted.bank, wanted.index)));
            }
            Some(register) if register.value != wanted.value => {
                return Err(Doubt::Refuted(format!(
                    "{} PCR {} is {}, and {} is expected",
                    wanted.bank,
                    wanted.index,
                    hex::encode(&register.value),
                    hex::encode(&wanted.value)
                )));
            }
            Some(_) => {}
        }
    }
    Ok(format!("{} registers hold what is expected", expected.len()))
}
