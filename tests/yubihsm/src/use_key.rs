//! Commands that use a key.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, UnparsedPublicKey};
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding, RsaKeyPair};

use crate::code::{ASYMMETRIC_KEY, HMAC_KEY, Refusal, WRAP_KEY, algorithm as a, capability};
use crate::device::{Authority, Device, split_id};
use crate::object::Object;
use crate::{ccm, code, keys};

type Answer = Result<Vec<u8>, Refusal>;

impl Device {
    /// A key that a command names first, which may be used so; and what follows.
    fn key<'a>(
        &self,
        authority: &Authority,
        kind: u8,
        capability: u64,
        data: &'a [u8],
    ) -> Result<(&Object, &'a [u8]), Refusal> {
        let (id, rest) = split_id(data)?;
        authority.must(capability)?;
        let key = self.objects.find(kind, id, authority.domains)?;
        match key.capabilities & capability == capability {
            true => Ok((key, rest)),
            // As firmware before 2.5 says it of a wrap key, by Yubico's own tests of the device.
            false if kind == WRAP_KEY => Err(Refusal::InvalidData),
            false => Err(Refusal::InsufficientPermissions),
        }
    }

    pub fn sign_ecdsa(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, given) = self.key(authority, ASYMMETRIC_KEY, capability::SIGN_ECDSA, data)?;
        let (curve, hash) = match key.algorithm {
            a::EC_P256 => (keys::curve(key.algorithm)?, &digest::SHA256),
            a::EC_P384 => (keys::curve(key.algorithm)?, &digest::SHA384),
            _ => (keys::curve(key.algorithm)?, &digest::SHA512),
        };
        if ![20, 32, 48, 64].contains(&given.len()) {
            return Err(Refusal::WrongLength);
        }
        // Of a longer digest the leftmost bits count; a shorter one is a smaller number.
        let bytes = hash.output_len();
        let mut fitted = vec![0; bytes.saturating_sub(given.len())];
        fitted.extend_from_slice(&given[..given.len().min(bytes)]);
        let pair = EcdsaKeyPair::from_pkcs8(curve, &key.secret).expect("it was made here");
        let signature = pair.sign_digest(&imported(hash, &fitted)?).map_err(|_| Refusal::InvalidData)?;
        Ok(signature.as_ref().to_vec())
    }

    pub fn sign_eddsa(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, message) = self.key(authority, ASYMMETRIC_KEY, capability::SIGN_EDDSA, data)?;
        if key.algorithm != a::ED25519 {
            return Err(Refusal::InvalidData);
        }
        let pair = Ed25519KeyPair::from_pkcs8(&key.secret).expect("it was made here");
        Ok(pair.sign(message).as_ref().to_vec())
    }

    pub fn sign_pkcs1(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, given) = self.key(authority, ASYMMETRIC_KEY, capability::SIGN_PKCS, data)?;
        let encoding: &dyn RsaEncoding = match given.len() {
            32 => &signature::RSA_PKCS1_SHA256,
            48 => &signature::RSA_PKCS1_SHA384,
            64 => &signature::RSA_PKCS1_SHA512,
            _ => return Err(Refusal::WrongLength),
        };
        rsa(key, encoding, given)
    }

    pub fn sign_pss(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, rest) = self.key(authority, ASYMMETRIC_KEY, capability::SIGN_PSS, data)?;
        let [mgf, s0, s1, given @ ..] = rest else { return Err(Refusal::WrongLength) };
        let encoding: &dyn RsaEncoding = match (given.len(), *mgf - a::MGF1_SHA1) {
            (32, 1) => &signature::RSA_PSS_SHA256,
            (48, 2) => &signature::RSA_PSS_SHA384,
            (64, 3) => &signature::RSA_PSS_SHA512,
            _ => return Err(Refusal::InvalidData),
        };
        // A limit of the simulator: other salts are allowed by the device.
        if usize::from(u16::from_be_bytes([*s0, *s1])) != given.len() {
            return Err(Refusal::InvalidData);
        }
        rsa(key, encoding, given)
    }

    pub fn decrypt_oaep(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, rest) = self.key(authority, ASYMMETRIC_KEY, capability::DECRYPT_OAEP, data)?;
        let (mgf, rest) = rest.split_first().ok_or(Refusal::WrongLength)?;
        let (algorithm, hash) = match mgf.wrapping_sub(a::MGF1_SHA1) {
            0 => (&OAEP_SHA1_MGF1SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY),
            1 => (&OAEP_SHA256_MGF1SHA256, &digest::SHA256),
            2 => (&OAEP_SHA384_MGF1SHA384, &digest::SHA384),
            3 => (&OAEP_SHA512_MGF1SHA512, &digest::SHA512),
            _ => return Err(Refusal::InvalidData),
        };
        let pair = PrivateDecryptingKey::from_pkcs8(&key.secret).map_err(|_| Refusal::InvalidData)?;
        let key = OaepPrivateDecryptingKey::new(pair).map_err(|_| Refusal::InvalidData)?;
        let (ciphertext, label) = rest.split_at_checked(key.key_size_bytes()).ok_or(Refusal::WrongLength)?;
        // A limit of the simulator: no label.
        if label != digest::digest(hash, b"").as_ref() {
            return Err(Refusal::InvalidData);
        }
        let mut room = vec![0; key.min_output_size()];
        let opened = key.decrypt(algorithm, ciphertext, &mut room, None).map_err(|_| Refusal::InvalidData)?;
        Ok(opened.to_vec())
    }

    pub fn derive_ecdh(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, point) = self.key(authority, ASYMMETRIC_KEY, capability::DERIVE_ECDH, data)?;
        let curve = match key.algorithm {
            a::EC_P256 => &ECDH_P256,
            a::EC_P384 => &ECDH_P384,
            a::EC_P521 => &ECDH_P521,
            _ => return Err(Refusal::InvalidData),
        };
        let own = agreement::PrivateKey::from_private_key_der(curve, &key.secret).map_err(|_| Refusal::InvalidData)?;
        let peer = UnparsedPublicKey::new(curve, point);
        agreement::agree(&own, peer, Refusal::InvalidData, |shared| Ok(shared.to_vec()))
    }

    pub fn wrap_data(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, plaintext) = self.key(authority, WRAP_KEY, capability::WRAP_DATA, data)?;
        let mut nonce = [0; ccm::NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("random bytes");
        Ok(ccm::seal(&key.secret, nonce, plaintext))
    }

    pub fn unwrap_data(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, sealed) = self.key(authority, WRAP_KEY, capability::UNWRAP_DATA, data)?;
        ccm::open(&key.secret, sealed).ok_or(Refusal::InvalidData)
    }

    pub fn sign_hmac(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, message) = self.key(authority, HMAC_KEY, capability::SIGN_HMAC, data)?;
        Ok(hmac::sign(&hmac_key(key)?, message).as_ref().to_vec())
    }

    pub fn verify_hmac(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (key, rest) = self.key(authority, HMAC_KEY, capability::VERIFY_HMAC, data)?;
        let key = hmac_key(key)?;
        let tag_bytes = hmac::sign(&key, b"").as_ref().len();
        let (tag, message) = rest.split_at_checked(tag_bytes).ok_or(Refusal::WrongLength)?;
        Ok(vec![u8::from(hmac::verify(&key, message, tag).is_ok())])
    }

    pub fn public_key(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (id, _) = split_id(data)?;
        let key = self.objects.find(ASYMMETRIC_KEY, id, authority.domains)?;
        Ok([&[key.algorithm][..], &keys::public(key.algorithm, &key.secret)?].concat())
    }

    pub fn random(&self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(code::capability::GET_PSEUDO_RANDOM)?;
        let (bytes, _) = split_id(data)?;
        if bytes > 2021 {
            return Err(Refusal::InvalidData);
        }
        let mut random = vec![0; usize::from(bytes)];
        getrandom::fill(&mut random).expect("random bytes");
        Ok(random)
    }
}

