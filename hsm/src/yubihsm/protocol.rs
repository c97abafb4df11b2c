//! Numbers and names of Yubico's command reference.

use crate::device::{DeviceError, Hash, KeyKind};

/// What a YubiHSM is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Command {
    CreateSession = 0x03,
    AuthenticateSession = 0x04,
    SessionMessage = 0x05,
    DeviceInfo = 0x06,
    CloseSession = 0x40,
    GetStorageInfo = 0x41,
    GenerateAsymmetricKey = 0x46,
    SignPkcs1 = 0x47,
    ListObjects = 0x48,
    GetLogEntries = 0x4d,
    GetObjectInfo = 0x4e,
    GetPseudoRandom = 0x51,
    SignHmac = 0x53,
    GetPublicKey = 0x54,
    SignPss = 0x55,
    SignEcdsa = 0x56,
    DeriveEcdh = 0x57,
    DeleteObject = 0x58,
    DecryptOaep = 0x59,
    GenerateHmacKey = 0x5a,
    GenerateWrapKey = 0x5b,
    VerifyHmac = 0x5c,
    SetLogIndex = 0x67,
    WrapData = 0x68,
    UnwrapData = 0x69,
    SignEddsa = 0x6a,
}

/// The code of an answer has this bit.
pub(super) const ANSWER: u8 = 0x80;
/// The code of an answer that is an error.
pub(super) const ERROR: u8 = 0x7f;

/// Why a YubiHSM did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    InvalidCommand,
    InvalidData,
    InvalidSession,
    AuthenticationFailed,
    SessionsFull,
    SessionFailed,
    StorageFailed,
    WrongLength,
    InsufficientPermissions,
    LogFull,
    ObjectNotFound,
    InvalidId,
    ObjectExists,
    AlgorithmDisabled,
    CommandUnexecuted,
    Other(u8),
}

impl Refusal {
    pub(super) fn of(code: u8) -> Self {
        match code {
            0x01 => Self::InvalidCommand,
            0x02 => Self::InvalidData,
            0x03 => Self::InvalidSession,
            0x04 => Self::AuthenticationFailed,
            0x05 => Self::SessionsFull,
            0x06 => Self::SessionFailed,
            0x07 => Self::StorageFailed,
            0x08 => Self::WrongLength,
            0x09 => Self::InsufficientPermissions,
            0x0a => Self::LogFull,
            0x0b => Self::ObjectNotFound,
            0x0c => Self::InvalidId,
            0x11 => Self::ObjectExists,
            0x12 => Self::AlgorithmDisabled,
            0xff => Self::CommandUnexecuted,
            other => Self::Other(other),
        }
    }
}

/// What kind of key an object is; objects of different types may have one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum ObjectType {
    Authentication = 0x02,
    Asymmetric = 0x03,
    Wrap = 0x04,
    Hmac = 0x05,
}

impl ObjectType {
    /// `None`: none that holds keys which are used here.
    pub(super) fn of(code: u8) -> Option<Self> {
        [Self::Authentication, Self::Asymmetric, Self::Wrap, Self::Hmac].into_iter().find(|known| *known as u8 == code)
    }
}

/// What a session, or a key, may do: the bits that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Capabilities(pub(super) u64);

impl Capabilities {
    pub(super) const GENERATE_ASYMMETRIC_KEY: Self = Self(1 << 0x04);
    pub(super) const SIGN_PKCS: Self = Self(1 << 0x05);
    pub(super) const SIGN_PSS: Self = Self(1 << 0x06);
    pub(super) const SIGN_ECDSA: Self = Self(1 << 0x07);
    pub(super) const SIGN_EDDSA: Self = Self(1 << 0x08);
    pub(super) const DECRYPT_OAEP: Self = Self(1 << 0x0a);
    pub(super) const DERIVE_ECDH: Self = Self(1 << 0x0b);
    pub(super) const GENERATE_WRAP_KEY: Self = Self(1 << 0x0f);
    pub(super) const EXPORTABLE_UNDER_WRAP: Self = Self(1 << 0x10);
    pub(super) const GET_PSEUDO_RANDOM: Self = Self(1 << 0x13);
    pub(super) const GENERATE_HMAC_KEY: Self = Self(1 << 0x15);
    pub(super) const SIGN_HMAC: Self = Self(1 << 0x16);
    pub(super) const VERIFY_HMAC: Self = Self(1 << 0x17);
    pub(super) const GET_LOG_ENTRIES: Self = Self(1 << 0x18);
    pub(super) const WRAP_DATA: Self = Self(1 << 0x25);
    pub(super) const UNWRAP_DATA: Self = Self(1 << 0x26);
    pub(super) const DELETE_ASYMMETRIC_KEY: Self = Self(1 << 0x29);
    pub(super) const DELETE_WRAP_KEY: Self = Self(1 << 0x2a);
    pub(super) const DELETE_HMAC_KEY: Self = Self(1 << 0x2b);

