//! Who may approve other measurements, and what they approved: the files of systemd-measure(1).
//!
//! The public key is a PEM file, RSA or EC on P-256. The approvals are JSON: for each bank a list of entries with the
//! registers (`pcrs`), the digest of the policy over them (`pol`, hex) and its signature (`sig`, base64).

use crate::policy::PolicyDigest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, signature_from_der};
use holdfast_hsm::tpm::{Approval, PcrBank};
use serde_json::Value;
use std::fs;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    EccParameter, EccPoint, EccScheme, EccSignature, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme, RsaSignature,
    Signature,
};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

/// Length of an approvals file that is read: a few hundred approvals.
const MAX_FILE_BYTES: u64 = 1 << 20;
const EXPONENT: u32 = 65_537;

/// The public key of the configuration, as SubjectPublicKeyInfo.
pub(crate) fn configured_key(approval: &Approval) -> Result<Vec<u8>, DeviceError> {
    let file = &approval.public_key;
    let text = read(file, "pcr_public_key")?;
    match x509_parser::pem::parse_x509_pem(text.as_bytes()) {
        Ok((_, pem)) if pem.label == "PUBLIC KEY" => Ok(pem.contents),
        _ => Err(DeviceError::config(format!(
            "pcr_public_key {file} is no public key in PEM: make it with 'openssl pkey -pubout'"
        ))),
    }
}

/// The key as the TPM takes it to verify approvals. Its Name, which is in the sealed object's policy, follows from this.
pub(crate) fn public_area(spki: &[u8]) -> Result<Public, DeviceError> {
    let unusable = || {
        DeviceError::config("the key of 'pcr_public_key' is none that a TPM verifies with: use RSA-2048 or EC P-256")
    };
    let (_, key) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| unusable())?;
    let built = match key.parsed().map_err(|_| unusable())? {
        PublicKey::RSA(rsa) if rsa.try_exponent().is_ok_and(|e| e == u64::from(EXPONENT)) => {
            let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
            rsa_area(&rsa.modulus[zeros..])
        }
        PublicKey::EC(point) if point.data().len() == 65 && point.data()[0] == 4 => ec_area(&point.data()[1..]),
        _ => return Err(unusable()),
    };
    built.map_err(|_| unusable())
}

fn rsa_area(modulus: &[u8]) -> tss_esapi::Result<Public> {
    let bits = RsaKeyBits::try_from(u16::try_from(modulus.len() * 8).unwrap_or(0))?;
    let parameters = PublicRsaParametersBuilder::new_unrestricted_signing_key(
        RsaScheme::Null,
        bits,
        // The TPM writes the usual exponent as none.
        RsaExponent::default(),
    );
    area(PublicAlgorithm::Rsa)?
        .with_rsa_parameters(parameters.build()?)
        .with_rsa_unique_identifier(PublicKeyRsa::try_from(modulus.to_vec())?)
        .build()
}

fn ec_area(point: &[u8]) -> tss_esapi::Result<Public> {
    let (x, y) = point.split_at(point.len() / 2);
    // Without the flags of a signing key the builder takes the null scheme, with which ECDSA is named at each use.
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::Null)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_curve(EccCurve::NistP256);
    area(PublicAlgorithm::Ecc)?
        .with_ecc_parameters(parameters.build()?)
        .with_ecc_unique_identifier(EccPoint::new(
            EccParameter::try_from(x.to_vec())?,
            EccParameter::try_from(y.to_vec())?,
        ))
        .build()
}

fn area(algorithm: PublicAlgorithm) -> tss_esapi::Result<PublicBuilder> {
    let attributes = ObjectAttributesBuilder::new().with_user_with_auth(true).with_sign_encrypt(true).build()?;
    Ok(PublicBuilder::new()
        .with_public_algorithm(algorithm)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes))
}

/// The signature over a policy, if there is one among the approvals; `Ok(None)` if there is none.
pub(crate) fn find(
    approval: &Approval,
    approver: &Public,
    bank: &PcrBank,
    policy: PolicyDigest,
) -> Result<Option<Signature>, DeviceError> {
    let file = &approval.signatures;
    let wrong = |why: &str| {
        DeviceError::config(format!(
            "pcr_signatures {file} {why}: write it with 'systemd-measure sign', or as docs/tpm.md shows"
        ))
    };
    let text = read(file, "pcr_signatures")?;
    let approvals: Value = serde_json::from_str(&text).map_err(|error| wrong(&format!("is no JSON ({error})")))?;
    let entries = match approvals.get(bank.hash.to_string()) {
        None => return Ok(None),
        Some(entries) => entries.as_array().ok_or_else(|| wrong("has no list for the bank"))?,
    };
    let fits = |entry: &&Value| {
        let pcrs = entry["pcrs"].as_array().map(|list| list.iter().filter_map(Value::as_u64).collect::<Vec<_>>());
        let same_pcrs = pcrs.is_some_and(|pcrs| pcrs.iter().copied().eq(bank.indices.iter().map(|i| u64::from(*i))));
        let digest = entry["pol"].as_str().and_then(|text| hex::decode(text).ok());
        same_pcrs && digest.is_some_and(|digest| digest == policy.0)
    };
    let Some(entry) = entries.iter().find(fits) else { return Ok(None) };
    let signature = entry["sig"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let signature = signature.ok_or_else(|| wrong("has an entry whose 'sig' is no base64"))?;
    Ok(Some(as_the_tpm_takes_it(approver, &signature).ok_or_else(|| wrong("has a signature of another form"))?))
}

fn as_the_tpm_takes_it(approver: &Public, signature: &[u8]) -> Option<Signature> {
    const SHA256: HashingAlgorithm = HashingAlgorithm::Sha256;
    match approver {
        Public::Rsa { .. } => {
            let signature = PublicKeyRsa::try_from(signature.to_vec()).ok()?;
            Some(Signature::RsaSsa(RsaSignature::create(SHA256, signature).ok()?))
        }
        Public::Ecc { .. } => {
            let raw = signature_from_der(signature, 32)?;
            let (r, s) = raw.split_at(32);
            let number = |bytes: &[u8]| EccParameter::try_from(bytes.to_vec()).ok();
            Some(Signature::EcDsa(EccSignature::create(SHA256, number(r)?, number(s)?).ok()?))
        }
        _ => None,
    }
}

fn read(file: &str, key: &str) -> Result<String, DeviceError> {
    let unusable = |why: String| {
        DeviceError::new(
            Class::Config,
            format!("{key} {file} cannot be read ({why}): the device helper's user must be able to"),
        )
    };
    match fs::metadata(file) {
        Ok(found) if found.len() > MAX_FILE_BYTES => return Err(unusable("it is longer than 1 MiB".to_owned())),
        Ok(_) => {}
        Err(error) => return Err(unusable(error.to_string())),
    }
    fs::read_to_string(file).map_err(|error| unusable(error.to_string()))
}
