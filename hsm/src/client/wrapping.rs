//! What the seal asks of a device: a key that wraps the root key, and wrapping with it.
//!
//! With AES-GCM the device encrypts the secret itself. With RSA-OAEP and a YubiHSM's Wrap Data, which hold little
//! and no associated data, it encrypts a fresh AES-256 key that is used once, and the
//! secret is encrypted under that; a TPM's helper does the same with a key that the TPM seals.
//! In each way nothing opens without the device.

use super::DeviceClient;
use super::mismatch;
use crate::device::{Answer, Call, Challenge, CustodianSignature};
use crate::device::{CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass as Class};
use crate::device::{DeviceInfo, KeyInfo, KeyKind, KeyRef, KeySpec, KeyUsage};
use crate::gcm;
use crate::memory::{Key, MemoryError, Secret};
use crate::pkcs11::Pkcs11Config;
use crate::tpm::TpmConfig;
use crate::yubihsm::YubiHsmConfig;
use std::time::Duration;
use zeroize::Zeroizing;

/// What says which custodians a wrapped key asks for, and how many of them: equal where they are the same. None: it asks for
/// none, or is of no form that is known.
pub fn custodians_of(wrapped: &[u8]) -> Option<&[u8]> {
    /// Of the fields in the header of a TPM's driver (`sealed::Header`), the one that holds them.
    const QUORUM: u64 = 6;
    let [FORMAT, TPM_SEAL_SIGNED, high, low, rest @ ..] = wrapped else { return None };
    let header = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    let mut fields = minicbor::Decoder::new(header);
    if fields.array().ok()?? <= QUORUM {
        return None;
    }
    for _ in 0..QUORUM {
        fields.skip().ok()?;
    }
    let start = fields.position();
    fields.skip().ok()?;
    header.get(start..fields.position())
}

/// Which wrapping key, as a `seal` stanza says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrapKeyConfig {
    /// CKA_LABEL.
    pub key_label: Option<String>,
    /// CKA_ID in hex, with or without `0x`.
    pub key_id: Option<String>,
    /// `CKM_AES_GCM` or `CKM_RSA_PKCS_OAEP`, or a TPM's or YubiHSM's own; chosen by the token if not set.
    pub mechanism: Option<String>,
    /// Whether to make the key if it is missing.
    pub generate_key: bool,
}

impl From<&Pkcs11Config> for WrapKeyConfig {
    fn from(config: &Pkcs11Config) -> Self {
        Self {
            key_label: config.key_label.clone(),
            key_id: config.key_id.clone(),
            mechanism: config.mechanism.clone(),
            generate_key: config.generate_key,
        }
    }
}

impl From<&TpmConfig> for WrapKeyConfig {
    /// A TPM has one key that wraps: its storage root key.
    fn from(config: &TpmConfig) -> Self {
        let mechanism = match config.custodians {
            Some(_) => CipherMechanism::TpmSealSigned,
            None => CipherMechanism::TpmSeal,
        };
        Self {
            key_label: Some(TpmConfig::ROOT_LABEL.to_owned()),
            mechanism: Some(mechanism.name().to_owned()),
            ..Self::default()
        }
    }
}

impl From<&YubiHsmConfig> for WrapKeyConfig {
    fn from(config: &YubiHsmConfig) -> Self {
        Self {
            key_label: config.key_label.clone(),
            key_id: config.key_id.map(|id| hex::encode(id.to_be_bytes())),
            mechanism: Some(CipherMechanism::YubiHsmWrap.name().to_owned()),
            generate_key: config.generate_key,
        }
    }
}

/// A wrapping key that is there and has been tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapKeyInfo {
    /// CKA_LABEL.
    pub key_label: String,
    /// CKA_ID.
    pub key_id: Vec<u8>,
    /// How it wraps; for OAEP, the hash that the token was seen to do.
    pub mechanism: CipherMechanism,
    /// SubjectPublicKeyInfo (DER) of an RSA key, with which others can wrap for it.
    pub public_part: Option<Vec<u8>>,
}

