//! Where other members are now, as an operator said while this node was stopped (`operator raft recover -address`):
//! a file beside the node's identity, which counts until the members' list says the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::identity;

/// `host:port` by the node's name.
pub type Places = BTreeMap<String, String>;

const FILE: &str = "addresses.json";

fn path(folder: &Path) -> PathBuf {
    folder.join(identity::FOLDER).join(FILE)
}

/// What was said, for the store in `folder`.
pub fn said(folder: &Path) -> Result<Places, String> {
    let path = path(folder);
    let fail = |e: &dyn std::fmt::Display| format!("cannot read {}: {e}", path.display());
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| fail(&e)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Places::new()),
        Err(e) => Err(fail(&e)),
    }
}

pub fn say(folder: &Path, places: &Places) -> Result<(), String> {
    let path = path(folder);
    let bytes = serde_json::to_vec(places).map_err(|e| e.to_string())?;
    identity::write(&path, &bytes).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// It counts no longer.
pub fn forget(folder: &Path) {
    if let Err(e) = fs::remove_file(path(folder)) {
        tracing::warn!(error = %e, "the addresses that an operator gave cannot be removed");
    }
}
