//! Keys in software, for development only: in memory, or in a file of mode 0600. Whoever
//! reads the file has the keys. [`keys`] is what they do; the server's managed keys in software, which the barrier seals, do
//! it by the same code.

mod encrypt;
mod generate;
pub mod keys;
mod sign;
mod store;

use crate::device::{Capabilities, CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class};
use crate::device::{DeviceInfo, Hash, KeyDevice, KeyInfo, KeyKind, KeyRef, KeySpec, KeyUsage, PinTries};
use crate::device::{SignInput, SignMechanism};
use crate::memory::Secret;
use minicbor::{Decode, Encode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::{Store, StoredKey};

/// The `seal "software"` stanza.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SoftwareConfig {
    /// Where the keys are kept; in memory only if not set.
    #[n(0)]
    pub path: Option<String>,
}

const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
const CIPHERS: [CipherMechanism; 3] =
    [CipherMechanism::AesGcm, CipherMechanism::RsaOaepSha256, CipherMechanism::RsaOaepSha1];
const KINDS: [KeyKind; 11] = [
    KeyKind::Aes(256),
    KeyKind::Rsa(2048),
    KeyKind::Rsa(3072),
    KeyKind::Rsa(4096),
    KeyKind::EcP256,
    KeyKind::EcP384,
    KeyKind::EcP521,
    KeyKind::Ed25519,
    KeyKind::Hmac(Hash::Sha256),
    KeyKind::Hmac(Hash::Sha384),
    KeyKind::Hmac(Hash::Sha512),
];
/// The same as tokens list it.
const MECHANISMS: [&str; 15] = [
    "CKM_AES_KEY_GEN",
    "CKM_AES_GCM",
    "CKM_RSA_PKCS_KEY_PAIR_GEN",
    "CKM_RSA_PKCS",
    "CKM_RSA_PKCS_PSS",
    "CKM_RSA_PKCS_OAEP",
    "CKM_EC_KEY_PAIR_GEN",
    "CKM_ECDSA",
    "CKM_ECDH1_DERIVE",
    "CKM_EC_EDWARDS_KEY_PAIR_GEN",
    "CKM_EDDSA",
    "CKM_GENERIC_SECRET_KEY_GEN",
    "CKM_SHA256_HMAC",
    "CKM_SHA384_HMAC",
    "CKM_SHA512_HMAC",
];

/// ECDSA with the hash of the curve's size; RSA with each.
fn signs_with() -> Vec<SignMechanism> {
    let of_hashes = |of: fn(Hash) -> SignMechanism| HASHES.map(of);
    let all = [SignMechanism::RsaPkcs1, SignMechanism::RsaPss, SignMechanism::Ecdsa].map(of_hashes);
    all.into_iter().flatten().chain([SignMechanism::Ed25519]).collect()
}

/// A device that is none. Says so in the log at every start.
pub struct SoftwareDevice {
    store: Mutex<Store>,
}

impl SoftwareDevice {
    /// Reads the keys, if a file is configured and there.
    ///
    /// # Errors
    /// `Config` if the file cannot be read, is readable by others, or is no key file.
    pub fn new(config: &SoftwareConfig) -> Result<Self, DeviceError> {
        let store = Store::open(config)?;
        tracing::warn!(
            place = store.place(),
            "keys are in SOFTWARE, not in a device: for development only, never for real secrets"
        );
        Ok(Self { store: Mutex::new(store) })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyDevice for SoftwareDevice {
    fn info(&self) -> Result<DeviceInfo, DeviceError> {
        let place = self.store().place().to_owned();
        Ok(DeviceInfo {
            backend: "software".to_owned(),
            module: place,
            library: format!("holdfast {}", env!("CARGO_PKG_VERSION")),
            token_label: "software".to_owned(),
            serial: "none".to_owned(),
            model: "development only".to_owned(),
            slot: 0,
            login_required: false,
            mechanisms: MECHANISMS.map(str::to_owned).to_vec(),
            capabilities: Capabilities {
                generate: KINDS.to_vec(),
                import: vec![KeyKind::Aes(256)],
                sign: signs_with(),
                cipher: CIPHERS.to_vec(),
                mac: HASHES.to_vec(),
                derive: true,
                random: true,
                ..Capabilities::default()
            },
            pin_tries: PinTries::All,
            warnings: Vec::new(),
        })
    }

    fn find(&self, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
        Ok(self.store().matching(key).map(StoredKey::info).collect())
    }

    fn generate(&self, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
        generate::generate(&mut self.store(), spec)
    }

    fn import(&self, spec: &KeySpec, material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
        generate::import(&mut self.store(), spec, material)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
        Ok(self.store().one(key)?.public_key(key)?.to_vec())
    }

    fn sign(&self, key: &KeyRef, mechanism: SignMechanism, input: &SignInput) -> Result<Vec<u8>, DeviceError> {
        sign::sign(&self.store(), key, mechanism, input)
    }

    fn verify(
        &self,
        key: &KeyRef,
        mechanism: SignMechanism,
        input: &SignInput,
        signature: &[u8],
    ) -> Result<bool, DeviceError> {
        sign::verify(&self.store(), key, mechanism, input, signature)
    }

    fn mac(&self, key: &KeyRef, hash: Hash, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
        sign::mac(&self.store(), key, hash, message)
    }

    fn verify_mac(&self, key: &KeyRef, hash: Hash, message: &[u8], tag: &[u8]) -> Result<bool, DeviceError> {
        sign::verify_mac(&self.store(), key, hash, message, tag)
    }

    fn derive(&self, key: &KeyRef, peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
        let store = self.store();
        let stored = store.one_for(key, KeyUsage::Derive)?;
        keys::derive(stored.kind, stored.material.expose(), peer_point)
    }

    fn encrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        plaintext: &Secret<Vec<u8>>,
        aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        encrypt::encrypt(&self.store(), key, mechanism, plaintext, aad)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        mechanism: CipherMechanism,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        encrypt::decrypt(&self.store(), key, mechanism, ciphertext, aad)
    }

    fn random(&self, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes)
            .map_err(|error| DeviceError::new(Class::Failed, format!("no random bytes: {error}")))?;
        Ok(Secret::new(bytes))
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), DeviceError> {
        self.store().destroy(key)
    }
}
