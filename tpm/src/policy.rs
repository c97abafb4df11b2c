//! Digests of policies, as the TPM computes them (Part 3, 23): what a sealed secret is bound to.

use crate::pcr::{self, Measurement};
use sha2::{Digest as _, Sha256};
use tss_esapi::constants::tss::{
    TPM2_CC_PolicyAuthValue, TPM2_CC_PolicyAuthorize, TPM2_CC_PolicyOR, TPM2_CC_PolicyPCR, TPM2_CC_PolicySigned,
};

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

    /// And the owner of the key with this Name has signed the TPM's nonce, for this reference.
    pub(crate) fn and_signed(self, key_name: &[u8], reference: &[u8]) -> Self {
        let signed = self.and(TPM2_CC_PolicySigned, &[key_name]);
        Self(Sha256::new().chain_update(signed.0).chain_update(reference).finalize().into())
    }

    /// One of these, two to eight.
    fn one_of(branches: &[Self]) -> Self {
        let digests: Vec<&[u8]> = branches.iter().map(|branch| &branch.0[..]).collect();
        Self::EMPTY.and(TPM2_CC_PolicyOR, &digests)
    }

    fn and(self, command: u32, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(command.to_be_bytes());
        parts.iter().for_each(|part| hash.update(part));
        Self(hash.finalize().into())
    }
}

/// Branches that TPM2_PolicyOR takes at once.
const AT_ONCE: usize = 8;

/// Policies of which one is enough. More than eight are joined in groups of eight, those again, up to one.
pub(crate) struct Branches {
    /// The branches themselves, then what joins each eight of them, and so on; the last has one.
    levels: Vec<Vec<PolicyDigest>>,
}

impl Branches {
    pub(crate) fn of(branches: Vec<PolicyDigest>) -> Self {
        let mut levels = vec![branches];
        while let Some(last) = levels.last().filter(|last| last.len() > 1) {
            let joined = last.chunks(AT_ONCE).map(|group| match group {
                // One alone needs no joining, and the TPM would not take it.
                [alone] => *alone,
                several => PolicyDigest::one_of(several),
            });
            levels.push(joined.collect());
        }
        Self { levels }
    }

    /// What stands for all of them.
    pub(crate) fn joined(&self) -> PolicyDigest {
        self.levels.last().and_then(|last| last.first()).copied().unwrap_or(PolicyDigest::EMPTY)
    }

    /// What TPM2_PolicyOR is shown, one after the other, from a branch up to [`joined`](Self::joined).
    pub(crate) fn way_from(&self, branch: usize) -> Vec<&[PolicyDigest]> {
        let mut place = branch;
        let mut way = Vec::new();
        for level in &self.levels {
            if let Some(group) = level.chunks(AT_ONCE).nth(place / AT_ONCE).filter(|group| group.len() > 1) {
                way.push(group);
            }
            place /= AT_ONCE;
        }
        way
    }
}

/// Every choice of `k` of `0..n`, each ascending, in the order of their first difference.
pub(crate) fn choices(n: usize, k: usize) -> Vec<Vec<usize>> {
    fn go(from: usize, n: usize, k: usize, begun: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        if k == 0 {
            all.push(begun.clone());
            return;
        }
        for next in from..=(n - k) {
            begun.push(next);
            go(next + 1, n, k - 1, begun, all);
            begun.pop();
        }
    }
    let mut all = Vec::new();
    if k <= n {
        go(0, n, k, &mut Vec::new(), &mut all);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_comes_once() {
        assert_eq!(choices(3, 2), [[0, 1], [0, 2], [1, 2]]);
        assert_eq!(choices(2, 2), [[0, 1]]);
        assert_eq!(choices(1, 2), Vec::<Vec<usize>>::new());
        assert_eq!(choices(14, 7).len(), 3432);
    }

    #[test]
    fn each_branch_has_a_way_up() {
        for count in [1, 2, 8, 9, 17, 64, 65, 73, 129, 3432] {
            let leaf = |i: u32| PolicyDigest::EMPTY.and_signed(&[], &i.to_be_bytes());
            let leaves: Vec<_> = (0..count).map(leaf).collect();
            let branches = Branches::of(leaves.clone());
            for (place, leaf) in leaves.iter().enumerate() {
                let mut digest = *leaf;
                for group in branches.way_from(place) {
                    assert!(group.contains(&digest) && (2..=8).contains(&group.len()), "{count}: {place}");
                    digest = PolicyDigest::one_of(group);
                }
                assert_eq!(digest, branches.joined(), "{count}: {place}");
            }
        }
    }
}
