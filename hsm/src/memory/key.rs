//! `Key`: secret bytes in the arena.

use super::arena::{MAX_SLOT_BYTES, Slot};
use super::error::MemoryError;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The longest key that protected memory holds, in bytes.
pub const MAX_KEY_BYTES: usize = MAX_SLOT_BYTES;

/// Secret bytes (1 to [`MAX_KEY_BYTES`]) in locked, guarded, undumped memory, wiped on
/// drop. It cannot be printed or serialised; [`Key::expose`] is the one way to its bytes.
pub struct Key(Slot);

impl Key {
    /// A key of `len` fresh random bytes from the operating system.
    ///
    /// # Errors
    /// [`MemoryError::Length`], [`MemoryError::ArenaFull`], [`MemoryError::Lock`],
    /// [`MemoryError::Random`].
    pub fn random(len: usize) -> Result<Self, MemoryError> {
        Self::fill_with(len, |bytes| getrandom::fill(bytes).map_err(MemoryError::Random))
    }

    /// Moves the bytes here: `source` is wiped, also if this fails.
    ///
    /// # Errors
    /// [`MemoryError::Length`], [`MemoryError::ArenaFull`], [`MemoryError::Lock`].
    pub fn from_slice(source: &mut [u8]) -> Result<Self, MemoryError> {
        let key = Self::fill_with(source.len(), |bytes| {
            bytes.copy_from_slice(source);
            Ok(())
        });
        source.zeroize();
        key
    }

    /// A key of `len` bytes that `fill` writes in place (they are zero before), so that
    /// a derivation or decryption need not pass through ordinary memory.
    ///
    /// # Errors
    /// Those of [`Key::from_slice`], and what `fill` returns.
    pub fn fill_with<E: From<MemoryError>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut slot = Slot::take(len)?;
        fill(slot.bytes_mut())?;
        Ok(Self(slot))
    }

    /// A second copy, in a slot of its own. Not `Clone`, since the arena may be full.
    ///
    /// # Errors
    /// [`MemoryError::ArenaFull`].
    pub fn try_clone(&self) -> Result<Self, MemoryError> {
        Self::fill_with(self.expose().len(), |bytes| {
            bytes.copy_from_slice(self.expose());
            Ok(())
        })
    }

    /// The bytes. A copy of them made elsewhere is the caller's to wipe.
    pub fn expose(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Whether the key equals `other`, in time that depends on the lengths only.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.expose().ct_eq(other).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{allow_unlocked, arena_usage};

    #[test]
    fn random_keys_differ_and_compare_equal_to_their_copy() {
        allow_unlocked();
        let key = Key::random(32).unwrap();
        assert!(!key.ct_eq(Key::random(32).unwrap().expose()));
        assert!(key.ct_eq(key.try_clone().unwrap().expose()));
        assert!(!key.ct_eq(&key.expose()[..31]));
    }

    #[test]
    fn from_slice_wipes_its_source_even_when_it_fails() {
        allow_unlocked();
        let mut source = *b"correct horse battery staple";
        let key = Key::from_slice(&mut source).unwrap();
        assert_eq!(key.expose(), b"correct horse battery staple");
        assert!(source.iter().all(|byte| *byte == 0));

        let mut too_long = vec![7_u8; MAX_KEY_BYTES + 1];
        assert!(matches!(Key::from_slice(&mut too_long), Err(MemoryError::Length { .. })));
        assert!(too_long.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn every_length_from_one_to_the_largest_fits_and_none_else() {
        allow_unlocked();
        for len in [1, 63, 64, 65, 512, 513, MAX_KEY_BYTES] {
            assert_eq!(Key::fill_with::<MemoryError>(len, |_| Ok(())).unwrap().expose().len(), len);
        }
        assert!(matches!(Key::random(0), Err(MemoryError::Length { .. })));
        assert!(matches!(Key::random(MAX_KEY_BYTES + 1), Err(MemoryError::Length { .. })));
    }

    #[test]
    fn a_key_shows_nothing_of_itself() {
        allow_unlocked();
        assert_eq!(format!("{:?}", Key::random(32).unwrap()), "Key(..)");
    }

    #[test]
    fn keys_are_counted_while_they_live() {
        allow_unlocked();
        // Other tests run beside this one, so only a lower bound can be asserted.
        let keys: Vec<Key> = (0..100).map(|_| Key::random(300).unwrap()).collect();
        let usage = arena_usage();
        assert!(usage.classes[1].slots_used >= keys.len());
        assert!(usage.slots_used <= usage.slots_total);
    }
}
