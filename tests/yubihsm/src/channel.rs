//! The device's side of the secure channel (SCP03 with AES-128).

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac};

pub type Key = [u8; 16];
pub const MAC_BYTES: usize = 8;

/// The keys of a session.
#[derive(Clone)]
pub struct Keys {
    encryption: Key,
    command_mac: Key,
    answer_mac: Key,
    context: [u8; 16],
}

pub fn cmac(key: &Key, parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Cmac::<Aes128>::new(key.into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// 0x04: encryption, 0x06: MAC of commands, 0x07: MAC of answers; 0x00 and 0x01: the cryptograms of card and host.
fn derive(key: &Key, purpose: u8, bits: u8, context: &[u8; 16]) -> Key {
    cmac(key, &[&[0; 11], &[purpose, 0x00, 0x00, bits, 0x01], context])
}

impl Keys {
    pub fn new(encryption: &Key, mac: &Key, context: [u8; 16]) -> Keys {
        Keys {
            encryption: derive(encryption, 0x04, 0x80, &context),
            command_mac: derive(mac, 0x06, 0x80, &context),
            answer_mac: derive(mac, 0x07, 0x80, &context),
            context,
        }
    }

    pub fn card_cryptogram(&self) -> [u8; 8] {
        half(derive(&self.command_mac, 0x00, 0x40, &self.context))
    }

    pub fn host_cryptogram(&self) -> [u8; 8] {
        half(derive(&self.command_mac, 0x01, 0x40, &self.context))
    }

    /// The MAC of a command, which is also the link of the chain that follows it.
    pub fn command_mac(&self, chain: &[u8; 16], message: &[u8]) -> [u8; 16] {
        cmac(&self.command_mac, &[chain, message])
    }

    pub fn answer_mac(&self, chain: &[u8; 16], message: &[u8]) -> [u8; 8] {
        half(cmac(&self.answer_mac, &[chain, message]))
    }

    fn first(&self, cipher: &Aes128, counter: u32) -> aes::Block {
        let mut block = aes::Block::default();
        block[12..].copy_from_slice(&counter.to_be_bytes());
        cipher.encrypt_block(&mut block);
        block
    }

    /// Whole blocks, in place.
    pub fn decrypt(&self, counter: u32, data: &mut [u8]) {
        let cipher = Aes128::new((&self.encryption).into());
        let mut before = self.first(&cipher, counter);
        for chunk in data.chunks_exact_mut(16) {
            let sealed = aes::Block::try_from(&*chunk).expect("a whole block");
            let mut block = sealed;
            cipher.decrypt_block(&mut block);
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = block[at] ^ before[at];
            }
            before = sealed;
        }
    }

    /// Padded to whole blocks, and encrypted.
    pub fn encrypt(&self, counter: u32, mut data: Vec<u8>) -> Vec<u8> {
        data.push(0x80);
        data.resize(data.len().next_multiple_of(16), 0);
        let cipher = Aes128::new((&self.encryption).into());
        let mut before = self.first(&cipher, counter);
        for chunk in data.chunks_exact_mut(16) {
            for (at, byte) in chunk.iter().enumerate() {
                before[at] ^= byte;
            }
            cipher.encrypt_block(&mut before);
            chunk.copy_from_slice(&before);
        }
        data
    }
}

fn half(whole: Key) -> [u8; 8] {
    whole[..8].try_into().expect("eight of sixteen")
}
