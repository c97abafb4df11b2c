//! Who a node is: its name, and a key pair made at its first start and kept beside its store, outside of what
//! is replicated, in a file or closed by a device. Others know the hash of the public key and trust nothing else: a
//! certificate's end, its names and who signed it say nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use holdfast_hsm::memory::Key;
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SerialNumber};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::tls;

/// The folder beside the store's files.
pub(crate) const FOLDER: &str = "node";
const NAME_FILE: &str = "id";
const KEY_FILE: &str = "key.pem";
/// The key as a device has closed it.
const CLOSED_KEY_FILE: &str = "key.closed";
/// What a closed key is bound to, beside the node's name.
const CLOSED_FOR: &str = "holdfast node key";
/// As the certificate says; nobody asks.
const NAME: &str = "holdfast-node";

/// Closes a node's key, so that what lies beside its store is nobody's identity without the device.
pub trait KeyKeeper: Send + Sync {
    /// What it is called where something is said of it.
    fn name(&self) -> &str;
    /// Close a key, bound to `about`.
    fn close(&self, key: &[u8], about: &str) -> Result<Vec<u8>, String>;
    /// Open what [`close`](Self::close) gave.
    fn open(&self, closed: &[u8], about: &str) -> Result<Key, String>;
}

/// How a node's key is kept.
#[derive(Clone, Default)]
pub enum KeyKept {
    /// In a file that its owner alone may read.
    #[default]
    InFile,
    /// Closed by a device. A key that lies in a file is closed, and the file goes.
    By(Arc<dyn KeyKeeper>),
    /// In a file again: what the device has closed is opened for the last time.
    NoLongerBy(Arc<dyn KeyKeeper>),
}

