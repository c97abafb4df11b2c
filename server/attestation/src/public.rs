//! Public keys of a TPM: TPMT_PUBLIC (Part 2, 12.2.4).

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Sha256, Sha384};

use crate::Doubt;
use crate::reader::Reader;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000B;
const ALG_SHA384: u16 = 0x000C;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const ECC_NIST_P256: u16 = 0x0003;
const ECC_NIST_P384: u16 = 0x0004;
const USUAL_EXPONENT: u32 = 65_537;

const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// A key, of the two kinds that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicArea {
    attributes: u32,
    signs_with_ecdsa_sha256: bool,
    hash: NameHash,
    cipher_bits: Option<u16>,
    /// The key itself.
    pub key: PublicKey,
    name: Vec<u8>,
}

/// The hash of a key's Name, by which all is derived that belongs to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameHash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl NameHash {
    /// Of a hash.
    pub fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<H: sha2::Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut hash = H::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        }
        match self {
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha384 => of::<Sha384>(parts),
        }
    }

    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        // HMAC takes keys of every length.
        macro_rules! of {
            ($hash:ty) => {{
                let Ok(mut mac) = Hmac::<$hash>::new_from_slice(key) else { unreachable!() };
                parts.iter().for_each(|part| mac.update(part));
                mac.finalize().into_bytes().to_vec()
            }};
        }
        match self {
            Self::Sha256 => of!(Sha256),
            Self::Sha384 => of!(Sha384),
        }
    }
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA.
    Rsa {
        /// Without zeros before it.
        modulus: Vec<u8>,
        /// Usually 65537.
        exponent: u32,
    },
    /// EC on P-256: the uncompressed point.
    P256(Vec<u8>),
    /// The same on P-384.
    P384(Vec<u8>),
}

impl PublicArea {
    /// Reads a key.
    ///
    /// # Errors
    /// If it is none, or of another kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, Doubt> {
        let other = |what: &str| Doubt::Unknown(format!("a TPM's key with {what} is not judged here"));
        let mut reader = Reader::new(bytes, "a TPM's public key");
        let kind = reader.u16()?;
        let name_algorithm = reader.u16()?;
        let hash = match name_algorithm {
            ALG_SHA256 => NameHash::Sha256,
            ALG_SHA384 => NameHash::Sha384,
            _ => return Err(other("a name by another hash than SHA-256 and SHA-384")),
        };
        let attributes = reader.u32()?;
        reader.sized()?; // its policy
        let cipher_bits = match reader.u16()? {
            ALG_NULL => None,
            cipher => {
                let (bits, mode) = (reader.u16()?, reader.u16()?);
                ((cipher, mode) == (ALG_AES, ALG_CFB)).then_some(bits)
            }
        };
        let scheme = reader.u16()?;
        let scheme_hash = if scheme == ALG_NULL { ALG_NULL } else { reader.u16()? };
        let key = match kind {
            ALG_RSA => {
                reader.u16()?;
                let exponent = match reader.u32()? {
                    0 => USUAL_EXPONENT,
                    exponent => exponent,
                };
                let modulus = reader.sized()?;
                let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
                PublicKey::Rsa { modulus: modulus[zeros..].to_vec(), exponent }
            }
            ALG_ECC => {
                let curve = reader.u16()?;
                let field_bytes: usize = match curve {
                    ECC_NIST_P256 => 32,
                    ECC_NIST_P384 => 48,
                    _ => return Err(other("another curve than P-256 and P-384")),
                };
                if reader.u16()? != ALG_NULL {
                    reader.u16()?;
                }
                let mut point = vec![4];
                for _ in 0..2 {
                    let number = reader.sized()?;
                    let missing = field_bytes.checked_sub(number.len()).ok_or_else(|| reader.malformed())?;
                    point.extend(vec![0; missing]);
                    point.extend_from_slice(number);
                }
                if curve == ECC_NIST_P256 { PublicKey::P256(point) } else { PublicKey::P384(point) }
            }
            _ => return Err(other("neither RSA nor EC")),
        };
        reader.end()?;
        let name = [&name_algorithm.to_be_bytes()[..], &hash.digest(&[bytes])].concat();
        let signs_with_ecdsa_sha256 = (scheme, scheme_hash) == (ALG_ECDSA, ALG_SHA256);
        Ok(Self { attributes, signs_with_ecdsa_sha256, hash, cipher_bits, key, name })
    }

    /// Its Name: hash algorithm and hash of the public area (Part 1, 16).
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub(crate) fn hash(&self) -> NameHash {
        self.hash
    }

    /// Key bits of the AES (in CFB mode) by which it keeps what belongs to it.
    pub(crate) fn cipher_bits(&self) -> Option<u16> {
        self.cipher_bits
    }

    /// Whether it was made in its TPM, never leaves it, and signs only what the TPM has made itself.
    pub fn only_attests(&self) -> bool {
        const NEEDED: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN;
        self.attributes & (NEEDED | DECRYPT) == NEEDED && self.signs_with_ecdsa_sha256
    }

    /// Whether it was made in its TPM, never leaves it, and decrypts only what is meant for the TPM itself.
    pub fn only_receives(&self) -> bool {
        const NEEDED: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT;
        self.attributes & (NEEDED | SIGN) == NEEDED
    }
}
