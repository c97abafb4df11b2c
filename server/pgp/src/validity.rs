//! What a key's own signatures say of it: whether it is whole, revoked or expired, and which part
//! of it encrypts.
//!
//! The rules are those of GnuPG: the newest valid signature of a part speaks for it; a revocation
//! is final; of several subkeys that encrypt, the newest is used. Signatures of others are not
//! looked at: whoever sends the key vouches for it.

use pgp::composed::{SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{KeyFlags, PublicKey, Signature, SignatureType, SubpacketData};
use pgp::types::{Duration, EcdhPublicParams, KeyDetails, KeyVersion, PublicParams, Tag, Timestamp};
use rsa::traits::PublicKeyParts;

use crate::{PgpError, Recipient};

/// RSA keys shorter than this do not protect a share.
const MIN_RSA_BITS: usize = 2048;
/// The clock of whoever made the key may be ahead of ours by this much. (GnuPG itself dates the
/// second of two signatures made in one second a second ahead.)
const CLOCK_SKEW_SECONDS: u32 = 300;

pub(crate) struct Valid {
    pub recipient: Recipient,
    pub cipher: SymmetricKeyAlgorithm,
}

pub(crate) fn judge(key: &SignedPublicKey, now: Timestamp) -> Result<Valid, PgpError> {
    let primary = &key.primary_key;
    let fingerprint = || format!("{:x}", primary.fingerprint());
    if primary.version() != KeyVersion::V4 {
        return Err(PgpError::Version { fingerprint: fingerprint(), version: primary.version().into() });
    }
    if is_later(primary.created_at(), now) {
        return Err(PgpError::FromTheFuture(fingerprint()));
    }
    if is_revoked(key) {
        return Err(PgpError::Revoked(fingerprint()));
    }
    let own = self_signatures(key, now);
    let speaks = newest(own.iter().copied()).ok_or_else(|| PgpError::NoSelfSignature(fingerprint()))?;
    if has_ended(primary.created_at(), speaks.key_expiration_time(), now) {
        return Err(PgpError::Expired(fingerprint()));
    }
    let mut reasons = Vec::new();
    let recipient = encrypting_part(key, speaks, now, &mut reasons).ok_or_else(|| {
        if reasons.is_empty() {
            reasons.push("no part of it is meant for encryption".to_owned());
        }
        PgpError::CannotEncrypt { fingerprint: fingerprint(), reason: reasons.join("; ") }
    })?;
    Ok(Valid { recipient, cipher: cipher_of(speaks) })
}

/// Revoked by itself, or by one whom it names as its revoker (whose signature cannot be checked
/// here, so that it is believed).
fn is_revoked(key: &SignedPublicKey) -> bool {
    let primary = &key.primary_key;
    let named = |revocation: &Signature| {
        let direct = key.details.direct_signatures.iter().filter(|s| s.verify_key(primary).is_ok());
        direct.filter_map(Signature::revocation_key).any(|revoker| {
            let by_fingerprint =
                revocation.issuer_fingerprint().iter().any(|f| f.as_bytes() == &revoker.fingerprint[..]);
            let by_id = revocation.issuer_key_id().iter().any(|id| revoker.fingerprint.ends_with(id.as_ref()));
            by_fingerprint || by_id
        })
    };
    key.details.revocation_signatures.iter().any(|s| s.verify_key(primary).is_ok() || named(s))
}

/// Valid signatures of the key over itself and over its user ids, revoked user ids left out.
fn self_signatures(key: &SignedPublicKey, now: Timestamp) -> Vec<&Signature> {
    let primary = &key.primary_key;
    let direct = key.details.direct_signatures.iter().filter(|s| s.verify_key(primary).is_ok());
    let mut own: Vec<&Signature> = direct.filter(|s| in_force(s, now)).collect();
    for user in &key.details.users {
        let valid = user.signatures.iter().filter(|s| s.verify_certification(primary, Tag::UserId, &user.id).is_ok());
        // A revocation dated ahead counts already; only a certification that is newer brings the user id back.
        let valid: Vec<&Signature> = valid.filter(|s| is_revocation(s) || in_force(s, now)).collect();
        if newest(valid.iter().copied()).is_some_and(|s| !is_revocation(s)) {
            own.extend(valid.into_iter().filter(|s| !is_revocation(s)));
        }
    }
    own
}

/// Of several made in one second a revocation, else the last one in the key.
fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|s| (s.created(), is_revocation(s)))
}

/// Of a user id.
fn is_revocation(s: &Signature) -> bool {
    s.typ() == Some(SignatureType::CertRevocation)
}

