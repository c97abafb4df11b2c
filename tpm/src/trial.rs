//! Tries out, before something is sealed for custodians, that this TPM and its libraries let them unseal it: a key of the
//! TPM's own, which is forgotten at once, stands in for one of theirs.

use crate::connection::Connection;
use crate::fault::Fault;
use crate::policy::PolicyDigest;
use crate::sign::no_ticket;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{
    Digest, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Nonce, Public, PublicBuilder,
    PublicEccParametersBuilder, SignatureScheme,
};

const REFERENCE: &[u8] = b"trial";
const VALID_SECS: u32 = 60;

/// A signature over the nonce of a session is taken, and the session's policy is then as computed here.
pub(crate) fn signed_nonce(connection: &mut Connection) -> Result<(), Fault> {
    let (root, public) = (connection.root.handle, template()?);
    let made = connection.protected(|context| context.create(root, public, None, None, None, None))?;
    let key = connection.protected(|context| context.load(root, made.out_private, made.out_public))?;
    let tried = match connection.session_with_nonce() {
        Ok((session, nonce)) => {
            let tried = with(connection, key, session, &nonce);
            connection.is_spent = true;
            connection.flush(SessionHandle::from(session).into(), tried)
        }
        Err(fault) => Err(fault),
    };
    connection.flush(key.into(), tried)
}

fn with(connection: &mut Connection, key: KeyHandle, session: PolicySession, nonce: &[u8]) -> Result<(), Fault> {
    let message = [nonce, &VALID_SECS.to_be_bytes(), REFERENCE].concat();
    let digest = Digest::try_from(Sha256::digest(message).to_vec())?;
    let scheme = SignatureScheme::EcDsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) };
    let ticket = no_ticket()?;
    let signature = connection.protected(|context| context.sign(key, digest, scheme, ticket))?;
    let name = connection.context.tr_get_name(key.into())?.value().to_vec();
    let (nonce, reference) = (Nonce::try_from(nonce.to_vec())?, Nonce::try_from(REFERENCE.to_vec())?);
    let valid = Some(Duration::from_secs(VALID_SECS.into()));
    connection.protected(|context| {
        context.policy_signed(session, key.into(), nonce, Digest::default(), reference, valid, signature)
    })?;
    let policy = connection.context.execute_without_session(|context| context.policy_get_digest(session))?;
    if *policy.value() != PolicyDigest::EMPTY.and_signed(&name, REFERENCE).0 {
        let text =
            "the TPM computes another policy for a custodian's signature than this program: nothing is sealed so";
        return Err(DeviceError::new(Class::Failed, text).into());
    }
    Ok(())
}

fn template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::Null)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_curve(EccCurve::NistP256)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}