impl WrapKeyInfo {
    fn key_ref(&self) -> KeyRef {
        match self.key_id.is_empty() {
            true => KeyRef::label(&self.key_label),
            false => KeyRef::id(self.key_id.clone()),
        }
    }
}

/// The least that a key which wraps the root key must be.
const LEAST_RSA_BITS: u32 = 2048;
const LEAST_AES_BITS: u32 = 256;

/// First byte of what [`DeviceClient::wrap`] gives.
const FORMAT: u8 = 1;

impl DeviceClient {
    /// Finds the wrapping key, or makes it where `generate_key` says so, and proves that
    /// it opens what it closes.
    ///
    /// # Errors
    /// `KeyMissing`, `Config` (bad names, a mechanism the token or key does not do),
    /// and all that the device may say.
    pub fn ensure_wrapping_key(&self, config: &WrapKeyConfig) -> Result<WrapKeyInfo, DeviceError> {
        let key = KeyRef::from_config(config.key_label.as_deref(), config.key_id.as_deref())?;
        let wanted =
            config.mechanism.as_deref().filter(|m| !m.is_empty()).map(CipherMechanism::from_name).transpose()?;
        let info = self.info()?;
        let can = &info.capabilities;
        let tells = tells_what_is_missing(&info);
        if let Some(mechanism) = wanted
            && !tells
            && !can.cipher.iter().any(|m| family(*m) == family(mechanism))
        {
            return Err(DeviceError::config(format!(
                "token '{}' does not do {mechanism}: leave 'mechanism' out or set one of its own ({})",
                info.token_label,
                can.cipher.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ")
            )));
        }
        if can.cipher.is_empty() && !tells {
            return Err(cannot_wrap(&info.token_label, "lists none of them"));
        }
        match self.existing(&key, wanted)? {
            Some(found) => self.proved(found, wanted),
            None if config.generate_key => self.made(&key, wanted, &info),
            None => Err(DeviceError::new(
                Class::KeyMissing,
                format!(
                    "no {key} that can wrap is on token '{}': check 'key_label' and 'key_id', or set 'generate_key = true'",
                    info.token_label
                ),
            )),
        }
    }

