//! What the TPM says of itself: quotes of registers by an attestation key, and the proof that this key is in the TPM of an
//! endorsement key (TPM2_ActivateCredential).
//!
//! The attestation key is a primary key, so that it rests nowhere and is the same until the TPM is cleared. It is
//! restricted: it signs what the TPM itself has made, and nothing else.

use crate::connection::{Connection, Tpm};
use crate::fault::Fault;
use crate::{endorsement, pcr, root};
use holdfast_hsm::device::{
    Credential, DeviceError, DeviceErrorClass as Class, Evidence, QuoteRequest, signature_to_der,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::TpmConfig;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{AuthHandle, KeyHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Data, Digest, EccPoint, EccScheme, EncryptedSecret, HashScheme, IdObject, KeyDerivationFunctionScheme, Nonce,
    Public, PublicBuilder, PublicEccParametersBuilder, Signature, SignatureScheme,
};
use tss_esapi::traits::Marshall;

/// A quote, with all that a verifier needs.
pub(crate) fn attest(tpm: &Tpm, request: &QuoteRequest) -> Result<Evidence, DeviceError> {
    if request.nonce.is_empty() || request.nonce.len() > 64 || request.pcrs.is_empty() {
        return Err(DeviceError::invalid("a quote wants a nonce of 1 to 64 bytes, and registers"));
    }
    tpm.run("quote", |connection| {
        connection.forget_loaded()?;
        let (endorsement, certificate) = endorsement::chosen(connection, request.endorsement)?;
        let endorsement_key = endorsement::with_key(connection, endorsement, public_of)?;
        let (attestation_key, quoted, signature) = with_attestation_key(connection, &tpm.config, |connection, key| {
            let (nonce, scheme) = (Data::try_from(request.nonce.clone())?, signature_scheme());
            let selection = pcr::selection(&request.pcrs)?;
            let (quoted, signature) = connection.protected(|context| context.quote(key, nonce, scheme, selection))?;
            Ok((public_of(connection, key)?, quoted.marshall()?, der(&signature)?))
        })?;
        // Should one change in between, the verifier sees that these are not those of the quote.
        let values = pcr::read(connection, &request.pcrs)?.into_iter().map(Into::into).collect();
        Ok(Evidence { endorsement_key, certificate, attestation_key, quoted, signature, values, endorsement })
    })
}

/// The secret of a credential, if it was made for both keys of this TPM.
pub(crate) fn activate(tpm: &Tpm, credential: &Credential) -> Result<Secret<Vec<u8>>, DeviceError> {
    let unusable = |_| DeviceError::invalid("that is no credential: it is longer than one can be");
    let blob = IdObject::try_from(credential.blob.clone()).map_err(unusable)?;
    let secret = EncryptedSecret::try_from(credential.secret.clone()).map_err(unusable)?;
    tpm.run("activate a credential", |connection| {
        connection.forget_loaded()?;
        endorsement::with_key(connection, credential.endorsement, |connection, endorsement| {
            with_attestation_key(connection, &tpm.config, |connection, attestation| {
                let keys = (attestation, endorsement);
                if !endorsement::wants_policy(credential.endorsement) {
                    return activated(connection, keys, AuthSession::Password, &blob, &secret);
                }
                connection.with_policy(|connection, policy| {
                    connection.protected(|context| {
                        context.policy_secret(
                            policy,
                            AuthHandle::Endorsement,
                            Nonce::default(),
                            Digest::default(),
                            Nonce::default(),
                            None,
                        )
                    })?;
                    // One of the two sessions encrypts.
                    let (attributes, mask) = SessionAttributesBuilder::new().with_encrypt(false).build();
                    connection.context.tr_sess_set_attributes(policy.into(), attributes, mask)?;
                    activated(connection, keys, policy.into(), &blob, &secret)
                })
            })
        })
    })
}

fn activated(
    connection: &mut Connection,
    (attestation, endorsement): (KeyHandle, KeyHandle),
    endorsed: AuthSession,
    blob: &IdObject,
    secret: &EncryptedSecret,
) -> Result<Secret<Vec<u8>>, Fault> {
    let sessions = (Some(connection.session), Some(endorsed), None);
    let opened = connection.context.execute_with_sessions(sessions, |context| {
        context.activate_credential(attestation, endorsement, blob.clone(), secret.clone())
    });
    match opened {
        Ok(opened) => Ok(Secret::new(opened.value().to_vec())),
        Err(error) => Err(not_for_us(connection, error.into())),
    }
}

/// What a TPM says of a credential that is not for its keys (Part 3, 12.5): TPM_RC_INTEGRITY, VALUE, SIZE, ECC_POINT or INSUFFICIENT of a
/// parameter. libtpms with OpenSSL says TPM_RC_FAILURE of a seed that was encrypted to another RSA key; it is not in failure mode
/// then and goes on.
fn not_for_us(connection: &mut Connection, fault: Fault) -> Fault {
    let is_its_answer = match fault.kind() {
        Some(Kind::Integrity | Kind::Value | Kind::Size | Kind::EccPoint | Kind::Insufficient) => {
            fault.is_of_a_parameter()
        }
        Some(Kind::Failure) => connection.context.execute_without_session(|context| context.get_random(8)).is_ok(),
        _ => false,
    };
    if !is_its_answer {
        return fault;
    }
    DeviceError::new(
        Class::Tampered,
        "the credential was made for another TPM or another attestation key, or was changed",
    )
    .into()
}

fn with_attestation_key<T>(
    connection: &mut Connection,
    config: &TpmConfig,
    act: impl FnOnce(&mut Connection, KeyHandle) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let (hierarchy, _) = root::hierarchy(config);
    let template = attestation_template()?;
    let made = connection.protected(|context| context.create_primary(hierarchy, template, None, None, None, None))?;
    let result = act(connection, made.key_handle);
    connection.flush(made.key_handle.into(), result)
}

fn public_of(connection: &mut Connection, key: KeyHandle) -> Result<Vec<u8>, Fault> {
    let (public, ..) = connection.context.execute_without_session(|context| context.read_public(key))?;
    Ok(public.marshall()?)
}

fn signature_scheme() -> SignatureScheme {
    SignatureScheme::EcDsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) }
}

fn der(signature: &Signature) -> Result<Vec<u8>, DeviceError> {
    let odd = || DeviceError::new(Class::Failed, "the TPM gave a signature of another form than asked for");
    let Signature::EcDsa(ec) = signature else { return Err(odd()) };
    let half = |bytes: &[u8]| crate::public_key::padded(bytes, 32).ok_or_else(odd);
    Ok(signature_to_der(&[half(ec.signature_r().value())?, half(ec.signature_s().value())?].concat()))
}

fn attestation_template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_curve(EccCurve::NistP256)
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}
