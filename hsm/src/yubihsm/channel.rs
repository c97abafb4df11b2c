//! The secure channel between a host and a YubiHSM: GlobalPlatform's SCP03 with AES-128, in the form that Yubico's command
//! reference gives it (CREATE SESSION, AUTHENTICATE SESSION, SESSION MESSAGE).
//!
//! Both sides prove by cryptograms that they know the authentication key. Each command is encrypted (AES-CBC, the IV from a
//! counter) and authenticated (AES-CMAC over the chain of all MACs before), and so is each answer.

use super::fault::Fault;
use super::protocol::{ANSWER, Command, ERROR, Refusal};
use crate::memory::Secret;
use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac};
use hmac::Hmac;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const BLOCK: usize = 16;
pub(super) const CHALLENGE_BYTES: usize = 8;
const CRYPTOGRAM_BYTES: usize = 8;
const MAC_BYTES: usize = 8;
/// Code and length before each message.
const HEADER_BYTES: usize = 3;
/// A session is renewed long before a MAC of eight bytes has been tried too often.
const MAX_MESSAGES: u32 = 1 << 20;

type Key = Zeroizing<[u8; 16]>;

/// What a derived value is for.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Purpose {
    CardCryptogram = 0x00,
    HostCryptogram = 0x01,
    Encryption = 0x04,
    CommandMac = 0x06,
    AnswerMac = 0x07,
}

/// The two halves of an authentication key.
pub(super) struct AuthenticationKey {
    encryption: Key,
    mac: Key,
}

impl AuthenticationKey {
    /// From a password, as all of Yubico's tools derive it: PBKDF2-HMAC-SHA256, salt `Yubico`, 10,000 rounds.
    pub(super) fn from_password(password: &Secret<String>) -> Self {
        const ROUNDS: u32 = 10_000;
        let keyed = hmac_of(password.expose().as_bytes());
        let round = |input: &[u8]| {
            let mut mac = keyed.clone();
            mac.update(input);
            Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()))
        };
        // One block of output, whose number is 1.
        let mut last = round(b"Yubico\x00\x00\x00\x01");
        let mut sum = last.clone();
        for _ in 1..ROUNDS {
            last = round(&*last);
            sum.iter_mut().zip(last.iter()).for_each(|(sum, byte)| *sum ^= byte);
        }
        let (mut encryption, mut mac) = (Key::default(), Key::default());
        encryption.copy_from_slice(&sum[..16]);
        mac.copy_from_slice(&sum[16..]);
        Self { encryption, mac }
    }
}

fn hmac_of(key: &[u8]) -> Hmac<Sha256> {
    let Ok(mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes a key of any length")
    };
    mac
}

/// A session that the device has begun, not yet authenticated.
pub(super) struct Beginning {
    id: u8,
    keys: SessionKeys,
    context: [u8; 2 * CHALLENGE_BYTES],
}

struct SessionKeys {
    encryption: Key,
    command_mac: Key,
    answer_mac: Key,
}

impl Beginning {
    /// From the answer to CREATE SESSION. `None`: whoever answered does not know the key, or the answer is none.
    pub(super) fn new(key: &AuthenticationKey, host_challenge: [u8; CHALLENGE_BYTES], answer: &[u8]) -> Option<Self> {
        let (id, rest) = answer.split_first()?;
        let (card_challenge, cryptogram) = rest.split_at_checked(CHALLENGE_BYTES)?;
        let mut context = [0; 2 * CHALLENGE_BYTES];
        context[..CHALLENGE_BYTES].copy_from_slice(&host_challenge);
        context[CHALLENGE_BYTES..].copy_from_slice(card_challenge);
        let keys = SessionKeys {
            encryption: derive(&key.encryption, Purpose::Encryption, &context),
            command_mac: derive(&key.mac, Purpose::CommandMac, &context),
            answer_mac: derive(&key.mac, Purpose::AnswerMac, &context),
        };
        let expected = derive(&keys.command_mac, Purpose::CardCryptogram, &context);
        bool::from(expected[..CRYPTOGRAM_BYTES].ct_eq(cryptogram)).then_some(Self { id: *id, keys, context })
    }

