//! The keys of the software device and their file.

use super::SoftwareConfig;
use crate::device::{
    DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeyRef, KeyUsage, decode, encode, secret_bytes,
};
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

pub(super) struct StoredKey {
    pub(super) label: String,
    pub(super) id: Vec<u8>,
    pub(super) kind: KeyKind,
    pub(super) usage: KeyUsage,
    pub(super) material: Material,
}

/// What a key is made of.
pub(super) enum Material {
    /// The bytes of a secret key, in locked memory.
    Secret(Key),
    /// PKCS#8, which is longer than a slot of locked memory, and SubjectPublicKeyInfo.
    Pair { private: Secret<Vec<u8>>, public: Vec<u8> },
}

impl Material {
    pub(super) fn of(kind: KeyKind, private: Secret<Vec<u8>>, public: Option<Vec<u8>>) -> Result<Self, DeviceError> {
        match (kind, public) {
            (KeyKind::Aes(_) | KeyKind::Hmac(_), None) => {
                let key = Key::from_slice(&mut private.into_inner());
                key.map(Self::Secret).map_err(|error| DeviceError::new(Class::Failed, error.to_string()))
            }
            (KeyKind::Aes(_) | KeyKind::Hmac(_), Some(_)) | (_, None) => {
                Err(DeviceError::new(Class::Failed, format!("a key of {kind} has no such halves")))
            }
            (_, Some(public)) => Ok(Self::Pair { private, public }),
        }
    }

    pub(super) fn expose(&self) -> &[u8] {
        match self {
            Self::Secret(key) => key.expose(),
            Self::Pair { private, .. } => private.expose(),
        }
    }

    fn public(&self) -> Option<&Vec<u8>> {
        match self {
            Self::Secret(_) => None,
            Self::Pair { public, .. } => Some(public),
        }
    }
}

impl StoredKey {
    pub(super) fn info(&self) -> KeyInfo {
        KeyInfo {
            label: self.label.clone(),
            id: self.id.clone(),
            kind: self.kind,
            private: true,
            public: self.material.public().is_some(),
            extractable: false,
        }
    }

    /// SubjectPublicKeyInfo, DER.
    pub(super) fn public_key(&self, named: &KeyRef) -> Result<&[u8], DeviceError> {
        let none = || DeviceError::new(Class::KeyMissing, format!("{named} is a secret key, which has no public half"));
        self.material.public().map(Vec::as_slice).ok_or_else(none)
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

    /// The key, which must have been made for this.
    pub(super) fn one_for(&self, key: &KeyRef, usage: KeyUsage) -> Result<&StoredKey, DeviceError> {
        let stored = self.one(key)?;
        if stored.usage == usage {
            return Ok(stored);
        }
        Err(DeviceError::invalid(format!("{key} was made for {:?}, not for {usage:?}", stored.usage)))
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
            key: Secret::new(stored.material.expose().to_vec()),
            kind: Some(stored.kind),
            usage: Some(stored.usage),
            public: stored.material.public().cloned(),
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
    /// Of files of before there were other keys than AES: none.
    #[n(3)]
    kind: Option<KeyKind>,
    #[n(4)]
    usage: Option<KeyUsage>,
    #[cbor(n(5), with = "minicbor::bytes")]
    public: Option<Vec<u8>>,
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
    let keys = file.keys.into_iter().map(|FileKey { label, id, key, kind, usage, public }| {
        let kind = kind.unwrap_or(KeyKind::Aes(key.expose().len() as u32 * 8));
        let material = Material::of(kind, key, public).map_err(|error| unusable(error.text))?;
        Ok(StoredKey { label, id, kind, usage: usage.unwrap_or(KeyUsage::Encrypt), material })
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
