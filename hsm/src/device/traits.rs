//! The driver's side: what a backend implements, and how a call reaches it.

use super::{
    Answer, Call, Challenge, CipherMechanism, CounterAct, Credential, CustodianSignature, DeviceError,
    DeviceErrorClass, DeviceInfo,
};
use super::{Evidence, Hash, KeyInfo, KeyRef, KeySpec, QuoteRequest, SignInput, SignMechanism};
use crate::memory::Secret;

/// A device that holds keys. Calls come from several threads at once and may block.
///
/// What a backend does not override it does not support; only [`info`](Self::info) and
/// [`find`](Self::find) must be there.
pub trait KeyDevice: Send + Sync {
    /// What the device is and can do. Must work without a login.
    fn info(&self) -> Result<DeviceInfo, DeviceError>;

    /// All keys that match; none is an empty list.
    fn find(&self, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError>;

    /// Makes a non-extractable, sensitive, permanent key. A key of that label or id must
    /// not exist yet.
    fn generate(&self, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
        Err(unsupported(&format!("make {} keys", spec.kind)))
    }

    /// Takes a secret key in, as [`generate`](Self::generate) would have made it.
    fn import(&self, spec: &KeySpec, _material: &Secret<Vec<u8>>) -> Result<KeyInfo, DeviceError> {
        Err(unsupported(&format!("import {} keys", spec.kind)))
    }

    /// The public half as SubjectPublicKeyInfo, DER.
    fn public_key(&self, _key: &KeyRef) -> Result<Vec<u8>, DeviceError> {
        Err(unsupported("hold key pairs"))
    }

    /// Signs.
    fn sign(&self, _key: &KeyRef, mechanism: SignMechanism, _input: &SignInput) -> Result<Vec<u8>, DeviceError> {
        Err(unsupported(&format!("sign ({mechanism})")))
    }

    /// Checks a signature.
    fn verify(
        &self,
        _key: &KeyRef,
        mechanism: SignMechanism,
        _input: &SignInput,
        _signature: &[u8],
    ) -> Result<bool, DeviceError> {
        Err(unsupported(&format!("verify ({mechanism})")))
    }

    /// Encrypts. The answer says which mechanism was used in the end.
    fn encrypt(
        &self,
        _key: &KeyRef,
        mechanism: CipherMechanism,
        _plaintext: &Secret<Vec<u8>>,
        _aad: &[u8],
    ) -> Result<Ciphertext, DeviceError> {
        Err(unsupported(&format!("encrypt ({mechanism})")))
    }

    /// Decrypts what [`encrypt`](Self::encrypt) gave.
    fn decrypt(
        &self,
        _key: &KeyRef,
        mechanism: CipherMechanism,
        _ciphertext: &[u8],
        _aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        Err(unsupported(&format!("decrypt ({mechanism})")))
    }

    /// Begins to wait for the signatures of custodians, who have to agree before this is decrypted.
    fn challenge(
        &self,
        _key: &KeyRef,
        mechanism: CipherMechanism,
        _ciphertext: &[u8],
        _aad: &[u8],
        _valid_secs: u32,
    ) -> Result<Challenge, DeviceError> {
        Err(unsupported(&format!("ask custodians ({mechanism})")))
    }

    /// Decrypts what they have signed for.
    fn decrypt_signed(
        &self,
        _key: &KeyRef,
        mechanism: CipherMechanism,
        (_ciphertext, _aad): (&[u8], &[u8]),
        _message: &[u8],
        _signatures: &[CustodianSignature],
    ) -> Result<Secret<Vec<u8>>, DeviceError> {
        Err(unsupported(&format!("ask custodians ({mechanism})")))
    }

    /// ECDH with the peer's uncompressed point: the shared x-coordinate.
    fn derive(&self, _key: &KeyRef, _peer_point: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
        Err(unsupported("derive (ECDH)"))
    }

    /// The tag of a message by HMAC.
    fn mac(&self, _key: &KeyRef, hash: Hash, _message: &[u8]) -> Result<Vec<u8>, DeviceError> {
        Err(unsupported(&format!("do HMAC-{hash}")))
    }

    /// Whether a tag is the message's.
    fn verify_mac(&self, _key: &KeyRef, hash: Hash, _message: &[u8], _tag: &[u8]) -> Result<bool, DeviceError> {
        Err(unsupported(&format!("check HMAC-{hash}")))
    }

    /// A quote of registers, by a key in the device.
    fn attest(&self, _request: &QuoteRequest) -> Result<Evidence, DeviceError> {
        Err(unsupported("quote registers"))
    }

    /// The secret of a credential that was made for this device's keys.
    fn activate(&self, _credential: &Credential) -> Result<Secret<Vec<u8>>, DeviceError> {
        Err(unsupported("open credentials"))
    }

    /// The counter of the configuration, which never goes down.
    fn counter(&self, _act: CounterAct) -> Result<Option<u64>, DeviceError> {
        Err(unsupported("count"))
    }

    /// Random bytes from the device.
    fn random(&self, _len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
        Err(unsupported("give random bytes"))
    }

    /// Destroys a key, all halves of it.
    fn destroy(&self, _key: &KeyRef) -> Result<(), DeviceError> {
        Err(unsupported("destroy keys"))
    }

    /// Logs out and closes what is open; the next call opens it again.
    fn log_out(&self) {}
}

/// What [`KeyDevice::encrypt`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ciphertext {
    /// What was used in the end; `decrypt` needs it.
    pub mechanism: CipherMechanism,
    /// The ciphertext, with IV and tag where the mechanism has them.
    pub bytes: Vec<u8>,
}