    /// Wraps a secret: only the device opens it again, and only with the same `aad`.
    ///
    /// # Errors
    /// All that the device may say.
    pub fn wrap(&self, key: &WrapKeyInfo, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, DeviceError> {
        if matches!(family(key.mechanism), Family::Aes | Family::Tpm) {
            let secret = Secret::new(plaintext.to_vec());
            let header = [FORMAT, code(key.mechanism)];
            let Ciphertext { bytes, .. } = self.encrypt(key.key_ref(), key.mechanism, secret, &bound(&header, aad))?;
            return Ok([&header[..], &bytes].concat());
        }
        let once = Key::random(gcm::KEY_BYTES).map_err(memory)?;
        let Ciphertext { mechanism, bytes } =
            self.encrypt(key.key_ref(), key.mechanism, Secret::new(once.expose().to_vec()), &[])?;
        let mut wrapped = vec![FORMAT, code(mechanism)];
        wrapped.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        wrapped.extend_from_slice(&bytes);
        // The key is used once, so the IV may be constant.
        let sealed = gcm::seal(array(&once)?, [0; gcm::IV_BYTES], plaintext, &bound(&wrapped, aad));
        wrapped.extend_from_slice(&sealed);
        Ok(wrapped)
    }

    /// Opens what [`wrap`](Self::wrap) gave.
    ///
    /// # Errors
    /// `Tampered` if `wrapped` or `aad` changed or the key is another one, and all that
    /// the device may say.
    pub fn unwrap(&self, key: &WrapKeyInfo, wrapped: &[u8], aad: &[u8]) -> Result<Key, DeviceError> {
        match wrapped {
            [FORMAT, way @ (AES_GCM | TPM_SEAL | TPM_SEAL_SIGNED), bytes @ ..] => {
                let mechanism = match *way {
                    AES_GCM => CipherMechanism::AesGcm,
                    TPM_SEAL => CipherMechanism::TpmSeal,
                    _ => CipherMechanism::TpmSealSigned,
                };
                let opened = self.decrypt(key.key_ref(), mechanism, bytes, &bound(&[FORMAT, *way], aad))?;
                Key::from_slice(&mut opened.into_inner()).map_err(memory)
            }
            [FORMAT, way @ (OAEP_SHA256 | OAEP_SHA1 | YUBIHSM_WRAP), high, low, rest @ ..] => {
                let key_bytes = usize::from(u16::from_be_bytes([*high, *low]));
                let (encrypted, sealed) = rest.split_at_checked(key_bytes).ok_or_else(tampered)?;
                let mechanism = match *way {
                    OAEP_SHA256 => CipherMechanism::RsaOaepSha256,
                    OAEP_SHA1 => CipherMechanism::RsaOaepSha1,
                    _ => CipherMechanism::YubiHsmWrap,
                };
                let once = self.decrypt(key.key_ref(), mechanism, encrypted, &[])?;
                let once = Key::from_slice(&mut once.into_inner()).map_err(memory)?;
                let header = &wrapped[..4 + key_bytes];
                let opened =
                    gcm::open(array(&once)?, [0; gcm::IV_BYTES], sealed, &bound(header, aad)).ok_or_else(tampered)?;
                Key::from_slice(&mut Zeroizing::new(opened)).map_err(memory)
            }
            [FORMAT | 0, ..] | [] => Err(tampered()),
            [format, ..] => Err(DeviceError::invalid(format!(
                "the wrapped key has format {format}, this program reads {FORMAT}: use the newer program"
            ))),
        }
    }

    /// What custodians have to sign before [`unwrap_signed`](Self::unwrap_signed) opens what [`wrap`](Self::wrap) gave.
    ///
    /// # Errors
    /// `Invalid` if no custodians have to, and all that the device may say.
    pub fn challenge(
        &self,
        key: &WrapKeyInfo,
        wrapped: &[u8],
        aad: &[u8],
        valid: Duration,
    ) -> Result<Challenge, DeviceError> {
        let (ciphertext, aad) = signed_for(wrapped, aad)?;
        let valid_secs = u32::try_from(valid.as_secs()).unwrap_or(u32::MAX);
        let mechanism = CipherMechanism::TpmSealSigned;
        let call = Call::Challenge { key: key.key_ref(), mechanism, ciphertext, aad, valid_secs };
        match self.call(call)? {
            Answer::Challenge(challenge) => Ok(challenge),
            other => Err(mismatch(&other)),
        }
    }

    /// Opens what custodians have signed for, with the message of their challenge.
    ///
    /// # Errors
    /// `PolicyRefused` if the challenge has ended or the signatures are not as they must be, and all that the device may
    /// say. In each case it takes a new challenge.
    pub fn unwrap_signed(
        &self,
        key: &WrapKeyInfo,
        wrapped: &[u8],
        aad: &[u8],
        message: &[u8],
        signatures: Vec<CustodianSignature>,
    ) -> Result<Key, DeviceError> {
        let (ciphertext, aad) = signed_for(wrapped, aad)?;
        let mechanism = CipherMechanism::TpmSealSigned;
        let message = message.to_vec();
        let opened =
            self.secret(Call::DecryptSigned { key: key.key_ref(), mechanism, ciphertext, aad, message, signatures })?;
        Key::from_slice(&mut opened.into_inner()).map_err(memory)
    }

    /// The key that is there, of a kind that can wrap.
    fn existing(&self, key: &KeyRef, wanted: Option<CipherMechanism>) -> Result<Option<KeyInfo>, DeviceError> {
        let mut fitting = self.find(key.clone())?;
        fitting.retain(|found| {
            let fits = match found.kind {
                KeyKind::Aes(_) => Family::Aes,
                KeyKind::Rsa(_) => Family::Rsa,
                KeyKind::TpmStorage => Family::Tpm,
                KeyKind::AesCcm(_) => Family::YubiHsm,
                _ => return false,
            };
            found.private && wanted.is_none_or(|mechanism| family(mechanism) == fits)
        });
        if fitting.len() > 1 {
            return Err(DeviceError::config(format!(
                "{} keys match {key}: set 'key_label', 'key_id' and 'mechanism' so that one is meant",
                fitting.len()
            )));
        }
        match fitting.pop() {
            Some(KeyInfo {
                kind: kind @ (KeyKind::Rsa(..LEAST_RSA_BITS) | KeyKind::Aes(..LEAST_AES_BITS)), ..
            }) => Err(DeviceError::config(format!(
                "{key} is {kind}, which is weaker than the root key that it is to wrap: it takes AES-{LEAST_AES_BITS}, or RSA of \
                     {LEAST_RSA_BITS} bits and more; name another key, or let one be made"
            ))),
            found => Ok(found),
        }
    }

    /// A new key, of the first kind that the token is seen to wrap with: its list of mechanisms is only a promise.
    fn made(
        &self,
        key: &KeyRef,
        wanted: Option<CipherMechanism>,
        info: &DeviceInfo,
    ) -> Result<WrapKeyInfo, DeviceError> {
        let Some(label) = &key.label else {
            return Err(DeviceError::config(format!("{key} is missing, and to make it a 'key_label' is needed")));
        };
        let mut refusals = Vec::new();
        for (mechanism, kind) in [
            (CipherMechanism::AesGcm, KeyKind::Aes(256)),
            (CipherMechanism::RsaOaepSha256, KeyKind::Rsa(2048)),
            (CipherMechanism::YubiHsmWrap, KeyKind::AesCcm(256)),
        ] {
            let can = &info.capabilities;
            if wanted.is_some_and(|wanted| family(wanted) != family(mechanism)) {
                continue;
            }
            if !tells_what_is_missing(info) && (!can.cipher.contains(&mechanism) || !can.generate.contains(&kind)) {
                refusals.push(format!("does not list {kind} with {mechanism}"));
                continue;
            }
            tracing::info!(%kind, label, token = info.token_label, "making the wrapping key");
            let spec = KeySpec { label: label.clone(), id: key.id.clone(), kind, usage: KeyUsage::Encrypt };
            let made = self.generate(spec).and_then(|made| {
                self.proved(made.clone(), wanted).inspect_err(|error| {
                    if error.class == Class::Unsupported && self.destroy(made.key_ref()).is_err() {
                        tracing::warn!(label, token = info.token_label, "a key that cannot wrap is left on the token");
                    }
                })
            });
            match made {
                Err(error) if error.class == Class::Unsupported => refusals.push(error.text),
                made => return made,
            }
        }
        Err(cannot_wrap(&info.token_label, &refusals.join("; ")))
    }

    fn proved(&self, found: KeyInfo, wanted: Option<CipherMechanism>) -> Result<WrapKeyInfo, DeviceError> {
        let default = match found.kind {
            KeyKind::Aes(_) => CipherMechanism::AesGcm,
            KeyKind::TpmStorage => CipherMechanism::TpmSeal,
            KeyKind::AesCcm(_) => CipherMechanism::YubiHsmWrap,
            _ => CipherMechanism::RsaOaepSha256,
        };
        let key = found.key_ref();
        let probe = Key::random(gcm::KEY_BYTES).map_err(memory)?;
        let sealed = self.encrypt(key.clone(), wanted.unwrap_or(default), Secret::new(probe.expose().to_vec()), &[])?;
        match self.decrypt(key.clone(), sealed.mechanism, &sealed.bytes, &[]) {
            Ok(opened) if probe.ct_eq(opened.expose()) => {}
            // The device has tried its part with a key of its own when it sealed.
            Err(error) if error.class == Class::NeedsCustodians && sealed.mechanism.needs_custodians() => {}
            Ok(_) => {
                return Err(DeviceError::new(
                    Class::Failed,
                    format!("{key} does not open what it closed: do not use this token"),
                ));
            }
            Err(error) => return Err(error),
        }
        // Others can wrap for an RSA key; a storage key only takes what was made in its TPM.
        let public_part = match family(default) {
            Family::Rsa => Some(self.public_key(key)?),
            Family::Aes | Family::Tpm | Family::YubiHsm => None,
        };
        Ok(WrapKeyInfo { key_label: found.label, key_id: found.id, mechanism: sealed.mechanism, public_part })
    }
}

/// What a YubiHSM does not list may be missing to the authentication key alone: it is asked, and names the capability.
fn tells_what_is_missing(info: &DeviceInfo) -> bool {
    info.backend == "yubihsm"
}

const AES_GCM: u8 = 1;
const OAEP_SHA256: u8 = 2;
const OAEP_SHA1: u8 = 3;
const TPM_SEAL: u8 = 4;
const YUBIHSM_WRAP: u8 = 5;
const TPM_SEAL_SIGNED: u8 = 6;

fn code(mechanism: CipherMechanism) -> u8 {
    match mechanism {
        CipherMechanism::AesGcm => AES_GCM,
        CipherMechanism::RsaOaepSha256 => OAEP_SHA256,
        CipherMechanism::RsaOaepSha1 => OAEP_SHA1,
        CipherMechanism::TpmSeal => TPM_SEAL,
        CipherMechanism::YubiHsmWrap => YUBIHSM_WRAP,
        CipherMechanism::TpmSealSigned => TPM_SEAL_SIGNED,
    }
}

/// What kind of key a mechanism needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Aes,
    Rsa,
    Tpm,
    YubiHsm,
}

