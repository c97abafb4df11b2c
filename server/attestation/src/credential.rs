//! Credentials (TPM2_MakeCredential; Part 1, 24), made without a TPM: a secret that only the TPM with an endorsement key reads, and
//! only if it holds the attestation key that is named.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{self, OaepPublicEncryptingKey, PublicEncryptingKey};
use zeroize::Zeroizing;

use crate::Doubt;
use crate::public::{NameHash, PublicArea, PublicKey};

/// Bytes of a secret: at most what the endorsement key's hash has.
pub const SECRET_BYTES: usize = 32;
const BLOCK: usize = 16;
/// What seeds of credentials are for, with the zero that belongs to it (Part 1, 24.3).
const IDENTITY: &[u8] = b"IDENTITY\0";

/// A credential, as TPM2_ActivateCredential takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPMS_ID_OBJECT.
    pub blob: Vec<u8>,
    /// The seed, encrypted, or the point that it is agreed by.
    pub secret: Vec<u8>,
}

/// Make one for a fresh secret, which comes with it.
///
/// # Errors
/// If the endorsement key is none that secrets can be sent to.
pub fn make(
    endorsement_key: &PublicArea,
    attestation_key: &PublicArea,
) -> Result<(Credential, Zeroizing<Vec<u8>>), Doubt> {
    if !endorsement_key.only_receives() {
        return Err(Doubt::Refuted(
            "the endorsement key is not fixed to its TPM: a credential for it proves nothing".into(),
        ));
    }
    let hash = endorsement_key.hash();
    let cipher_bits = endorsement_key.cipher_bits().filter(|bits| matches!(bits, 128 | 256));
    let cipher_bits =
        cipher_bits.ok_or_else(|| Doubt::Unknown("the endorsement key has another cipher than AES".into()))?;
    let (seed, sealed_seed) = match &endorsement_key.key {
        PublicKey::Rsa { modulus, exponent } => encrypted_seed(hash, &spki(modulus, *exponent))?,
        PublicKey::P256(point) => agreed_seed(hash, &agreement::ECDH_P256, point)?,
        PublicKey::P384(point) => agreed_seed(hash, &agreement::ECDH_P384, point)?,
    };
    let secret = random(SECRET_BYTES)?;
    let name = attestation_key.name();
    let mut identity = Zeroizing::new([&(SECRET_BYTES as u16).to_be_bytes()[..], &secret].concat());
    cfb(&kdfa(hash, &seed, b"STORAGE", name, cipher_bits), &mut identity);
    let key = kdfa(hash, &seed, b"INTEGRITY", &[], hash.bytes() as u16 * 8);
    let integrity = hash.hmac(&key, &[&identity, name]);
    let blob = [&(integrity.len() as u16).to_be_bytes()[..], &integrity, &identity].concat();
    Ok((Credential { blob, secret: sealed_seed }, secret))
}

type Seed = (Zeroizing<Vec<u8>>, Vec<u8>);

/// A fresh seed, encrypted to an RSA key (Part 1, B.10.3).
fn encrypted_seed(hash: NameHash, spki: &[u8]) -> Result<Seed, Doubt> {
    let seed = random(hash.bytes())?;
    let key = PublicEncryptingKey::from_der(spki).ok().and_then(|key| OaepPublicEncryptingKey::new(key).ok());
    let key = key.ok_or_else(|| Doubt::Unknown("the endorsement key is no RSA key that can be used".into()))?;
    let oaep = match hash {
        NameHash::Sha256 => &rsa::OAEP_SHA256_MGF1SHA256,
        NameHash::Sha384 => &rsa::OAEP_SHA384_MGF1SHA384,
    };
    let mut encrypted = vec![0; key.ciphertext_size()];
    let encrypted = key
        .encrypt(oaep, &seed, &mut encrypted, Some(IDENTITY))
        .map_err(|_| Doubt::Unknown("nothing can be encrypted to the endorsement key".into()))?
        .to_vec();
    Ok((seed, encrypted))
}