    /// AUTHENTICATE SESSION, and the channel that holds when it is answered well.
    pub(super) fn authenticate(self) -> (Vec<u8>, Channel) {
        let cryptogram = derive(&self.keys.command_mac, Purpose::HostCryptogram, &self.context);
        let mut message = header(Command::AuthenticateSession as u8, 1 + CRYPTOGRAM_BYTES + MAC_BYTES);
        message.push(self.id);
        message.extend_from_slice(&cryptogram[..CRYPTOGRAM_BYTES]);
        let chain = mac(&self.keys.command_mac, &[0; BLOCK], &message);
        message.extend_from_slice(&chain[..MAC_BYTES]);
        (message, Channel { id: self.id, keys: self.keys, chain, counter: 1 })
    }
}

/// An authenticated session's keys and state.
pub(super) struct Channel {
    id: u8,
    keys: SessionKeys,
    chain: [u8; BLOCK],
    counter: u32,
}

impl Channel {
    /// Whether it has carried so much that another one is due.
    pub(super) fn is_used_up(&self) -> bool {
        self.counter >= MAX_MESSAGES
    }

    /// A command as SESSION MESSAGE.
    pub(super) fn seal(&mut self, command: Command, data: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut inner = Zeroizing::new(header(command as u8, data.len()));
        inner.extend_from_slice(data);
        inner.push(0x80);
        let padded = inner.len().next_multiple_of(BLOCK);
        inner.resize(padded, 0);
        self.cbc_encrypt(&mut inner);

        let mut message = Zeroizing::new(header(Command::SessionMessage as u8, 1 + inner.len() + MAC_BYTES));
        message.push(self.id);
        message.extend_from_slice(&inner);
        self.chain = mac(&self.keys.command_mac, &self.chain, &message);
        message.extend_from_slice(&self.chain[..MAC_BYTES]);
        message
    }

    /// What the device answered to the command that was sealed last.
    pub(super) fn open(&mut self, answer: &[u8], command: Command) -> Result<Zeroizing<Vec<u8>>, Fault> {
        // An error outside the channel is nobody's word in particular; the session is not used any more after it.
        let body = content(answer, Command::SessionMessage).map_err(|fault| match fault {
            Fault::Refused(refusal) => Fault::Outside(refusal),
            other => other,
        })?;
        let whole = &answer[..HEADER_BYTES + body.len()];
        let (authenticated, tag) = whole.split_at_checked(whole.len() - MAC_BYTES).ok_or(Fault::Forged)?;
        let expected = mac(&self.keys.answer_mac, &self.chain, authenticated);
        let sealed = authenticated.get(HEADER_BYTES + 1..).unwrap_or_default();
        if body.len() < 1 + MAC_BYTES
            || body[0] != self.id
            || sealed.len() % BLOCK != 0
            || !bool::from(expected[..MAC_BYTES].ct_eq(tag))
        {
            return Err(Fault::Forged);
        }
        let mut inner = Zeroizing::new(sealed.to_vec());
        self.cbc_decrypt(&mut inner);
        self.counter += 1;
        content(&inner, command).map(|data| Zeroizing::new(data.to_vec()))
    }

    fn iv(&self, cipher: &Aes128) -> aes::Block {
        let mut block = [0; BLOCK];
        block[BLOCK - 4..].copy_from_slice(&self.counter.to_be_bytes());
        let mut iv = block.into();
        cipher.encrypt_block(&mut iv);
        iv
    }

    fn cbc_encrypt(&self, data: &mut [u8]) {
        let cipher = Aes128::new((&*self.keys.encryption).into());
        let mut last = self.iv(&cipher);
        for chunk in data.chunks_exact_mut(BLOCK) {
            last.iter_mut().zip(chunk.iter()).for_each(|(last, byte)| *last ^= byte);
            cipher.encrypt_block(&mut last);
            chunk.copy_from_slice(&last);
        }
    }

