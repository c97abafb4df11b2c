//! The keys that checkpoints are signed by: one of the server's own (Ed25519, RFC 8032), or one in a device, of any kind
//! that devices have.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::hash;

/// What stands before an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const ED25519_INFO: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The same before an uncompressed point on P-256 and on P-384 (RFC 5480).
const P256_INFO: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const P384_INFO: [u8; 24] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00, 0x04,
];
/// The algorithm of an RSA key (RFC 8017), which stands behind the length of the whole.
const RSA_INFO: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const RSA_INFO_AT: usize = 4;
const ED25519_BYTES: usize = 32;
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the signing key is broken")]
    Seed,
    #[error(
        "no public key in PEM form that signs checkpoints: Ed25519, ECDSA on P-256 or P-384, or RSA of 2048 bits and more \
         (holdfast audit public-key prints those of a server)"
    )]
    Pem,
}

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Ed25519,
    /// ECDSA over SHA-256; signatures in DER.
    P256,
    /// ECDSA over SHA-384; signatures in DER.
    P384,
    /// RSASSA-PKCS1-v1_5 over SHA-256.
    Rsa,
}

impl Scheme {
    fn algorithm(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Scheme::Ed25519 => &ED25519,
            Scheme::P256 => &ECDSA_P256_SHA256_ASN1,
            Scheme::P384 => &ECDSA_P384_SHA384_ASN1,
            Scheme::Rsa => &RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

/// The private key of the server's own.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    /// From its 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Result<Signer, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Seed)?;
        let public = PublicKey::from_info(&[&ED25519_INFO[..], pair.public_key().as_ref()].concat())?;
        Ok(Signer { pair, public })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// A public key that checks checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    scheme: Scheme,
    /// SubjectPublicKeyInfo, DER.
    info: Vec<u8>,
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo in DER.
    pub fn from_info(info: &[u8]) -> Result<PublicKey, KeyError> {
        let scheme = match info {
            _ if info.starts_with(&ED25519_INFO) && info.len() == ED25519_INFO.len() + ED25519_BYTES => Scheme::Ed25519,
            _ if info.starts_with(&P256_INFO) && info.len() == P256_INFO.len() + 64 => Scheme::P256,
            _ if info.starts_with(&P384_INFO) && info.len() == P384_INFO.len() + 96 => Scheme::P384,
            _ if info.get(RSA_INFO_AT..).is_some_and(|rest| rest.starts_with(&RSA_INFO)) => Scheme::Rsa,
            _ => return Err(KeyError::Pem),
        };
        // The name is of what is the key's own.
        let named = if scheme == Scheme::Ed25519 { &info[ED25519_INFO.len()..] } else { info };
        Ok(PublicKey { id: hash(named).chars().take(16).collect(), scheme, info: info.to_vec() })
    }

    /// The first 16 hex digits of its SHA-256.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn info(&self) -> &[u8] {
        &self.info
    }

    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.info);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap_or_default()).collect();
        format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = if self.scheme == Scheme::Ed25519 { &self.info[ED25519_INFO.len()..] } else { &self.info };
        UnparsedPublicKey::new(self.scheme.algorithm(), key).verify(message, signature).is_ok()
    }
}

/// Public keys, the older ones too.
#[derive(Debug, Clone, Default)]
pub struct PublicKeys(Vec<PublicKey>);

impl PublicKeys {
    /// From PEM blocks, one behind the other.
    pub fn from_pem(text: &str) -> Result<PublicKeys, KeyError> {
        let mut keys = Vec::new();
        for block in text.split(BEGIN).skip(1) {
            let (body, _) = block.split_once(END).ok_or(KeyError::Pem)?;
            let body: String = body.split_whitespace().collect();
            keys.push(PublicKey::from_info(&STANDARD.decode(body).map_err(|_| KeyError::Pem)?)?);
        }
        if keys.is_empty() { Err(KeyError::Pem) } else { Ok(PublicKeys(keys)) }
    }

    pub(crate) fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    pub(crate) fn verify(&self, id: &str, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        self.0.iter().any(|key| key.id == id && key.verify(message, &signature))
    }
}