/// A seed that an EC key agrees on with a fresh one (Part 1, C.6.1), and the fresh one's point (TPMS_ECC_POINT).
fn agreed_seed(hash: NameHash, curve: &'static agreement::Algorithm, point: &[u8]) -> Result<Seed, Doubt> {
    let unusable = || Doubt::Unknown("nothing can be agreed on with the endorsement key".into());
    let fresh = EphemeralPrivateKey::generate(curve, &SystemRandom::new()).map_err(|_| unusable())?;
    let public = fresh.compute_public_key().map_err(|_| unusable())?;
    let (x, y) = coordinates(public.as_ref());
    let seed = agree_ephemeral(fresh, UnparsedPublicKey::new(curve, point), unusable(), |shared| {
        // KDFe (Part 1, 11.4.10.3): one block of it.
        let parts = [&1_u32.to_be_bytes()[..], shared, IDENTITY, x, coordinates(point).0];
        Ok(Zeroizing::new(hash.digest(&parts)))
    })?;
    let sized = |number: &[u8]| [&(number.len() as u16).to_be_bytes()[..], number].concat();
    Ok((seed, [sized(x), sized(y)].concat()))
}

/// Of an uncompressed point.
fn coordinates(point: &[u8]) -> (&[u8], &[u8]) {
    point[1..].split_at(point.len() / 2)
}

fn random(count: usize) -> Result<Zeroizing<Vec<u8>>, Doubt> {
    let mut bytes = Zeroizing::new(vec![0; count]);
    rand::fill(&mut bytes).map_err(|_| Doubt::Unknown("this system gives no random bytes".into()))?;
    Ok(bytes)
}

/// KDFa (Part 1, 11.4.10.2), up to one block of it.
fn kdfa(hash: NameHash, key: &[u8], label: &[u8], context: &[u8], bits: u16) -> Zeroizing<Vec<u8>> {
    let bits = u32::from(bits);
    let mut derived =
        Zeroizing::new(hash.hmac(key, &[&1_u32.to_be_bytes(), label, &[0], context, &bits.to_be_bytes()]));
    derived.truncate((bits / 8) as usize);
    derived
}

/// AES in CFB mode, from an IV of zeros. The key has 16 or 32 bytes.
fn cfb(key: &[u8], bytes: &mut [u8]) {
    fn with(cipher: &impl BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>, bytes: &mut [u8]) {
        let mut block = [0; BLOCK];
        for part in bytes.chunks_mut(BLOCK) {
            let mut stream = block.into();
            cipher.encrypt_block(&mut stream);
            part.iter_mut().zip(stream.iter()).for_each(|(byte, mask)| *byte ^= mask);
            block[..part.len()].copy_from_slice(part);
        }
    }
    match (Aes128::new_from_slice(key), Aes256::new_from_slice(key)) {
        (Ok(cipher), _) => with(&cipher, bytes),
        (_, Ok(cipher)) => with(&cipher, bytes),
        _ => unreachable!("keys of other lengths were refused"),
    }
}

/// SubjectPublicKeyInfo of an RSA key (RFC 3279, 2.3.1).
fn spki(modulus: &[u8], exponent: u32) -> Vec<u8> {
    const ALGORITHM: &[u8] = &[0x30, 13, 0x06, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 0x05, 0];
    let numbers = [unsigned(modulus), unsigned(&exponent.to_be_bytes())].concat();
    let key = [&[0], &tagged(0x30, &numbers)[..]].concat();
    tagged(0x30, &[ALGORITHM, &tagged(0x03, &key)].concat())
}

fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    let sign: &[u8] = if number.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    tagged(0x02, &[sign, number].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let header = match length {
        0..=0x7F => vec![tag, length as u8],
        0x80..=0xFF => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&header, content].concat()
}
