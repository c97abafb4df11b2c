//! The keyring: data keys by term, and the keys for names and ids that never rotate.
//!
//! Rotation adds a term; older terms stay for reading. The keyring rests sealed under the root
//! key, bound to the cluster.

use std::collections::BTreeMap;

use holdfast_hsm::memory::Key;
use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::{Entropy, SealError, xaes};

const FORMAT: u8 = 1;

/// A data key and since when it seals.
pub struct Term {
    pub key: Key,
    /// Unix time in seconds.
    pub installed: u64,
}

pub struct Keyring {
    terms: BTreeMap<u32, Term>,
    /// AES-SIV, 64 bytes.
    pub(crate) names: Key,
    /// HMAC-SHA-256, 32 bytes.
    pub(crate) ids: Key,
    pub(crate) cluster_id: [u8; 16],
}

#[derive(Encode, Decode)]
struct Stored {
    #[cbor(n(0), with = "minicbor::bytes")]
    names: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    ids: Vec<u8>,
    #[n(2)]
    terms: Vec<StoredTerm>,
}

#[derive(Encode, Decode)]
struct StoredTerm {
    #[n(0)]
    term: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: Vec<u8>,
    #[n(2)]
    installed: u64,
}

impl Keyring {
    /// A new keyring with one term, from the operating system's generator.
    pub fn generate(cluster_id: [u8; 16], now: u64) -> Result<Keyring, SealError> {
        Keyring::generate_from(&Entropy::platform(), cluster_id, now)
    }

    /// A new keyring with one term.
    pub fn generate_from(entropy: &Entropy, cluster_id: [u8; 16], now: u64) -> Result<Keyring, SealError> {
        let first = Term { key: entropy.key(xaes::KEY_BYTES)?, installed: now };
        let (names, ids) = (entropy.key(64)?, entropy.key(32)?);
        Ok(Keyring { terms: BTreeMap::from([(1, first)]), names, ids, cluster_id })
    }

    /// The term that seals new entries.
    pub fn active(&self) -> (u32, &Term) {
        match self.terms.last_key_value() {
            Some((n, t)) => (*n, t),
            // `generate` and `open` make none without a term.
            None => unreachable!(),
        }
    }

    /// By which a node knows its own record of its rollback counter again. Its key never rotates.
    pub fn rollback_tag(&self, record: &[u8]) -> [u8; 32] {
        let mut key = crate::mac(self.ids.expose(), &[b"holdfast rollback counter"]);
        let tag = crate::mac(&key, &[&self.cluster_id, record]);
        key.zeroize();
        tag
    }

    /// Whether that is the tag of a record.
    pub fn is_rollback_tag(&self, record: &[u8], tag: &[u8]) -> bool {
        self.rollback_tag(record).ct_eq(tag).into()
    }

    pub fn cluster_id(&self) -> [u8; 16] {
        self.cluster_id
    }

    pub(crate) fn term(&self, n: u32) -> Result<&Key, SealError> {
        self.terms.get(&n).map(|t| &t.key).ok_or(SealError::Term(n))
    }

    /// A copy with one more term.
    pub fn rotated(&self, entropy: &Entropy, now: u64) -> Result<Keyring, SealError> {
        let mut terms = BTreeMap::new();
        for (n, t) in &self.terms {
            terms.insert(*n, Term { key: t.key.try_clone()?, installed: t.installed });
        }
        terms.insert(self.active().0 + 1, Term { key: entropy.key(xaes::KEY_BYTES)?, installed: now });
        Ok(Keyring { terms, names: self.names.try_clone()?, ids: self.ids.try_clone()?, cluster_id: self.cluster_id })
    }

    fn aad(cluster_id: &[u8; 16]) -> Vec<u8> {
        [b"holdfast keyring".as_slice(), cluster_id].concat()
    }

    /// The record that rests in the store.
    pub fn seal(&self, root: &Key) -> Result<Vec<u8>, SealError> {
        let stored = Stored {
            names: self.names.expose().to_vec(),
            ids: self.ids.expose().to_vec(),
            terms: self
                .terms
                .iter()
                .map(|(n, t)| StoredTerm { term: *n, key: t.key.expose().to_vec(), installed: t.installed })
                .collect(),
        };
        let mut plain = minicbor::to_vec(&stored).map_err(|_| SealError::Encoding("the keyring"))?;
        wipe(stored);
        let sealed = xaes::seal(root.expose(), &Self::aad(&self.cluster_id), &plain);
        plain.zeroize();
        let mut out = vec![FORMAT];
        out.extend(sealed?);
        Ok(out)
    }

    pub fn open(record: &[u8], root: &Key, cluster_id: [u8; 16]) -> Result<Keyring, SealError> {
        match record.first() {
            Some(&FORMAT) => {}
            Some(&found) => return Err(SealError::Format { what: "the keyring", found, known: FORMAT }),
            None => return Err(SealError::Encoding("the keyring")),
        }
        let mut plain = xaes::unseal(root.expose(), &Self::aad(&cluster_id), &record[1..], "the keyring")?;
        let stored: Result<Stored, _> = minicbor::decode(&plain);
        plain.zeroize();
        let mut stored = stored.map_err(|_| SealError::Encoding("the keyring"))?;
        if stored.terms.is_empty() || stored.terms.iter().any(|t| t.key.len() != xaes::KEY_BYTES) {
            return Err(SealError::Encoding("the keyring"));
        }
        let mut terms = BTreeMap::new();
        for t in &mut stored.terms {
            terms.insert(t.term, Term { key: Key::from_slice(&mut t.key)?, installed: t.installed });
        }
        Ok(Keyring {
            terms,
            names: Key::from_slice(&mut stored.names)?,
            ids: Key::from_slice(&mut stored.ids)?,
            cluster_id,
        })
    }
}

fn wipe(mut stored: Stored) {
    stored.names.zeroize();
    stored.ids.zeroize();
    for t in &mut stored.terms {
        t.key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_hsm::memory::allow_unlocked;

    #[test]
    fn a_keyring_opens_with_its_root_key_only() {
        allow_unlocked();
        let ring = Keyring::generate([1; 16], 5).unwrap().rotated(&Entropy::platform(), 9).unwrap();
        let root = Key::random(32).unwrap();
        let record = ring.seal(&root).unwrap();
        let again = Keyring::open(&record, &root, [1; 16]).unwrap();
        assert_eq!(again.active().0, 2);
        assert!(again.term(1).unwrap().ct_eq(ring.term(1).unwrap().expose()));
        assert!(Keyring::open(&record, &Key::random(32).unwrap(), [1; 16]).is_err());
        assert!(Keyring::open(&record, &root, [2; 16]).is_err(), "the keyring of another cluster");
        assert!(matches!(Keyring::open(&[9], &root, [1; 16]), Err(SealError::Format { found: 9, .. })));
    }
}
