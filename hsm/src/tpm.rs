//! The `seal "tpm"` stanza, as far as the device is concerned. The device itself is the crate `holdfast-tpm`, so that
//! whoever needs no TPM links none of its libraries.

use crate::confinement::HelperLimits;
use crate::device::secret_text;
use crate::memory::Secret;
use minicbor::{Decode, Encode};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which TPM, and what it looks at before it gives a secret back.
#[derive(Debug, Encode, Decode)]
pub struct TpmConfig {
    /// How the TPM is reached, as the TCTI loader names it: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`, ...
    #[n(0)]
    pub tcti: String,
    /// Where the storage root key is made.
    #[n(1)]
    pub hierarchy: Hierarchy,
    /// The authorisation of that hierarchy, where it has one.
    #[cbor(n(2), with = "secret_text")]
    pub hierarchy_auth: Option<Secret<String>>,
    /// A storage root key that is in the TPM already, by its persistent handle; else it is made from the standard
    /// template.
    #[n(3)]
    pub root_handle: Option<u32>,
    /// The measurements that a sealed secret is bound to.
    #[n(4)]
    pub pcrs: Vec<PcrBank>,
    /// Who may approve other measurements.
    #[n(5)]
    pub approval: Option<Approval>,
    /// What the TPM asks for, beside the measurements.
    #[cbor(n(6), with = "secret_text")]
    pub pin: Option<Secret<String>>,
    /// The folder of keys that are made in the TPM; they rest there encrypted by it. `None`: no keys are made.
    #[n(7)]
    pub keys: Option<String>,
    /// What its helper may do.
    #[n(8)]
    pub limits: HelperLimits,
    /// Who has to sign before a sealed secret is given back.
    #[n(9)]
    pub custodians: Option<Custodians>,
    /// The NV index of the counter by which old copies of the store are told.
    #[n(10)]
    pub rollback_counter: Option<u32>,
}

impl TpmConfig {
    /// Where a TPM is on Linux, behind the kernel's resource manager.
    pub const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";

    /// What the storage root key is called here; its id is its Name (Part 1, 16).
    pub const ROOT_LABEL: &str = "storage root key";

    /// For a TPM, with nothing else set.
    pub fn new(tcti: impl Into<String>) -> Self {
        Self {
            tcti: tcti.into(),
            hierarchy: Hierarchy::Owner,
            hierarchy_auth: None,
            root_handle: None,
            pcrs: Vec::new(),
            approval: None,
            pin: None,
            keys: None,
            limits: HelperLimits::default(),
            custodians: None,
            rollback_counter: None,
        }
    }

    /// For log lines and error texts.
    pub fn name(&self) -> String {
        format!("the TPM at {}", self.tcti)
    }

    /// The device file, if it is one.
    pub fn device_file(&self) -> Option<&Path> {
        match self.tcti.split_once(':') {
            Some(("device", path)) if !path.is_empty() => Some(Path::new(path)),
            None if self.tcti == "device" => Some(Path::new("/dev/tpm0")),
            _ => None,
        }
    }

    /// The TCP port of a TPM that is a process; that after it takes its control commands.
    pub(crate) fn port(&self) -> Option<u16> {
        let conf = ["swtpm", "mssim"].iter().find_map(|kind| self.tcti.strip_prefix(kind))?;
        let port = conf.trim_start_matches(':').split(',').find_map(|word| word.strip_prefix("port="));
        port.map_or(Some(2321), |port| port.parse().ok())
    }

    /// Whether others use the TPM too, each seeing only what is its own.
    pub fn is_shared(&self) -> bool {
        self.tcti.starts_with("tabrmd") || self.device_file().is_some_and(|file| !file.starts_with("/dev/tpm0"))
    }

