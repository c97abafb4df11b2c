//! What a managed key is for, as `mechanism`, `usages`, `key_bits` and `curve` say it.

use holdfast_hsm::device::{CipherMechanism, KeyKind, KeyUsage, SignMechanism};
use holdfast_sdk::{Error, Result};
use minicbor::{Decode, Encode};

/// The mechanism of a managed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Mechanism {
    /// RSA signatures, PKCS#1 v1.5 or PSS as each use asks.
    #[n(0)]
    RsaPkcs,
    /// RSA signatures, PSS alone.
    #[n(1)]
    RsaPss,
    #[n(2)]
    RsaOaep,
    #[n(3)]
    Ecdsa,
    #[n(4)]
    Eddsa,
    #[n(5)]
    AesGcm,
}

/// Names and numbers of PKCS#11 3.0.
const NAMES: [(Mechanism, &str, u64); 6] = [
    (Mechanism::RsaPkcs, "CKM_RSA_PKCS", 0x0001),
    (Mechanism::RsaPss, "CKM_RSA_PKCS_PSS", 0x000d),
    (Mechanism::RsaOaep, "CKM_RSA_PKCS_OAEP", 0x0009),
    (Mechanism::Ecdsa, "CKM_ECDSA", 0x1041),
    (Mechanism::Eddsa, "CKM_EDDSA", 0x1057),
    (Mechanism::AesGcm, "CKM_AES_GCM", 0x1087),
];

impl Mechanism {
    /// By name, with or without `CKM_`, or by number, in base 10 or with `0x` in base 16.
    pub fn parse(text: &str) -> Result<Mechanism> {
        let text = text.trim();
        let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
        let number = digits.map_or_else(|| text.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok());
        let is = |name: &str| text.eq_ignore_ascii_case(name) || text.eq_ignore_ascii_case(&name[4..]);
        let found = NAMES.iter().find(|(_, name, value)| number == Some(*value) || is(name));
        found.map(|(mechanism, ..)| *mechanism).ok_or_else(|| {
            let all: Vec<String> = NAMES.iter().map(|(_, name, value)| format!("{name} ({value:#06x})")).collect();
            Error::bad_request(format!("mechanism {text:?} is not one of {}", all.join(", ")))
        })
    }

    fn entry(self) -> (&'static str, u64) {
        NAMES.iter().find(|(of, ..)| *of == self).map_or(("", 0), |(_, name, value)| (name, *value))
    }

    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// As clients of Vault write it.
    pub fn number(self) -> String {
        format!("{:#06x}", self.entry().1)
    }

    /// What a key that is made for it may be used for.
    pub fn usage(self) -> KeyUsage {
        match self {
            Mechanism::RsaPkcs | Mechanism::RsaPss | Mechanism::Ecdsa | Mechanism::Eddsa => KeyUsage::Sign,
            Mechanism::RsaOaep | Mechanism::AesGcm => KeyUsage::Encrypt,
        }
    }

    /// Whether a key of that kind can be used so.
    pub fn fits(self, kind: KeyKind) -> bool {
        match self {
            Mechanism::RsaPkcs | Mechanism::RsaPss | Mechanism::RsaOaep => matches!(kind, KeyKind::Rsa(_)),
            Mechanism::Ecdsa => matches!(kind, KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521),
            Mechanism::Eddsa => kind == KeyKind::Ed25519,
            Mechanism::AesGcm => matches!(kind, KeyKind::Aes(_)),
        }
    }

    pub fn signs(self, scheme: SignMechanism) -> bool {
        match self {
            Mechanism::RsaPkcs => matches!(scheme, SignMechanism::RsaPkcs1(_) | SignMechanism::RsaPss(_)),
            Mechanism::RsaPss => matches!(scheme, SignMechanism::RsaPss(_)),
            Mechanism::Ecdsa => matches!(scheme, SignMechanism::Ecdsa(_)),
            Mechanism::Eddsa => scheme == SignMechanism::Ed25519,
            Mechanism::RsaOaep | Mechanism::AesGcm => false,
        }
    }

