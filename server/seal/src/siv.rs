//! AES-256-SIV with CMAC (RFC 5297), for many texts with the same associated data.
//!
//! The crate `aes-siv` authenticates all associated data anew, and schedules the encryption key anew, for each
//! text: four fifths of what opening a name costs. Here S2V is kept where the associated data end. The tests
//! hold the result against that crate and the RFC's vectors.

use aes::Aes256;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipherCore};
use cmac::{Cmac, Mac};
use ctr::flavors::Ctr128BE;
use dbl::Dbl;
use subtle::ConstantTimeEq;

/// Bytes of the synthetic IV, which stands before the ciphertext.
pub const IV_BYTES: usize = 16;

type Block = aes::Block;

/// The keys, scheduled once.
pub struct Siv {
    mac: Cmac<Aes256>,
    cipher: Aes256,
}

/// S2V behind its associated data, before its text.
#[derive(Clone, Copy)]
pub struct Behind(Block);

impl Siv {
    /// The first half of the key authenticates, the second one encrypts.
    pub fn new(key: &[u8; 64]) -> Siv {
        let (mac, cipher) = key.split_at(32);
        match (Cmac::new_from_slice(mac), Aes256::new_from_slice(cipher)) {
            (Ok(mac), Ok(cipher)) => Siv { mac, cipher },
            // Each is 32 bytes.
            _ => unreachable!(),
        }
    }

    /// Before all associated data.
    pub fn start(&mut self) -> Behind {
        Behind(self.authenticate(&[&Block::default()]))
    }

    /// Take in one more of the associated data.
    pub fn behind(&mut self, Behind(state): Behind, data: &[u8]) -> Behind {
        let mut state = state.dbl();
        let code = self.authenticate(&[data]);
        xor(&mut state, &code);
        Behind(state)
    }

    /// The IV and the ciphertext of `text`, onto `out`.
    pub fn encrypt(&mut self, behind: Behind, text: &[u8], out: &mut Vec<u8>) {
        let iv = self.iv(behind, text);
        out.extend_from_slice(&iv);
        let start = out.len();
        out.extend_from_slice(text);
        self.apply_keystream(iv, &mut out[start..]);
    }

    /// The text, if IV and ciphertext are authentic.
    pub fn decrypt(&mut self, behind: Behind, sealed: &[u8]) -> Option<Vec<u8>> {
        let (iv, ciphertext) = sealed.split_first_chunk::<IV_BYTES>()?;
        let iv = Block::from(*iv);
        let mut text = ciphertext.to_vec();
        self.apply_keystream(iv, &mut text);
        bool::from(self.iv(behind, &text).ct_eq(&iv)).then_some(text)
    }

    /// The end of S2V.
    fn iv(&mut self, Behind(mut state): Behind, text: &[u8]) -> Block {
        let Some(n) = text.len().checked_sub(IV_BYTES) else {
            state = state.dbl();
            xor(&mut state, text);
            state[text.len()] ^= 0x80;
            return self.authenticate(&[&state]);
        };
        let (head, tail) = text.split_at(n);
        xor(&mut state, tail);
        self.authenticate(&[head, &state])
    }

    fn authenticate(&mut self, parts: &[&[u8]]) -> Block {
        for part in parts {
            self.mac.update(part);
        }
        self.mac.finalize_reset().into_bytes()
    }

    fn apply_keystream(&self, mut iv: Block, text: &mut [u8]) {
        iv[8] &= 0x7f;
        iv[12] &= 0x7f;
        ctr::CtrCore::<_, Ctr128BE>::inner_iv_init(&self.cipher, &iv).apply_keystream_partial(text.into());
    }
}

/// `of` is not longer than a block.
fn xor(block: &mut Block, of: &[u8]) {
    for (a, b) in block.iter_mut().zip(of) {
        *a ^= *b;
    }
}

#[cfg(test)]
mod tests {
    use aes_siv::siv::Aes256Siv;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_the_crate_aes_siv_makes(
            key: [u8; 64],
            data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..4),
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 1..4),
            flip: (usize, u8),
        ) {
            let mut ours = Siv::new(&key);
            let mut theirs = Aes256Siv::new_from_slice(&key).unwrap();
            let parts: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let mut behind = ours.start();
            for part in &parts {
                behind = ours.behind(behind, part);
            }
            for text in texts {
                let mut sealed = Vec::new();
                ours.encrypt(behind, &text, &mut sealed);
                prop_assert_eq!(&sealed, &theirs.encrypt(&parts, &text).unwrap());
                prop_assert_eq!(ours.decrypt(behind, &sealed), Some(text));
                let (at, bits) = (flip.0 % sealed.len(), flip.1.max(1));
                sealed[at] ^= bits;
                prop_assert_eq!(ours.decrypt(behind, &sealed), None);
                prop_assert_eq!(ours.decrypt(behind, &sealed[..IV_BYTES - 1]), None);
            }
        }
    }
}
