//! Keys that engines use and never have: `sys/managed-keys`, in a device or in software.

pub use holdfast_hsm::device::{CipherMechanism, Ciphertext, Hash, KeyKind, SignInput, SignMechanism};
use holdfast_hsm::memory::Secret;

use crate::{Result, Work};

/// A key of `sys/managed-keys` that a mount may use ([`Transaction::managed_key`](crate::Transaction::managed_key)).
///
/// What it does takes time and happens outside the transaction, in [`prepare`](crate::Backend::prepare) or an
/// [`effect`](crate::Backend::effect). What the device does not do, or the key is not for, is an error that says so; nothing
/// is done in software for a device that does not do it. A key that is lost, or another than the one that was recorded, is
/// said as such. A device that is away is [`Unavailable`](crate::Error::Unavailable).
pub trait ManagedKey: Send + Sync {
    /// Its name below `sys/managed-keys/TYPE/`.
    fn name(&self) -> &str;

    /// It stays when the key's settings change. Who keeps a reference to a key keeps this.
    fn uuid(&self) -> [u8; 16];

    fn kind(&self) -> KeyKind;

    /// The public half, SubjectPublicKeyInfo (DER), as it was recorded; `None`: it is a secret key.
    fn public_key(&self) -> Option<&[u8]>;

    /// Refuse a way to sign that the key, its allowed usages or its device do not have, before anything depends on it.
    fn check_scheme(&self, scheme: SignMechanism) -> Work<'_, Result<()>>;

    /// Sign a message, or a digest of the scheme's hash.
    fn sign(&self, scheme: SignMechanism, input: SignInput) -> Work<'_, Result<Vec<u8>>>;

    /// Check a signature by the public key. That needs no device.
    fn verify(&self, scheme: SignMechanism, input: &SignInput, signature: &[u8]) -> Result<bool>;

    /// Encrypt. The answer says which mechanism was used in the end.
    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        plaintext: Secret<Vec<u8>>,
        aad: Vec<u8>,
    ) -> Work<'_, Result<Ciphertext>>;

    /// Decrypt what [`encrypt`](ManagedKey::encrypt) gave, or what others encrypted to the public half.
    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        ciphertext: Vec<u8>,
        aad: Vec<u8>,
    ) -> Work<'_, Result<Secret<Vec<u8>>>>;
}
