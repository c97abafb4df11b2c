//! TPMs of swtpm with a state in a folder of the test's own, and how a device is configured for one.

use holdfast_hsm::tpm::TpmConfig;
use holdfast_tests::tpm::Tpm;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use tempfile::TempDir;

/// Ends before its folder goes.
pub struct SwTpm {
    tpm: Tpm,
    _folder: TempDir,
}

impl SwTpm {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        Self { tpm: Tpm::start(folder.path()), _folder: folder }
    }

    /// With a certificate of its endorsement key.
    pub fn endorsed() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        Self { tpm: Tpm::start_endorsed(folder.path()), _folder: folder }
    }

    pub fn config(&self) -> TpmConfig {
        TpmConfig::new(self.tcti())
    }

    /// With a folder for the keys that it makes.
    pub fn config_with_keys(&self, folder: &Path) -> TpmConfig {
        TpmConfig { keys: Some(folder.display().to_string()), ..self.config() }
    }
}

impl Deref for SwTpm {
    type Target = Tpm;

    fn deref(&self) -> &Tpm {
        &self.tpm
    }
}

impl DerefMut for SwTpm {
    fn deref_mut(&mut self) -> &mut Tpm {
        &mut self.tpm
    }
}
