//! What the TPM is and can do.

use crate::connection::{Connection, Tpm};
use crate::fault::Fault;
use crate::{generate, sign};
use holdfast_hsm::device::{Capabilities, CipherMechanism, DeviceError, DeviceInfo, Hash, KeyKind, SignMechanism};
use tss_esapi::Context;
use tss_esapi::constants::tss::{
    TPM2_PT_FIRMWARE_VERSION_1, TPM2_PT_FIRMWARE_VERSION_2, TPM2_PT_MANUFACTURER, TPM2_PT_REVISION,
    TPM2_PT_VENDOR_STRING_1, TPM2_PT_VENDOR_STRING_4,
};
use tss_esapi::constants::{AlgorithmIdentifier, CapabilityType};
use tss_esapi::structures::CapabilityData;

/// Properties asked for at once.
const FIXED: u32 = 64;
const ALGORITHMS: u32 = 127;

pub(crate) fn info(tpm: &Tpm) -> Result<DeviceInfo, DeviceError> {
    tpm.run("ask for information", |connection| {
        let name = hex::encode(&connection.root.name);
        let capabilities = match tpm.config.keys {
            Some(_) => capabilities(connection)?,
            None => sealing(tpm.config.custodians.is_some()),
        };
        connection.context.execute_without_session(|context| {
            let fixed = fixed_properties(context)?;
            let of = |which: u32| fixed.iter().find(|(tag, _)| *tag == which).map_or(0, |(_, value)| *value);
            let vendor =
                (TPM2_PT_VENDOR_STRING_1..=TPM2_PT_VENDOR_STRING_4).map(|tag| text(of(tag))).collect::<String>();
            let (one, two) = (of(TPM2_PT_FIRMWARE_VERSION_1), of(TPM2_PT_FIRMWARE_VERSION_2));
            Ok(DeviceInfo {
                backend: "tpm".to_owned(),
                module: tpm.config.tcti.clone(),
                library: format!(
                    "TPM 2.0 revision {}.{:02}, firmware {}.{}.{}.{}",
                    of(TPM2_PT_REVISION) / 100,
                    of(TPM2_PT_REVISION) % 100,
                    one >> 16,
                    one & 0xFFFF,
                    two >> 16,
                    two & 0xFFFF
                ),
                token_label: "TPM".to_owned(),
                // A TPM tells no serial number; its storage root key is as good, and changes when it is cleared.
                serial: name,
                model: format!("{} {vendor}", text(of(TPM2_PT_MANUFACTURER))),
                slot: 0,
                login_required: tpm.config.pin.is_some(),
                mechanisms: capabilities.cipher.iter().map(|mechanism| mechanism.name().to_owned()).collect(),
                capabilities: capabilities.clone(),
                pin_tries: Default::default(),
                warnings: Vec::new(),
            })
        })
    })
}

/// What every TPM does.
fn sealing(by_custodians: bool) -> Capabilities {
    let seals = if by_custodians { CipherMechanism::TpmSealSigned } else { CipherMechanism::TpmSeal };
    Capabilities { cipher: vec![seals], random: true, ..Capabilities::default() }
}

/// What this one does with keys that it makes, as it answers when it is asked.
fn capabilities(connection: &mut Connection) -> Result<Capabilities, Fault> {
    let mut can = sealing(false);
    let rsa = [2048, 3072, 4096].map(KeyKind::Rsa);
    for kind in rsa.into_iter().chain([KeyKind::EcP256, KeyKind::EcP384, KeyKind::EcP521]) {
        if generate::does(connection, kind)? {
            can.generate.push(kind);
        }
    }
    let algorithms = algorithms(connection)?;
    let has = |algorithm: AlgorithmIdentifier| algorithms.contains(&algorithm);
    let hashes: Vec<Hash> = [Hash::Sha256, Hash::Sha384, Hash::Sha512]
        .into_iter()
        .filter(|hash| has(sign::algorithm(*hash).into()))
        .collect();
    if has(AlgorithmIdentifier::EcDsa) {
        can.sign.extend(hashes.iter().copied().map(SignMechanism::Ecdsa));
    }
    if has(AlgorithmIdentifier::RsaSsa) {
        can.sign.extend(hashes.iter().copied().map(SignMechanism::RsaPkcs1));
    }
    if has(AlgorithmIdentifier::RsaPss) {
        can.sign.extend(hashes.iter().copied().map(SignMechanism::RsaPss));
    }
    if has(AlgorithmIdentifier::Oaep) {
        can.cipher.push(CipherMechanism::RsaOaepSha256);
    }
    can.derive = has(AlgorithmIdentifier::EcDh);
    Ok(can)
}

fn algorithms(connection: &mut Connection) -> Result<Vec<AlgorithmIdentifier>, Fault> {
    let (data, _) = connection
        .context
        .execute_without_session(|context| context.get_capability(CapabilityType::Algorithms, 0, ALGORITHMS))?;
    Ok(match data {
        CapabilityData::Algorithms(list) => list.iter().map(|property| property.algorithm_identifier()).collect(),
        _ => Vec::new(),
    })
}

/// Tag and value of each fixed property.
fn fixed_properties(context: &mut Context) -> Result<Vec<(u32, u32)>, Fault> {
    const FIRST: u32 = 0x100; // PT_FIXED
    let (data, _) = context.get_capability(CapabilityType::TpmProperties, FIRST, FIXED)?;
    Ok(match data {
        CapabilityData::TpmProperties(list) => {
            list.iter().map(|property| (u32::from(property.property()), property.value())).collect()
        }
        _ => Vec::new(),
    })
}

/// Four characters in a number.
fn text(number: u32) -> String {
    number.to_be_bytes().into_iter().filter(|byte| byte.is_ascii_graphic()).map(char::from).collect()
}
