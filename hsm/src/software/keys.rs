//! What keys in software do: those of `device "software"`, and those of `sys/managed-keys/software`, which the barrier seals.

use aws_lc_rs::agreement::{self, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use hmac::{Hmac, KeyInit, Mac};

use crate::device::{
    CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class, Hash, KeyKind, SignInput, SignMechanism,
};
use crate::gcm;
use crate::memory::Secret;
use crate::verify::imported;

type Result<T> = std::result::Result<T, DeviceError>;

/// A new key.
pub struct Made {
    /// PKCS#8 of a pair, the bytes of a secret key.
    pub private: Secret<Vec<u8>>,
    /// SubjectPublicKeyInfo of a pair.
    pub public: Option<Vec<u8>>,
}

fn failed(text: &str) -> DeviceError {
    DeviceError::new(Class::Failed, text)
}

fn not_made(_: impl std::fmt::Debug) -> DeviceError {
    failed("a key in software cannot be made")
}

fn unreadable(_: KeyRejected) -> DeviceError {
    failed("a key in software cannot be read: its record is damaged")
}

fn unused(_: Unspecified) -> DeviceError {
    failed("a key in software does not do what it is asked")
}

fn unsupported(kind: KeyKind, what: &dyn std::fmt::Display) -> DeviceError {
    DeviceError::unsupported(format!("a key of {kind} in software does not do {what}"))
}

/// Make a key. RSA takes tenths of a second and more.
pub fn generate(kind: KeyKind) -> Result<Made> {
    let pair = |private: &[u8], public: PublicKeyX509Der<'_>| Made {
        private: Secret::new(private.to_vec()),
        public: Some(public.as_ref().to_vec()),
    };
    Ok(match kind {
        KeyKind::Rsa(bits) => {
            let size = match bits {
                2048 => KeySize::Rsa2048,
                3072 => KeySize::Rsa3072,
                4096 => KeySize::Rsa4096,
                _ => return Err(unsupported(kind, &"anything")),
            };
            let made = RsaKeyPair::generate(size).map_err(not_made)?;
            let private: Pkcs8V1Der<'_> = made.as_der().map_err(not_made)?;
            pair(private.as_ref(), made.public_key().as_der().map_err(not_made)?)
        }
        KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => {
            let made = EcdsaKeyPair::generate(ec_of(kind)?).map_err(not_made)?;
            pair(made.to_pkcs8v1().map_err(not_made)?.as_ref(), made.public_key().as_der().map_err(not_made)?)
        }
        KeyKind::Ed25519 => {
            let made = Ed25519KeyPair::generate().map_err(not_made)?;
            pair(made.to_pkcs8v1().map_err(not_made)?.as_ref(), made.public_key().as_der().map_err(not_made)?)
        }
        KeyKind::Aes(256) => {
            let mut bytes = vec![0; gcm::KEY_BYTES];
            getrandom::fill(&mut bytes).map_err(not_made)?;
            Made { private: Secret::new(bytes), public: None }
        }
        KeyKind::Hmac(hash) => {
            let mut bytes = vec![0; hash.digest_bytes()];
            getrandom::fill(&mut bytes).map_err(not_made)?;
            Made { private: Secret::new(bytes), public: None }
        }
        _ => return Err(unsupported(kind, &"anything")),
    })
}

