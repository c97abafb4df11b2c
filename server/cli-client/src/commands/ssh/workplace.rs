//! A folder for one session, readable by its owner only and gone afterwards.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

pub struct Workplace {
    folder: PathBuf,
}

impl Workplace {
    pub fn new() -> Result<Workplace, String> {
        let mut name = [0u8; 8];
        getrandom::fill(&mut name).map_err(|e| format!("no randomness: {e}"))?;
        let folder = std::env::temp_dir().join(format!("holdfast-ssh-{:016x}", u64::from_be_bytes(name)));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|e| format!("failed to make {}: {e}", folder.display()))?;
        Ok(Workplace { folder })
    }

    /// Writes a file there and returns its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut f| f.write_all(text.as_bytes()))
            .map_err(|e| format!("failed to write {}: {e}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // What cannot be removed holds no secret: a certificate and names of hosts.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
