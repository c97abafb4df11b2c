//! The barrier: how entries, names and ids rest in storage.
//!
//! An entry is `format u8 | keyring u32 | term u32 | nonce 24 | ciphertext | tag 16`, all integers
//! big-endian. Its associated data are the header, the cluster id and the storage key: an entry
//! that was changed, or moved to another key or cluster, does not open.
//!
//! Names that people chose are encrypted segment by segment with AES-SIV (deterministic, the
//! parent's ciphertext as context). What a client may present (tokens, accessors) appears only as
//! an HMAC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::siv::{Behind, IV_BYTES, Siv};
use crate::{Keyring, SealError, mac, xaes};

const FORMAT: u8 = 1;
/// The keyring that is not a namespace's own.
const ROOT_KEYRING: u32 = 0;
const HEADER: usize = 9;
/// What sealing adds to an entry.
pub const OVERHEAD_BYTES: usize = HEADER + xaes::NONCE_BYTES + xaes::TAG_BYTES;

/// An open barrier. Dropping the last reference wipes the keys.
#[derive(Clone)]
pub struct Barrier {
    keyring: Arc<Keyring>,
    /// Entries that were sealed and not taken to be counted; the copies of a barrier share it.
    sealed: Arc<AtomicU64>,
}

impl Barrier {
    pub fn new(keyring: Arc<Keyring>) -> Barrier {
        Barrier { keyring, sealed: Arc::default() }
    }

    /// Entries that were sealed and not counted yet.
    pub fn uncounted(&self) -> u64 {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Take them to be counted: nobody else counts the same ones.
    pub fn take_uncounted(&self) -> u64 {
        self.sealed.swap(0, Ordering::Relaxed)
    }

    /// So many of those that were taken could not be counted.
    pub fn give_back_uncounted(&self, n: u64) {
        self.sealed.fetch_add(n, Ordering::Relaxed);
    }

    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    fn aad(&self, header: &[u8], key: &[u8]) -> Vec<u8> {
        [header, &self.keyring.cluster_id, key].concat()
    }

    /// Seal a value for the place `key`.
    pub fn seal(&self, key: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let (term, active) = self.keyring.active();
        self.sealed.fetch_add(1, Ordering::Relaxed);
        let nonce = xaes::nonce()?;
        let mut out = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
        out.push(FORMAT);
        out.extend_from_slice(&ROOT_KEYRING.to_be_bytes());
        out.extend_from_slice(&term.to_be_bytes());
        let aad = self.aad(&out, key);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plaintext);
        xaes::seal_in_place(active.key.expose(), &nonce, &aad, &mut out, HEADER + xaes::NONCE_BYTES);
        Ok(out)
    }

    /// Open the value found at `key`.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        const WHAT: &str = "a stored entry";
        let Some((header, rest)) = sealed.split_first_chunk::<HEADER>() else { return Err(SealError::Encoding(WHAT)) };
        if header[0] != FORMAT {
            return Err(SealError::Format { what: WHAT, found: header[0], known: FORMAT });
        }
        let ring = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let term = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        if ring != ROOT_KEYRING {
            return Err(SealError::Tampered(WHAT));
        }
        let Some((nonce, body)) = rest.split_first_chunk::<{ xaes::NONCE_BYTES }>() else {
            return Err(SealError::Encoding(WHAT));
        };
        xaes::open(self.keyring.term(term)?.expose(), nonce, &self.aad(header, key), body, WHAT)
    }

    fn siv(&self) -> Siv {
        match self.keyring.names.expose().first_chunk() {
            Some(key) => Siv::new(key),
            // The keyring makes and checks it with 64 bytes.
            None => unreachable!(),
        }
    }

    /// Encrypt the segments of a name onto `out`, each as `length u16 | ciphertext`. `context` binds them to
    /// what the name belongs to (a mount). A folder's segment keeps its `/`: `a/b` is `a/`, `b`.
    pub fn encrypt_name(&self, context: &[u8], name: &str, out: &mut Vec<u8>) -> Result<(), SealError> {
        let start = out.len();
        let mut siv = self.siv();
        let first = siv.start();
        let in_context = siv.behind(first, context);
        for segment in name.split_inclusive('/') {
            let length =
                u16::try_from(IV_BYTES + segment.len()).map_err(|_| SealError::Encoding("a name's segment"))?;
            let behind = siv.behind(in_context, &out[start..]);
            out.extend_from_slice(&length.to_be_bytes());
            siv.encrypt(behind, segment.as_bytes(), out);
        }
        Ok(())
    }

    /// Decrypt one segment whose parents' encrypted form is `parents`.
    pub fn decrypt_segment(&self, context: &[u8], parents: &[u8], segment: &[u8]) -> Result<String, SealError> {
        self.segments(context, parents).decrypt(segment)
    }

    /// For many segments with the same parents.
    pub fn segments(&self, context: &[u8], parents: &[u8]) -> Segments {
        let mut siv = self.siv();
        let first = siv.start();
        let in_context = siv.behind(first, context);
        Segments { behind: siv.behind(in_context, parents), siv }
    }

    /// The stored form of an id that a client may present.
    pub fn id(&self, domain: &[u8], id: &str) -> [u8; 32] {
        mac(self.keyring.ids.expose(), &[domain, id.as_bytes()])
    }
}

