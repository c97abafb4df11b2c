//! Keys of each algorithm: made, and their public halves.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};

use crate::code::{Refusal, algorithm as a};

/// PKCS#8 of a new pair.
pub fn generate(algorithm: u8) -> Result<Vec<u8>, Refusal> {
    let made = "a key can be made";
    Ok(match algorithm {
        a::RSA_2048 => rsa(KeySize::Rsa2048),
        a::RSA_3072 => rsa(KeySize::Rsa3072),
        a::RSA_4096 => rsa(KeySize::Rsa4096),
        a::EC_P256 | a::EC_P384 | a::EC_P521 => {
            let pair = EcdsaKeyPair::generate(curve(algorithm)?).expect(made);
            pair.to_pkcs8v1().expect(made).as_ref().to_vec()
        }
        a::ED25519 => Ed25519KeyPair::generate().expect(made).to_pkcs8v1().expect(made).as_ref().to_vec(),
        _ => return Err(Refusal::InvalidData),
    })
}

fn rsa(size: KeySize) -> Vec<u8> {
    let pair = RsaKeyPair::generate(size).expect("an RSA key can be made");
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().expect("it can be written");
    pkcs8.as_ref().to_vec()
}

/// The curve, with the hash that its digests are padded or cut to.
pub fn curve(algorithm: u8) -> Result<&'static EcdsaSigningAlgorithm, Refusal> {
    match algorithm {
        a::EC_P256 => Ok(&ECDSA_P256_SHA256_ASN1_SIGNING),
        a::EC_P384 => Ok(&ECDSA_P384_SHA384_ASN1_SIGNING),
        a::EC_P521 => Ok(&ECDSA_P521_SHA512_ASN1_SIGNING),
        _ => Err(Refusal::InvalidData),
    }
}

/// As GET PUBLIC KEY gives it: a modulus, both coordinates, or the 32 bytes of Ed25519.
pub fn public(algorithm: u8, pkcs8: &[u8]) -> Result<Vec<u8>, Refusal> {
    let readable = "it was made here";
    Ok(match algorithm {
        a::RSA_2048 | a::RSA_3072 | a::RSA_4096 => {
            let pair = RsaKeyPair::from_pkcs8(pkcs8).expect(readable);
            modulus(pair.public_key().as_ref(), pair.public_modulus_len())
        }
        a::EC_P256 | a::EC_P384 | a::EC_P521 => {
            let pair = EcdsaKeyPair::from_pkcs8(curve(algorithm)?, pkcs8).expect(readable);
            pair.public_key().as_ref()[1..].to_vec()
        }
        a::ED25519 => Ed25519KeyPair::from_pkcs8(pkcs8).expect(readable).public_key().as_ref().to_vec(),
        _ => return Err(Refusal::InvalidData),
    })
}

/// Of an RSAPublicKey (RFC 8017): the first number, which fills so many bytes.
fn modulus(der: &[u8], bytes: usize) -> Vec<u8> {
    // The exponent 65537 is the last five bytes.
    let end = der.len() - 5;
    der[end - bytes..end].to_vec()
}