/// Made already and not past its own end.
fn in_force(s: &Signature, now: Timestamp) -> bool {
    s.created().is_some_and(|made| !is_later(made, now) && !has_ended(made, s.signature_expiration_time(), now))
}

fn is_later(made: Timestamp, now: Timestamp) -> bool {
    made.as_secs() > now.as_secs().saturating_add(CLOCK_SKEW_SECONDS)
}

fn has_ended(made: Timestamp, lasts: Option<Duration>, now: Timestamp) -> bool {
    let seconds = lasts.map_or(0, Duration::as_secs);
    seconds > 0 && u64::from(made.as_secs()) + u64::from(seconds) <= u64::from(now.as_secs())
}

/// The newest subkey that encrypts, or the primary key if it does. What is unfit says why.
fn encrypting_part(
    key: &SignedPublicKey,
    speaks: &Signature,
    now: Timestamp,
    reasons: &mut Vec<String>,
) -> Option<Recipient> {
    let mut fit: Vec<&SignedPublicSubKey> = Vec::new();
    for subkey in &key.public_subkeys {
        match subkey_is_fit(&key.primary_key, subkey, now) {
            Ok(true) => fit.push(subkey),
            Ok(false) => {}
            Err(reason) => reasons.push(format!("subkey {} {reason}", subkey.key.legacy_key_id())),
        }
    }
    if let Some(subkey) = fit.into_iter().max_by_key(|s| s.key.created_at()) {
        return Some(Recipient::Subkey(subkey.key.clone()));
    }
    if !is_meant_for_encryption(speaks) {
        return None;
    }
    match can_encrypt(key.primary_key.public_params()) {
        Ok(true) => Some(Recipient::Primary(key.primary_key.clone())),
        Ok(false) => None,
        Err(reason) => {
            reasons.push(format!("the primary key {reason}"));
            None
        }
    }
}

fn subkey_is_fit(primary: &PublicKey, subkey: &SignedPublicSubKey, now: Timestamp) -> Result<bool, String> {
    let of_type = |typ| {
        let of_type = subkey.signatures.iter().filter(move |s| s.typ() == Some(typ));
        of_type.filter(|s| s.verify_subkey_binding(primary, &subkey.key).is_ok())
    };
    let bindings = of_type(SignatureType::SubkeyBinding).filter(|s| in_force(s, now));
    let Some(binding) = newest(bindings) else { return Err("has no valid signature of the primary key".into()) };
    if !is_meant_for_encryption(binding) {
        return Ok(false);
    }
    if of_type(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("is revoked".into());
    }
    if has_ended(subkey.key.created_at(), binding.key_expiration_time(), now) {
        return Err("has expired".into());
    }
    if is_later(subkey.key.created_at(), now) {
        return Err("was made later than now: compare the clocks".into());
    }
    can_encrypt(subkey.key.public_params())
}

/// A key from before key flags existed may do what its algorithm can.
fn is_meant_for_encryption(s: &Signature) -> bool {
    let says = s.config().is_some_and(|c| c.hashed_subpackets().any(|p| matches!(p.data, SubpacketData::KeyFlags(_))));
    let flags: KeyFlags = s.key_flags();
    !says || flags.encrypt_comms() || flags.encrypt_storage()
}

/// `Ok(false)`: the algorithm only signs.
fn can_encrypt(params: &PublicParams) -> Result<bool, String> {
    match params {
        PublicParams::RSA(rsa) => match rsa.key.n().bits() {
            bits if bits < MIN_RSA_BITS => Err(format!("has {bits} bits of RSA, at least {MIN_RSA_BITS} are needed")),
            _ => Ok(true),
        },
        PublicParams::ECDH(
            EcdhPublicParams::Curve25519Legacy { .. }
            | EcdhPublicParams::P256 { .. }
            | EcdhPublicParams::P384 { .. }
            | EcdhPublicParams::P521 { .. },
        )
        | PublicParams::X25519(_) => Ok(true),
        PublicParams::ECDH(other) => Err(format!("is on a curve that is not supported ({:?})", other.curve())),
        PublicParams::X448(_) | PublicParams::Elgamal(_) | PublicParams::Unknown { .. } => {
            Err("uses an algorithm that is not supported (RSA, Curve25519 and the NIST curves are)".into())
        }
        _ => Ok(false),
    }
}

/// AES-256, unless the key prefers and names only shorter ones. AES-128 is what all can read.
fn cipher_of(speaks: &Signature) -> SymmetricKeyAlgorithm {
    use SymmetricKeyAlgorithm::{AES128, AES192, AES256};
    let named = speaks.preferred_symmetric_algs();
    if named.is_empty() {
        return AES256;
    }
    [AES256, AES192, AES128].into_iter().find(|a| named.contains(a)).unwrap_or(AES128)
}
