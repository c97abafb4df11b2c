//! Makes keys: by the TPM, of the TPM, never to leave it.

use crate::connection::{Connection, Tpm};
use crate::fault::Fault;
use crate::store::{Naming, Store};
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeySpec, KeyUsage};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    Auth, EccPoint, EccScheme, KeyDerivationFunctionScheme, Public, PublicBuilder, PublicEccParameters,
    PublicEccParametersBuilder, PublicKeyRsa, PublicParameters, PublicRsaParameters, PublicRsaParametersBuilder,
    RsaExponent, RsaScheme,
};
use tss_esapi::traits::Marshall;

const ID_BYTES: usize = 16;

pub(crate) fn generate(tpm: &Tpm, spec: &KeySpec) -> Result<KeyInfo, DeviceError> {
    let parameters = parameters(spec.kind)
        .ok_or_else(|| DeviceError::unsupported(format!("a TPM makes RSA and EC keys, not {}", spec.kind)))?;
    let fits = match spec.usage {
        KeyUsage::Encrypt => matches!(spec.kind, KeyKind::Rsa(_)),
        KeyUsage::Sign => true,
        KeyUsage::Derive => spec.kind.coordinate_bytes().is_some(),
    };
    if !fits {
        return Err(DeviceError::invalid(format!("a key of {} is not for {:?}", spec.kind, spec.usage)));
    }
    let store = Store::of(tpm.config.keys.as_ref())?;
    let id = id(spec)?;
    let naming = Naming { label: &spec.label, id: &id, kind: spec.kind, usage: spec.usage };
    tpm.run(&format!("make {} key '{}'", spec.kind, spec.label), |connection| {
        if !does(connection, spec.kind)? {
            return Err(DeviceError::unsupported(format!("this TPM does not make {} keys", spec.kind)).into());
        }
        store.refuse_existing(&naming)?;
        let public = template(&parameters, spec.usage)?;
        let (root, auth) = (connection.root.handle, Auth::try_from(naming.auth())?);
        let made = connection.protected(|context| context.create(root, public, Some(auth), None, None, None))?;
        let stored = naming.made(&connection.root.name, made.out_public.marshall()?, made.out_private.value().to_vec());
        store.add(&stored)?;
        Ok(stored.info())
    })
}

/// Whether the TPM does such keys.
pub(crate) fn does(connection: &mut Connection, kind: KeyKind) -> Result<bool, Fault> {
    let tested = match parameters(kind) {
        None => return Ok(false),
        Some(Parameters::Rsa(rsa)) => PublicParameters::Rsa(rsa),
        Some(Parameters::Ecc(ecc)) => PublicParameters::Ecc(ecc),
    };
    match connection.context.execute_without_session(|context| context.test_parms(tested)) {
        Ok(()) => Ok(true),
        Err(error) => match Fault::from(error) {
            fault if fault.is_of_a_parameter() => Ok(false),
            fault => Err(fault),
        },
    }
}

#[derive(Clone)]
enum Parameters {
    Rsa(PublicRsaParameters),
    Ecc(PublicEccParameters),
}

/// `None`: no TPM has such keys. Schemes are named at each use; the flags of the builders, which want one, stay away.
fn parameters(kind: KeyKind) -> Option<Parameters> {
    let rsa = |bits| {
        let builder = PublicRsaParametersBuilder::new()
            .with_scheme(RsaScheme::Null)
            .with_key_bits(bits)
            .with_exponent(RsaExponent::default());
        builder.build().ok().map(Parameters::Rsa)
    };
    let ecc = |curve| {
        let builder = PublicEccParametersBuilder::new()
            .with_ecc_scheme(EccScheme::Null)
            .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
            .with_curve(curve);
        builder.build().ok().map(Parameters::Ecc)
    };
    match kind {
        KeyKind::Rsa(2048) => rsa(RsaKeyBits::Rsa2048),
        KeyKind::Rsa(3072) => rsa(RsaKeyBits::Rsa3072),
        KeyKind::Rsa(4096) => rsa(RsaKeyBits::Rsa4096),
        KeyKind::EcP256 => ecc(EccCurve::NistP256),
        KeyKind::EcP384 => ecc(EccCurve::NistP384),
        KeyKind::EcP521 => ecc(EccCurve::NistP521),
        _ => None,
    }
}

fn template(parameters: &Parameters, usage: KeyUsage) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // Its authorisation is no secret, and must not count as tries.
        .with_no_da(true)
        .with_sign_encrypt(usage == KeyUsage::Sign)
        .with_decrypt(usage != KeyUsage::Sign)
        .build()?;
    let public =
        PublicBuilder::new().with_name_hashing_algorithm(HashingAlgorithm::Sha256).with_object_attributes(attributes);
    match parameters.clone() {
        Parameters::Rsa(rsa) => public
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(rsa)
            .with_rsa_unique_identifier(PublicKeyRsa::default())
            .build(),
        Parameters::Ecc(ecc) => public
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(ecc)
            .with_ecc_unique_identifier(EccPoint::default())
            .build(),
    }
}

/// The id that was asked for, or random bytes.
fn id(spec: &KeySpec) -> Result<Vec<u8>, DeviceError> {
    if spec.label.is_empty() {
        return Err(DeviceError::invalid("a new key needs a label that names its owner"));
    }
    if let Some(id) = spec.id.as_ref().filter(|id| !id.is_empty()) {
        return Ok(id.clone());
    }
    let mut id = vec![0; ID_BYTES];
    getrandom::fill(&mut id)
        .map_err(|error| DeviceError::new(Class::Failed, format!("no random bytes for a key id: {error}")))?;
    Ok(id)
}
