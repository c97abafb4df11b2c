//! Digests of policies, as the TPM computes them (Part 3, 23): what a sealed secret is bound to.

use crate::pcr::{self, Measurement};
use sha2::{Digest as _, Sha256};
use tss_esapi::constants::tss::{TPM2_CC_PolicyAuthValue, TPM2_CC_PolicyAuthorize, TPM2_CC_PolicyPCR};

/// A policy's digest with SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyDigest(pub(crate) [u8; 32]);

impl PolicyDigest {
    /// Of a policy that asks for nothing yet.
    pub(crate) const EMPTY: Self = Self([0; 32]);

    /// And the registers hold these values.
    pub(crate) fn and_pcrs(self, measurements: &[Measurement]) -> Self {
        let selected = pcr::marshalled(&pcr::banks(measurements));
        self.and(TPM2_CC_PolicyPCR, &[&selected, &pcr::digest(measurements)])
    }

    /// Whatever the owner of the key with this Name has approved, under an empty reference. It stands in for all that was
    /// asked for before.
    pub(crate) fn approved_by(key_name: &[u8]) -> Self {
        let named = Self::EMPTY.and(TPM2_CC_PolicyAuthorize, &[key_name]);
        Self(Sha256::digest(named.0).into())
    }

    /// And the object's authorisation value is given.
    pub(crate) fn and_auth_value(self) -> Self {
        self.and(TPM2_CC_PolicyAuthValue, &[])
    }

    fn and(self, command: u32, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(command.to_be_bytes());
        parts.iter().for_each(|part| hash.update(part));
        Self(hash.finalize().into())
    }
}
