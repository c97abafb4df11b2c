//! `seal "tpm"`: a secret that a TPM 2.0 seals below its storage root key.

use std::path::PathBuf;

use crate::seal::{absolute, pin};
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, PinSource};

/// `seal "tpm"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmSeal {
    /// How the TPM is reached, as the TCTI loader of tpm2-tss names it.
    pub tcti: String,
    /// The registers that the sealed key is bound to; none: to the TPM alone.
    pub pcrs: Vec<PcrSelection>,
    /// Where the storage root key is made: `owner` or `endorsement`.
    pub hierarchy: &'static str,
    /// The file with the authorisation of that hierarchy; `None`: it has none.
    pub hierarchy_auth_file: Option<PathBuf>,
    /// The persistent handle of a storage root key that is there.
    pub root_handle: Option<u32>,
    /// The public key of who approves measurements, PEM.
    pub pcr_public_key: Option<PathBuf>,
    /// The measurements that were approved, JSON.
    pub pcr_signatures: Option<PathBuf>,
    /// Public keys, PEM, of people so many of whom have to sign before the TPM gives the key back.
    pub custodians: Vec<PathBuf>,
    /// How many.
    pub custodian_threshold: u8,
    /// The NV index of a counter that tells old copies of the store.
    pub rollback_counter: Option<u32>,
    /// Where that counter is when a store is to be accepted once that it would refuse.
    pub rollback_accept: Option<u64>,
    /// What the TPM asks for beside the measurements.
    pub pin: Option<PinSource>,
    /// The user that the device helper becomes, by name or number; `None`: the server's.
    pub helper_user: Option<String>,
    /// What the helper may read beside the TPM's libraries.
    pub helper_read_paths: Vec<PathBuf>,
    /// What it may write beside the TPM's device file.
    pub helper_write_paths: Vec<PathBuf>,
}

/// Registers of one bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    /// The bank's hash: `sha1`, `sha256`, `sha384` or `sha512`.
    pub bank: &'static str,
    /// The registers, ascending.
    pub indices: Vec<u8>,
}

/// Where a TPM is on Linux, behind the kernel's resource manager.
const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";
const TCTIS: [&str; 4] = ["device", "swtpm", "mssim", "tabrmd"];
const BANKS: [&str; 4] = ["sha1", "sha256", "sha384", "sha512"];
const LAST_PCR: u8 = 23;

/// Reads the keys of a TPM.
pub(crate) fn read(s: &mut Stanza<'_>) -> Result<TpmSeal, ConfigError> {
    let tcti = tcti(s)?;
    let pcrs = match s.text("pcrs")? {
        None => Vec::new(),
        Some(text) => pcrs(&text).ok_or_else(|| s.wrong("pcrs", &text, PCRS_EXPECTED))?,
    };
    let root_handle = root_handle(s)?;
    let (custodians, custodian_threshold) = custodians(s)?;
    let rollback_counter = rollback_counter(s)?;
    let rollback_accept = s.number("rollback_accept")?;
    if rollback_accept.is_some() && rollback_counter.is_none() {
        return Err(
            s.missing("rollback_counter", "set it to the NV index of the counter that rollback_accept is about")
        );
    }
    let seal = TpmSeal {
        tcti,
        pcrs,
        hierarchy: hierarchy(s)?,
        hierarchy_auth_file: s.path("hierarchy_auth_file")?,
        root_handle,
        pcr_public_key: s.path("pcr_public_key")?,
        pcr_signatures: s.path("pcr_signatures")?,
        custodians,
        custodian_threshold,
        rollback_counter,
        rollback_accept,
        pin: pin(s)?,
        helper_user: s.text("helper_user")?,
        helper_read_paths: absolute(s, "helper_read_paths")?,
        helper_write_paths: absolute(s, "helper_write_paths")?,
    };
    if seal.root_handle.is_some() && seal.hierarchy_auth_file.is_some() {
        let (first, second) = ("root_handle", "hierarchy_auth_file");
        return Err(s.at(second, ConfigErrorKind::Both { stanza: s.name.clone(), first, second }));
    }
    match (&seal.pcr_public_key, &seal.pcr_signatures) {
        (Some(_), None) => return Err(s.missing("pcr_signatures", "set it to the file with the approved measurements")),
        (None, Some(_)) => return Err(s.missing("pcr_public_key", "set it to the key that signed them, in PEM")),
        (Some(_), Some(_)) if seal.pcrs.len() != 1 => {
            return Err(s.missing("pcrs", "name the registers that are approved, of one bank, as in \"sha256:11\""));
        }
        _ => {}
    }
    Ok(seal)
}