    /// As yubihsm-shell names them.
    const NAMES: [(Self, &'static str); 19] = [
        (Self::GENERATE_ASYMMETRIC_KEY, "generate-asymmetric-key"),
        (Self::SIGN_PKCS, "sign-pkcs"),
        (Self::SIGN_PSS, "sign-pss"),
        (Self::SIGN_ECDSA, "sign-ecdsa"),
        (Self::SIGN_EDDSA, "sign-eddsa"),
        (Self::DECRYPT_OAEP, "decrypt-oaep"),
        (Self::DERIVE_ECDH, "derive-ecdh"),
        (Self::GENERATE_WRAP_KEY, "generate-wrap-key"),
        (Self::EXPORTABLE_UNDER_WRAP, "exportable-under-wrap"),
        (Self::GET_PSEUDO_RANDOM, "get-pseudo-random"),
        (Self::GENERATE_HMAC_KEY, "generate-hmac-key"),
        (Self::SIGN_HMAC, "sign-hmac"),
        (Self::VERIFY_HMAC, "verify-hmac"),
        (Self::GET_LOG_ENTRIES, "get-log-entries"),
        (Self::WRAP_DATA, "wrap-data"),
        (Self::UNWRAP_DATA, "unwrap-data"),
        (Self::DELETE_ASYMMETRIC_KEY, "delete-asymmetric-key"),
        (Self::DELETE_WRAP_KEY, "delete-wrap-key"),
        (Self::DELETE_HMAC_KEY, "delete-hmac-key"),
    ];

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn has(self, wanted: Self) -> bool {
        self.lacks(wanted).is_empty()
    }

    /// What of `wanted` is not here, by name.
    pub(super) fn lacks(self, wanted: Self) -> Vec<&'static str> {
        let missing = wanted.0 & !self.0;
        Self::NAMES.iter().filter(|(bit, _)| bit.0 & missing != 0).map(|(_, name)| *name).collect()
    }
}

/// Domains as people count them: `1,3`.
pub(super) fn domains_text(domains: u16) -> String {
    let numbers = (0..16).filter(|bit| domains >> bit & 1 == 1).map(|bit| (bit + 1).to_string());
    match numbers.collect::<Vec<_>>() {
        none if none.is_empty() => "none".to_owned(),
        numbers => numbers.join(","),
    }
}

