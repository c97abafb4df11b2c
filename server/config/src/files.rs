//! Finding and reading the files that `-config` names.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{ConfigError, ConfigErrorKind};

/// The files that paths name, in their order; a folder stands for its files
/// that end in `.hcl` or `.json`, sorted by name.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if metadata.is_dir() {
            files.extend(folder(path)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let file = entry.map_err(|error| unreadable(path, &error))?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if matches!(extension, Some("hcl" | "json")) && !hidden && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        let path = path.display().to_string();
        return Err(ConfigError::without_place(ConfigErrorKind::NoFiles { path }));
    }
    files.sort();
    Ok(files)
}

/// Reads one file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError::without_place(ConfigErrorKind::Read { path: path.display().to_string(), reason: error.to_string() })
}
