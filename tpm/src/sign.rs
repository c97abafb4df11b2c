//! Signatures. What is hashed is hashed here; the TPM gets the digest.

use crate::connection::Tpm;
use crate::fault::Fault;
use crate::find::{load, used};
use crate::public_key::{coordinate_bytes, padded};
use crate::store::{Store, StoredKey};
use holdfast_hsm::device::{
    DeviceError, Hash, KeyKind, KeyRef, KeyUsage, SignInput, SignMechanism, signature_from_der, signature_to_der,
};
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Digest, EccParameter, EccSignature, HashScheme, HashcheckTicket, PublicKeyRsa, RsaSignature, Signature,
    SignatureScheme,
};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

pub(crate) fn sign(
    tpm: &Tpm,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
) -> Result<Vec<u8>, DeviceError> {
    let scheme = scheme(mechanism)?;
    let stored = signing_key(tpm, key, mechanism)?;
    let digest = input.prepared(mechanism)?;
    tpm.run(&format!("sign ({mechanism}) with {key}"), |connection| {
        let handle = load(connection, &stored)?;
        let ticket = no_ticket()?;
        let digest = Digest::try_from(digest.clone())?;
        let signed = connection.protected(|context| context.sign(handle, digest, scheme, ticket));
        match used(&stored, signed)? {
            Signature::RsaSsa(rsa) | Signature::RsaPss(rsa) => Ok(rsa.signature().value().to_vec()),
            Signature::EcDsa(ec) => {
                let half = |number: &EccParameter| padded(number.value(), coordinate_bytes(&stored));
                match (half(ec.signature_r()), half(ec.signature_s())) {
                    (Some(r), Some(s)) => Ok(signature_to_der(&[r, s].concat())),
                    _ => Err(odd()),
                }
            }
            _ => Err(odd()),
        }
    })
}

pub(crate) fn verify(
    tpm: &Tpm,
    key: &KeyRef,
    mechanism: SignMechanism,
    input: &SignInput,
    signature: &[u8],
) -> Result<bool, DeviceError> {
    scheme(mechanism)?;
    let stored = signing_key(tpm, key, mechanism)?;
    let digest = input.prepared(mechanism)?;
    let Some(signature) = as_the_tpm_takes_it(&stored, mechanism, signature) else { return Ok(false) };
    tpm.run(&format!("verify ({mechanism}) with {key}"), |connection| {
        let handle = load(connection, &stored)?;
        let digest = Digest::try_from(digest.clone())?;
        let signature = signature.clone();
        let verified = connection
            .context
            .execute_without_session(|context| context.verify_signature(handle, digest, signature))
            .map_err(Fault::from);
        match verified {
            Ok(_) => Ok(true),
            Err(fault) => match fault.kind() {
                Some(Kind::Signature | Kind::Size | Kind::Value) if fault.is_of_a_parameter() => Ok(false),
                _ => Err(fault),
            },
        }
    })
}

/// For keys that are not restricted: they sign digests that the TPM has not made.
pub(crate) fn no_ticket() -> tss_esapi::Result<HashcheckTicket> {
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: Default::default(),
    })
}

fn signing_key(tpm: &Tpm, key: &KeyRef, mechanism: SignMechanism) -> Result<StoredKey, DeviceError> {
    let stored = Store::of(tpm.config.keys.as_ref())?.one(key)?;
    let fits = match mechanism {
        SignMechanism::Ecdsa(_) => stored.kind.coordinate_bytes().is_some(),
        SignMechanism::RsaPkcs1(_) | SignMechanism::RsaPss(_) => matches!(stored.kind, KeyKind::Rsa(_)),
        SignMechanism::Ed25519 => false,
    };
    if !fits || stored.usage != KeyUsage::Sign {
        return Err(DeviceError::invalid(format!(
            "{key} is {} for {:?}, and does not sign with {mechanism}",
            stored.kind, stored.usage
        )));
    }
    Ok(stored)
}

fn scheme(mechanism: SignMechanism) -> Result<SignatureScheme, DeviceError> {
    let of = |hash| HashScheme::new(algorithm(hash));
    match mechanism {
        SignMechanism::Ecdsa(hash) => Ok(SignatureScheme::EcDsa { hash_scheme: of(hash) }),
        SignMechanism::RsaPkcs1(hash) => Ok(SignatureScheme::RsaSsa { hash_scheme: of(hash) }),
        SignMechanism::RsaPss(hash) => Ok(SignatureScheme::RsaPss { hash_scheme: of(hash) }),
        SignMechanism::Ed25519 => Err(DeviceError::unsupported("a TPM does not sign with Ed25519")),
    }
}

/// `None`: that is no signature of this key.
fn as_the_tpm_takes_it(stored: &StoredKey, mechanism: SignMechanism, signature: &[u8]) -> Option<Signature> {
    let hash = algorithm(mechanism.hash()?);
    let rsa = || {
        let KeyKind::Rsa(bits) = stored.kind else { return None };
        if signature.len() * 8 != bits as usize {
            return None;
        }
        RsaSignature::create(hash, PublicKeyRsa::try_from(signature.to_vec()).ok()?).ok()
    };
    match mechanism {
        SignMechanism::RsaPkcs1(_) => rsa().map(Signature::RsaSsa),
        SignMechanism::RsaPss(_) => rsa().map(Signature::RsaPss),
        SignMechanism::Ecdsa(_) => {
            let raw = signature_from_der(signature, coordinate_bytes(stored))?;
            let (r, s) = raw.split_at(raw.len() / 2);
            let number = |bytes: &[u8]| EccParameter::try_from(bytes.to_vec()).ok();
            Some(Signature::EcDsa(EccSignature::create(hash, number(r)?, number(s)?).ok()?))
        }
        SignMechanism::Ed25519 => None,
    }
}

pub(crate) fn algorithm(hash: Hash) -> HashingAlgorithm {
    match hash {
        Hash::Sha256 => HashingAlgorithm::Sha256,
        Hash::Sha384 => HashingAlgorithm::Sha384,
        Hash::Sha512 => HashingAlgorithm::Sha512,
    }
}

fn odd() -> Fault {
    DeviceError::new(
        holdfast_hsm::device::DeviceErrorClass::Failed,
        "the TPM gave a signature of another form than asked for",
    )
    .into()
}
