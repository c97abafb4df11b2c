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

use crate::own::{OwnRing, OwnRings, Under};
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
    own: Arc<OwnRings>,
    /// The keyring of a namespace that is being made, which this copy alone knows.
    fresh: Option<([u8; 16], OwnRing)>,
}

impl Barrier {
    pub fn new(keyring: Arc<Keyring>) -> Barrier {
        Barrier { keyring, sealed: Arc::default(), own: Arc::default(), fresh: None }
    }

    /// The same with another keyring in the root's place.
    pub fn with_keyring(&self, keyring: Arc<Keyring>) -> Barrier {
        Barrier { keyring, sealed: Arc::default(), own: self.own.clone(), fresh: None }
    }

    /// A copy for which the entries of a namespace rest under this ring, whether or not it is open for others.
    pub fn with_fresh(&self, namespace: [u8; 16], ring: OwnRing) -> Barrier {
        Barrier { fresh: Some((namespace, ring)), ..self.clone() }
    }

    /// Entries of this namespace rest under the keyring of this number (not 0) from now on.
    pub fn adopt(&self, namespace: [u8; 16], number: u32) {
        debug_assert!(number != ROOT_KEYRING);
        self.own.adopt(namespace, number);
    }

    /// The namespace is gone.
    pub fn leave(&self, namespace: &[u8; 16]) {
        self.own.leave(namespace);
    }

    /// The number of the keyring that a namespace's entries rest under, if it is not the root's.
    pub fn number_of(&self, namespace: &[u8; 16]) -> Option<u32> {
        match &self.fresh {
            Some((fresh, ring)) if fresh == namespace => Some(ring.number),
            _ => self.own.number_of(namespace),
        }
    }

    /// An open keyring of a namespace's own.
    pub fn ring(&self, number: u32) -> Option<OwnRing> {
        self.own.ring(number)
    }

    pub fn open_ring(&self, ring: OwnRing) {
        self.own.open(ring);
    }

    /// Forget a namespace's keys: true if they were known. Whoever uses them at this moment keeps them until that is
    /// done.
    pub fn close_ring(&self, number: u32) -> bool {
        self.own.close(number)
    }

    pub fn no_ring_is_open(&self) -> bool {
        self.own.none_is_open()
    }

    /// Whether nothing of a namespace can be read or written.
    pub fn is_sealed(&self, namespace: &[u8; 16]) -> bool {
        self.under(namespace).is_err()
    }

    fn under(&self, namespace: &[u8; 16]) -> Result<Under, SealError> {
        match &self.fresh {
            Some((fresh, ring)) if fresh == namespace => Ok(Under::Own(ring.clone())),
            _ => self.own.of_namespace(namespace),
        }
    }

    /// What an entry at `key` rests under.
    fn under_at(&self, key: &[u8]) -> Result<Under, SealError> {
        match (&self.fresh, key.get(1..17)) {
            (Some((fresh, ring)), Some(uuid)) if fresh == uuid => Ok(Under::Own(ring.clone())),
            _ => self.own.of_key(key),
        }
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
        self.seal_under(&self.under_at(key)?, key, plaintext)
    }

    /// Seal what is a namespace's and rests nowhere; `context` is no storage key.
    pub fn seal_of(&self, namespace: &[u8; 16], context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_under(&self.under(namespace)?, context, plaintext)
    }

