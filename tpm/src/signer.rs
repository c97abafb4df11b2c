//! Public keys of people, which a TPM verifies signatures with: RSA, and EC on P-256 and P-384.

use crate::connection::Connection;
use crate::fault::Fault;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, Hash, SignMechanism, signature_from_der};
use sha2::{Digest as _, Sha256};
use std::fs;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::tss::TPM2_ALG_SHA256;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::structures::{
    EccParameter, EccPoint, EccScheme, EccSignature, KeyDerivationFunctionScheme, Name, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme, RsaSignature,
    Signature,
};
use tss_esapi::traits::Marshall;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

/// Length of a file of keys or approvals that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
const EXPONENT: u32 = 65_537;

/// A key as the TPM takes it, and how it signs.
pub(crate) struct Signer {
    public: Public,
    pub(crate) mechanism: SignMechanism,
    half_bytes: usize,
}

impl Signer {
    /// The key of a SubjectPublicKeyInfo; `None` if a TPM does not verify with such keys.
    pub(crate) fn of_spki(spki: &[u8]) -> Option<Self> {
        let (_, key) = SubjectPublicKeyInfo::from_der(spki).ok()?;
        let (public, mechanism, half_bytes) = match key.parsed().ok()? {
            PublicKey::RSA(rsa) if rsa.try_exponent().is_ok_and(|e| e == u64::from(EXPONENT)) => {
                let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
                (rsa_area(&rsa.modulus[zeros..]), SignMechanism::RsaPkcs1(Hash::Sha256), 0)
            }
            PublicKey::EC(point) => match point.data() {
                [4, xy @ ..] if xy.len() == 64 => {
                    (ec_area(EccCurve::NistP256, xy), SignMechanism::Ecdsa(Hash::Sha256), 32)
                }
                [4, xy @ ..] if xy.len() == 96 => {
                    (ec_area(EccCurve::NistP384, xy), SignMechanism::Ecdsa(Hash::Sha384), 48)
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(Self { public: public.ok()?, mechanism, half_bytes })
    }

    /// Its Name (Part 1, 16), by which policies know it.
    pub(crate) fn name(&self) -> tss_esapi::Result<Vec<u8>> {
        Ok(name_of(&self.public.marshall()?))
    }

    /// Does something with the key in the TPM, and its Name.
    pub(crate) fn loaded<T>(
        &self,
        connection: &mut Connection,
        act: impl FnOnce(&mut Connection, KeyHandle, &Name) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let public = self.public.clone();
        // A ticket of the null hierarchy proves nothing.
        let key = connection
            .context
            .execute_without_session(|context| context.load_external_public(public, Hierarchy::Owner))?;
        let result = match connection.context.tr_get_name(key.into()) {
            Ok(name) => act(connection, key, &name),
            Err(error) => Err(error.into()),
        };
        connection.flush(key.into(), result)
    }

    /// A signature (DER, or plain octets of RSA) as the TPM takes it; `None`: it is none of such a key.
    pub(crate) fn signature(&self, signature: &[u8]) -> Option<Signature> {
        let hash = crate::sign::algorithm(self.mechanism.hash()?);
        if self.half_bytes == 0 {
            let signature = PublicKeyRsa::try_from(signature.to_vec()).ok()?;
            return Some(Signature::RsaSsa(RsaSignature::create(hash, signature).ok()?));
        }
        let raw = signature_from_der(signature, self.half_bytes)?;
        let (r, s) = raw.split_at(self.half_bytes);
        let number = |bytes: &[u8]| EccParameter::try_from(bytes.to_vec()).ok();
        Some(Signature::EcDsa(EccSignature::create(hash, number(r)?, number(s)?).ok()?))
    }
}

/// The Name of an object, from its TPMT_PUBLIC, where SHA-256 names it.
pub(crate) fn name_of(public: &[u8]) -> Vec<u8> {
    [&TPM2_ALG_SHA256.to_be_bytes()[..], &Sha256::digest(public)].concat()
}

/// The SubjectPublicKeyInfo in a PEM file, for the key of the configuration that names it.
pub(crate) fn spki_of_file(file: &str, key: &str) -> Result<Vec<u8>, DeviceError> {
    let text = read(file, key)?;
    match x509_parser::pem::parse_x509_pem(text.as_bytes()) {
        Ok((_, pem)) if pem.label == "PUBLIC KEY" => Ok(pem.contents),
        _ => Err(DeviceError::config(format!(
            "{key} {file} is no public key in PEM: make it with 'openssl pkey -pubout'"
        ))),
    }
}

/// A file of keys or approvals.
pub(crate) fn read(file: &str, key: &str) -> Result<String, DeviceError> {
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

fn ec_area(curve: EccCurve, point: &[u8]) -> tss_esapi::Result<Public> {
    let (x, y) = point.split_at(point.len() / 2);
    // Without the flags of a signing key the builder takes the null scheme, with which ECDSA is named at each use.
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::Null)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_curve(curve);
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
