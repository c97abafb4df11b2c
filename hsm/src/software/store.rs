//! The keys of the software device and their file.

use super::SoftwareConfig;
use crate::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeyRef, decode, encode, secret_bytes};
use crate::memory::{Key, Secret};
use minicbor::{Decode, Encode};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

pub(super) struct Store {
    path: Option<PathBuf>,
    place: String,
    keys: Vec<StoredKey>,
}

/// A key in locked memory.
pub(super) struct StoredKey {
    pub(super) label: String,
    pub(super) id: Vec<u8>,
    pub(super) key: Key,
}

impl StoredKey {
    pub(super) fn info(&self) -> KeyInfo {
        KeyInfo {
            label: self.label.clone(),
            id: self.id.clone(),
            kind: KeyKind::Aes(self.key.expose().len() as u32 * 8),
            private: true,
            public: false,
            extractable: false,
        }
    }
}

impl Store {
    pub(super) fn open(config: &SoftwareConfig) -> Result<Self, DeviceError> {
        let path = config.path.as_ref().map(PathBuf::from);
        let place = config.path.clone().unwrap_or_else(|| "memory".to_owned());
        let keys = match &path {
            Some(path) if path.exists() => read(path)?,
            _ => Vec::new(),
        };
        Ok(Self { path, place, keys })
    }

    /// The file's path, or `memory`.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn matching(&self, key: &KeyRef) -> impl Iterator<Item = &StoredKey> {
        self.keys.iter().filter(move |stored| fits(stored, key))
    }

    pub(super) fn one(&self, key: &KeyRef) -> Result<&StoredKey, DeviceError> {
        let mut found = self.matching(key);
        match (found.next(), found.next()) {
            (Some(stored), None) => Ok(stored),
            (None, _) => Err(missing(key, &self.place)),
            (Some(_), Some(_)) => {
                Err(DeviceError::config(format!("several keys match {key}: give both 'key_label' and 'key_id'")))
            }
        }
    }

    pub(super) fn add(&mut self, stored: StoredKey) -> Result<KeyInfo, DeviceError> {
        for name in [KeyRef::label(&stored.label), KeyRef::id(stored.id.clone())] {
            if self.matching(&name).next().is_some() {
                return Err(DeviceError::invalid(format!("{name} exists already: use it, or choose another name")));
            }
        }
        let info = stored.info();
        self.keys.push(stored);
        if let Err(error) = self.write() {
            self.keys.pop();
            return Err(error);
        }
        Ok(info)
    }

    pub(super) fn destroy(&mut self, key: &KeyRef) -> Result<(), DeviceError> {
        if key.label.is_none() && key.id.is_none() {
            return Err(DeviceError::invalid("a key to destroy must be named by label or id"));
        }
        let id = self.one(key)?.id.clone();
        self.keys.retain(|stored| stored.id != id);
        self.write()
    }

    fn write(&self) -> Result<(), DeviceError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let keys = self.keys.iter().map(|stored| FileKey {
            label: stored.label.clone(),
            id: stored.id.clone(),
            key: Secret::new(stored.key.expose().to_vec()),
        });
        let bytes = encode(&KeyFile { format: FORMAT, keys: keys.collect() });
        replace(path, &bytes).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "its disk is full, make room there",
                _ => "check its directory",
            };
            DeviceError::new(
                Class::Failed,
                format!("key file {} cannot be written ({error}): {remedy}", path.display()),
            )
        })
    }
}

const FORMAT: u32 = 1;

#[derive(Encode, Decode)]
struct KeyFile {
    #[n(0)]
    format: u32,
    #[n(1)]
    keys: Vec<FileKey>,
}

#[derive(Encode, Decode)]
struct FileKey {
    #[n(0)]
    label: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    id: Vec<u8>,
    #[cbor(n(2), with = "secret_bytes")]
    key: Secret<Vec<u8>>,
}

fn read(path: &Path) -> Result<Vec<StoredKey>, DeviceError> {
    let unusable = |why: String| {
        DeviceError::config(format!("key file {} cannot be used ({why}): correct it or 'path'", path.display()))
    };
    let meta = fs::metadata(path).map_err(|error| unusable(error.to_string()))?;
    if meta.mode() & 0o077 != 0 {
        return Err(unusable(format!("others may read it: mode {:o}, needs 600", meta.mode() & 0o777)));
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(|error| unusable(error.to_string()))?);
    let file: KeyFile = decode(&bytes).map_err(|_| unusable("it is no key file".to_owned()))?;
    if file.format != FORMAT {
        return Err(unusable(format!("its format is {}, this program reads {FORMAT}", file.format)));
    }
    let keys = file.keys.into_iter().map(|FileKey { label, id, key }| {
        let key = Key::from_slice(&mut key.into_inner()).map_err(|error| unusable(error.to_string()))?;
        Ok(StoredKey { label, id, key })
    });
    keys.collect()
}

/// Writes a new file beside and renames it over the old one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn fits(stored: &StoredKey, key: &KeyRef) -> bool {
    key.label.as_ref().is_none_or(|label| *label == stored.label) && key.id.as_ref().is_none_or(|id| *id == stored.id)
}

fn missing(key: &KeyRef, place: &str) -> DeviceError {
    DeviceError::new(
        Class::KeyMissing,
        format!("no {key} in the software device ({place}): check 'key_label' and 'key_id', or set 'generate_key'"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::SoftwareDevice;
    use super::*;
    use crate::device::{KeyDevice, KeySpec, KeyUsage};
    use crate::memory::allow_unlocked;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_survive_in_a_file_that_only_the_owner_reads() {
        allow_unlocked();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let config = SoftwareConfig { path: Some(path.to_str().unwrap().to_owned()) };
        let spec = KeySpec { label: "root".into(), id: None, kind: KeyKind::Aes(256), usage: KeyUsage::Encrypt };
        let made = SoftwareDevice::new(&config).unwrap().generate(&spec).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        let again = SoftwareDevice::new(&config).unwrap();
        assert_eq!(again.find(&KeyRef::label("root")).unwrap(), [made]);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = SoftwareDevice::new(&config).err().unwrap();
        assert_eq!(refused.class, Class::Config);
        assert!(refused.text.contains("needs 600"), "{refused}");
    }
}
