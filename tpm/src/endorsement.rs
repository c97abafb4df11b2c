//! Endorsement keys and their certificates (TCG EK Credential Profile 2.5, annex B): as the manufacturer's set-up has left them
//! in the TPM, or from their templates, which give the same keys.

use crate::connection::Connection;
use crate::fault::Fault;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, EndorsementKey};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{KeyHandle, NvIndexHandle, NvIndexTpmHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme,
    SymmetricDefinitionObject,
};

/// Where set-ups leave endorsement keys (TPM v2.0 Provisioning Guidance, 7.8; swtpm's set-up for P-384).
const HANDLES: [u32; 3] = [0x8101_0001, 0x8101_0002, 0x8101_0016];
/// Bytes of an NV index that any TPM reads at once.
const AT_ONCE: u16 = 512;
/// No certificate is longer.
const MAX_CERTIFICATE_BYTES: u16 = 8192;
/// TPM2_PolicySecret of the endorsement hierarchy: PolicyA for SHA-256.
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24, 0xFD, 0x52, 0xD7,
    0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA,
];
/// That, or what an NV index of the owner says: PolicyB for SHA-384.
const POLICY_B: [u8; 48] = [
    0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC, 0xF5, 0xFD, 0x3A, 0x1A, 0x07, 0x41, 0x48,
    0xBB, 0x35, 0xD3, 0xB4, 0xE4, 0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA, 0xCB, 0x47, 0xBA, 0x09, 0x69, 0x96,
    0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
];

/// The endorsement key that is asked for, or the first that has a certificate, with it.
pub(crate) fn chosen(
    connection: &mut Connection,
    wanted: Option<EndorsementKey>,
) -> Result<(EndorsementKey, Option<Vec<u8>>), Fault> {
    if let Some(key) = wanted {
        return Ok((key, certificate(connection, key)?));
    }
    for (_, key) in EndorsementKey::NAMES {
        if let Some(found) = certificate(connection, key)? {
            return Ok((key, Some(found)));
        }
    }
    Ok((EndorsementKey::Rsa2048, None))
}

/// Whether who uses it has to satisfy its policy. Those of the high range take the (empty) authorisation of a user as well.
pub(crate) fn wants_policy(key: EndorsementKey) -> bool {
    key != EndorsementKey::P384
}

pub(crate) fn with_key<T>(
    connection: &mut Connection,
    key: EndorsementKey,
    act: impl FnOnce(&mut Connection, KeyHandle) -> Result<T, Fault>,
) -> Result<T, Fault> {
    for handle in HANDLES {
        let place = TpmHandle::Persistent(PersistentTpmHandle::new(handle)?);
        let kept = connection.context.execute_without_session(|context| context.tr_from_tpm_public(place));
        let Ok(kept) = kept.map(KeyHandle::from) else { continue };
        let (public, ..) = connection.context.execute_without_session(|context| context.read_public(kept))?;
        if is_endorsement_key(&public, key) {
            return act(connection, kept);
        }
    }
    let template = template(key)?;
    let made = connection
        .protected(|context| context.create_primary(Hierarchy::Endorsement, template, None, None, None, None))
        .map_err(|error| {
            let fault = Fault::from(error);
            match fault.kind() {
                Some(Kind::BadAuth | Kind::AuthFail) => DeviceError::config(
                    "the TPM's endorsement hierarchy has an authorisation of its own, and no endorsement key is at \
                     0x81010001: make it there with 'tpm2_createek -c 0x81010001'",
                )
                .into(),
                _ => fault,
            }
        })?;
    let result = act(connection, made.key_handle);
    connection.flush(made.key_handle.into(), result)
}

