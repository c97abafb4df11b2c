//! Who a node is: its name, and a key pair made at its first start and kept beside its store, outside of what
//! is replicated. Others know the hash of the public key and trust nothing else: a certificate's end, its names and
//! who signed it say nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

/// The folder beside the store's files.
pub(crate) const FOLDER: &str = "node";
const NAME_FILE: &str = "id";
const KEY_FILE: &str = "key.pem";
/// As the certificate says; nobody asks.
const NAME: &str = "holdfast-node";

/// A node's identity.
pub struct Identity {
    pub id: String,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), in hex.
    pub key_hash: String,
    pub certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Read the identity of the store in `folder`, or make it at the first start. `name` is what the configuration
    /// calls the node; without one it has a random name of its own.
    pub fn of(folder: &Path, name: Option<&str>) -> Result<Identity, String> {
        let folder = folder.join(FOLDER);
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        let id = named(&folder.join(NAME_FILE), name)?;
        let key = key_of(&folder.join(KEY_FILE))?;
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(|e| e.to_string())?;
        let certificate =
            params.self_signed(&key).map_err(|e| format!("the node's certificate cannot be made: {e}"))?;
        Ok(Identity {
            id,
            key_hash: hash(&key.subject_public_key_info()),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }

    /// An identity of a test, which is kept nowhere; its certificate may have ended long ago.
    #[cfg(test)]
    pub(crate) fn passing(ended: bool) -> Identity {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        if ended {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        Identity {
            id: "passing".into(),
            key_hash: hash(&pair.subject_public_key_info()),
            certificate: params.self_signed(&pair).unwrap().der().clone(),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()),
        }
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// The hash by which others know a public key.
pub fn hash(public_key_info: &[u8]) -> String {
    hex::encode(Sha256::digest(public_key_info))
}

/// A store's node keeps its name: another one in the configuration is another node, whose place this is not.
fn named(path: &Path, name: Option<&str>) -> Result<String, String> {
    let fail = |what: &str, e: std::io::Error| format!("cannot {what} {}: {e}", path.display());
    match fs::read_to_string(path) {
        Ok(kept) => match name {
            Some(name) if name != kept.trim() => Err(format!(
                "this store is of the node {:?}, and the configuration calls it {name:?}: correct node_id, or give the \
                 new node a folder of its own",
                kept.trim()
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
        Err(e) => Err(fail("read", e)),
    }
}

fn key_of(path: &Path) -> Result<KeyPair, String> {
    match fs::read_to_string(path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|e| format!("{} is no private key: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(|e| e.to_string())?;
            write(path, key.serialize_pem().as_bytes()).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
            Ok(key)
        }
        Err(e) => Err(format!("cannot read {}: {e}", path.display())),
    }
}

/// Forget the key of the node whose store is in `folder`: at its next start it has another one.
pub(crate) fn forget_key(folder: &Path) -> std::io::Result<()> {
    let folder = folder.join(FOLDER);
    match fs::remove_file(folder.join(KEY_FILE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => fs::File::open(folder)?.sync_all(),
    }
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
        let first = Identity::of(folder.path(), Some("n1")).unwrap();
        let again = Identity::of(folder.path(), None).unwrap();
        assert_eq!((&again.id, &again.key_hash), (&"n1".to_owned(), &first.key_hash));
        let wrong = Identity::of(folder.path(), Some("n2")).err().unwrap();
        assert!(wrong.contains("n1") && wrong.contains("n2"), "{wrong}");
        let other = tempfile::tempdir().unwrap();
        let unnamed = Identity::of(other.path(), None).unwrap();
        assert_ne!(unnamed.key_hash, first.key_hash);
        assert_eq!(Identity::of(other.path(), None).unwrap().id, unnamed.id);
    }

    #[test]
    fn the_key_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Identity::of(folder.path(), None).unwrap();
        let mode = fs::metadata(folder.path().join("node/key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
