//! XAES-256-GCM: AES-256-GCM with a 192-bit nonce, so that random nonces never repeat.
//!
//! Source: C2SP, `XAES-256-GCM.md`. A key for each nonce is derived with CMAC (NIST SP 800-108r1,
//! counter mode), and the rest of the nonce goes into AES-256-GCM.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::AeadInOut;
use zeroize::Zeroize;

use crate::SealError;

pub const KEY_BYTES: usize = 32;
pub const NONCE_BYTES: usize = 24;
pub const TAG_BYTES: usize = 16;

fn derive(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES]) -> Aes256Gcm {
    let cipher = Aes256::new(&(*key).into());
    let mut l = Array::from([0u8; 16]);
    cipher.encrypt_block(&mut l);
    // K1: double L in GF(2^128).
    let mut k1 = [0u8; 16];
    let mut carry = 0;
    for i in (0..16).rev() {
        k1[i] = l[i] << 1 | carry;
        carry = l[i] >> 7;
    }
    k1[15] ^= carry * 0x87;
    let mut derived = [0u8; 32];
    for (counter, half) in [1u8, 2].into_iter().zip(derived.chunks_exact_mut(16)) {
        let mut block = [0u8; 16];
        block[1] = counter;
        block[2] = b'X';
        block[4..].copy_from_slice(&nonce[..12]);
        for (b, k) in block.iter_mut().zip(k1) {
            *b ^= k;
        }
        let mut block = Array::from(block);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
        block.zeroize();
    }
    let gcm = Aes256Gcm::new(&derived.into());
    derived.zeroize();
    k1.zeroize();
    l.zeroize();
    gcm
}

fn key_array(key: &[u8]) -> &[u8; KEY_BYTES] {
    match key.try_into() {
        Ok(k) => k,
        Err(_) => panic!("an XAES-256-GCM key has 32 bytes, this one {}", key.len()),
    }
}

/// Encrypt `buffer[from..]` in place and append the tag.
pub fn seal_in_place(key: &[u8], nonce: &[u8; NONCE_BYTES], aad: &[u8], buffer: &mut Vec<u8>, from: usize) {
    let gcm = derive(key_array(key), nonce);
    let mut rest = [0u8; 12];
    rest.copy_from_slice(&nonce[12..]);
    match gcm.encrypt_inout_detached(&rest.into(), aad, (&mut buffer[from..]).into()) {
        Ok(tag) => buffer.extend_from_slice(&tag),
        // GCM's limit is 64 GiB; entries are bounded far below it.
        Err(_) => panic!("an entry over the limit of GCM"),
    }
}

/// Open ciphertext with its tag at the end.
pub fn open(
    key: &[u8],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    sealed: &[u8],
    what: &'static str,
) -> Result<Vec<u8>, SealError> {
    let Some((body, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else { return Err(SealError::Tampered(what)) };
    let gcm = derive(key_array(key), nonce);
    let mut rest = [0u8; 12];
    rest.copy_from_slice(&nonce[12..]);
    let mut out = body.to_vec();
    gcm.decrypt_inout_detached(&rest.into(), aad, (&mut out[..]).into(), &(*tag).into())
        .map_err(|_| SealError::Tampered(what))?;
    Ok(out)
}

/// A fresh random nonce.
pub fn nonce() -> Result<[u8; NONCE_BYTES], SealError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|e| SealError::Share(format!("the system gives no randomness: {e}")))?;
    Ok(nonce)
}

/// Seal a small record: nonce, ciphertext, tag.
pub fn seal(key: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce = nonce()?;
    let mut out = Vec::with_capacity(NONCE_BYTES + plaintext.len() + TAG_BYTES);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    seal_in_place(key, &nonce, aad, &mut out, NONCE_BYTES);
    Ok(out)
}

/// Open what [`seal`] made.
pub fn unseal(key: &[u8], aad: &[u8], sealed: &[u8], what: &'static str) -> Result<Vec<u8>, SealError> {
    let Some((nonce, body)) = sealed.split_first_chunk::<NONCE_BYTES>() else { return Err(SealError::Tampered(what)) };
    open(key, nonce, aad, body, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(key: u8, aad: &[u8], expected: &str) {
        let key = [key; 32];
        let nonce = *b"ABCDEFGHIJKLMNOPQRSTUVWX";
        let mut out = b"XAES-256-GCM".to_vec();
        seal_in_place(&key, &nonce, aad, &mut out, 0);
        assert_eq!(hex::encode(&out), expected);
        assert_eq!(open(&key, &nonce, aad, &out, "x").unwrap(), b"XAES-256-GCM");
    }

    #[test]
    fn c2sp_vector_with_most_significant_bit_of_l_clear() {
        vector(1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
    }

    #[test]
    fn c2sp_vector_with_most_significant_bit_of_l_set() {
        vector(3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused() {
        let key = [7; 32];
        let sealed = seal(&key, b"place", b"secret").unwrap();
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(unseal(&key, b"place", &bad, "x").is_err());
        }
        assert!(unseal(&key, b"other place", &sealed, "x").is_err());
        assert!(unseal(&key, b"place", &sealed[..20], "x").is_err());
    }
}