fn family(mechanism: CipherMechanism) -> Family {
    match mechanism {
        CipherMechanism::AesGcm => Family::Aes,
        CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1 => Family::Rsa,
        CipherMechanism::TpmSeal | CipherMechanism::TpmSealSigned => Family::Tpm,
        CipherMechanism::YubiHsmWrap => Family::YubiHsm,
    }
}

/// The ciphertext that custodians sign for, and what it is bound to.
fn signed_for(wrapped: &[u8], aad: &[u8]) -> Result<(Vec<u8>, Vec<u8>), DeviceError> {
    match wrapped {
        [FORMAT, TPM_SEAL_SIGNED, ciphertext @ ..] => Ok((ciphertext.to_vec(), bound(&[FORMAT, TPM_SEAL_SIGNED], aad))),
        _ => Err(DeviceError::invalid("this opens without custodians' signatures")),
    }
}

/// Header and caller's data as one, so that neither can change; the header's length is
/// fixed by its content.
fn bound(header: &[u8], aad: &[u8]) -> Vec<u8> {
    [header, aad].concat()
}

fn array(key: &Key) -> Result<&[u8; gcm::KEY_BYTES], DeviceError> {
    key.expose().try_into().map_err(|_| tampered())
}

fn cannot_wrap(token: &str, why: &str) -> DeviceError {
    DeviceError::config(format!(
        "token '{token}' cannot wrap the root key, which takes AES-256 keys with CKM_AES_GCM or RSA-2048 keys with \
         CKM_RSA_PKCS_OAEP: it {why}"
    ))
}

fn memory(error: MemoryError) -> DeviceError {
    DeviceError::new(Class::Failed, error.to_string())
}

fn tampered() -> DeviceError {
    DeviceError::new(
        Class::Tampered,
        "a wrapped key was changed, or belongs to another key or place: restore it from a backup",
    )
}
