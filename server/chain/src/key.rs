//! The keys that checkpoints are signed by: Ed25519 (RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::hash;

/// What stands before an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES: usize = 32;
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the signing key is broken")]
    Seed,
    #[error("no Ed25519 public key in PEM form (holdfast audit public-key prints one)")]
    Pem,
}

/// The private key.
pub struct Signer {
    pair: Ed25519KeyPair,
    id: String,
}

impl Signer {
    /// From its 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Result<Signer, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Seed)?;
        let id = key_id(pair.public_key().as_ref());
        Ok(Signer { pair, id })
    }

    /// The name of its public key.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.pair.sign(message))
    }

    /// The public key as PEM.
    pub fn public_pem(&self) -> String {
        let info = [&SPKI[..], self.pair.public_key().as_ref()].concat();
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(info))
    }
}

/// The first 16 hex digits of its hash.
fn key_id(public: &[u8]) -> String {
    hash(public).chars().take(16).collect()
}

/// Public keys, the older ones too.
#[derive(Debug, Clone, Default)]
pub struct PublicKeys(Vec<(String, Vec<u8>)>);

impl PublicKeys {
    /// From PEM blocks, one behind the other.
    pub fn from_pem(text: &str) -> Result<PublicKeys, KeyError> {
        let mut keys = Vec::new();
        for block in text.split(BEGIN).skip(1) {
            let (body, _) = block.split_once(END).ok_or(KeyError::Pem)?;
            let body: String = body.split_whitespace().collect();
            let info = STANDARD.decode(body).map_err(|_| KeyError::Pem)?;
            let key = info.strip_prefix(&SPKI[..]).filter(|k| k.len() == KEY_BYTES).ok_or(KeyError::Pem)?;
            keys.push((key_id(key), key.to_vec()));
        }
        if keys.is_empty() { Err(KeyError::Pem) } else { Ok(PublicKeys(keys)) }
    }

    pub(crate) fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|(known, _)| known == id)
    }

    pub(crate) fn verify(&self, id: &str, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        let of_key = |(known, key): &(String, Vec<u8>)| {
            known == id && UnparsedPublicKey::new(&ED25519, key).verify(message, &signature).is_ok()
        };
        self.0.iter().any(of_key)
    }
}