fn ec_of(kind: KeyKind) -> Result<&'static EcdsaSigningAlgorithm> {
    match kind {
        KeyKind::EcP256 => Ok(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyKind::EcP384 => Ok(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyKind::EcP521 => Ok(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
        _ => Err(unsupported(kind, &"ECDSA")),
    }
}

/// Refuse what keys of a kind do not sign with here.
pub fn check_scheme(kind: KeyKind, scheme: SignMechanism) -> Result<()> {
    let is = match (kind, scheme) {
        (KeyKind::Rsa(_), SignMechanism::RsaPkcs1(_) | SignMechanism::RsaPss(_)) => true,
        (KeyKind::EcP256, SignMechanism::Ecdsa(hash)) => hash == Hash::Sha256,
        (KeyKind::EcP384, SignMechanism::Ecdsa(hash)) => hash == Hash::Sha384,
        (KeyKind::EcP521, SignMechanism::Ecdsa(hash)) => hash == Hash::Sha512,
        (kind, scheme) => (kind, scheme) == (KeyKind::Ed25519, SignMechanism::Ed25519),
    };
    if is { Ok(()) } else { Err(unsupported(kind, &scheme)) }
}

/// Sign a message, or a digest that was made elsewhere.
///
/// # Errors
/// `Unsupported` for a way that keys of the kind do not sign, `Invalid` for a digest of another length.
pub fn sign(kind: KeyKind, private: &[u8], scheme: SignMechanism, input: &SignInput) -> Result<Vec<u8>> {
    check_scheme(kind, scheme)?;
    match (kind, scheme.hash()) {
        (KeyKind::Rsa(_), Some(hash)) => {
            let pair = RsaKeyPair::from_pkcs8(private).map_err(unreadable)?;
            let mut signed = vec![0; pair.public_modulus_len()];
            let encoding = rsa_encoding(scheme)?;
            match input {
                SignInput::Message(message) => pair.sign(encoding, &SystemRandom::new(), message, &mut signed),
                SignInput::Digest(given) => pair.sign_digest(encoding, &imported(hash, given)?, &mut signed),
            }
            .map_err(unused)?;
            Ok(signed)
        }
        (KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521, Some(hash)) => {
            let pair = EcdsaKeyPair::from_pkcs8(ec_of(kind)?, private).map_err(unreadable)?;
            let signed = match input {
                SignInput::Message(message) => pair.sign(&SystemRandom::new(), message),
                SignInput::Digest(given) => pair.sign_digest(&imported(hash, given)?),
            };
            Ok(signed.map_err(unused)?.as_ref().to_vec())
        }
        _ => {
            let SignInput::Message(message) = input else {
                return Err(DeviceError::unsupported("Ed25519 signs messages, not digests"));
            };
            let pair = Ed25519KeyPair::from_pkcs8(private).map_err(unreadable)?;
            Ok(pair.sign(message).as_ref().to_vec())
        }
    }
}

fn rsa_encoding(scheme: SignMechanism) -> Result<&'static dyn RsaEncoding> {
    Ok(match scheme {
        SignMechanism::RsaPkcs1(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
        SignMechanism::RsaPkcs1(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
        SignMechanism::RsaPkcs1(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
        SignMechanism::RsaPss(Hash::Sha256) => &signature::RSA_PSS_SHA256,
        SignMechanism::RsaPss(Hash::Sha384) => &signature::RSA_PSS_SHA384,
        SignMechanism::RsaPss(Hash::Sha512) => &signature::RSA_PSS_SHA512,
        other => return Err(DeviceError::unsupported(format!("RSA does not do {other}"))),
    })
}

/// Encrypt: AES-256-GCM with its IV before and its tag behind, or RSA-OAEP.
///
/// # Errors
/// `Unsupported` for another way, `Invalid` for more than RSA takes.
pub fn encrypt(
    kind: KeyKind,
    private: &[u8],
    mechanism: CipherMechanism,
    plaintext: &Secret<Vec<u8>>,
    aad: &[u8],
) -> Result<Ciphertext> {
    let bytes = match (kind, mechanism) {
        (KeyKind::Aes(256), CipherMechanism::AesGcm) => {
            let mut iv = [0; gcm::IV_BYTES];
            getrandom::fill(&mut iv).map_err(|e| DeviceError::new(Class::Failed, format!("no random bytes: {e}")))?;
            [&iv[..], &gcm::seal(aes_key(private)?, iv, plaintext.expose(), aad)].concat()
        }
        (KeyKind::Rsa(_), CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1) => {
            without_aad(aad)?;
            let pair = PrivateDecryptingKey::from_pkcs8(private).map_err(unreadable)?;
            let key = OaepPublicEncryptingKey::new(pair.public_key()).map_err(unused)?;
            let most = key.max_plaintext_size(oaep(mechanism));
            if plaintext.expose().len() > most {
                return Err(DeviceError::invalid(format!("{mechanism} with this key encrypts at most {most} bytes")));
            }
            let mut sealed = vec![0; key.ciphertext_size()];
            let length = key.encrypt(oaep(mechanism), plaintext.expose(), &mut sealed, None).map_err(unused)?.len();
            sealed.truncate(length);
            sealed
        }
        _ => return Err(unsupported(kind, &mechanism)),
    };
    Ok(Ciphertext { mechanism, bytes })
}

/// Decrypt what [`encrypt`] gave, or others encrypted with the public key.
///
/// # Errors
/// `Tampered`.
pub fn decrypt(
    kind: KeyKind,
    private: &[u8],
    mechanism: CipherMechanism,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Secret<Vec<u8>>> {
    let changed = || {
        DeviceError::new(
            Class::Tampered,
            "the ciphertext was changed, or belongs to another key or other data beside it",
        )
    };
    match (kind, mechanism) {
        (KeyKind::Aes(256), CipherMechanism::AesGcm) => {
            let key = aes_key(private)?;
            let opened = ciphertext.split_first_chunk().and_then(|(iv, sealed)| gcm::open(key, *iv, sealed, aad));
            opened.map(Secret::new).ok_or_else(changed)
        }
        (KeyKind::Rsa(_), CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1) => {
            without_aad(aad)?;
            let pair = PrivateDecryptingKey::from_pkcs8(private).map_err(unreadable)?;
            let key = OaepPrivateDecryptingKey::new(pair).map_err(unused)?;
            let mut room = zeroize::Zeroizing::new(vec![0; key.min_output_size()]);
            let opened = key.decrypt(oaep(mechanism), ciphertext, &mut room, None).map_err(|_| changed())?;
            Ok(Secret::new(opened.to_vec()))
        }
        _ => Err(unsupported(kind, &mechanism)),
    }
}

fn oaep(mechanism: CipherMechanism) -> &'static rsa::OaepAlgorithm {
    match mechanism {
        CipherMechanism::RsaOaepSha1 => &rsa::OAEP_SHA1_MGF1SHA1,
        _ => &rsa::OAEP_SHA256_MGF1SHA256,
    }
}

fn without_aad(aad: &[u8]) -> Result<()> {
    if aad.is_empty() { Ok(()) } else { Err(DeviceError::invalid("RSA-OAEP has no associated data")) }
}

fn aes_key(private: &[u8]) -> Result<&[u8; gcm::KEY_BYTES]> {
    private.try_into().map_err(|_| failed("a key in software has another length"))
}

/// The x-coordinate that a key of a NIST curve shares with the peer's uncompressed point (SP 800-56A, 5.7.1.2).
pub fn derive(kind: KeyKind, private: &[u8], peer_point: &[u8]) -> Result<Secret<Vec<u8>>> {
    let curve = match kind {
        KeyKind::EcP256 => &agreement::ECDH_P256,
        KeyKind::EcP384 => &agreement::ECDH_P384,
        KeyKind::EcP521 => &agreement::ECDH_P521,
        _ => return Err(unsupported(kind, &"ECDH")),
    };
    let key = agreement::PrivateKey::from_private_key_der(curve, private).map_err(unreadable)?;
    let no_point = DeviceError::invalid(format!("the peer's public key is no uncompressed point of {kind}"));
    agreement::agree(&key, UnparsedPublicKey::new(curve, peer_point), no_point, |shared| {
        Ok(Secret::new(shared.to_vec()))
    })
}

/// The tag of a message by HMAC (RFC 2104).
pub fn mac(kind: KeyKind, private: &[u8], hash: Hash, message: &[u8]) -> Result<Vec<u8>> {
    fn tag<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Result<Vec<u8>> {
        let mut mac =
            <M as KeyInit>::new_from_slice(key).map_err(|_| failed("a key in software has another length"))?;
        mac.update(message);
        Ok(mac.finalize().into_bytes().to_vec())
    }
    match (kind, hash) {
        (KeyKind::Hmac(Hash::Sha256), Hash::Sha256) => tag::<Hmac<sha2::Sha256>>(private, message),
        (KeyKind::Hmac(Hash::Sha384), Hash::Sha384) => tag::<Hmac<sha2::Sha384>>(private, message),
        (KeyKind::Hmac(Hash::Sha512), Hash::Sha512) => tag::<Hmac<sha2::Sha512>>(private, message),
        _ => Err(unsupported(kind, &format_args!("HMAC-{hash}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::verify;

    const SCHEMES: [(KeyKind, SignMechanism); 6] = [
        (KeyKind::Rsa(2048), SignMechanism::RsaPkcs1(Hash::Sha384)),
        (KeyKind::Rsa(2048), SignMechanism::RsaPss(Hash::Sha512)),
        (KeyKind::EcP256, SignMechanism::Ecdsa(Hash::Sha256)),
        (KeyKind::EcP384, SignMechanism::Ecdsa(Hash::Sha384)),
        (KeyKind::EcP521, SignMechanism::Ecdsa(Hash::Sha512)),
        (KeyKind::Ed25519, SignMechanism::Ed25519),
    ];

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        for (kind, scheme) in SCHEMES {
            let made = generate(kind).unwrap();
            let public = made.public.unwrap();
            let mut inputs = vec![SignInput::Message(b"message".to_vec())];
            inputs.extend(scheme.hash().map(|hash| SignInput::Digest(hash.digest(b"message"))));
            for input in &inputs {
                let signed = sign(kind, made.private.expose(), scheme, input).unwrap();
                // Whichever way it was given, it is the signature of the same message.
                for by in &inputs {
                    assert!(verify(kind, &public, scheme, by, &signed).unwrap(), "{kind}, {scheme}");
                }
                let other = SignInput::Message(b"another".to_vec());
                assert!(!verify(kind, &public, scheme, &other, &signed).unwrap(), "{kind}, {scheme}");
            }
            assert!(!made.private.expose().is_empty());
        }
        let ed = generate(KeyKind::Ed25519).unwrap();
        assert!(
            sign(KeyKind::Ed25519, ed.private.expose(), SignMechanism::Ed25519, &SignInput::Digest(vec![0; 32]))
                .is_err()
        );
    }

    #[test]
    fn what_a_key_closes_it_opens_and_nothing_else() {
        for (kind, mechanism) in [
            (KeyKind::Aes(256), CipherMechanism::AesGcm),
            (KeyKind::Rsa(2048), CipherMechanism::RsaOaepSha256),
            (KeyKind::Rsa(2048), CipherMechanism::RsaOaepSha1),
        ] {
            let (made, other) = (generate(kind).unwrap(), generate(kind).unwrap());
            let plain = Secret::new(b"plaintext".to_vec());
            let sealed = encrypt(kind, made.private.expose(), mechanism, &plain, b"").unwrap();
            let opened = decrypt(kind, made.private.expose(), mechanism, &sealed.bytes, b"").unwrap();
            assert!(opened.ct_eq(b"plaintext"), "{mechanism}");
            assert!(decrypt(kind, other.private.expose(), mechanism, &sealed.bytes, b"").is_err(), "{mechanism}");
        }
        let rsa = generate(KeyKind::Rsa(2048)).unwrap();
        let long = Secret::new(vec![0; 300]);
        let refused = encrypt(KeyKind::Rsa(2048), rsa.private.expose(), CipherMechanism::RsaOaepSha256, &long, b"");
        assert!(refused.unwrap_err().to_string().contains("at most 190 bytes"));
    }
}