/// Whether a key that lies where an endorsement key may be is this one.
fn is_endorsement_key(public: &Public, key: EndorsementKey) -> bool {
    let (attributes, policy, is_kind) = match public {
        Public::Rsa { auth_policy, object_attributes, parameters, .. } => {
            let is_kind = key == EndorsementKey::Rsa2048 && parameters.key_bits() == RsaKeyBits::Rsa2048;
            (object_attributes, auth_policy, is_kind)
        }
        Public::Ecc { auth_policy, object_attributes, parameters, .. } => {
            let is_kind = match parameters.ecc_curve() {
                EccCurve::NistP256 => key == EndorsementKey::P256,
                EccCurve::NistP384 => key == EndorsementKey::P384,
                _ => false,
            };
            (object_attributes, auth_policy, is_kind)
        }
        _ => return false,
    };
    is_kind && policy.value() == self::policy(key) && attributes.fixed_tpm() && attributes.restricted()
}

/// The certificate of an endorsement key, where the manufacturer left one.
fn certificate(connection: &mut Connection, key: EndorsementKey) -> Result<Option<Vec<u8>>, Fault> {
    let index = match key {
        EndorsementKey::Rsa2048 => 0x01C0_0002,
        EndorsementKey::P256 => 0x01C0_000A,
        EndorsementKey::P384 => 0x01C0_0016,
    };
    let place = TpmHandle::NvIndex(NvIndexTpmHandle::new(index)?);
    let found = connection.context.execute_without_session(|context| context.tr_from_tpm_public(place));
    let index = match found.map_err(Fault::from) {
        Ok(object) => NvIndexHandle::from(object),
        Err(fault) => match fault.kind() {
            Some(Kind::Handle | Kind::ReferenceH0) => return Ok(None),
            _ => return Err(fault),
        },
    };
    let (public, _) = connection.context.execute_without_session(|context| context.nv_read_public(index))?;
    let size = public.data_size().try_into().unwrap_or(u16::MAX);
    if size > MAX_CERTIFICATE_BYTES {
        return Err(
            DeviceError::new(Class::Failed, "the endorsement key's certificate is longer than one can be").into()
        );
    }
    let mut bytes = Vec::with_capacity(size.into());
    while bytes.len() < usize::from(size) {
        let offset = bytes.len() as u16;
        let part = connection
            .protected(|context| context.nv_read(NvAuth::NvIndex(index), index, AT_ONCE.min(size - offset), offset))?;
        bytes.extend_from_slice(part.value());
    }
    Ok(Some(bytes))
}

fn policy(key: EndorsementKey) -> &'static [u8] {
    if wants_policy(key) { &POLICY_A } else { &POLICY_B }
}

fn template(key: EndorsementKey) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(!wants_policy(key))
        .with_admin_with_policy(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let builder =
        PublicBuilder::new().with_object_attributes(attributes).with_auth_policy(Digest::try_from(policy(key))?);
    match key {
        EndorsementKey::Rsa2048 => {
            let parameters = PublicRsaParametersBuilder::new()
                .with_scheme(RsaScheme::Null)
                .with_key_bits(RsaKeyBits::Rsa2048)
                .with_exponent(RsaExponent::default())
                .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
                .with_is_decryption_key(true)
                .with_restricted(true)
                .build()?;
            builder
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_rsa_parameters(parameters)
                .with_rsa_unique_identifier(PublicKeyRsa::try_from(vec![0; 256])?)
                .build()
        }
        EndorsementKey::P256 => {
            let zeros = || EccParameter::try_from(vec![0; 32]);
            builder
                .with_public_algorithm(PublicAlgorithm::Ecc)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_ecc_parameters(curve(EccCurve::NistP256, SymmetricDefinitionObject::AES_128_CFB)?)
                .with_ecc_unique_identifier(EccPoint::new(zeros()?, zeros()?))
                .build()
        }
        EndorsementKey::P384 => builder
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha384)
            .with_ecc_parameters(curve(EccCurve::NistP384, SymmetricDefinitionObject::AES_256_CFB)?)
            .with_ecc_unique_identifier(EccPoint::default())
            .build(),
    }
}

fn curve(
    curve: EccCurve,
    symmetric: SymmetricDefinitionObject,
) -> tss_esapi::Result<tss_esapi::structures::PublicEccParameters> {
    PublicEccParametersBuilder::new()
        .with_symmetric(symmetric)
        .with_ecc_scheme(EccScheme::Null)
        .with_curve(curve)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_decryption_key(true)
        .with_restricted(true)
        .build()
}
