//! `sys/managed-keys`: keys that mounts use and never have, in devices of the configuration or in software.
//!
//! A record says which key of which device is meant, and what that key is: its kind and public half, as they were when the
//! record was written. A key that is another by the time it is used is refused. Records are their namespace's own; a mount
//! uses those that its `allowed_managed_keys` names.

mod key;
pub(crate) mod mechanism;
mod seal_key;

use std::sync::Arc;

use holdfast_hsm::device::{KeyKind, KeyRef};
use holdfast_sdk::{Error, Place, Result, Transaction, record};
use holdfast_storage::level;
use minicbor::{Decode, Encode};

pub use self::key::{DeviceKey, Key, print_of};
pub use self::seal_key::opens_the_store;

use self::mechanism::Mechanism;
use crate::devices::{Device, Devices};
use crate::layout::{MANAGED_KEYS, MOUNTS, ROOT, SYSTEM};
use crate::router::MountEntry;
use crate::tx::Tx;
use crate::{Core, namespaces, random};

/// Keys of one namespace.
pub const MOST: usize = 1024;

/// The types, which are those of devices.
pub const TYPES: [&str; 4] = ["pkcs11", "tpm", "yubihsm", "software"];
/// The type whose keys need no device.
pub const SOFTWARE: &str = "software";

/// Refuse to keep what a member's earlier program does not know.
pub fn are_known_to_all(core: &Core) -> Result<()> {
    match core.feature_level() >= level::MANAGED_KEYS {
        true => Ok(()),
        false => Err(Error::Unavailable(
            "managed keys are offered when all nodes of the cluster run a version that knows them".into(),
        )),
    }
}

/// The same for the kind of a key.
pub fn kind_is_known_to_all(core: &Core, kind: KeyKind) -> Result<()> {
    match kind {
        KeyKind::EcP521 if core.feature_level() < level::P521 => Err(Error::Unavailable(
            "managed keys on P-521 are offered when all nodes of the cluster run a version that knows them".into(),
        )),
        _ => Ok(()),
    }
}

/// A managed key as it is stored.
#[derive(Clone, Encode, Decode)]
pub struct Record {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub uuid: [u8; 16],
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub kind: String,
    /// The device's name; empty: the key is in this record.
    #[n(3)]
    pub library: String,
    #[n(4)]
    pub key_label: String,
    /// In hex, as it was given.
    #[n(5)]
    pub key_id: String,
    #[n(6)]
    pub mechanism: Mechanism,
    #[n(7)]
    pub key_bits: Option<u32>,
    #[n(8)]
    pub curve: Option<String>,
    #[n(9)]
    pub allow_generate_key: bool,
    #[n(10)]
    pub allow_replace_key: bool,
    #[n(11)]
    pub allow_store_key: bool,
    #[n(12)]
    pub any_mount: bool,
    /// None: all.
    #[n(13)]
    pub usages: Vec<String>,
    #[n(14)]
    pub seen: Seen,
    /// Of a key in software: PKCS#8, or the bytes of a secret key.
    #[cbor(n(15), with = "minicbor::bytes")]
    pub private: Vec<u8>,
    /// Unix times in seconds.
    #[n(16)]
    pub created: u64,
    #[n(17)]
    pub updated: u64,
    /// Counts writes.
    #[n(18)]
    pub revision: u64,
}
holdfast_sdk::record!(Record);

/// What a key was when its record was written.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Seen {
    #[n(0)]
    pub kind: KeyKind,
    /// SubjectPublicKeyInfo; `None`: a secret key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub public: Option<Vec<u8>>,
    /// CKA_ID.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub id: Vec<u8>,
}

impl Record {
    /// The key in its device.
    pub fn key_ref(&self) -> Result<KeyRef> {
        KeyRef::from_config(Some(&self.key_label), Some(&self.key_id)).map_err(|e| Error::bad_request(e.text))
    }

    pub fn is_in_software(&self) -> bool {
        self.library.is_empty()
    }

    /// Whether it may be used so; a key that names no usages may be used in every way.
    pub fn allows(&self, usage: &str) -> bool {
        self.usages.is_empty() || self.usages.iter().any(|u| u == usage)
    }
}

/// A name below `sys/managed-keys/TYPE/`. Upper and lower case are the same, as with Vault.
pub fn name(text: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    let name = text.to_ascii_lowercase();
    match !name.is_empty() && name.len() <= 128 && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(Error::bad_request("a managed key's name has letters, digits, '-', '_' and '.', at most 128")),
    }
}

/// The key of that name, of the present namespace.
pub fn load(tx: &mut Tx, name: &str) -> Result<Option<Record>> {
    tx.within(SYSTEM, |tx| record::get(tx, Place::Name(MANAGED_KEYS, name)))
}

pub fn save(tx: &mut Tx, key: &Record) -> Result<()> {
    tx.within(SYSTEM, |tx| record::put(tx, Place::Name(MANAGED_KEYS, &key.name), key))
}

pub fn forget(tx: &mut Tx, key: &Record) -> Result<()> {
    tx.within(SYSTEM, |tx| {
        tx.forget_use(&use_of(key))?;
        tx.delete(Place::Name(MANAGED_KEYS, &key.name))
    })
}

/// Names of all types.
pub fn names(tx: &mut Tx) -> Result<Vec<String>> {
    tx.within(SYSTEM, |tx| tx.names(MANAGED_KEYS, "", "", 0))
}