    /// Where the files are that it reads at each use, since others replace them.
    pub(crate) fn folders_of_keys(&self) -> impl Iterator<Item = PathBuf> {
        let approval = self.approval.iter().flat_map(|approval| [&approval.public_key, &approval.signatures]);
        let files = approval.chain(self.custodians.iter().flat_map(|custodians| &custodians.public_keys));
        files.filter_map(|file| Path::new(file).parent()).map(Path::to_owned)
    }
}

/// A hierarchy of the TPM: who rules over the keys below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Hierarchy {
    /// The owner's: ends with TPM2_Clear.
    #[n(0)]
    Owner,
    /// The privacy administrator's: ends when the endorsement seed is changed.
    #[n(1)]
    Endorsement,
}

/// Registers of one bank.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PcrBank {
    /// The bank's hash.
    #[n(0)]
    pub hash: PcrHash,
    /// The registers, ascending.
    #[n(1)]
    pub indices: Vec<u8>,
}

impl PcrBank {
    /// Registers as tpm2-tools and systemd write them: `sha256:0,2,7+sha384:0`. `None` if it is no such text.
    pub fn parse(text: &str) -> Option<Vec<Self>> {
        let mut banks: Vec<Self> = Vec::new();
        for part in text.split('+') {
            let (name, list) = part.trim().split_once(':')?;
            let hash = PcrHash::from_name(name)?;
            let indices = list.split(',').map(|word| word.trim().parse().ok().filter(|index| *index < 24));
            let mut indices = indices.collect::<Option<Vec<u8>>>()?;
            indices.sort_unstable();
            indices.dedup();
            if banks.iter().any(|bank| bank.hash == hash) {
                return None;
            }
            banks.push(Self { hash, indices });
        }
        Some(banks)
    }
}

/// The hash of a bank of PCRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum PcrHash {
    /// SHA-1: for firmware that measures nothing else.
    #[n(0)]
    Sha1,
    /// SHA-256.
    #[n(1)]
    Sha256,
    /// SHA-384.
    #[n(2)]
    Sha384,
    /// SHA-512.
    #[n(3)]
    Sha512,
}

impl PcrHash {
    /// By the name that tpm2-tools and systemd use, as in `sha256`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, hash)| *hash)
    }

    /// All of them, with their names.
    const NAMES: [(&'static str, PcrHash); 4] =
        [("sha1", Self::Sha1), ("sha256", Self::Sha256), ("sha384", Self::Sha384), ("sha512", Self::Sha512)];
}

impl fmt::Display for PcrHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, hash)| hash == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// Who approves measurements (TPM2_PolicyAuthorize), in the files of systemd-measure(1).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Approval {
    /// The public key, PEM: `tpm2-pcr-public-key.pem`.
    #[n(0)]
    pub public_key: String,
    /// What it has signed, JSON: `tpm2-pcr-signature.json`. Read again at each use.
    #[n(1)]
    pub signatures: String,
}

/// Who has to sign the TPM's challenge (TPM2_PolicySigned), and how many of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Custodians {
    /// How many.
    #[n(0)]
    pub threshold: u8,
    /// Their public keys, PEM files, whose names without the ending are theirs. Read when something is sealed.
    #[n(1)]
    pub public_keys: Vec<String>,
}

impl Custodians {
    /// At most: the policy holds every choice of so many of them.
    pub const MAX: usize = 14;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tcti_reaches_is_read_from_its_name() {
        let of = |tcti: &str| TpmConfig::new(tcti);
        assert_eq!(of("device:/dev/tpmrm0").device_file(), Some(Path::new("/dev/tpmrm0")));
        assert_eq!(of("device").device_file(), Some(Path::new("/dev/tpm0")));
        assert_eq!(of("swtpm:host=127.0.0.1,port=7000").port(), Some(7000));
        assert_eq!(of("swtpm").port(), Some(2321));
        assert_eq!(of("tabrmd:bus_type=system").port(), None);
        assert!(of("device:/dev/tpmrm0").is_shared() && of("tabrmd").is_shared());
        assert!(!of("device:/dev/tpm0").is_shared() && !of("swtpm").is_shared());
    }
}
