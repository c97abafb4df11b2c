//! What can be done with a key, by name.

use super::{DeviceError, KeyKind};
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::fmt;

/// A hash that a signature is made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Hash {
    /// SHA-256.
    #[n(0)]
    Sha256,
    /// SHA-384.
    #[n(1)]
    Sha384,
    /// SHA-512.
    #[n(2)]
    Sha512,
}

impl Hash {
    /// Length of the digest in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of a message.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha384 => Sha384::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        })
    }
}

/// A way to sign. ECDSA signatures travel as DER (`Ecdsa-Sig-Value`, RFC 3279), all
/// others as plain octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum SignMechanism {
    /// ECDSA over a digest.
    #[n(0)]
    Ecdsa(#[n(0)] Hash),
    /// RSASSA-PKCS1-v1_5.
    #[n(1)]
    RsaPkcs1(#[n(0)] Hash),
    /// RSASSA-PSS, MGF1 with the same hash, salt as long as the digest.
    #[n(2)]
    RsaPss(#[n(0)] Hash),
    /// Ed25519 (pure; takes the message, never a digest).
    #[n(3)]
    Ed25519,
}

impl SignMechanism {
    /// The hash it is over; none for Ed25519.
    pub fn hash(self) -> Option<Hash> {
        match self {
            Self::Ecdsa(hash) | Self::RsaPkcs1(hash) | Self::RsaPss(hash) => Some(hash),
            Self::Ed25519 => None,
        }
    }
}

impl fmt::Display for SignMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ecdsa(hash) => write!(f, "ECDSA with {hash}"),
            Self::RsaPkcs1(hash) => write!(f, "RSA PKCS#1 v1.5 with {hash}"),
            Self::RsaPss(hash) => write!(f, "RSA PSS with {hash}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SignInput {
    /// The message; hashed by us where the mechanism hashes.
    #[n(0)]
    Message(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The digest, of the mechanism's hash.
    #[n(1)]
    Digest(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl SignInput {
    /// What goes to the device: the digest, or the message for Ed25519.
    ///
    /// # Errors
    /// `Invalid` for a digest of the wrong length, `Unsupported` for a digest with Ed25519.
    pub fn prepared(&self, mechanism: SignMechanism) -> Result<Vec<u8>, DeviceError> {
        match (self, mechanism.hash()) {
            (Self::Message(message), Some(hash)) => Ok(hash.digest(message)),
            (Self::Message(message), None) => Ok(message.clone()),
            (Self::Digest(digest), Some(hash)) if digest.len() == hash.digest_bytes() => Ok(digest.clone()),
            (Self::Digest(digest), Some(hash)) => Err(DeviceError::invalid(format!(
                "a digest of {} bytes cannot be signed with {mechanism}: {hash} has {} bytes",
                digest.len(),
                hash.digest_bytes()
            ))),
            (Self::Digest(_), None) => Err(DeviceError::unsupported("Ed25519 signs messages, not digests")),
        }
    }
}

/// A way to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum CipherMechanism {
    /// AES-GCM with a 12-byte random IV before, and a 16-byte tag after, the ciphertext.
    #[n(1)]
    AesGcm,
    /// RSA-OAEP with SHA-256 and MGF1-SHA-256.
    #[n(2)]
    RsaOaepSha256,
    /// RSA-OAEP with SHA-1 and MGF1-SHA-1; used only where the token has nothing else.
    #[n(3)]
    RsaOaepSha1,
    /// A fresh AES-256 key that a TPM seals below its storage root key (TPM2_Create, TPM2_Unseal), and AES-256-GCM
    /// with it in the device helper.
    #[n(4)]
    TpmSeal,
    /// Wrap Data of a YubiHSM: AES-CCM inside, under a wrap key. Takes no associated data.
    #[n(5)]
    YubiHsmWrap,
    /// [`TpmSeal`](Self::TpmSeal) with a policy that needs the signatures of custodians (TPM2_PolicySigned).
    #[n(6)]
    TpmSealSigned,
}

impl CipherMechanism {
    /// Bytes of IV before and tag after an AES-GCM ciphertext.
    pub const GCM_IV_BYTES: usize = 12;
    /// Bytes of the AES-GCM tag.
    pub const GCM_TAG_BYTES: usize = 16;

    /// Whether it opens only when custodians have signed.
    pub fn needs_custodians(self) -> bool {
        self == Self::TpmSealSigned
    }

    /// The name that stored records carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "CKM_AES_GCM",
            Self::RsaOaepSha256 => "CKM_RSA_PKCS_OAEP/SHA256",
            Self::RsaOaepSha1 => "CKM_RSA_PKCS_OAEP/SHA1",
            Self::TpmSeal => "TPM2_SEAL/AES-256-GCM",
            Self::YubiHsmWrap => "YUBIHSM_WRAP_DATA/AES-CCM",
            Self::TpmSealSigned => "TPM2_SEAL+POLICY_SIGNED/AES-256-GCM",
        }
    }

    /// From a configuration's `mechanism` or a stored record: a name of
    /// [`CipherMechanism::name`], a CKM name, or its number in hex or decimal.
    /// OAEP without a hash means SHA-256.
    ///
    /// # Errors
    /// `Config`, with the names that exist.
    pub fn from_name(text: &str) -> Result<Self, DeviceError> {
        let name = text.trim();
        let name = name.get(..4).filter(|p| p.eq_ignore_ascii_case("CKM_")).map_or(name, |_| &name[4..]);
        match name.to_ascii_uppercase().as_str() {
            "AES_GCM" | "0X1087" | "4231" => Ok(Self::AesGcm),
            "RSA_PKCS_OAEP" | "RSA_PKCS_OAEP/SHA256" | "0X9" | "0X0009" | "9" => Ok(Self::RsaOaepSha256),
            "RSA_PKCS_OAEP/SHA1" => Ok(Self::RsaOaepSha1),
            "TPM2_SEAL/AES-256-GCM" => Ok(Self::TpmSeal),
            "YUBIHSM_WRAP_DATA/AES-CCM" => Ok(Self::YubiHsmWrap),
            "TPM2_SEAL+POLICY_SIGNED/AES-256-GCM" => Ok(Self::TpmSealSigned),
            _ => Err(DeviceError::config(format!(
                "mechanism '{text}' cannot wrap the root key: use CKM_AES_GCM (0x1087) or CKM_RSA_PKCS_OAEP (0x9)"
            ))),
        }
    }
}

impl fmt::Display for CipherMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a device can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Capabilities {
    /// Kinds of keys it makes.
    #[n(0)]
    pub generate: Vec<KeyKind>,
    /// Kinds of keys it takes in.
    #[n(1)]
    pub import: Vec<KeyKind>,
    /// Ways it signs.
    #[n(2)]
    pub sign: Vec<SignMechanism>,
    /// Ways it encrypts and decrypts. OAEP is listed with SHA-256 although a token may
    /// turn out to do SHA-1 only: there is no way to ask.
    #[n(3)]
    pub cipher: Vec<CipherMechanism>,
    /// Whether it does ECDH.
    #[n(4)]
    pub derive: bool,
    /// Whether it gives random bytes.
    #[n(5)]
    pub random: bool,
    /// Whether it signs only, and leaves it to the public key's holder to verify.
    #[n(6)]
    pub never_verifies: bool,
    /// Ways it decrypts only, and leaves it to the public key's holder to encrypt.
    #[n(7)]
    pub decrypt_only: Vec<CipherMechanism>,
    /// Hashes that it makes and checks tags of HMAC with.
    #[n(8)]
    pub mac: Vec<Hash>,
    /// Kinds of keys that it makes and, for who logs in, does not destroy.
    #[n(9)]
    pub never_destroys: Vec<KeyKind>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mechanism_is_named_as_vault_and_pkcs11_name_it() {
        for text in ["CKM_AES_GCM", "AES_GCM", "0x1087", "4231", "ckm_aes_gcm"] {
            assert_eq!(CipherMechanism::from_name(text).unwrap(), CipherMechanism::AesGcm, "{text}");
        }
        for text in ["CKM_RSA_PKCS_OAEP", "0x0009", "0x9", "9"] {
            assert_eq!(CipherMechanism::from_name(text).unwrap(), CipherMechanism::RsaOaepSha256, "{text}");
        }
        use CipherMechanism::{AesGcm, RsaOaepSha1, RsaOaepSha256, TpmSeal, TpmSealSigned, YubiHsmWrap};
        for mechanism in [AesGcm, RsaOaepSha256, RsaOaepSha1, TpmSeal, TpmSealSigned, YubiHsmWrap] {
            assert_eq!(CipherMechanism::from_name(mechanism.name()).unwrap(), mechanism);
        }
        assert!(CipherMechanism::from_name("CKM_AES_CBC_PAD").unwrap_err().text.contains("CKM_AES_GCM"));
    }

    #[test]
    fn a_digest_must_fit_its_hash() {
        let mechanism = SignMechanism::Ecdsa(Hash::Sha256);
        assert!(SignInput::Digest(vec![0; 31]).prepared(mechanism).is_err());
        assert_eq!(SignInput::Digest(vec![7; 32]).prepared(mechanism).unwrap(), [7; 32]);
        assert_eq!(SignInput::Message(b"m".to_vec()).prepared(mechanism).unwrap().len(), 32);
        assert!(SignInput::Digest(vec![0; 32]).prepared(SignMechanism::Ed25519).is_err());
    }
}