/// Algorithms that are used here, with the names of yubihsm-shell.
const ALGORITHMS: [(u8, &str); 35] = [
    (RSA_PKCS1_SHA256, "rsa-pkcs1-sha256"),
    (RSA_PKCS1_SHA256 + 1, "rsa-pkcs1-sha384"),
    (RSA_PKCS1_SHA256 + 2, "rsa-pkcs1-sha512"),
    (RSA_PSS_SHA256, "rsa-pss-sha256"),
    (RSA_PSS_SHA256 + 1, "rsa-pss-sha384"),
    (RSA_PSS_SHA256 + 2, "rsa-pss-sha512"),
    (9, "rsa2048"),
    (10, "rsa3072"),
    (11, "rsa4096"),
    (12, "ecp256"),
    (13, "ecp384"),
    (14, "ecp521"),
    (15, "eck256"),
    (16, "ecbp256"),
    (17, "ecbp384"),
    (18, "ecbp512"),
    (19, "hmac-sha1"),
    (20, "hmac-sha256"),
    (21, "hmac-sha384"),
    (22, "hmac-sha512"),
    (ECDH, "ecdh"),
    (OAEP_SHA256, "rsa-oaep-sha256"),
    (29, "aes128-ccm-wrap"),
    (MGF1_SHA256, "mgf1-sha256"),
    (MGF1_SHA256 + 1, "mgf1-sha384"),
    (MGF1_SHA256 + 2, "mgf1-sha512"),
    (38, "aes128-yubico-authentication"),
    (41, "aes192-ccm-wrap"),
    (42, "aes256-ccm-wrap"),
    (ECDSA_SHA256, "ecdsa-sha256"),
    (ECDSA_SHA256 + 1, "ecdsa-sha384"),
    (ECDSA_SHA256 + 2, "ecdsa-sha512"),
    (46, "ed25519"),
    (47, "ecp224"),
    (49, "ecp256-yubico-authentication"),
];

/// The first of three, in the order of [`Hash`].
pub(super) const RSA_PKCS1_SHA256: u8 = 2;
pub(super) const RSA_PSS_SHA256: u8 = 6;
pub(super) const MGF1_SHA256: u8 = 33;
pub(super) const ECDSA_SHA256: u8 = 43;
pub(super) const OAEP_SHA256: u8 = 26;
pub(super) const ECDH: u8 = 24;

/// One of three algorithms that differ in their hash.
pub(super) fn with_hash(first: u8, hash: Hash) -> u8 {
    first
        + match hash {
            Hash::Sha256 => 0,
            Hash::Sha384 => 1,
            Hash::Sha512 => 2,
        }
}

/// `None`: none that is used here.
pub(super) fn algorithm_name(algorithm: u8) -> Option<&'static str> {
    ALGORITHMS.iter().find(|(code, _)| *code == algorithm).map(|(_, name)| *name)
}

/// Kinds of keys and the algorithms that they are.
const KINDS: [(KeyKind, u8); 13] = [
    (KeyKind::Rsa(2048), 9),
    (KeyKind::Rsa(3072), 10),
    (KeyKind::Rsa(4096), 11),
    (KeyKind::EcP256, 12),
    (KeyKind::EcP384, 13),
    (KeyKind::EcP521, 14),
    (KeyKind::Ed25519, 46),
    (KeyKind::AesCcm(128), 29),
    (KeyKind::AesCcm(192), 41),
    (KeyKind::AesCcm(256), 42),
    (KeyKind::Hmac(Hash::Sha256), 20),
    (KeyKind::Hmac(Hash::Sha384), 21),
    (KeyKind::Hmac(Hash::Sha512), 22),
];

pub(super) fn kind_of(algorithm: u8) -> KeyKind {
    KINDS.iter().find(|(_, code)| *code == algorithm).map_or(KeyKind::Other, |(kind, _)| *kind)
}

/// The algorithm of a kind.
///
/// # Errors
/// `Unsupported` for what no YubiHSM has.
pub(super) fn algorithm_of(kind: KeyKind) -> Result<u8, DeviceError> {
    KINDS.iter().find(|(known, _)| *known == kind).map(|(_, code)| *code).ok_or_else(|| {
        DeviceError::unsupported(format!(
            "a YubiHSM makes RSA, EC, Ed25519, HMAC and AES-CCM wrap keys for use here, not {kind}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let has = Capabilities::SIGN_ECDSA.and(Capabilities::WRAP_DATA);
        let wanted = Capabilities::WRAP_DATA.and(Capabilities::UNWRAP_DATA);
        assert_eq!(has.lacks(wanted), ["unwrap-data"]);
        assert!(has.has(Capabilities::SIGN_ECDSA));
        assert_eq!(domains_text(0b101), "1,3");
        assert_eq!(domains_text(0), "none");
        assert_eq!(kind_of(algorithm_of(KeyKind::EcP384).unwrap()), KeyKind::EcP384);
        assert!(algorithm_of(KeyKind::Aes(256)).is_err());
    }
}
