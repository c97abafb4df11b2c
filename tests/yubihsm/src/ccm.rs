//! AES-CCM (NIST SP 800-38C) with a nonce of 13 bytes and a tag of 16, as a wrap key does it.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};

pub const NONCE_BYTES: usize = 13;
pub const TAG_BYTES: usize = 16;

enum Cipher {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Cipher {
    fn new(key: &[u8]) -> Cipher {
        match key.len() {
            16 => Cipher::Aes128(Aes128::new_from_slice(key).expect("sixteen bytes")),
            24 => Cipher::Aes192(Aes192::new_from_slice(key).expect("24 bytes")),
            _ => Cipher::Aes256(Aes256::new_from_slice(key).expect("wrap keys have 16, 24 or 32 bytes")),
        }
    }

    fn encrypt(&self, block: &mut Block) {
        match self {
            Cipher::Aes128(aes) => aes.encrypt_block(block),
            Cipher::Aes192(aes) => aes.encrypt_block(block),
            Cipher::Aes256(aes) => aes.encrypt_block(block),
        }
    }

    fn tag(&self, nonce: &[u8], plaintext: &[u8]) -> [u8; TAG_BYTES] {
        // No associated data, a tag of 16 bytes, lengths of two bytes.
        let mut block = Block::default();
        block[0] = 0x39;
        block[1..14].copy_from_slice(nonce);
        block[14..].copy_from_slice(&(plaintext.len() as u16).to_be_bytes());
        self.encrypt(&mut block);
        for chunk in plaintext.chunks(16) {
            block.iter_mut().zip(chunk).for_each(|(sum, byte)| *sum ^= byte);
            self.encrypt(&mut block);
        }
        block.into()
    }

    /// The stream of the counter, from block `first` on.
    fn mask(&self, nonce: &[u8], first: u16, data: &mut [u8]) {
        for (at, chunk) in data.chunks_mut(16).enumerate() {
            let mut block = Block::default();
            block[0] = 0x01;
            block[1..14].copy_from_slice(nonce);
            block[14..].copy_from_slice(&(first + at as u16).to_be_bytes());
            self.encrypt(&mut block);
            chunk.iter_mut().zip(block.iter()).for_each(|(byte, mask)| *byte ^= mask);
        }
    }
}

/// Nonce, ciphertext and tag.
pub fn seal(key: &[u8], nonce: [u8; NONCE_BYTES], plaintext: &[u8]) -> Vec<u8> {
    let cipher = Cipher::new(key);
    let mut tag = cipher.tag(&nonce, plaintext);
    cipher.mask(&nonce, 0, &mut tag);
    let mut sealed = plaintext.to_vec();
    cipher.mask(&nonce, 1, &mut sealed);
    [&nonce[..], &sealed, &tag].concat()
}

/// `None`: it was changed.
pub fn open(key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES)?;
    let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_BYTES)?)?;
    let cipher = Cipher::new(key);
    let mut plaintext = ciphertext.to_vec();
    cipher.mask(nonce, 1, &mut plaintext);
    let mut expected = cipher.tag(nonce, &plaintext);
    cipher.mask(nonce, 0, &mut expected);
    (expected == tag).then_some(plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSL's AES-256-CCM gives for this key, nonce and text.
    #[test]
    fn it_is_the_ccm_of_others() {
        let key: Vec<u8> = (0..32).collect();
        let nonce = std::array::from_fn(|at| 0x40 + at as u8);
        let sealed = seal(&key, nonce, b"a root key of 32 bytes, wrapped.");
        assert_eq!(open(&key, &sealed).unwrap(), b"a root key of 32 bytes, wrapped.");
        let hex: String = sealed[NONCE_BYTES..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("ccm.vector").trim());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&key, &changed), None);
        }
        assert_eq!(open(&key, &sealed[..28]), None);
    }
}
