//! Shows a TPM how the machine is measured, and who approved that.

use crate::approval;
use crate::connection::Connection;
use crate::fault::Fault;
use crate::pcr;
use crate::policy::PolicyDigest;
use crate::sealed::Header;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::tpm::TpmConfig;
use sha2::{Digest as _, Sha256};
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{Digest, Nonce};

/// Shows the TPM the measurements that it wants to see, or what was approved; nothing if it wants none.
pub(crate) fn show(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    session: PolicySession,
) -> Result<(), Fault> {
    if header.measured.is_empty() && header.approver.is_none() {
        return Ok(());
    }
    let banks = pcr::banks(&header.measured);
    let selection = pcr::selection(&banks)?;
    let now = pcr::read(connection, &banks)?;
    let refused = |why: String| DeviceError::new(Class::PolicyRefused, why);
    let Some(spki) = &header.approver else {
        if now != header.measured {
            return Err(refused(format!(
                "the machine is not measured as it was when this was sealed: {} changed. If that was meant, open the store \
                 with its recovery shares or another seal and seal it anew (docs/tpm.md, 'Firmware updates'); if not, somebody \
                 has changed how this machine starts",
                pcr::changed(&header.measured, &now)
            ))
            .into());
        }
        let digest = Digest::try_from(pcr::digest(&now).to_vec())?;
        connection.context.execute_without_session(|context| context.policy_pcr(session, digest, selection))?;
        return Ok(());
    };
    let policy = if now.is_empty() { PolicyDigest::EMPTY } else { PolicyDigest::EMPTY.and_pcrs(&now) };
    let Some(approval) = &config.approval else {
        return Err(DeviceError::config(
            "this was sealed for measurements that somebody approves: set 'pcr_public_key' and 'pcr_signatures'",
        )
        .into());
    };
    let [bank] = &banks[..] else { return Err(DeviceError::config(ONE_BANK).into()) };
    let approver = approval::approver(spki)?;
    let Some(signature) = approval::find(approval, &approver, bank, policy)? else {
        let changed = pcr::changed(&header.measured, &now);
        let since =
            if changed.is_empty() { String::new() } else { format!(" (since it was sealed, {changed} changed)") };
        return Err(refused(format!(
            "nobody has approved how this machine is measured now{since}: put a signature over policy {} into {}",
            hex::encode(policy.0),
            approval.signatures
        ))
        .into());
    };
    let digest = Digest::try_from(pcr::digest(&now).to_vec())?;
    connection.context.execute_without_session(|context| context.policy_pcr(session, digest, selection))?;
    // What is signed is the policy and the (empty) reference (Part 3, 23.16).
    let approved = Digest::try_from(policy.0.to_vec())?;
    let signed = Digest::try_from(Sha256::digest(policy.0).to_vec())?;
    approver.loaded(connection, |connection, approver, name| {
        connection.context.execute_without_session(|context| {
            let ticket = context.verify_signature(approver, signed.clone(), signature.clone()).map_err(|error| {
                let fault = Fault::from(error);
                match fault.kind() {
                    Some(Kind::Signature | Kind::Size | Kind::Value | Kind::EccPoint) => refused(format!(
                        "the signature over policy {} in {} is not by the key that this was sealed for",
                        hex::encode(policy.0),
                        approval.signatures
                    ))
                    .into(),
                    _ => fault,
                }
            })?;
            Ok(context.policy_authorize(session, approved.clone(), Nonce::default(), name, ticket)?)
        })
    })
}

/// Approvals are for registers of one bank, as the field's tools make them.
pub(crate) const ONE_BANK: &str = "with 'pcr_public_key', 'pcrs' names registers of one bank";