    pub fn encrypts(self, with: CipherMechanism) -> bool {
        match self {
            Mechanism::RsaOaep => matches!(with, CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1),
            Mechanism::AesGcm => with == CipherMechanism::AesGcm,
            _ => false,
        }
    }

    /// The kind of a key that is to be made, or that is expected: `None` where nothing says which one.
    pub fn wanted(self, bits: Option<u32>, curve: Option<&str>) -> Result<Option<KeyKind>> {
        if curve.is_some() && self != Mechanism::Ecdsa {
            return Err(Error::bad_request(format!("'curve' is for CKM_ECDSA, not for {}", self.name())));
        }
        let only = |kind: KeyKind, own: u32| match bits {
            None => Ok(Some(kind)),
            Some(bits) if bits == own => Ok(Some(kind)),
            Some(bits) => Err(Error::bad_request(format!("a key for {} has {own} bits, not {bits}", self.name()))),
        };
        match self {
            Mechanism::RsaPkcs | Mechanism::RsaPss | Mechanism::RsaOaep => match bits {
                None => Ok(None),
                Some(bits @ (2048 | 3072 | 4096)) => Ok(Some(KeyKind::Rsa(bits))),
                Some(bits) => Err(Error::bad_request(format!("key_bits {bits} is not 2048, 3072 or 4096"))),
            },
            Mechanism::Ecdsa => match curve.map(|curve| curve.to_ascii_uppercase().replace('-', "")).as_deref() {
                None if bits.is_some() => {
                    Err(Error::bad_request("'key_bits' is for RSA; set 'curve' to P256, P384 or P521"))
                }
                None => Ok(None),
                Some("P256") => Ok(Some(KeyKind::EcP256)),
                Some("P384") => Ok(Some(KeyKind::EcP384)),
                Some("P521") => Ok(Some(KeyKind::EcP521)),
                Some(_) => {
                    Err(Error::bad_request("'curve' is P256, P384 or P521: others are not used in devices here"))
                }
            },
            Mechanism::Eddsa => only(KeyKind::Ed25519, 256),
            Mechanism::AesGcm => only(KeyKind::Aes(256), 256),
        }
    }
}

/// What `usages` may name.
pub const USAGES: [&str; 9] =
    ["encrypt", "decrypt", "sign", "verify", "wrap", "unwrap", "mac", "random", "generate_random"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mechanism_is_read_as_clients_write_it() {
        for (mechanism, name, value) in NAMES {
            for text in [name.to_owned(), name[4..].to_lowercase(), value.to_string(), format!("{value:#x}")] {
                assert_eq!(Mechanism::parse(&text).unwrap(), mechanism, "{text}");
            }
            assert_eq!(Mechanism::parse(&mechanism.number()).unwrap(), mechanism);
        }
        let refused = Mechanism::parse("CKM_DES3_CBC").unwrap_err().to_string();
        assert!(refused.contains("CKM_RSA_PKCS_PSS (0x000d)"), "{refused}");
    }

    #[test]
    fn a_kind_that_does_not_fit_is_refused() {
        assert_eq!(Mechanism::RsaPkcs.wanted(Some(3072), None).unwrap(), Some(KeyKind::Rsa(3072)));
        assert_eq!(Mechanism::Ecdsa.wanted(None, Some("p-384")).unwrap(), Some(KeyKind::EcP384));
        assert_eq!(Mechanism::Ecdsa.wanted(None, Some("P521")).unwrap(), Some(KeyKind::EcP521));
        assert!(Mechanism::Ecdsa.wanted(None, Some("P224")).is_err());
        assert_eq!(Mechanism::Eddsa.wanted(None, None).unwrap(), Some(KeyKind::Ed25519));
        assert!(Mechanism::RsaPkcs.wanted(Some(1024), None).is_err());
        assert!(Mechanism::Ecdsa.wanted(Some(256), None).is_err());
        assert!(Mechanism::RsaPss.wanted(Some(2048), Some("P256")).is_err());
        assert!(Mechanism::AesGcm.wanted(Some(128), None).is_err());
    }
}