/// A node's identity.
pub struct Identity {
    pub id: String,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), in hex.
    pub key_hash: String,
    pub certificate: CertificateDer<'static>,
    /// The certificate's serial number, in hex: each process makes one at its start, so that two with one key show two.
    pub incarnation: String,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Read the identity of the store in `folder`, or make it at the first start. `name` is what the configuration
    /// calls the node; without one it has a random name of its own. A device may be asked for its key, and waited for.
    pub fn of(folder: &Path, name: Option<&str>, kept: &KeyKept) -> Result<Identity, String> {
        let folder = folder.join(FOLDER);
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        let id = named(&folder.join(NAME_FILE), name)?;
        let key = key_of(&folder, &id, kept)?;
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(|e| e.to_string())?;
        params.serial_number = Some(serial_number()?);
        let certificate =
            params.self_signed(&key).map_err(|e| format!("the node's certificate cannot be made: {e}"))?;
        Ok(Identity {
            id,
            key_hash: hash(&key.subject_public_key_info()),
            incarnation: tls::incarnation(certificate.der()).map_err(|e| e.to_string())?,
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }

    /// An identity of a test, which is kept nowhere; its certificate may have ended long ago.
    #[cfg(test)]
    pub(crate) fn passing(ended: bool) -> Identity {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.serial_number = Some(serial_number().unwrap());
        if ended {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let certificate = params.self_signed(&pair).unwrap().der().clone();
        Identity {
            id: "passing".into(),
            key_hash: hash(&pair.subject_public_key_info()),
            incarnation: tls::incarnation(&certificate).unwrap(),
            certificate,
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()),
        }
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// Random, positive, and always as long (RFC 5280, 4.1.2.2).
fn serial_number() -> Result<SerialNumber, String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The hash by which others know a public key.
pub fn hash(public_key_info: &[u8]) -> String {
    hex::encode(Sha256::digest(public_key_info))
}

/// A store's node keeps its name: another one in the configuration is another node, whose place this is not.
fn named(path: &Path, name: Option<&str>) -> Result<String, String> {
    let fail = |what: &str, e: std::io::Error| format!("cannot {what} {}: {e}", path.display());
    match fs::read_to_string(path) {
        Ok(kept) if kept.trim().is_empty() => Err(is_damaged(path, "it holds no name", NAME_AGAIN)),
        Ok(kept) => match name {
            Some(name) if name != kept.trim() => Err(format!(
                "this store is of the node {:?}, and the configuration calls it {name:?}: correct node_id, or give the \
                 new node a folder of its own (where neither was changed, {} is damaged: {NAME_AGAIN})",
                kept.trim(),
                path.display()
            )),
            _ => Ok(kept.trim().to_owned()),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let id = match name {
                Some(name) => name.to_owned(),
                None => {
                    let mut random = [0; 16];
                    getrandom::fill(&mut random).map_err(|e| e.to_string())?;
                    holdfast_core::random::uuid_text(&random)
                }
            };
            write(path, id.as_bytes()).map_err(|e| fail("write", e))?;
            Ok(id)
        }
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(is_damaged(path, "it holds no text", NAME_AGAIN)),
        Err(e) => Err(fail("read", e)),
    }
}

const NAME_AGAIN: &str = "write the node's name into it";
const KEY_AGAIN: &str = "bring it back from a copy of the folder; without one, this node begins anew beside the others \
                         (remove-peer there, operator raft recover -rejoin here)";

fn is_damaged(path: &Path, how: &str, what_helps: &str) -> String {
    format!("{} is damaged: {how}; {what_helps}", path.display())
}

/// The key of the node `id` in its folder, kept as it shall be kept from now on.
fn key_of(folder: &Path, id: &str, kept: &KeyKept) -> Result<KeyPair, String> {
    let (open, closed) = (folder.join(KEY_FILE), folder.join(CLOSED_KEY_FILE));
    let about = format!("{CLOSED_FOR} {id}");
    match (kept, closed.exists()) {
        (KeyKept::InFile, true) => Err(format!(
            "the key of this node is closed by a device ({}): name it with node_key in the storage stanza",
            closed.display()
        )),
        (KeyKept::InFile, false) => match in_file(&open)? {
            Some(key) => Ok(key),
            None => {
                let key = KeyPair::generate().map_err(|e| e.to_string())?;
                put_in_file(&open, &key)?;
                Ok(key)
            }
        },
        (KeyKept::By(keeper) | KeyKept::NoLongerBy(keeper), true) => {
            let key = opened(&closed, &about, &**keeper)?;
            if let KeyKept::NoLongerBy(_) = kept {
                put_in_file(&open, &key)?;
                remove(&closed)?;
                tracing::warn!(device = keeper.name(), "the key of this node lies in a file again");
            } else if open.exists() {
                // The server ended before it had removed it.
                remove(&open)?;
            }
            Ok(key)
        }
        (KeyKept::NoLongerBy(_), false) => key_of(folder, id, &KeyKept::InFile),
        (KeyKept::By(keeper), false) => {
            let key = match in_file(&open)? {
                Some(key) => key,
                None => KeyPair::generate().map_err(|e| e.to_string())?,
            };
            let der = Zeroizing::new(key.serialize_der());
            let bytes = keeper.close(&der, &about).map_err(|e| cannot("close", keeper.name(), &e))?;
            write(&closed, &bytes).map_err(|e| format!("cannot write {}: {e}", closed.display()))?;
            // The file goes only when what is there now opens.
            let read = opened(&closed, &about, &**keeper)?;
            if read.serialize_der() != *der {
                return Err(cannot("open", keeper.name(), "it is another key than the one that was closed"));
            }
            if open.exists() {
                remove(&open)?;
            }
            tracing::info!(device = keeper.name(), "the key of this node is closed by a device");
            Ok(key)
        }
    }
}

fn cannot(what: &str, device: &str, why: &str) -> String {
    format!(
        "the device {device:?} does not {what} the key of this node (node_key): {why}. A node whose device is lost for good \
         gets another key with operator raft recover -rejoin, and joins anew"
    )
}

fn opened(path: &Path, about: &str, keeper: &dyn KeyKeeper) -> Result<KeyPair, String> {
    let closed = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let der = keeper.open(&closed, about).map_err(|e| cannot("open", keeper.name(), &e))?;
    let key = PrivatePkcs8KeyDer::from(der.expose());
    KeyPair::try_from(&key).map_err(|e| format!("{} holds no private key: {e}", path.display()))
}

fn in_file(path: &Path) -> Result<Option<KeyPair>, String> {
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(pem) => {
            KeyPair::from_pem(&pem).map(Some).map_err(|_| is_damaged(path, "it holds no private key", KEY_AGAIN))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(is_damaged(path, "it holds no text", KEY_AGAIN)),
        Err(e) => Err(format!("cannot read {}: {e}", path.display())),
    }
}

fn put_in_file(path: &Path, key: &KeyPair) -> Result<(), String> {
    let pem = Zeroizing::new(key.serialize_pem());
    write(path, pem.as_bytes()).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn remove(path: &Path) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("cannot remove {}: {e}", path.display());
    fs::remove_file(path).map_err(fail)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder).and_then(|f| f.sync_all())).map_err(fail)
}

/// Forget the key of the node whose store is in `folder`: at its next start it has another one.
pub(crate) fn forget_key(folder: &Path) -> std::io::Result<()> {
    let folder = folder.join(FOLDER);
    for file in [KEY_FILE, CLOSED_KEY_FILE] {
        match fs::remove_file(folder.join(file)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::File::open(folder)?.sync_all()
}

/// What says that a node has joined others with the key that it has.
const JOINED_FILE: &str = "joined";

/// The node whose store is in `folder` is about to join others.
pub(crate) fn joins(folder: &Path, key_hash: &str) -> std::io::Result<()> {
    write(&folder.join(FOLDER).join(JOINED_FILE), key_hash.as_bytes())
}

/// Whether the node whose store is in `folder` has joined others with this key.
pub(crate) fn has_joined(folder: &Path, key_hash: &str) -> bool {
    fs::read(folder.join(FOLDER).join(JOINED_FILE)).is_ok_and(|kept| kept == key_hash.as_bytes())
}

/// The name of the node whose store is in `folder`.
pub(crate) fn name_in(folder: &Path) -> Result<String, String> {
    let path = folder.join(FOLDER).join(NAME_FILE);
    let name = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok(name.trim().to_owned())
}

/// Write a small file, readable by the owner alone, so that it is there whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_key_and_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::of(folder.path(), Some("n1"), &KeyKept::InFile).unwrap();
        let again = Identity::of(folder.path(), None, &KeyKept::InFile).unwrap();
        assert_eq!((&again.id, &again.key_hash), (&"n1".to_owned(), &first.key_hash));
        assert_ne!(again.incarnation, first.incarnation, "each process shows another one");
        let wrong = Identity::of(folder.path(), Some("n2"), &KeyKept::InFile).err().unwrap();
        assert!(wrong.contains("n1") && wrong.contains("n2"), "{wrong}");
        let other = tempfile::tempdir().unwrap();
        let unnamed = Identity::of(other.path(), None, &KeyKept::InFile).unwrap();
        assert_ne!(unnamed.key_hash, first.key_hash);
        assert_eq!(Identity::of(other.path(), None, &KeyKept::InFile).unwrap().id, unnamed.id);
    }

    #[test]
    fn the_key_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Identity::of(folder.path(), None, &KeyKept::InFile).unwrap();
        let mode = fs::metadata(folder.path().join("node/key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// Stands for a device: it closes with a key of its own, and may be away.
    struct Keeper {
        key: [u8; 32],
        away: std::sync::atomic::AtomicBool,
    }

    impl Keeper {
        fn new(key: u8) -> Arc<Keeper> {
            Arc::new(Keeper { key: [key; 32], away: false.into() })
        }

        fn there(&self) -> Result<(), String> {
            if self.away.load(std::sync::atomic::Ordering::SeqCst) { Err("it is away".into()) } else { Ok(()) }
        }

        /// A stream of SHA-256, and a tag behind it.
        fn cipher(&self, bytes: &[u8], about: &str) -> Vec<u8> {
            let block =
                |n: usize| Sha256::new().chain_update(self.key).chain_update(about).chain_update([n as u8]).finalize();
            bytes
                .chunks(32)
                .enumerate()
                .flat_map(|(n, c)| c.iter().zip(block(n)).map(|(a, b)| a ^ b).collect::<Vec<u8>>())
                .collect()
        }
    }

    impl KeyKeeper for Keeper {
        fn name(&self) -> &str {
            "main"
        }

        fn close(&self, key: &[u8], about: &str) -> Result<Vec<u8>, String> {
            self.there()?;
            let tag = Sha256::new().chain_update(self.key).chain_update(about).chain_update(key).finalize();
            Ok([&tag[..], &self.cipher(key, about)].concat())
        }

        fn open(&self, closed: &[u8], about: &str) -> Result<Key, String> {
            self.there()?;
            let (tag, rest) = closed.split_at_checked(32).ok_or("it is too short")?;
            let mut key = self.cipher(rest, about);
            if Sha256::new().chain_update(self.key).chain_update(about).chain_update(&key).finalize()[..] != *tag {
                return Err("it was changed, or is of another key".into());
            }
            Key::from_slice(&mut key).map_err(|e| e.to_string())
        }
    }

    #[test]
    fn a_device_closes_the_key_and_opens_it_for_this_node_alone() {
        holdfast_hsm::memory::allow_unlocked();
        let folder = tempfile::tempdir().unwrap();
        let node = |file: &str| folder.path().join("node").join(file);
        let keeper = Keeper::new(1);
        let by = KeyKept::By(keeper.clone());
        let first = Identity::of(folder.path(), Some("n1"), &KeyKept::InFile).unwrap();
        let pem = fs::read_to_string(node("key.pem")).unwrap();
        // A key that lies in a file is closed, and is nowhere else afterwards.
        assert_eq!(Identity::of(folder.path(), None, &by).unwrap().key_hash, first.key_hash);
        assert!(!node("key.pem").exists() && node("key.closed").exists());
        let der = KeyPair::from_pem(&pem).unwrap().serialize_der();
        assert!(!fs::read(node("key.closed")).unwrap().windows(16).any(|w| w == &der[der.len() - 16..]));
        assert_eq!(Identity::of(folder.path(), None, &by).unwrap().key_hash, first.key_hash);
        // A server that ended before it had removed the file removes it at the next start.
        fs::write(node("key.pem"), &pem).unwrap();
        assert_eq!(Identity::of(folder.path(), None, &by).unwrap().key_hash, first.key_hash);
        assert!(!node("key.pem").exists());
        // Without the device, with another one, and changed: it is refused, and nothing is made anew.
        let refused = |kept: &KeyKept| Identity::of(folder.path(), None, kept).err().unwrap();
        assert!(refused(&KeyKept::InFile).contains("node_key"), "{}", refused(&KeyKept::InFile));
        assert!(refused(&KeyKept::By(Keeper::new(2))).contains("another key"));
        keeper.away.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(refused(&by).contains("it is away"));
        keeper.away.store(false, std::sync::atomic::Ordering::SeqCst);
        let closed = fs::read(node("key.closed")).unwrap();
        let mut changed = closed.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(node("key.closed"), &changed).unwrap();
        assert!(refused(&by).contains("it was changed"));
        fs::write(node("key.closed"), &closed).unwrap();
        // Of another node it opens nothing.
        let other = tempfile::tempdir().unwrap();
        Identity::of(other.path(), Some("n2"), &by).unwrap();
        assert!(!other.path().join("node/key.pem").exists());
        fs::write(other.path().join("node/key.closed"), &closed).unwrap();
        assert!(Identity::of(other.path(), None, &by).err().unwrap().contains("it was changed"));
        // And it goes back to a file.
        let back = Identity::of(folder.path(), None, &KeyKept::NoLongerBy(keeper)).unwrap();
        assert_eq!(back.key_hash, first.key_hash);
        assert!(node("key.pem").exists() && !node("key.closed").exists());
        assert_eq!(Identity::of(folder.path(), None, &KeyKept::InFile).unwrap().key_hash, first.key_hash);
    }

    #[test]
    fn a_key_that_cannot_be_closed_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(1);
        keeper.away.store(true, std::sync::atomic::Ordering::SeqCst);
        let refused = Identity::of(folder.path(), Some("n1"), &KeyKept::By(keeper)).err().unwrap();
        assert!(refused.contains("does not close"), "{refused}");
        assert!(!folder.path().join("node/key.pem").exists() && !folder.path().join("node/key.closed").exists());
    }

    #[test]
    fn forgotten_is_the_closed_key_too() {
        holdfast_hsm::memory::allow_unlocked();
        let folder = tempfile::tempdir().unwrap();
        let by = KeyKept::By(Keeper::new(1));
        let first = Identity::of(folder.path(), Some("n1"), &by).unwrap();
        forget_key(folder.path()).unwrap();
        assert_ne!(Identity::of(folder.path(), None, &by).unwrap().key_hash, first.key_hash);
    }
}