    fn cbc_decrypt(&self, data: &mut [u8]) {
        let cipher = Aes128::new((&*self.keys.encryption).into());
        let mut last = self.iv(&cipher);
        for chunk in data.chunks_exact_mut(BLOCK) {
            let mut sealed = aes::Block::default();
            sealed.copy_from_slice(chunk);
            let mut block = sealed;
            cipher.decrypt_block(&mut block);
            chunk.iter_mut().zip(block.iter().zip(last.iter())).for_each(|(byte, (open, last))| *byte = open ^ last);
            last = sealed;
        }
    }
}

/// What follows code and length, if the answer is the one to this command.
pub(super) fn content(answer: &[u8], command: Command) -> Result<&[u8], Fault> {
    let [code, high, low, rest @ ..] = answer else { return Err(Fault::Garbled) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    // Behind the content of an inner answer is its padding.
    let content = rest.get(..length).ok_or(Fault::Garbled)?;
    match (*code, content) {
        (ERROR, [reason, ..]) => Err(Fault::Refused(Refusal::of(*reason))),
        (code, _) if code == command as u8 | ANSWER => Ok(content),
        _ => Err(Fault::Garbled),
    }
}

/// A command outside of any session.
pub(super) fn plain(command: Command, data: &[u8]) -> Vec<u8> {
    let mut message = header(command as u8, data.len());
    message.extend_from_slice(data);
    message
}

fn header(code: u8, length: usize) -> Vec<u8> {
    let length = (length as u16).to_be_bytes();
    let mut header = Vec::with_capacity(HEADER_BYTES + usize::from(u16::from_be_bytes(length)) + BLOCK);
    header.extend_from_slice(&[code, length[0], length[1]]);
    header
}

/// SCP03's key derivation (NIST SP 800-108 in counter mode, AES-CMAC). A cryptogram is the first half.
fn derive(key: &Key, purpose: Purpose, context: &[u8; 2 * CHALLENGE_BYTES]) -> Key {
    let bits = match purpose {
        Purpose::CardCryptogram | Purpose::HostCryptogram => 0x40,
        Purpose::Encryption | Purpose::CommandMac | Purpose::AnswerMac => 0x80,
    };
    let mut label = [0; BLOCK];
    label[11..].copy_from_slice(&[purpose as u8, 0, 0, bits, 1]);
    Zeroizing::new(mac(key, &label, context))
}

/// AES-CMAC over both.
fn mac(key: &Key, first: &[u8; BLOCK], then: &[u8]) -> [u8; BLOCK] {
    let mut mac = Cmac::<Aes128>::new((&**key).into());
    mac.update(first);
    mac.update(then);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of the default authentication key, which Yubico's documentation prints.
    #[test]
    fn a_password_gives_the_keys_that_yubicos_tools_derive() {
        let key = AuthenticationKey::from_password(&Secret::new("password".to_owned()));
        assert_eq!(hex::encode(*key.encryption), "090b47dbed595654901dee1cc655e420");
        assert_eq!(hex::encode(*key.mac), "592fd483f759e29909a04c4505d2ce0a");
    }

    #[test]
    fn an_answer_that_is_none_is_no_answer() {
        let key = AuthenticationKey::from_password(&Secret::new("password".to_owned()));
        for answer in [&[][..], &[0], &[0; 9], &[0; 17], &[7; 40]] {
            assert!(Beginning::new(&key, [1; 8], answer).is_none(), "{answer:?}");
        }
        for answer in [&[][..], &[0x85, 0, 1], &[0x86, 0, 0], &[0x7f, 0, 0]] {
            assert!(matches!(content(answer, Command::SessionMessage), Err(Fault::Garbled)), "{answer:?}");
        }
        let refused = content(&[0x7f, 0, 1, 0x0a], Command::SessionMessage);
        assert!(matches!(refused, Err(Fault::Refused(Refusal::LogFull))));
    }
}
