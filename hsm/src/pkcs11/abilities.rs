//! What a token can do: what it lists, less what it refused when it was tried.
//!
//! A list is a promise. tpm2-pkcs11 lists the making of AES keys and has no function for it; others list mechanisms that
//! their policy forbids. So what a module refuses as unsupported is remembered until the token is opened anew, or until
//! the same thing works (the key may have been at fault). What is not listed is refused without asking: that a key is
//! missing must not be the answer of a token that could not use it.

use super::quirks::Quirks;
use crate::device::{Capabilities, CipherMechanism, DeviceError, Hash, KeyKind, SignMechanism};
use cryptoki::context::Pkcs11;
use cryptoki::error::Error;
use cryptoki::mechanism::{MechanismInfo, MechanismType};
use cryptoki::slot::Slot;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One thing that a token may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ability {
    Make(KeyKind),
    Import(KeyKind),
    Sign(SignMechanism),
    Cipher(CipherMechanism),
    Agree,
    Mac(Hash),
}

impl Ability {
    fn is_of_secret_keys(self) -> bool {
        matches!(
            self,
            Self::Make(KeyKind::Aes(_) | KeyKind::Hmac(_))
                | Self::Import(KeyKind::Aes(_))
                | Self::Cipher(CipherMechanism::AesGcm)
                | Self::Mac(_)
        )
    }

    /// What has to be listed for it, and for what.
    fn needs(self) -> Option<(MechanismType, fn(&MechanismInfo) -> bool)> {
        let makes = |info: &MechanismInfo| info.generate() || info.generate_key_pair();
        Some(match self {
            Self::Make(KeyKind::Aes(_)) | Self::Import(KeyKind::Aes(_)) => (MechanismType::AES_KEY_GEN, makes),
            Self::Make(KeyKind::Hmac(_)) => (MechanismType::GENERIC_SECRET_KEY_GEN, makes),
            Self::Make(KeyKind::Rsa(_)) => (MechanismType::RSA_PKCS_KEY_PAIR_GEN, makes),
            Self::Make(KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521) => (MechanismType::ECC_KEY_PAIR_GEN, makes),
            Self::Make(KeyKind::Ed25519) => (MechanismType::ECC_EDWARDS_KEY_PAIR_GEN, makes),
            Self::Sign(SignMechanism::Ecdsa(_)) => (MechanismType::ECDSA, MechanismInfo::sign),
            Self::Sign(SignMechanism::RsaPkcs1(_)) => (MechanismType::RSA_PKCS, MechanismInfo::sign),
            Self::Sign(SignMechanism::RsaPss(_)) => (MechanismType::RSA_PKCS_PSS, MechanismInfo::sign),
            Self::Sign(SignMechanism::Ed25519) => (MechanismType::EDDSA, MechanismInfo::sign),
            Self::Cipher(CipherMechanism::AesGcm) => (MechanismType::AES_GCM, MechanismInfo::decrypt),
            Self::Cipher(CipherMechanism::RsaOaepSha256 | CipherMechanism::RsaOaepSha1) => {
                (MechanismType::RSA_PKCS_OAEP, MechanismInfo::decrypt)
            }
            Self::Mac(Hash::Sha256) => (MechanismType::SHA256_HMAC, MechanismInfo::sign),
            Self::Mac(Hash::Sha384) => (MechanismType::SHA384_HMAC, MechanismInfo::sign),
            Self::Mac(Hash::Sha512) => (MechanismType::SHA512_HMAC, MechanismInfo::sign),
            Self::Agree => (MechanismType::ECDH1_DERIVE, MechanismInfo::derive),
            _ => return None,
        })
    }
}

/// What a token lists.
#[derive(Debug)]
pub(super) struct Listed {
    mechanisms: Vec<(MechanismType, MechanismInfo)>,
    lets_keys_out: bool,
    cannot_use_p521: bool,
}

