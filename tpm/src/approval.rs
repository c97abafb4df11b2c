//! Who may approve other measurements, and what they approved: the files of systemd-measure(1).
//!
//! The public key is a PEM file, RSA or EC on P-256. The approvals are JSON: for each bank a list of entries with the
//! registers (`pcrs`), the digest of the policy over them (`pol`, hex) and its signature (`sig`, base64).

use crate::policy::PolicyDigest;
use crate::signer::{self, Signer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::device::{DeviceError, Hash};
use holdfast_hsm::tpm::{Approval, PcrBank};
use serde_json::Value;
use tss_esapi::structures::Signature;

/// The public key of the configuration, as SubjectPublicKeyInfo.
pub(crate) fn configured_key(approval: &Approval) -> Result<Vec<u8>, DeviceError> {
    signer::spki_of_file(&approval.public_key, "pcr_public_key")
}

/// The key as the TPM takes it to verify approvals. Its Name, which is in the sealed object's policy, follows from this.
pub(crate) fn approver(spki: &[u8]) -> Result<Signer, DeviceError> {
    let signer = Signer::of_spki(spki).filter(|signer| signer.mechanism.hash() == Some(Hash::Sha256));
    signer.ok_or_else(|| {
        DeviceError::config("the key of 'pcr_public_key' is none that a TPM verifies with: use RSA-2048 or EC P-256")
    })
}

/// The signature over a policy, if there is one among the approvals; `Ok(None)` if there is none.
pub(crate) fn find(
    approval: &Approval,
    approver: &Signer,
    bank: &PcrBank,
    policy: PolicyDigest,
) -> Result<Option<Signature>, DeviceError> {
    let file = &approval.signatures;
    let wrong = |why: &str| {
        DeviceError::config(format!(
            "pcr_signatures {file} {why}: write it with 'systemd-measure sign', or as docs/tpm.md shows"
        ))
    };
    let text = signer::read(file, "pcr_signatures")?;
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
    Ok(Some(approver.signature(&signature).ok_or_else(|| wrong("has a signature of another form"))?))
}