/// The device of that name, if keys of the present namespace may be in it.
pub fn device_for(tx: &mut Tx, devices: &Devices, name: &str) -> Result<Arc<Device>> {
    let device = devices.named(name)?;
    if tx.namespace() != ROOT {
        let path = namespaces::path_of(tx, tx.namespace())?;
        let path = path.trim_end_matches('/');
        if !device.declared().namespaces.iter().any(|allowed| allowed == path) {
            return Err(Error::bad_request(format!(
                "device {name:?} is not for keys of namespace {path:?}: name it in 'namespaces' of its stanza"
            )));
        }
    }
    Ok(device)
}

/// A key for use, whoever asks for it.
pub fn open(tx: &mut Tx, devices: &Devices, key: Record) -> Result<Key> {
    match key.is_in_software() {
        true => Ok(Key::in_software(key)),
        false => {
            let device = device_for(tx, devices, &key.library)?;
            // A seal may have named it since it was recorded.
            if let Some(locks) = tx.lock_list()?
                && opens_the_store(&locks, device.declared().kind, &key.key_ref()?, &key.seen)
            {
                return Err(Error::bad_request(format!(
                    "managed key {:?} opens this store by now: it is for nothing else; have the seal use another key, or the mounts",
                    key.name
                )));
            }
            Key::in_device(key, device)
        }
    }
}

/// The key that the present mount means by a name, or by the UUID that it has kept.
pub fn for_mount(tx: &mut Tx, devices: &Devices, mount: &[u8; 16], named: &str) -> Result<Key> {
    let key = match random::parse_uuid(named) {
        Some(uuid) => by_uuid(tx, &uuid)?,
        None => load(tx, &name(named)?)?,
    };
    let key = key.ok_or_else(|| Error::bad_request(format!("there is no managed key {named:?} in this namespace")))?;
    let entry: Option<MountEntry> = tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(MOUNTS, mount)))?;
    let is_allowed = |entry: MountEntry| entry.allowed_managed_keys.contains(&key.name);
    if !key.any_mount && !entry.is_some_and(is_allowed) {
        return Err(Error::bad_request(format!(
            "managed key {:?} is not allowed on this mount: tune the mount with allowed_managed_keys",
            key.name
        )));
    }
    tx.within(SYSTEM, |tx| tx.note_use(&use_of(&key), Place::Name(MANAGED_KEYS, &key.name)));
    open(tx, devices, key)
}

/// What `sys/last-use` tells a key by.
fn use_of(key: &Record) -> String {
    format!("managed-keys/{}/{}", key.kind, key.name)
}

fn by_uuid(tx: &mut Tx, uuid: &[u8; 16]) -> Result<Option<Record>> {
    for name in names(tx)? {
        if let Some(key) = load(tx, &name)?
            && key.uuid == *uuid
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Declared;
    use crate::layout::{LOCKS, STORE};
    use crate::testing::unsealed;
    use holdfast_hsm::DeviceClient;
    use holdfast_hsm::software::{SoftwareConfig, SoftwareDevice};
    use holdfast_seal::{Barrier, Wrapped};
    use holdfast_storage::Write;

    fn record(id: &[u8]) -> Record {
        Record {
            uuid: [7; 16],
            name: "k".into(),
            kind: "pkcs11".into(),
            library: "main".into(),
            key_label: "k".into(),
            key_id: String::new(),
            mechanism: Mechanism::AesGcm,
            key_bits: None,
            curve: None,
            allow_generate_key: false,
            allow_replace_key: false,
            allow_store_key: false,
            any_mount: true,
            usages: Vec::new(),
            seen: Seen { kind: KeyKind::Aes(256), public: None, id: id.to_vec() },
            private: Vec::new(),
            created: 0,
            updated: 0,
            revision: 1,
        }
    }

    #[tokio::test]
    async fn a_key_that_a_seal_names_later_is_used_no_more() {
        let (core, open) = unsealed().await;
        let device = SoftwareDevice::new(&SoftwareConfig::default()).unwrap();
        core.devices.declare(vec![Declared {
            name: "main".into(),
            kind: "pkcs11",
            client: Ok(DeviceClient::in_process(Box::new(device))),
            token_label: None,
            slot: None,
            namespaces: Vec::new(),
        }]);
        let open_key = |id: &'static [u8]| {
            let (core, open) = (core.clone(), open.clone());
            async move {
                let devices = core.devices.clone();
                let look = |tx: &mut Tx| {
                    tx.enter(STORE);
                    super::open(tx, &devices, record(id)).map(drop)
                };
                core.transact(&open, look).await
            }
        };
        open_key(&[0xAB]).await.unwrap();
        open_key(&[0xCD]).await.unwrap();

        // A seal whose key is a managed key by now; locks are added by `operator seal rewrap` and by migration.
        let mut list = core.own_locks(&open).unwrap();
        let wrapped = Wrapped {
            ciphertext: vec![1],
            key_label: "k".into(),
            key_id: "ab".into(),
            mechanism: "CKM_AES_GCM".into(),
            public_part: None,
        };
        list.locks.push(wrapped.into_lock("pkcs11"));
        let view = core.store.view();
        let (index, tx) = (view.index(), Tx::new(view, Barrier::clone(&open.barrier.load())));
        let mut proposal = tx.into_proposal().unwrap();
        proposal.view_index = index;
        proposal.writes.push(Write::Put(LOCKS.into(), list.encode(&open.root.load()).unwrap().into()));
        core.store.propose(proposal).unwrap().committed().await.unwrap();

        let said = open_key(&[0xAB]).await.unwrap_err().to_string();
        assert!(said.contains("\"k\"") && said.contains("opens this store by now"), "{said}");
        open_key(&[0xCD]).await.expect("another key of that device");
    }
}
