//! Quotes: TPMS_ATTEST (Part 2, 10.12) over a nonce and the registers.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::Doubt;
use crate::public::{PublicArea, PublicKey};
use crate::reader::Reader;

/// TPM_GENERATED: a restricted key signs nothing that begins so unless the TPM has made it.
const MAGIC: u32 = 0xFF54_4347;
const ATTEST_QUOTE: u16 = 0x8018;
/// Banks that a TPM can have, more or less.
const MAX_BANKS: u32 = 16;
const BANKS: [(u16, &str); 4] = [(0x0004, "sha1"), (0x000B, "sha256"), (0x000C, "sha384"), (0x000D, "sha512")];

/// A platform configuration register and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// `sha1`, `sha256`, `sha384` or `sha512`.
    pub bank: String,
    /// 0 to 23.
    pub index: u8,
    /// As long as the bank's hash.
    pub value: Vec<u8>,
}

/// What a TPM has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Bank and number of each register, in the TPM's order.
    selected: Vec<(&'static str, u8)>,
    digest: Vec<u8>,
    /// How often the machine was started.
    pub resets: u32,
    /// How often it woke.
    pub restarts: u32,
    /// Of the TPM.
    pub firmware: u64,
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "signed over the nonce; {} registers, start {} of the machine, TPM firmware {:#x}",
            self.selected.len(),
            self.resets,
            self.firmware
        )
    }
}

impl Quote {
    /// Reads a quote that the attestation key signed over the nonce.
    ///
    /// # Errors
    /// If it is none.
    pub fn verified(quoted: &[u8], signature: &[u8], key: &PublicArea, nonce: &[u8]) -> Result<Self, Doubt> {
        let refuted = |why: &str| Doubt::Refuted(why.to_owned());
        let PublicKey::P256(point) = &key.key else {
            return Err(Doubt::Unknown("quotes by attestation keys on P-256 are judged here".into()));
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(quoted, signature)
            .map_err(|_| refuted("the quote is not signed by the attestation key"))?;
        let mut reader = Reader::new(quoted, "the quote");
        if reader.u32()? != MAGIC || reader.u16()? != ATTEST_QUOTE {
            return Err(refuted("what is signed is no quote of a TPM"));
        }
        reader.sized()?; // the key's qualified name
        if reader.sized()? != nonce {
            return Err(refuted("the quote was made for another nonce: it is an older one, or another verifier's"));
        }
        reader.u64()?; // the clock, in ms
        let (resets, restarts) = (reader.u32()?, reader.u32()?);
        reader.u8()?; // whether the clock is safe
        let firmware = reader.u64()?;
        let banks = reader.u32()?;
        if banks > MAX_BANKS {
            return Err(reader.malformed());
        }
        let mut selected = Vec::new();
        for _ in 0..banks {
            let hash = reader.u16()?;
            let bits = reader.u8()?;
            let bits = reader.bytes(bits.into())?;
            let bank = BANKS.iter().find(|(number, _)| *number == hash).map(|(_, name)| *name);
            let bank =
                bank.ok_or_else(|| Doubt::Unknown(format!("a bank of PCRs of hash {hash:#x} is not known here")))?;
            for (place, byte) in (0_u8..).zip(bits) {
                selected.extend((0..8).filter(|bit| byte >> bit & 1 == 1).map(|bit| (bank, place * 8 + bit)));
            }
        }
        let digest = reader.sized()?.to_vec();
        reader.end()?;
        Ok(Self { selected, digest, resets, restarts, firmware })
    }

    /// Whether these are the values of the registers that the TPM has signed.
    ///
    /// # Errors
    /// If they are not, or a register of the quote is missing.
    pub fn matches(&self, registers: &[Register]) -> Result<(), Doubt> {
        let mut hash = Sha256::new();
        for (bank, index) in &self.selected {
            let register = registers.iter().find(|register| register.bank == *bank && register.index == *index);
            let missing = || Doubt::Refuted(format!("what {bank} PCR {index} holds, which is quoted, is not told"));
            hash.update(&register.ok_or_else(missing)?.value);
        }
        let others = registers.len() != self.selected.len();
        if others || hash.finalize()[..] != self.digest[..] {
            return Err(Doubt::Refuted(
                "the registers' values are not those of the quote: one changed meanwhile, or somebody changed them"
                    .into(),
            ));
        }
        Ok(())
    }
}
