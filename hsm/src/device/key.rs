//! How keys are named and described.

use super::{Capabilities, DeviceError, Hash};
use minicbor::{Decode, Encode};
use std::fmt;

/// Names a key on a device by label, by id, or by both.
///
/// The halves of a pair may carry different labels: they are joined by their id, so a
/// label need only match one half.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct KeyRef {
    /// CKA_LABEL.
    #[n(0)]
    pub label: Option<String>,
    /// CKA_ID, as bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub id: Option<Vec<u8>>,
}

impl KeyRef {
    /// By label alone.
    pub fn label(label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), id: None }
    }

    /// By id alone.
    pub fn id(id: impl Into<Vec<u8>>) -> Self {
        Self { label: None, id: Some(id.into()) }
    }

    /// From configuration: the id is hex, with or without `0x`, in either case.
    ///
    /// # Errors
    /// [`Config`](super::DeviceErrorClass::Config) if neither is given or the id is no hex.
    pub fn from_config(label: Option<&str>, id: Option<&str>) -> Result<Self, DeviceError> {
        let label = label.filter(|label| !label.is_empty()).map(str::to_owned);
        let id = id.filter(|id| !id.is_empty()).map(parse_key_id).transpose()?;
        if label.is_none() && id.is_none() {
            return Err(DeviceError::config("no key is named: set 'key_label', 'key_id' or both"));
        }
        Ok(Self { label, id })
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.label, &self.id) {
            (Some(label), Some(id)) => write!(f, "key '{label}' (id 0x{})", hex::encode(id)),
            (Some(label), None) => write!(f, "key '{label}'"),
            (None, Some(id)) => write!(f, "key with id 0x{}", hex::encode(id)),
            (None, None) => f.write_str("any key"),
        }
    }
}

