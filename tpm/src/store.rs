//! The keys of a TPM in a folder: each in a file, encrypted by the TPM's storage root key.
//!
//! The TPM knows nothing of labels and ids, so they are in the key's authorisation value: a file that was given another
//! name's content is refused by the TPM itself.

use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyInfo, KeyKind, KeyRef, KeyUsage};
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files of keys end with this.
const SUFFIX: &str = "tpmkey";
/// More would make each search slow.
const MAX_KEYS: usize = 1024;
const FORMAT: u32 = 1;

/// The folder.
pub(crate) struct Store(PathBuf);

/// A key as it rests.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) struct StoredKey {
    #[n(0)]
    format: u32,
    #[n(1)]
    pub(crate) label: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) id: Vec<u8>,
    #[n(3)]
    pub(crate) kind: KeyKind,
    #[n(4)]
    pub(crate) usage: KeyUsage,
    /// Name of the storage root key that it is below.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub(crate) root: Vec<u8>,
    /// TPMT_PUBLIC.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub(crate) public: Vec<u8>,
    /// TPM2B_PRIVATE without the length.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub(crate) private: Vec<u8>,
}

/// What a key is called, before it is made.
pub(crate) struct Naming<'a> {
    pub(crate) label: &'a str,
    pub(crate) id: &'a [u8],
    pub(crate) kind: KeyKind,
    pub(crate) usage: KeyUsage,
}

impl Naming<'_> {
    /// The authorisation value of a key of this name: no secret, but the TPM compares it.
    pub(crate) fn auth(&self) -> Vec<u8> {
        let usage = match self.usage {
            KeyUsage::Encrypt => 0,
            KeyUsage::Sign => 1,
            KeyUsage::Derive => 2,
        };
        let mut hash = Sha256::new();
        hash.update(b"holdfast key");
        hash.update((self.label.len() as u64).to_be_bytes());
        hash.update(self.label);
        hash.update(self.id);
        hash.update([usage]);
        let mut value = hash.finalize().to_vec();
        // A TPM would cut off a zero at the end.
        if let Some(last) = value.last_mut() {
            *last |= 1;
        }
        value
    }

    pub(crate) fn made(&self, root: &[u8], public: Vec<u8>, private: Vec<u8>) -> StoredKey {
        StoredKey {
            format: FORMAT,
            label: self.label.to_owned(),
            id: self.id.to_vec(),
            kind: self.kind,
            usage: self.usage,
            root: root.to_vec(),
            public,
            private,
        }
    }
}

impl StoredKey {
    pub(crate) fn naming(&self) -> Naming<'_> {
        Naming { label: &self.label, id: &self.id, kind: self.kind, usage: self.usage }
    }

    pub(crate) fn info(&self) -> KeyInfo {
        KeyInfo {
            label: self.label.clone(),
            id: self.id.clone(),
            kind: self.kind,
            private: true,
            public: true,
            // Made with fixedTPM and fixedParent, which the TPM holds to.
            extractable: false,
        }
    }
}

impl Store {
    /// The folder of the configuration.
    ///
    /// # Errors
    /// `Unsupported` if there is none.
    pub(crate) fn of(folder: Option<&String>) -> Result<Self, DeviceError> {
        folder.map(|folder| Self(PathBuf::from(folder))).ok_or_else(|| {
            DeviceError::unsupported("this TPM is used to seal alone: no folder is configured for keys that it makes")
        })
    }

    pub(crate) fn matching(&self, key: &KeyRef) -> Result<Vec<StoredKey>, DeviceError> {
        let mut found = self.all()?;
        found.retain(|stored| {
            key.label.as_ref().is_none_or(|label| *label == stored.label)
                && key.id.as_ref().is_none_or(|id| *id == stored.id)
        });
        Ok(found)
    }

    pub(crate) fn one(&self, key: &KeyRef) -> Result<StoredKey, DeviceError> {
        let mut found = self.matching(key)?;
        match (found.pop(), found.len()) {
            (Some(stored), 0) => Ok(stored),
            (None, _) => Err(DeviceError::new(
                Class::KeyMissing,
                format!("no {key} is in {}: check label and id", self.0.display()),
            )),
            (Some(_), others) => Err(DeviceError::config(format!(
                "{} keys match {key}: give both label and id of the one that is meant",
                others + 1
            ))),
        }
    }

    /// Whether a key of this name may be added.
    pub(crate) fn refuse_existing(&self, naming: &Naming<'_>) -> Result<(), DeviceError> {
        for name in [KeyRef::label(naming.label), KeyRef::id(naming.id)] {
            if !self.matching(&name)?.is_empty() {
                return Err(DeviceError::invalid(format!("{name} exists already: use it, or choose another name")));
            }
        }
        if self.files()?.len() >= MAX_KEYS {
            return Err(DeviceError::new(
                Class::Failed,
                format!("{} holds {MAX_KEYS} keys, which is the most: destroy some", self.0.display()),
            ));
        }
        Ok(())
    }

    pub(crate) fn add(&self, stored: &StoredKey) -> Result<(), DeviceError> {
        let written = minicbor::to_vec(stored).map_err(io::Error::other).and_then(|bytes| {
            let file = self.file(&stored.id);
            let beside = file.with_extension("new");
            let _left_by_a_crash = fs::remove_file(&beside);
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            let whole = new.write_all(&bytes).and_then(|()| new.sync_all()).and_then(|()| fs::rename(&beside, &file));
            if whole.is_err() {
                let _takes_room_only = fs::remove_file(&beside);
            }
            whole?;
            self.sync()
        });
        written.map_err(|error| self.failed("a key cannot be written", &error))
    }

    pub(crate) fn destroy(&self, stored: &StoredKey) -> Result<(), DeviceError> {
        let removed = fs::remove_file(self.file(&stored.id)).and_then(|()| self.sync());
        removed.map_err(|error| self.failed("a key cannot be removed", &error))
    }

    fn all(&self) -> Result<Vec<StoredKey>, DeviceError> {
        self.files()?.iter().map(|file| self.read(file)).collect()
    }

    fn files(&self) -> Result<Vec<PathBuf>, DeviceError> {
        let entries = fs::read_dir(&self.0)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
        let mut files = entries.map_err(|error| self.failed("the folder of keys cannot be read", &error))?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == SUFFIX));
        files.sort();
        Ok(files)
    }

    fn read(&self, file: &Path) -> Result<StoredKey, DeviceError> {
        let bytes = fs::read(file).map_err(|error| self.failed("a key cannot be read", &error))?;
        let stored: Option<StoredKey> = minicbor::decode(&bytes).ok();
        stored.filter(|stored| stored.format == FORMAT && *file == self.file(&stored.id)).ok_or_else(|| {
            DeviceError::new(
                Class::Tampered,
                format!("{} is no key of this program's: restore it from a backup", file.display()),
            )
        })
    }

    fn file(&self, id: &[u8]) -> PathBuf {
        // A file's name has an end; ids that people give may not.
        self.0.join(format!("{}.{SUFFIX}", hex::encode(&Sha256::digest(id)[..16])))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn failed(&self, what: &str, error: &io::Error) -> DeviceError {
        let folder = self.0.display();
        let step = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("the disk of {folder} is full: make room there, or destroy keys that are not used")
            }
            _ => format!("{folder} must be a folder that the device helper's user may write"),
        };
        DeviceError::new(Class::Failed, format!("{what} ({error}): {step}"))
    }
}
