#![forbid(unsafe_code)]
//! Key shares and root tokens, encrypted to the OpenPGP public keys of those who get them.
//!
//! This is what `pgp_keys` and `root_token_pgp_key` of `sys/init`, `sys/rotate/root/init` and
//! `sys/generate-root` need, and no more: nothing here decrypts, signs or holds a private key.
//!
//! ```no_run
//! # fn main() -> Result<(), holdfast_pgp::PgpError> {
//! # let text = "";
//! let key = holdfast_pgp::PublicKey::parse(text)?; // base64, as the API takes it
//! println!("for {}", key.fingerprint());
//! let message = key.encrypt(b"a share, in hex")?; // `gpg --decrypt` opens it
//! # Ok(()) }
//! ```
//!
//! * [`packets`]: from text to the packets of exactly one whole public key.
//! * [`validity`]: what a key's own signatures say of it: expired, revoked, which part encrypts.
//!
//! A key is judged when it is parsed, so that a ceremony fails before it has made a secret.

mod packets;
mod validity;

use std::fmt;
use std::time::SystemTime;

use pgp::composed::MessageBuilder;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::types::{
    EncryptionKey, EskType, Fingerprint, KeyDetails, KeyId, KeyVersion, PkeskBytes, PublicParams, Timestamp,
};

/// A key's text at most: one with hundreds of signatures of others fits.
pub const MAX_TEXT_BYTES: usize = 512 << 10;

/// Why a key is refused. The texts are complete sentences for whoever sent the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PgpError {
    #[error("the key is empty")]
    Empty,
    #[error("the key's text has {0} bytes, at most {MAX_TEXT_BYTES} are read")]
    TooLong(usize),
    #[error("the key is not base64 (byte {0} of the text); send it as `gpg --export KEY | base64 -w0` prints it")]
    NotBase64(usize),
    #[error("Keybase names are looked up by the client, not by the server; send the key itself, in base64")]
    Keybase,
    #[error("the key's ASCII armour cannot be read: {0}")]
    Armour(String),
    #[error("the key ends in the middle of a packet: it was cut off")]
    Truncated,
    #[error("this is not an OpenPGP public key: {0}")]
    NotAKey(String),
    #[error("the key is malformed: {0}")]
    Malformed(String),
    #[error("this is a private key: it should not leave its owner; send the public one, from `gpg --export`")]
    PrivateKey,
    #[error("there is more than one key in the text; send each by itself, in the order of the shares")]
    SeveralKeys,
    #[error("the key {fingerprint} is of version {version}; only version 4 keys can be used")]
    Version { fingerprint: String, version: u8 },
    #[error("the key {0} has no valid signature of its own: it was changed, or is not complete")]
    NoSelfSignature(String),
    #[error("the key {0} is revoked")]
    Revoked(String),
    #[error("the key {0} has expired")]
    Expired(String),
    #[error("the key {0} was made later than now: compare the clocks")]
    FromTheFuture(String),
    #[error("the key {fingerprint} cannot be encrypted to: {reason}")]
    CannotEncrypt { fingerprint: String, reason: String },
    #[error("encryption to the key failed: {0}")]
    Encryption(String),
}

/// A public key that was whole, valid and able to encrypt when it was parsed.
#[derive(Clone)]
pub struct PublicKey {
    fingerprint: Fingerprint,
    recipient: Recipient,
    cipher: SymmetricKeyAlgorithm,
}

/// The part of a key that messages are encrypted to: a subkey as a rule.
#[derive(Clone, Debug)]
pub(crate) enum Recipient {
    Primary(pgp::packet::PublicKey),
    Subkey(pgp::packet::PublicSubkey),
}

impl PublicKey {
    /// Parse a key: base64 of a binary key or of an armoured one, or the armour itself.
    pub fn parse(text: &str) -> Result<PublicKey, PgpError> {
        PublicKey::parse_at(text, SystemTime::now())
    }

    /// As [`parse`](Self::parse), judging the key's validity as of `now`.
    pub fn parse_at(text: &str, now: SystemTime) -> Result<PublicKey, PgpError> {
        let now =
            Timestamp::try_from(now).map_err(|_| PgpError::Malformed("the clock is out of OpenPGP's range".into()))?;
        let certificate = packets::certificate(text)?;
        let valid = validity::judge(&certificate, now)?;
        Ok(PublicKey {
            fingerprint: certificate.primary_key.fingerprint(),
            recipient: valid.recipient,
            cipher: valid.cipher,
        })
    }

    /// The primary key's fingerprint in lower-case hex, as the API shows it.
    pub fn fingerprint(&self) -> String {
        hex::encode(self.fingerprint.as_bytes())
    }

    /// A binary OpenPGP message: one recipient, integrity-protected (SEIPD version 1), not
    /// compressed, without a file name, so that its length depends on the plaintext's only.
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, PgpError> {
        let fail = |e: pgp::errors::Error| PgpError::Encryption(e.to_string());
        let rng = rand08::rngs::OsRng;
        let mut builder = MessageBuilder::from_bytes("", plaintext.to_vec()).seipd_v1(rng, self.cipher);
        builder.encrypt_to_key(rng, &self.recipient).map_err(fail)?;
        builder.to_vec(rng).map_err(fail)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

macro_rules! either {
    ($self:ident, $k:ident => $e:expr) => {
        match $self {
            Recipient::Primary($k) => $e,
            Recipient::Subkey($k) => $e,
        }
    };
}

impl KeyDetails for Recipient {
    fn version(&self) -> KeyVersion {
        either!(self, k => k.version())
    }
    fn legacy_key_id(&self) -> KeyId {
        either!(self, k => k.legacy_key_id())
    }
    fn fingerprint(&self) -> Fingerprint {
        either!(self, k => k.fingerprint())
    }
    fn algorithm(&self) -> pgp::crypto::public_key::PublicKeyAlgorithm {
        either!(self, k => k.algorithm())
    }
    fn created_at(&self) -> Timestamp {
        either!(self, k => k.created_at())
    }
    fn legacy_v3_expiration_days(&self) -> Option<u16> {
        either!(self, k => k.legacy_v3_expiration_days())
    }
    fn public_params(&self) -> &PublicParams {
        either!(self, k => k.public_params())
    }
}

impl EncryptionKey for Recipient {
    fn encrypt<R: rand08::CryptoRng + rand08::Rng>(
        &self,
        rng: R,
        plain: &[u8],
        typ: EskType,
    ) -> pgp::errors::Result<PkeskBytes> {
        either!(self, k => k.encrypt(rng, plain, typ))
    }
}