/// The bytes of a key id that is written in hex, with or without `0x`, in either case.
///
/// # Errors
/// [`Config`](super::DeviceErrorClass::Config) if it is no hex.
pub fn parse_key_id(text: &str) -> Result<Vec<u8>, DeviceError> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    match hex::decode(digits) {
        Ok(id) if !id.is_empty() => Ok(id),
        _ => Err(DeviceError::config(format!(
            "key_id '{text}' is not hexadecimal: write an even number of hex digits, with or without 0x"
        ))),
    }
}

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum KeyKind {
    /// AES with this many bits.
    #[n(0)]
    Aes(#[n(0)] u32),
    /// RSA with this many bits.
    #[n(1)]
    Rsa(#[n(0)] u32),
    /// EC on NIST P-256.
    #[n(2)]
    EcP256,
    /// EC on NIST P-384.
    #[n(3)]
    EcP384,
    /// Ed25519.
    #[n(4)]
    Ed25519,
    /// Something that this program has no use for.
    #[n(5)]
    Other,
    /// A storage key of a TPM: it protects what the TPM makes below it, and nothing else.
    #[n(6)]
    TpmStorage,
    /// AES with this many bits that wraps in CCM alone: a wrap key of a YubiHSM.
    #[n(7)]
    AesCcm(#[n(0)] u32),
    /// EC on NIST P-521.
    #[n(8)]
    EcP521,
    /// A key for HMAC with this hash.
    #[n(9)]
    Hmac(#[n(0)] Hash),
}

impl KeyKind {
    /// Bytes of a coordinate of a point, and of half an ECDSA signature; `None`: it is no key on a NIST curve.
    pub fn coordinate_bytes(self) -> Option<usize> {
        match self {
            Self::EcP256 => Some(32),
            Self::EcP384 => Some(48),
            Self::EcP521 => Some(66),
            _ => None,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aes(bits) => write!(f, "AES-{bits}"),
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::EcP256 => f.write_str("EC P-256"),
            Self::EcP384 => f.write_str("EC P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other => f.write_str("another kind"),
            Self::TpmStorage => f.write_str("TPM storage"),
            Self::AesCcm(bits) => write!(f, "AES-{bits}-CCM"),
            Self::EcP521 => f.write_str("EC P-521"),
            Self::Hmac(hash) => write!(f, "HMAC-{hash}"),
        }
    }
}

/// What a new key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyUsage {
    /// Encryption and decryption (AES, RSA).
    #[n(0)]
    Encrypt,
    /// Signatures (RSA, EC, Ed25519), tags (HMAC).
    #[n(1)]
    Sign,
    /// Key agreement (EC).
    #[n(2)]
    Derive,
}

/// A key to make or to import: non-extractable, sensitive, permanent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeySpec {
    /// CKA_LABEL of both halves; it should name the key's owner.
    #[n(0)]
    pub label: String,
    /// CKA_ID; sixteen random bytes if not given.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub id: Option<Vec<u8>>,
    /// What to make: AES-256, RSA-2048/3072/4096, EC P-256/P-384/P-521, Ed25519 or HMAC.
    #[n(2)]
    pub kind: KeyKind,
    /// What it may do.
    #[n(3)]
    pub usage: KeyUsage,
}

/// A key that is on the device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeyInfo {
    /// CKA_LABEL of the private or secret half, else of the public one.
    #[n(0)]
    pub label: String,
    /// CKA_ID.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub id: Vec<u8>,
    /// What it is.
    #[n(2)]
    pub kind: KeyKind,
    /// Whether the private (or secret) half is there.
    #[n(3)]
    pub private: bool,
    /// Whether a public half is there.
    #[n(4)]
    pub public: bool,
    /// Whether the device would let the private half out (`false` for keys made here).
    #[n(5)]
    pub extractable: bool,
}

impl KeyInfo {
    /// A reference that finds exactly this key again.
    pub fn key_ref(&self) -> KeyRef {
        match self.id.is_empty() {
            true => KeyRef::label(&self.label),
            false => KeyRef::id(self.id.clone()),
        }
    }
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeviceInfo {
    /// `pkcs11`, `software`, …
    #[n(0)]
    pub backend: String,
    /// Path of the module or file, as configured.
    #[n(1)]
    pub module: String,
    /// What the module calls itself, with its version.
    #[n(2)]
    pub library: String,
    /// The token's label.
    #[n(3)]
    pub token_label: String,
    /// The token's serial number.
    #[n(4)]
    pub serial: String,
    /// Manufacturer and model of the token.
    #[n(5)]
    pub model: String,
    /// Slot id, which may change between starts.
    #[n(6)]
    pub slot: u64,
    /// Whether private keys need a login.
    #[n(7)]
    pub login_required: bool,
    /// Names of the mechanisms that the token lists (`CKM_…`).
    #[n(8)]
    pub mechanisms: Vec<String>,
    /// What can be asked of it here.
    #[n(9)]
    pub capabilities: Capabilities,
    /// How many wrong PINs it has seen, as far as it tells.
    #[n(10)]
    pub pin_tries: PinTries,
    /// What an operator should know of it, a line each: it works, and something is not as it should be.
    #[n(11)]
    pub warnings: Vec<String>,
}

/// What a device tells of the tries that are left before it locks its PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum PinTries {
    /// None was wrong since the last right one, or the device does not tell.
    #[default]
    #[n(0)]
    All,
    /// Some were wrong.
    #[n(1)]
    Fewer,
    /// One more wrong one locks it.
    #[n(2)]
    Last,
    /// It is locked.
    #[n(3)]
    Locked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_is_read_in_every_form() {
        for text in ["ab01", "AB01", "0xab01", "0XAB01", "0xaB01"] {
            assert_eq!(parse_key_id(text).unwrap(), [0xAB, 0x01], "{text}");
        }
        for text in ["", "0x", "abc", "xyz1", "0x0xab"] {
            assert!(parse_key_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_must_be_named() {
        assert!(KeyRef::from_config(None, Some("")).is_err());
        assert_eq!(KeyRef::from_config(Some("root"), Some("0x01")).unwrap().to_string(), "key 'root' (id 0x01)");
    }
}
