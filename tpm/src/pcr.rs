//! Platform configuration registers: what the machine's start was measured to be.

use crate::connection::Connection;
use crate::fault::Fault;
use holdfast_hsm::device::{DeviceError, PcrValue};
use holdfast_hsm::tpm::{PcrBank, PcrHash};
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};
use std::fmt;
use tss_esapi::constants::tss::{TPM2_ALG_SHA1, TPM2_ALG_SHA256, TPM2_ALG_SHA384, TPM2_ALG_SHA512};
use tss_esapi::structures::PcrSelectionList;
use tss_esapi::tss2_esys::{TPML_PCR_SELECTION, TPMS_PCR_SELECTION};

/// Registers that a TPM reads out at once.
const AT_ONCE: usize = 8;
/// Bytes of a selection: 24 registers.
const SELECT_BYTES: u8 = 3;

/// A register and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Measurement {
    #[n(0)]
    hash: PcrHash,
    #[n(1)]
    index: u8,
    #[cbor(n(2), with = "minicbor::bytes")]
    value: Vec<u8>,
}

impl Measurement {
    /// The same register with whatever in it.
    fn is_of_the_register_of(&self, other: &Self) -> bool {
        (self.hash, self.index) == (other.hash, other.index)
    }
}

impl From<Measurement> for PcrValue {
    fn from(measurement: Measurement) -> Self {
        Self { hash: measurement.hash, index: measurement.index, value: measurement.value }
    }
}

impl fmt::Display for Measurement {
    /// With what the TCG's profile for PCs, and Linux, measure there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = match self.index {
            0 => "the firmware",
            1 => "the firmware's configuration",
            2 => "firmware of plugged-in devices",
            3 => "the configuration of plugged-in devices",
            4 => "the boot loader",
            5 => "the boot loader's configuration and the partition table",
            6 => "what the manufacturer says of the machine",
            7 => "the Secure Boot state and keys",
            8 => "the boot loader's commands",
            9 => "kernel and initrd",
            10 => "files, by IMA",
            11 => "the unified kernel image",
            12 => "the kernel's command line",
            13 => "system extensions",
            14 => "the shim's keys",
            15 => "the machine's identity",
            16 | 23 => "an application's measurements",
            _ => "the measured launch",
        };
        write!(f, "PCR {} of {} ({holds})", self.index, self.hash)
    }
}

/// Reads registers, in the order of the banks.
pub(crate) fn read(connection: &mut Connection, banks: &[PcrBank]) -> Result<Vec<Measurement>, Fault> {
    let mut measurements = Vec::new();
    for bank in banks {
        for indices in bank.indices.chunks(AT_ONCE) {
            let part = PcrBank { hash: bank.hash, indices: indices.to_vec() };
            let selection = selection(std::slice::from_ref(&part))?;
            let (_, _, values) = connection.context.execute_without_session(|context| context.pcr_read(selection))?;
            // A TPM answers with the registers that it has.
            if values.len() != indices.len() {
                return Err(DeviceError::config(format!(
                    "this TPM has no PCRs {indices:?} of bank {}: name another bank in 'pcrs', or have the firmware switch it on",
                    bank.hash
                ))
                .into());
            }
            measurements.extend(indices.iter().zip(values.value()).map(|(index, value)| Measurement {
                hash: bank.hash,
                index: *index,
                value: value.value().to_vec(),
            }));
        }
    }
    Ok(measurements)
}

/// The registers of measurements, as banks.
pub(crate) fn banks(measurements: &[Measurement]) -> Vec<PcrBank> {
    let mut banks: Vec<PcrBank> = Vec::new();
    for Measurement { hash, index, .. } in measurements {
        match banks.last_mut().filter(|bank| bank.hash == *hash) {
            Some(bank) => bank.indices.push(*index),
            None => banks.push(PcrBank { hash: *hash, indices: vec![*index] }),
        }
    }
    banks
}

/// What TPM2_PolicyPCR compares: the hash over all values.
pub(crate) fn digest(measurements: &[Measurement]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for measurement in measurements {
        hash.update(&measurement.value);
    }
    hash.finalize().into()
}

/// The registers whose content is another now, in one line.
pub(crate) fn changed(then: &[Measurement], now: &[Measurement]) -> String {
    let differs =
        |was: &&Measurement| now.iter().find(|is| is.is_of_the_register_of(was)).is_none_or(|is| is.value != was.value);
    then.iter().filter(differs).map(Measurement::to_string).collect::<Vec<_>>().join(", ")
}

/// A selection as the TPM's libraries take it. Their builder loses the order of banks, which counts in a policy.
pub(crate) fn selection(banks: &[PcrBank]) -> Result<PcrSelectionList, Fault> {
    let mut list = TPML_PCR_SELECTION::default();
    for (place, bank) in list.pcrSelections.iter_mut().zip(banks) {
        *place = TPMS_PCR_SELECTION { hash: algorithm(bank.hash), sizeofSelect: SELECT_BYTES, pcrSelect: [0; 4] };
        place.pcrSelect[..3].copy_from_slice(&bits(bank));
        list.count += 1;
    }
    Ok(PcrSelectionList::try_from(list)?)
}

/// The same as it enters the policy's digest (Part 2, TPML_PCR_SELECTION).
pub(crate) fn marshalled(banks: &[PcrBank]) -> Vec<u8> {
    let mut bytes = (banks.len() as u32).to_be_bytes().to_vec();
    for bank in banks {
        bytes.extend_from_slice(&algorithm(bank.hash).to_be_bytes());
        bytes.push(SELECT_BYTES);
        bytes.extend_from_slice(&bits(bank));
    }
    bytes
}

fn bits(bank: &PcrBank) -> [u8; 3] {
    let mut bits = [0; 3];
    for index in &bank.indices {
        bits[usize::from(index / 8)] |= 1 << (index % 8);
    }
    bits
}

fn algorithm(hash: PcrHash) -> u16 {
    match hash {
        PcrHash::Sha1 => TPM2_ALG_SHA1,
        PcrHash::Sha256 => TPM2_ALG_SHA256,
        PcrHash::Sha384 => TPM2_ALG_SHA384,
        PcrHash::Sha512 => TPM2_ALG_SHA512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(index: u8, value: u8) -> Measurement {
        Measurement { hash: PcrHash::Sha256, index, value: vec![value; 32] }
    }

    #[test]
    fn what_changed_is_named_with_what_it_holds() {
        let then = [measurement(0, 1), measurement(7, 1), measurement(11, 1)];
        let now = [measurement(0, 1), measurement(7, 2)];
        let text = changed(&then, &now);
        assert_eq!(
            text,
            "PCR 7 of sha256 (the Secure Boot state and keys), PCR 11 of sha256 (the unified kernel image)"
        );
        assert_eq!(changed(&then, &then), "");
    }

    #[test]
    fn banks_come_back_from_measurements_in_their_order() {
        let banks_of = [
            PcrBank { hash: PcrHash::Sha384, indices: vec![0, 7, 23] },
            PcrBank { hash: PcrHash::Sha256, indices: vec![1] },
        ];
        let measurements: Vec<_> = banks_of
            .iter()
            .flat_map(|bank| {
                bank.indices.iter().map(|index| Measurement { hash: bank.hash, index: *index, value: vec![] })
            })
            .collect();
        assert_eq!(banks(&measurements), banks_of);
        assert_eq!(marshalled(&banks_of), [0, 0, 0, 2, 0, 12, 3, 0x81, 0, 0x80, 0, 11, 3, 2, 0, 0]);
    }
}