/// The policy holds every choice of so many of them.
const MOST_CUSTODIANS: usize = 14;

/// Who has to sign, and how many of them.
fn custodians(s: &mut Stanza<'_>) -> Result<(Vec<PathBuf>, u8), ConfigError> {
    let files = absolute(s, "custodians")?;
    if files.len() > MOST_CUSTODIANS {
        let count = files.len().to_string();
        return Err(s.wrong("custodians", &count, format!("at most {MOST_CUSTODIANS} files of public keys")));
    }
    match s.number("custodian_threshold")? {
        None if files.is_empty() => Ok((files, 0)),
        None => Err(s.missing("custodian_threshold", "set it to how many of the custodians have to sign")),
        Some(_) if files.is_empty() => Err(s.missing(
            "custodians",
            "name the files with their public keys, in PEM, as in [\"/etc/holdfast/alice.pem\"]",
        )),
        Some(threshold) => match u8::try_from(threshold) {
            Ok(threshold @ 1..) if usize::from(threshold) <= files.len() => Ok((files, threshold)),
            _ => {
                let expected = format!("1 to {}, the number of custodians", files.len());
                Err(s.wrong("custodian_threshold", &threshold.to_string(), expected))
            }
        },
    }
}

const PCRS_EXPECTED: &str =
    "registers 0 to 23 of banks sha1, sha256, sha384 or sha512, as in \"sha256:0,2,7\" or \"sha256:7+sha384:0\"";

/// Registers as tpm2-tools and systemd write them; without a bank, those of SHA-256.
fn pcrs(text: &str) -> Option<Vec<PcrSelection>> {
    let mut selections: Vec<PcrSelection> = Vec::new();
    for part in text.split('+').map(str::trim) {
        let (name, list) = part.split_once(':').unwrap_or(("sha256", part));
        let bank = BANKS.into_iter().find(|bank| bank.eq_ignore_ascii_case(name.trim()))?;
        let indices = list.split(',').map(|word| word.trim().parse().ok().filter(|index| *index <= LAST_PCR));
        let mut indices = indices.collect::<Option<Vec<u8>>>()?;
        indices.sort_unstable();
        indices.dedup();
        if selections.iter().any(|selection| selection.bank == bank) {
            return None;
        }
        selections.push(PcrSelection { bank, indices });
    }
    Some(selections)
}

/// How the TPM is reached.
pub(crate) fn tcti(s: &mut Stanza<'_>) -> Result<String, ConfigError> {
    let tcti = s.text("tcti")?.unwrap_or_else(|| DEFAULT_TCTI.to_owned());
    if !TCTIS.contains(&tcti.split(':').next().unwrap_or_default()) {
        let expected = "a way to a TPM, as in \"device:/dev/tpmrm0\", \"tabrmd\" or \"swtpm:host=127.0.0.1,port=2321\"";
        return Err(s.wrong("tcti", &tcti, expected));
    }
    Ok(tcti)
}

/// Where the storage root key is made.
pub(crate) fn hierarchy(s: &mut Stanza<'_>) -> Result<&'static str, ConfigError> {
    Ok(s.choice("hierarchy", &[("owner", "owner"), ("endorsement", "endorsement")])?.unwrap_or("owner"))
}

/// An NV index in the range of the TPM's owner (TCG Registry of Reserved TPM 2.0 Handles, 2.2).
fn rollback_counter(s: &mut Stanza<'_>) -> Result<Option<u32>, ConfigError> {
    let Some(text) = s.text("rollback_counter")? else { return Ok(None) };
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let index = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match index.filter(|index| (0x0180_0000..=0x01BF_FFFF).contains(index)) {
        Some(index) => Ok(Some(index)),
        None => {
            let expected = "an NV index of the TPM's owner, 0x01800000 to 0x01bfffff, as in \"0x01800100\"";
            Err(s.wrong("rollback_counter", &text, expected))
        }
    }
}

/// The handle of a persistent object of the owner (Part 2, 7.5).
pub(crate) fn root_handle(s: &mut Stanza<'_>) -> Result<Option<u32>, ConfigError> {
    let Some(text) = s.text("root_handle")? else { return Ok(None) };
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let handle = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).filter(|handle| handle >> 24 == 0x81);
    match handle {
        Some(handle) => Ok(Some(handle)),
        None => Err(s.wrong("root_handle", &text, "the handle of a persistent object, as in \"0x81000001\"")),
    }
}