    fn seal_under(&self, under: &Under, key: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let (number, ring, counter) = match under {
            Under::Root => (ROOT_KEYRING, &self.keyring, &self.sealed),
            Under::Own(own) => (own.number, &own.keyring, &own.sealed),
        };
        let (term, active) = ring.active();
        counter.fetch_add(1, Ordering::Relaxed);
        let nonce = xaes::nonce()?;
        let mut out = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
        out.push(FORMAT);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&term.to_be_bytes());
        let aad = self.aad(&out, key);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plaintext);
        xaes::seal_in_place(active.key.expose(), &nonce, &aad, &mut out, HEADER + xaes::NONCE_BYTES);
        Ok(out)
    }

    /// Open the value found at `key`.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        self.open_under(&self.under_at(key)?, key, sealed)
    }

    /// Open what [`Barrier::seal_of`] sealed.
    pub fn open_of(&self, namespace: &[u8; 16], context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        self.open_under(&self.under(namespace)?, context, sealed)
    }

    fn open_under(&self, under: &Under, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        const WHAT: &str = "a stored entry";
        let Some((header, rest)) = sealed.split_first_chunk::<HEADER>() else { return Err(SealError::Encoding(WHAT)) };
        if header[0] != FORMAT {
            return Err(SealError::Format { what: WHAT, found: header[0], known: FORMAT });
        }
        let ring = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let term = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let keyring = match under {
            Under::Root if ring == ROOT_KEYRING => &self.keyring,
            Under::Own(own) if ring == own.number => &own.keyring,
            // Moved from one namespace to another.
            _ => return Err(SealError::Tampered(WHAT)),
        };
        let Some((nonce, body)) = rest.split_first_chunk::<{ xaes::NONCE_BYTES }>() else {
            return Err(SealError::Encoding(WHAT));
        };
        xaes::open(keyring.term(term)?.expose(), nonce, &self.aad(header, key), body, WHAT)
    }

    fn siv(&self, context: &[u8]) -> Result<Siv, SealError> {
        let under = self.under_at(context)?;
        let names = match &under {
            Under::Root => &self.keyring.names,
            Under::Own(own) => &own.keyring.names,
        };
        // The keyring makes and checks it with 64 bytes.
        names.expose().first_chunk().map(Siv::new).ok_or(SealError::Encoding("the key of names"))
    }

    /// Encrypt the segments of a name onto `out`, each as `length u16 | ciphertext`. `context` binds them to
    /// what the name belongs to (a mount). A folder's segment keeps its `/`: `a/b` is `a/`, `b`.
    pub fn encrypt_name(&self, context: &[u8], name: &str, out: &mut Vec<u8>) -> Result<(), SealError> {
        let start = out.len();
        let mut siv = self.siv(context)?;
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
        self.segments(context, parents)?.decrypt(segment)
    }

    /// For many segments with the same parents.
    pub fn segments(&self, context: &[u8], parents: &[u8]) -> Result<Segments, SealError> {
        let mut siv = self.siv(context)?;
        let first = siv.start();
        let in_context = siv.behind(first, context);
        Ok(Segments { behind: siv.behind(in_context, parents), siv })
    }

    /// The stored form of an id that a client may present.
    pub fn id(&self, domain: &[u8], id: &str) -> Result<[u8; 32], SealError> {
        let under = self.under_at(domain)?;
        let ids = match &under {
            Under::Root => &self.keyring.ids,
            Under::Own(own) => &own.keyring.ids,
        };
        Ok(mac(ids.expose(), &[domain, id.as_bytes()]))
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
        let new = Barrier::new(Arc::new(old.keyring.rotated(&crate::Entropy::platform(), 1).unwrap()));
        assert_eq!(new.open(b"k", &sealed).unwrap(), b"v");
        let fresh = new.seal(b"k", b"v").unwrap();
        assert!(matches!(old.open(b"k", &fresh), Err(SealError::Term(2))));
    }

    #[test]
    fn what_rests_under_a_keyring_of_its_own_opens_with_that_alone() {
        let b = barrier();
        let at = |namespace: u8| [&[1][..], &[namespace; 16], b"place"].concat();
        let ring = || OwnRing::new(3, Arc::new(Keyring::generate([3; 16], 0).unwrap()));
        b.adopt([7; 16], 3);
        assert!(b.is_sealed(&[7; 16]) && !b.is_sealed(&[8; 16]));
        assert!(matches!(b.seal(&at(7), b"v"), Err(SealError::NamespaceSealed)));
        assert!(matches!(b.id(&at(7), "id"), Err(SealError::NamespaceSealed)));
        let first = ring();
        // Who makes it has the ring before all others.
        let maker = b.with_fresh([7; 16], first.clone());
        let made = maker.seal(&at(7), b"first").unwrap();
        assert!(b.is_sealed(&[7; 16]) && !maker.is_sealed(&[7; 16]));
        b.open_ring(first);
        assert_eq!(b.open(&at(7), &made).unwrap(), b"first");
        let sealed = b.seal(&at(7), b"v").unwrap();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        b.encrypt_name(&at(7), "a/b", &mut own).unwrap();
        let of = b.seal_of(&[7; 16], b"context", b"v").unwrap();
        assert_eq!(b.open_of(&[7; 16], b"context", &of).unwrap(), b"v");
        assert!(b.open_of(&[8; 16], b"context", &of).is_err());
        assert!(b.close_ring(3) && !b.close_ring(3));
        assert!(matches!(b.open(&at(7), &sealed), Err(SealError::NamespaceSealed)));
        assert!(b.encrypt_name(&at(7), "a/b", &mut others).is_err());
        // Nor does another ring of that number, or the root's.
        b.open_ring(ring());
        assert!(b.open(&at(7), &sealed).is_err());
        b.encrypt_name(&at(7), "a/b", &mut others).unwrap();
        assert_ne!(own, others);
        b.leave(&[7; 16]);
        assert!(b.open(&at(7), &sealed).is_err());
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