fn rsa(key: &Object, encoding: &'static dyn RsaEncoding, given: &[u8]) -> Answer {
    let pair = RsaKeyPair::from_pkcs8(&key.secret).map_err(|_| Refusal::InvalidData)?;
    let hash = match given.len() {
        32 => &digest::SHA256,
        48 => &digest::SHA384,
        _ => &digest::SHA512,
    };
    let mut signed = vec![0; pair.public_modulus_len()];
    pair.sign_digest(encoding, &imported(hash, given)?, &mut signed).map_err(|_| Refusal::InvalidData)?;
    Ok(signed)
}

fn imported(hash: &'static digest::Algorithm, given: &[u8]) -> Result<Digest, Refusal> {
    Digest::import_less_safe(given, hash).map_err(|_| Refusal::WrongLength)
}

fn hmac_key(key: &Object) -> Result<hmac::Key, Refusal> {
    let algorithm = match key.algorithm {
        a::HMAC_SHA1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        a::HMAC_SHA256 => hmac::HMAC_SHA256,
        a::HMAC_SHA384 => hmac::HMAC_SHA384,
        a::HMAC_SHA512 => hmac::HMAC_SHA512,
        _ => return Err(Refusal::InvalidData),
    };
    Ok(hmac::Key::new(algorithm, &key.secret))
}