/// Carries a call out.
pub(crate) fn dispatch(device: &dyn KeyDevice, call: &Call) -> Result<Answer, DeviceError> {
    match call {
        Call::Info => device.info().map(|info| Answer::Info(Box::new(info))),
        Call::Generate(spec) => device.generate(spec).map(Answer::Key),
        Call::Find(key) => device.find(key).map(Answer::Keys),
        Call::Import { spec, material } => device.import(spec, material).map(Answer::Key),
        Call::PublicKey(key) => device.public_key(key).map(Answer::Bytes),
        Call::Sign { key, mechanism, input } => device.sign(key, *mechanism, input).map(Answer::Bytes),
        Call::Verify { key, mechanism, input, signature } => {
            device.verify(key, *mechanism, input, signature).map(Answer::Verified)
        }
        Call::Encrypt { key, mechanism, plaintext, aad } => device
            .encrypt(key, *mechanism, plaintext, aad)
            .map(|Ciphertext { mechanism, bytes }| Answer::Ciphertext { mechanism, bytes }),
        Call::Decrypt { key, mechanism, ciphertext, aad } => {
            device.decrypt(key, *mechanism, ciphertext, aad).map(Answer::Secret)
        }
        Call::Challenge { key, mechanism, ciphertext, aad, valid_secs } => {
            device.challenge(key, *mechanism, ciphertext, aad, *valid_secs).map(Answer::Challenge)
        }
        Call::DecryptSigned { key, mechanism, ciphertext, aad, message, signatures } => {
            device.decrypt_signed(key, *mechanism, (ciphertext, aad), message, signatures).map(Answer::Secret)
        }
        Call::Attest(request) => device.attest(request).map(|evidence| Answer::Evidence(Box::new(evidence))),
        Call::Activate(credential) => device.activate(credential).map(Answer::Secret),
        Call::Counter(act) => device.counter(*act).map(Answer::Counter),
        Call::Derive { key, peer_point } => device.derive(key, peer_point).map(Answer::Secret),
        Call::Random(len) if *len > Call::MAX_RANDOM_BYTES => Err(DeviceError::invalid(format!(
            "{len} random bytes are too many for one call: ask for at most {}",
            Call::MAX_RANDOM_BYTES
        ))),
        Call::Random(len) => device.random(*len as usize).map(Answer::Secret),
        Call::Destroy(key) => device.destroy(key).map(|()| Answer::Done),
        Call::Mac { key, hash, message } => device.mac(key, *hash, message).map(Answer::Bytes),
        Call::VerifyMac { key, hash, message, tag } => {
            device.verify_mac(key, *hash, message, tag).map(Answer::Verified)
        }
    }
}

fn unsupported(what: &str) -> DeviceError {
    DeviceError::new(DeviceErrorClass::Unsupported, format!("this kind of device does not {what}"))
}
