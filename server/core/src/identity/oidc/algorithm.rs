//! Signature algorithms of identity tokens (RFC 7518, RFC 8037), over aws-lc.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Error, Map, Result, Value};
use minicbor::{Decode, Encode};

/// `alg` of a token's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Algorithm {
    #[n(0)]
    Rs256,
    #[n(1)]
    Rs384,
    #[n(2)]
    Rs512,
    #[n(3)]
    Es256,
    #[n(4)]
    Es384,
    #[n(5)]
    Es512,
    #[n(6)]
    EdDsa,
}

/// In the order in which they are published.
pub const ALL: [Algorithm; 7] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::EdDsa,
];

/// A new key pair.
pub struct Pair {
    /// PKCS#8.
    pub private: Secret<Vec<u8>>,
    /// RSAPublicKey (RFC 8017), the uncompressed point, or the 32 bytes of Ed25519.
    pub public: Vec<u8>,
}

enum Family {
    Rsa(&'static dyn RsaEncoding),
    Ec(&'static EcdsaSigningAlgorithm, &'static str),
    Ed25519,
}

fn failed(what: &str) -> Error {
    Error::Internal(format!("a signing key of identity tokens {what}"))
}

impl Algorithm {
    pub fn named(name: &str) -> Option<Algorithm> {
        ALL.into_iter().find(|a| a.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    fn family(self) -> Family {
        match self {
            Algorithm::Rs256 => Family::Rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::Rs384 => Family::Rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::Rs512 => Family::Rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::Es256 => Family::Ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::Es384 => Family::Ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::Es512 => Family::Ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            Algorithm::EdDsa => Family::Ed25519,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
        }
    }

    /// The hash of `at_hash` and `c_hash` (OpenID Connect Core, 3.1.3.6).
    pub fn half_hash(self, text: &str) -> String {
        use sha2::{Digest, Sha256, Sha384, Sha512};
        let hash = match self {
            Algorithm::Rs256 | Algorithm::Es256 => Sha256::digest(text).to_vec(),
            Algorithm::Rs384 | Algorithm::Es384 => Sha384::digest(text).to_vec(),
            Algorithm::Rs512 | Algorithm::Es512 | Algorithm::EdDsa => Sha512::digest(text).to_vec(),
        };
        URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2])
    }

    /// Whether its private operations take so long that no async thread may wait for them.
    pub fn is_slow(self) -> bool {
        matches!(self.family(), Family::Rsa(_))
    }

    /// Make a key pair; with RSA that takes tenths of a second.
    pub fn generate(self) -> Result<Pair> {
        let not_made = |_| failed("cannot be made");
        match self.family() {
            Family::Rsa(_) => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(not_made)?;
                let private: Pkcs8V1Der<'_> = pair.as_der().map_err(not_made)?;
                Ok(Pair::of(private.as_ref(), pair.public_key().as_ref()))
            }
            Family::Ec(algorithm, _) => {
                let pair = EcdsaKeyPair::generate(algorithm).map_err(not_made)?;
                Ok(Pair::of(pair.to_pkcs8v1().map_err(not_made)?.as_ref(), pair.public_key().as_ref()))
            }
            Family::Ed25519 => {
                let pair = Ed25519KeyPair::generate().map_err(not_made)?;
                Ok(Pair::of(pair.to_pkcs8v1().map_err(not_made)?.as_ref(), pair.public_key().as_ref()))
            }
        }
    }

    /// The signature of a text, in the form of JWS.
    pub fn sign(self, private: &[u8], text: &[u8]) -> Result<Vec<u8>> {
        let unreadable = |_| failed("cannot be read");
        match self.family() {
            Family::Rsa(encoding) => {
                let pair = RsaKeyPair::from_pkcs8(private).map_err(unreadable)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), text, &mut signature).map_err(|_| failed("does not sign"))?;
                Ok(signature)
            }
            Family::Ec(algorithm, _) => {
                let pair = EcdsaKeyPair::from_pkcs8(algorithm, private).map_err(unreadable)?;
                let signature = pair.sign(&SystemRandom::new(), text).map_err(|_| failed("does not sign"))?;
                Ok(signature.as_ref().to_vec())
            }
            Family::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8(private).map_err(unreadable)?;
                Ok(pair.sign(text).as_ref().to_vec())
            }
        }
    }

    pub fn verifies(self, public: &[u8], text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.verification(), public).verify(text, signature).is_ok()
    }

    /// The public key as a JWK (RFC 7517).
    pub fn jwk(self, kid: &str, public: &[u8]) -> Result<Map<String, Value>> {
        let encoded = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let broken = || failed("is broken");
        let (kty, parts) = match self.family() {
            Family::Rsa(_) => {
                let (modulus, exponent) = rsa_numbers(public).ok_or_else(broken)?;
                ("RSA", vec![("n", encoded(modulus)), ("e", encoded(exponent))])
            }
            Family::Ec(_, curve) => {
                let point = public.strip_prefix(&[4]).filter(|p| p.len() % 2 == 0).ok_or_else(broken)?;
                let (x, y) = point.split_at(point.len() / 2);
                ("EC", vec![("crv", curve.into()), ("x", encoded(x)), ("y", encoded(y))])
            }
            Family::Ed25519 => ("OKP", vec![("crv", "Ed25519".into()), ("x", encoded(public))]),
        };
        let mut jwk =
            super::map([("use", "sig".into()), ("kty", kty.into()), ("kid", kid.into()), ("alg", self.name().into())]);
        jwk.extend(parts.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(jwk)
    }
}

impl Pair {
    fn of(private: &[u8], public: &[u8]) -> Pair {
        Pair { private: Secret::new(private.to_vec()), public: public.to_vec() }
    }
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017, A.1.1), without leading zeros.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, rest) = element(der, 0x30)?;
    let (modulus, after) = element(sequence, 0x02)?;
    let (exponent, end) = element(after, 0x02)?;
    let plain = |number: &'_ [u8]| number.iter().position(|b| *b != 0);
    (rest.is_empty() && end.is_empty()).then_some(())?;
    Some((modulus.get(plain(modulus)?..)?, exponent.get(plain(exponent)?..)?))
}

/// What a DER element of a tag holds, and what is behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=127 => (usize::from(length), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_algorithm_signs_it_verifies_and_nothing_else() {
        for algorithm in ALL {
            let (pair, other) = (algorithm.generate().unwrap(), algorithm.generate().unwrap());
            let signature = algorithm.sign(pair.private.expose(), b"text").unwrap();
            assert!(algorithm.verifies(&pair.public, b"text", &signature), "{}", algorithm.name());
            assert!(!algorithm.verifies(&pair.public, b"texx", &signature));
            assert!(!algorithm.verifies(&other.public, b"text", &signature));
            let jwk = algorithm.jwk("k", &pair.public).unwrap();
            assert_eq!(jwk["alg"], algorithm.name());
        }
    }

    #[test]
    fn a_modulus_is_published_without_the_zero_that_der_puts_before_it() {
        let public = Algorithm::Rs256.generate().unwrap().public;
        let (modulus, exponent) = rsa_numbers(&public).unwrap();
        assert_eq!((modulus.len(), exponent), (256, &[1, 0, 1][..]));
        assert!(modulus[0] & 0x80 != 0);
        assert_eq!(rsa_numbers(&public[..public.len() - 1]), None);
    }
}