/// Decrypts the segments below the same parents.
pub struct Segments {
    siv: Siv,
    behind: Behind,
}

impl Segments {
    /// As [`Barrier::decrypt_segment`].
    pub fn decrypt(&mut self, segment: &[u8]) -> Result<String, SealError> {
        const WHAT: &str = "a stored name";
        let plain = self.siv.decrypt(self.behind, segment).ok_or(SealError::Tampered(WHAT))?;
        String::from_utf8(plain).map_err(|_| SealError::Encoding(WHAT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_hsm::memory::allow_unlocked;
    use proptest::prelude::*;

    fn barrier() -> Barrier {
        allow_unlocked();
        Barrier::new(Arc::new(Keyring::generate([3; 16], 0).unwrap()))
    }

    #[test]
    fn an_entry_opens_at_its_own_place_only() {
        let b = barrier();
        let sealed = b.seal(b"here", b"value").unwrap();
        assert_eq!(b.open(b"here", &sealed).unwrap(), b"value");
        assert!(matches!(b.open(b"there", &sealed), Err(SealError::Tampered(_))));
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 0x40;
            assert!(b.open(b"here", &bad).is_err(), "byte {i}");
        }
    }

    #[test]
    fn older_terms_stay_readable_after_rotation() {
        let old = barrier();
        let sealed = old.seal(b"k", b"v").unwrap();
        let new = Barrier::new(Arc::new(old.keyring.rotated(1).unwrap()));
        assert_eq!(new.open(b"k", &sealed).unwrap(), b"v");
        let fresh = new.seal(b"k", b"v").unwrap();
        assert!(matches!(old.open(b"k", &fresh), Err(SealError::Term(2))));
    }

    #[test]
    fn names_are_bound_to_their_parents_and_their_mount() {
        let b = barrier();
        let (mut ab, mut cb, mut other) = (Vec::new(), Vec::new(), Vec::new());
        b.encrypt_name(b"m", "a/b", &mut ab).unwrap();
        b.encrypt_name(b"m", "c/b", &mut cb).unwrap();
        b.encrypt_name(b"n", "a/b", &mut other).unwrap();
        assert_eq!(ab.len(), cb.len());
        assert_ne!(ab[ab.len() - 17..], cb[cb.len() - 17..]);
        assert_ne!(ab, other);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_name_comes_back(name in "[a-z/ %é.]{0,40}") {
            let b = barrier();
            let mut out = Vec::new();
            b.encrypt_name(b"m", &name, &mut out).unwrap();
            let (mut at, mut back) = (0, String::new());
            while at < out.len() {
                let len = u16::from_be_bytes([out[at], out[at + 1]]) as usize;
                back += &b.decrypt_segment(b"m", &out[..at], &out[at + 2..at + 2 + len]).unwrap();
                at += 2 + len;
            }
            prop_assert_eq!(back, name);
        }

        #[test]
        fn every_entry_comes_back(key in proptest::collection::vec(any::<u8>(), 0..60), value in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let b = barrier();
            prop_assert_eq!(b.open(&key, &b.seal(&key, &value).unwrap()).unwrap(), value);
        }
    }
}
