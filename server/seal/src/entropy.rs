//! Where new keys come from: the operating system's generator, and a device's as well where that was asked for.

use std::sync::atomic::{AtomicU32, Ordering};

use hmac::{Hmac, KeyInit, Mac};
use holdfast_hsm::memory::{Key, Secret};
use sha2::Sha512;
use zeroize::Zeroize;

use crate::SealError;

/// Bytes that are asked of a device for one act.
pub const SEED_BYTES: usize = 64;

/// A source of keys for one act.
///
/// With a device's bytes a key is the operating system's XOR an expansion of them. So it is as good as the better of the
/// two: a device that gives what somebody knows, or always the same, takes nothing from the operating system's part,
/// which it never sees.
pub struct Entropy(Option<Seed>);

struct Seed {
    bytes: Key,
    drawn: AtomicU32,
}

impl Entropy {
    /// The operating system's alone.
    pub fn platform() -> Entropy {
        Entropy(None)
    }

    /// Mixed with bytes of a device.
    ///
    /// # Errors
    /// These are not [`SEED_BYTES`], or all the same: no generator gives such.
    pub fn mixed_with(of_device: &Secret<Vec<u8>>) -> Result<Entropy, SealError> {
        let given = of_device.expose();
        if given.len() != SEED_BYTES || given.iter().all(|byte| *byte == given[0]) {
            return Err(SealError::NoRandomness);
        }
        let bytes = Key::fill_with::<SealError>(SEED_BYTES, |bytes| {
            bytes.copy_from_slice(given);
            Ok(())
        })?;
        Ok(Entropy(Some(Seed { bytes, drawn: AtomicU32::new(0) })))
    }

    /// A key of so many bytes. No two draw the same part of the device's bytes.
    pub fn key(&self, len: usize) -> Result<Key, SealError> {
        let platform = Key::random(len)?;
        let Some(seed) = &self.0 else { return Ok(platform) };
        let number = seed.drawn.fetch_add(1, Ordering::Relaxed);
        Key::fill_with(len, |mixed| {
            mixed.copy_from_slice(platform.expose());
            for (block, part) in mixed.chunks_mut(64).enumerate() {
                let mut mac =
                    Hmac::<Sha512>::new_from_slice(seed.bytes.expose()).map_err(|_| SealError::Encoding("a key"))?;
                mac.update(b"holdfast key from a device's bytes");
                mac.update(&number.to_be_bytes());
                mac.update(&(block as u32).to_be_bytes());
                let mut expanded = mac.finalize().into_bytes();
                part.iter_mut().zip(&expanded).for_each(|(byte, other)| *byte ^= other);
                expanded.as_mut_slice().zeroize();
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_hsm::memory::allow_unlocked;

    use super::*;

    #[test]
    fn keys_of_one_seed_differ_in_both_of_their_parts() {
        allow_unlocked();
        let seed: Vec<u8> = (0..SEED_BYTES as u8).collect();
        let entropy = Entropy::mixed_with(&Secret::new(seed.clone())).unwrap();
        let keys: Vec<Key> = (0..8).map(|_| entropy.key(80).unwrap()).collect();
        for (n, key) in keys.iter().enumerate() {
            assert!(keys[..n].iter().all(|other| other.expose()[..64] != key.expose()[..64]));
            assert_ne!(key.expose()[..16], key.expose()[64..], "blocks differ");
        }
        // The same bytes of a device give other keys: the operating system's part.
        let again = Entropy::mixed_with(&Secret::new(seed)).unwrap();
        assert_ne!(again.key(32).unwrap().expose(), &keys[0].expose()[..32]);
        assert_eq!(Entropy::platform().key(32).unwrap().expose().len(), 32);
    }

    #[test]
    fn what_no_generator_gives_is_refused() {
        allow_unlocked();
        for bytes in [vec![0; SEED_BYTES], vec![0xff; SEED_BYTES], vec![1, 2, 3], Vec::new()] {
            assert!(Entropy::mixed_with(&Secret::new(bytes)).is_err());
        }
    }
}