impl Listed {
    /// A mechanism that is listed but cannot be described is not used.
    pub(super) fn ask(context: &Pkcs11, slot: Slot, quirks: Quirks) -> Result<Self, Error> {
        let all = context.get_mechanism_list(slot)?.into_iter();
        let mechanisms = all.filter_map(|m| Some((m, context.get_mechanism_info(slot, m).ok()?))).collect();
        let Quirks { lets_keys_out, cannot_use_p521, .. } = quirks;
        Ok(Self { mechanisms, lets_keys_out, cannot_use_p521 })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.mechanisms.iter().map(|(mechanism, _)| mechanism.to_string()).collect()
    }

    /// Whether it may be tried at all.
    ///
    /// # Errors
    /// `Unsupported`, with the mechanism that is not listed.
    pub(super) fn require(&self, ability: Ability) -> Result<(), DeviceError> {
        let Some((mechanism, _)) = ability.needs() else { return Ok(()) };
        if let Ability::Make(KeyKind::Hmac(hash)) = ability {
            // Any secret key would be made; this one must be of use.
            self.require(Ability::Mac(hash))?;
        }
        if self.has(ability) {
            return Ok(());
        }
        if self.lets_keys_out && ability.is_of_secret_keys() {
            return Err(DeviceError::unsupported(
                "this module lets secret keys out (C_WrapKey), whatever their attributes say: none is made there",
            ));
        }
        if self.cannot_use_p521 && ability == Ability::Make(KeyKind::EcP521) {
            return Err(DeviceError::unsupported(
                "this module makes keys on P-521 and fails to sign with them: use P-256 or P-384",
            ));
        }
        Err(DeviceError::unsupported(format!(
            "the token does not do this: {mechanism} is not among its mechanisms, or not for this use"
        )))
    }

    fn has(&self, ability: Ability) -> bool {
        let Some((mechanism, fits)) = ability.needs() else { return false };
        if self.lets_keys_out && ability.is_of_secret_keys() {
            return false;
        }
        let Some((_, info)) = self.mechanisms.iter().find(|(listed, _)| *listed == mechanism) else { return false };
        let within = match ability {
            Ability::Make(KeyKind::Rsa(bits)) => bits as usize <= info.max_key_size(),
            // Up to P-384 the list is not believed: the trial tells.
            Ability::Make(KeyKind::EcP521) => info.max_key_size() >= 521 && !self.cannot_use_p521,
            Ability::Make(KeyKind::Hmac(hash)) => self.has(Ability::Mac(hash)),
            _ => true,
        };
        fits(info) && within
    }

    /// All of it, less what was refused.
    pub(super) fn capabilities(&self, random: bool, refusals: &Refusals) -> Capabilities {
        let can = |ability: Ability| self.has(ability) && !refusals.has(ability);
        let makes = [
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
        let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
        let mut signs: Vec<_> = hashes.map(SignMechanism::Ecdsa).into();
        signs.extend(hashes.map(SignMechanism::RsaPkcs1));
        signs.extend(hashes.map(SignMechanism::RsaPss));
        signs.push(SignMechanism::Ed25519);
        let ciphers = [CipherMechanism::AesGcm, CipherMechanism::RsaOaepSha256];
        Capabilities {
            generate: makes.into_iter().filter(|kind| can(Ability::Make(*kind))).collect(),
            import: [KeyKind::Aes(256)].into_iter().filter(|kind| can(Ability::Import(*kind))).collect(),
            sign: signs.into_iter().filter(|mechanism| can(Ability::Sign(*mechanism))).collect(),
            cipher: ciphers.into_iter().filter(|mechanism| can(Ability::Cipher(*mechanism))).collect(),
            derive: can(Ability::Agree),
            mac: hashes.into_iter().filter(|hash| can(Ability::Mac(*hash))).collect(),
            random,
            ..Capabilities::default()
        }
    }
}

/// What the token listed, and refused when it was asked.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Vec<Ability>>);

impl Refusals {
    pub(super) fn refused(&self, ability: Ability) {
        let mut all = self.all();
        if !all.contains(&ability) {
            all.push(ability);
        }
    }

    pub(super) fn worked(&self, ability: Ability) {
        self.all().retain(|refused| *refused != ability);
    }

    pub(super) fn forget(&self) {
        self.all().clear();
    }

    fn has(&self, ability: Ability) -> bool {
        self.all().contains(&ability)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Ability>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
