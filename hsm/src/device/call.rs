//! The messages: what is asked and what is answered.

use super::wire::secret_bytes;
use super::{
    Challenge, CipherMechanism, CustodianSignature, DeviceInfo, Hash, KeyInfo, KeyRef, KeySpec, SignInput,
    SignMechanism,
};
use super::{CounterAct, Credential, Evidence, QuoteRequest};
use crate::memory::Secret;
use minicbor::{Decode, Encode};

/// One call to a device.
#[derive(Debug, Encode, Decode)]
pub enum Call {
    /// What the device is and can do. Needs no login. → [`Answer::Info`]
    #[n(0)]
    Info,
    /// Makes a key. → [`Answer::Key`]
    #[n(1)]
    Generate(#[n(0)] KeySpec),
    /// All keys that match; none is an empty list. → [`Answer::Keys`]
    #[n(2)]
    Find(#[n(0)] KeyRef),
    /// Takes a key in. → [`Answer::Key`]
    #[n(3)]
    Import {
        /// How it is to be called and used.
        #[n(0)]
        spec: KeySpec,
        /// The raw secret key.
        #[cbor(n(1), with = "secret_bytes")]
        material: Secret<Vec<u8>>,
    },
    /// The public half as SubjectPublicKeyInfo, DER. → [`Answer::Bytes`]
    #[n(4)]
    PublicKey(#[n(0)] KeyRef),
    /// Signs. → [`Answer::Bytes`]
    #[n(5)]
    Sign {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// How.
        #[n(1)]
        mechanism: SignMechanism,
        /// What.
        #[n(2)]
        input: SignInput,
    },
    /// Checks a signature. → [`Answer::Verified`]
    #[n(6)]
    Verify {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// How it was made.
        #[n(1)]
        mechanism: SignMechanism,
        /// Over what.
        #[n(2)]
        input: SignInput,
        /// The signature.
        #[cbor(n(3), with = "minicbor::bytes")]
        signature: Vec<u8>,
    },
    /// Encrypts. → [`Answer::Ciphertext`]
    #[n(7)]
    Encrypt {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// How; the answer says what it was in the end.
        #[n(1)]
        mechanism: CipherMechanism,
        /// What.
        #[cbor(n(2), with = "secret_bytes")]
        plaintext: Secret<Vec<u8>>,
        /// Associated data; must be empty for OAEP.
        #[cbor(n(3), with = "minicbor::bytes")]
        aad: Vec<u8>,
    },
    /// Decrypts. → [`Answer::Secret`]
    #[n(8)]
    Decrypt {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// As the answer to `Encrypt` said.
        #[n(1)]
        mechanism: CipherMechanism,
        /// As the answer to `Encrypt` said.
        #[cbor(n(2), with = "minicbor::bytes")]
        ciphertext: Vec<u8>,
        /// As given to `Encrypt`.
        #[cbor(n(3), with = "minicbor::bytes")]
        aad: Vec<u8>,
    },
    /// ECDH: the x-coordinate shared with the peer. → [`Answer::Secret`]
    #[n(9)]
    Derive {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// The peer's public point, uncompressed (0x04 ‖ x ‖ y).
        #[cbor(n(1), with = "minicbor::bytes")]
        peer_point: Vec<u8>,
    },
    /// Random bytes from the device, at most [`Call::MAX_RANDOM_BYTES`]. → [`Answer::Secret`]
    #[n(10)]
    Random(#[n(0)] u32),
    /// Destroys a key, all halves of it. → [`Answer::Done`]
    #[n(11)]
    Destroy(#[n(0)] KeyRef),
    /// The tag of a message (HMAC). → [`Answer::Bytes`]
    #[n(12)]
    Mac {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// The key's hash.
        #[n(1)]
        hash: Hash,
        /// Of what.
        #[cbor(n(2), with = "minicbor::bytes")]
        message: Vec<u8>,
    },
    /// Checks the tag of a message. → [`Answer::Verified`]
    #[n(13)]
    VerifyMac {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// The key's hash.
        #[n(1)]
        hash: Hash,
        /// Of what.
        #[cbor(n(2), with = "minicbor::bytes")]
        message: Vec<u8>,
        /// The tag.
        #[cbor(n(3), with = "minicbor::bytes")]
        tag: Vec<u8>,
    },
    /// What custodians have to sign before this is decrypted. The device keeps one challenge; a new one ends it.
    /// → [`Answer::Challenge`]
    #[n(14)]
    Challenge {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// As the answer to `Encrypt` said.
        #[n(1)]
        mechanism: CipherMechanism,
        /// As the answer to `Encrypt` said.
        #[cbor(n(2), with = "minicbor::bytes")]
        ciphertext: Vec<u8>,
        /// As given to `Encrypt`.
        #[cbor(n(3), with = "minicbor::bytes")]
        aad: Vec<u8>,
        /// How long it is to wait for them.
        #[n(4)]
        valid_secs: u32,
    },
    /// Decrypts what custodians have signed for. The challenge ends with it, whatever comes of it. → [`Answer::Secret`]
    #[n(15)]
    DecryptSigned {
        /// With which key.
        #[n(0)]
        key: KeyRef,
        /// As the answer to `Encrypt` said.
        #[n(1)]
        mechanism: CipherMechanism,
        /// As the answer to `Encrypt` said.
        #[cbor(n(2), with = "minicbor::bytes")]
        ciphertext: Vec<u8>,
        /// As given to `Encrypt`.
        #[cbor(n(3), with = "minicbor::bytes")]
        aad: Vec<u8>,
        /// The challenge's message, to know it by.
        #[cbor(n(4), with = "minicbor::bytes")]
        message: Vec<u8>,
        /// What they signed.
        #[n(5)]
        signatures: Vec<CustodianSignature>,
    },
    /// A quote of a TPM's registers. → [`Answer::Evidence`]
    #[n(16)]
    Attest(#[n(0)] QuoteRequest),
    /// Opens a credential that was made for both keys of a TPM. → [`Answer::Secret`]
    #[n(17)]
    Activate(#[n(0)] Credential),
    /// The counter of the configuration. → [`Answer::Counter`]
    #[n(18)]
    Counter(#[n(0)] CounterAct),
}

impl Call {
    /// The most random bytes one call gives.
    pub const MAX_RANDOM_BYTES: u32 = 64 * 1024;

    /// Whether asking twice does no more than asking once, so that it may be repeated
    /// after a helper died with the answer unknown.
    pub fn is_idempotent(&self) -> bool {
        !matches!(self, Self::Generate(_) | Self::Import { .. } | Self::Destroy(_) | Self::DecryptSigned { .. })
    }

    /// For logs and error texts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Generate(_) => "generate",
            Self::Find(_) => "find",
            Self::Import { .. } => "import",
            Self::PublicKey(_) => "public key",
            Self::Sign { .. } => "sign",
            Self::Verify { .. } => "verify",
            Self::Encrypt { .. } => "encrypt",
            Self::Decrypt { .. } => "decrypt",
            Self::Derive { .. } => "derive",
            Self::Random(_) => "random",
            Self::Destroy(_) => "destroy",
            Self::Mac { .. } => "mac",
            Self::VerifyMac { .. } => "verify mac",
            Self::Challenge { .. } => "challenge",
            Self::DecryptSigned { .. } => "decrypt signed",
            Self::Attest(_) => "attest",
            Self::Activate(_) => "activate",
            Self::Counter(_) => "counter",
        }
    }
}

/// The answer to a [`Call`].
#[derive(Debug, Encode, Decode)]
pub enum Answer {
    /// To `Info`.
    #[n(0)]
    Info(#[n(0)] Box<DeviceInfo>),
    /// To `Generate` and `Import`.
    #[n(1)]
    Key(#[n(0)] KeyInfo),
    /// To `Find`.
    #[n(2)]
    Keys(#[n(0)] Vec<KeyInfo>),
    /// To `PublicKey`, `Sign` and `Mac`.
    #[n(3)]
    Bytes(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// To `Verify` and `VerifyMac`.
    #[n(4)]
    Verified(#[n(0)] bool),
    /// To `Encrypt`.
    #[n(5)]
    Ciphertext {
        /// What was used in the end.
        #[n(0)]
        mechanism: CipherMechanism,
        /// The ciphertext, with IV and tag where the mechanism has them.
        #[cbor(n(1), with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// To `Activate`, `Decrypt`, `DecryptSigned`, `Derive` and `Random`.
    #[n(6)]
    Secret(#[cbor(n(0), with = "secret_bytes")] Secret<Vec<u8>>),
    /// To `Destroy`.
    #[n(7)]
    Done,
    /// To `Challenge`.
    #[n(8)]
    Challenge(#[n(0)] Challenge),
    /// To `Attest`.
    #[n(9)]
    Evidence(#[n(0)] Box<Evidence>),
    /// To `Counter`: its value, if it is there.
    #[n(10)]
    Counter(#[n(0)] Option<u64>),
}
