//! Which keys open the store. Who might use one of them through a mount could open a copied store: they are for nothing else.

use holdfast_hsm::device::{CipherMechanism, KeyKind, KeyRef};
use holdfast_seal::locks::{Lock, LockKind, LockList};

use super::Seen;

/// Whether a key of a device is one that wraps the root key. `kind` is the device's, `name` how the key is asked for.
pub fn opens_the_store(locks: &LockList, kind: &str, name: &KeyRef, seen: &Seen) -> bool {
    locks.locks.iter().any(|lock| is_of(lock, kind, name, seen))
}

fn is_of(lock: &Lock, kind: &str, name: &KeyRef, seen: &Seen) -> bool {
    let LockKind::Device { backend } = &lock.kind else { return false };
    // A pair is known by its public half, whatever it is called and however its device is reached.
    if let (Some(of_lock), Some(own)) = (&lock.public_part, &seen.public) {
        return of_lock == own;
    }
    // Which token a lock's is it does not say: keys of one kind and name on two of them are taken for one.
    backend == kind && may_wrap(&lock.mechanism, seen.kind) && is_called_so(lock, name, seen)
}

/// Ids are told apart within a type of objects alone: a wrap key of a YubiHSM may have the id of a pair.
fn may_wrap(mechanism: &str, kind: KeyKind) -> bool {
    match CipherMechanism::from_name(mechanism) {
        Ok(CipherMechanism::AesGcm) => matches!(kind, KeyKind::Aes(_)),
        Ok(CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1) => matches!(kind, KeyKind::Rsa(_)),
        Ok(CipherMechanism::YubiHsmWrap) => matches!(kind, KeyKind::AesCcm(_)),
        Ok(CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned) => kind == KeyKind::TpmStorage,
        // Of a later version: it is not known what it needs.
        Err(_) => true,
    }
}

/// A key without an id is known by its label.
fn is_called_so(lock: &Lock, name: &KeyRef, seen: &Seen) -> bool {
    match lock.key_id.is_empty() {
        false => lock.key_id.eq_ignore_ascii_case(&hex::encode(&seen.id)),
        true => seen.id.is_empty() && name.label.as_deref() == Some(&lock.key_label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_seal::Wrapped;

    fn lock(backend: &str, label: &str, id: &str, mechanism: &str, public: Option<&[u8]>) -> LockList {
        let wrapped = Wrapped {
            ciphertext: Vec::new(),
            key_label: label.into(),
            key_id: id.into(),
            mechanism: mechanism.into(),
            public_part: public.map(<[u8]>::to_vec),
        };
        LockList {
            cluster_id: [0; 16],
            cluster_name: String::new(),
            generation: 1,
            minimum: holdfast_seal::locks::Minimum::Any,
            locks: vec![wrapped.into_lock(backend)],
            recovery: None,
        }
    }

    fn seen(kind: KeyKind, id: &[u8], public: Option<&[u8]>) -> Seen {
        Seen { kind, public: public.map(<[u8]>::to_vec), id: id.to_vec() }
    }

    #[test]
    fn a_secret_key_is_known_by_its_id_or_without_one_by_its_label() {
        let opens = |list: &LockList, label: &str, id: &[u8]| {
            let name = KeyRef { label: Some(label.into()), id: None };
            opens_the_store(list, "pkcs11", &name, &seen(KeyKind::Aes(256), id, None))
        };
        let by_id = lock("pkcs11", "root", "0aff", "CKM_AES_GCM", None);
        assert!(
            opens(&by_id, "whatever", &[0x0A, 0xFF]) && !opens(&by_id, "root", &[1]) && !opens(&by_id, "root", &[])
        );
        let by_label = lock("pkcs11", "root", "", "CKM_AES_GCM", None);
        assert!(opens(&by_label, "root", &[]) && !opens(&by_label, "another", &[]) && !opens(&by_label, "root", &[1]));
    }

    #[test]
    fn ids_are_told_apart_by_the_type_of_their_object_and_by_the_kind_of_device() {
        let wrap_key = lock("yubihsm", "root", "0064", "YUBIHSM_WRAP_DATA/AES-CCM", None);
        let opens = |kind: &str, seen: &Seen| opens_the_store(&wrap_key, kind, &KeyRef::id([0, 0x64]), seen);
        assert!(opens("yubihsm", &seen(KeyKind::AesCcm(256), &[0, 0x64], None)));
        assert!(!opens("yubihsm", &seen(KeyKind::EcP256, &[0, 0x64], Some(b"public"))), "a pair of the same id");
        assert!(!opens("yubihsm", &seen(KeyKind::Hmac(holdfast_hsm::device::Hash::Sha256), &[0, 0x64], None)));
        assert!(!opens("pkcs11", &seen(KeyKind::AesCcm(256), &[0, 0x64], None)));
    }

    #[test]
    fn a_pair_is_known_by_its_public_half() {
        let pair = lock("pkcs11", "root", "01", "CKM_RSA_PKCS_OAEP/SHA256", Some(b"public"));
        let opens = |kind: &str, seen: &Seen| opens_the_store(&pair, kind, &KeyRef::label("x"), seen);
        assert!(opens("pkcs11", &seen(KeyKind::Rsa(2048), &[9], Some(b"public"))), "whatever it is called");
        assert!(opens("yubihsm", &seen(KeyKind::Rsa(2048), &[9], Some(b"public"))), "however it is reached");
        assert!(!opens("pkcs11", &seen(KeyKind::Rsa(2048), &[1], Some(b"another"))), "another of the same id");
        assert!(!opens("pkcs11", &seen(KeyKind::Aes(256), &[1], None)), "a secret key of the same id");
    }
}
