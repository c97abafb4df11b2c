//! The lock list: every way to the root key, in one versioned, authenticated record.
//!
//! Any one lock opens. The list, with cluster id and generation, carries a MAC under a key derived
//! from the root key, so that a lock slipped in or swapped by somebody with access to the disk is
//! noticed when the store is opened.

use holdfast_hsm::device::CipherMechanism;
use holdfast_hsm::memory::{Key, Secret};
use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;

use crate::{DeviceRefusal, SealDevice};
use crate::{SealError, mac, shares, xaes};

const FORMAT: u8 = 1;
const WHAT: &str = "the lock list";

/// Where a lock counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Scope {
    /// For every node.
    #[n(0)]
    Cluster,
    /// For the node that has the device.
    #[n(1)]
    Node(#[n(0)] String),
}

impl Scope {
    /// Whether it is this node's alone, which is so of all of a store that is no cluster's.
    pub fn is_surely_of(&self, node: Option<&str>) -> bool {
        match self {
            Scope::Node(id) => Some(id.as_str()) == node,
            Scope::Cluster => node.is_none(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LockKind {
    /// Shamir shares of a key that wraps the root key.
    #[n(0)]
    Shares {
        #[n(0)]
        shares: u8,
        #[n(1)]
        threshold: u8,
    },
    /// A key in a device wraps the root key; `backend` is the seal stanza's type.
    #[n(1)]
    Device {
        #[n(0)]
        backend: String,
    },
}

/// One way to the root key.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Lock {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    #[n(1)]
    pub kind: LockKind,
    #[n(2)]
    pub scope: Scope,
    /// Locks are tried in ascending order.
    #[n(3)]
    pub priority: u32,
    /// The wrapping key in the device: label and id as the device names them.
    #[n(4)]
    pub key_label: String,
    #[n(5)]
    pub key_id: String,
    /// CKM name, or `XAES-256-GCM` for shares.
    #[n(6)]
    pub mechanism: String,
    /// SubjectPublicKeyInfo of a wrapping key in the device, where it can have one.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub public_part: Option<Vec<u8>>,
    #[cbor(n(8), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
    /// The device has opened it at least once.
    #[n(9)]
    pub proved: bool,
    /// Unix time in seconds.
    #[n(10)]
    pub created: u64,
    /// The name of the seal in the configuration, where it has one.
    #[n(11)]
    pub name: Option<String>,
    /// Since when it holds a former root key, in Unix seconds: its device was away when the key was made anew. It opens
    /// nothing until its device has wrapped the present one.
    #[n(12)]
    pub stale_since: Option<u64>,
}

impl Lock {
    /// The type of the device, if it is one's.
    pub fn backend(&self) -> Option<&str> {
        match &self.kind {
            LockKind::Device { backend } => Some(backend),
            LockKind::Shares { .. } => None,
        }
    }

    /// Whether its device opens it only when custodians have signed.
    pub fn needs_custodians(&self) -> bool {
        self.backend().is_some() && CipherMechanism::from_name(&self.mechanism).is_ok_and(|m| m.needs_custodians())
    }

    /// Whether this node can have its device: its own, or one of the cluster's.
    pub fn may_be_of(&self, node: Option<&str>) -> bool {
        match &self.scope {
            Scope::Node(id) => Some(id.as_str()) == node,
            Scope::Cluster => true,
        }
    }

    /// What it is called where people read it.
    pub fn shown(&self) -> String {
        let kind = self.backend().unwrap_or("shamir");
        match (&self.name, self.key_label.as_str()) {
            (Some(name), _) => format!("{name:?} ({kind})"),
            (None, "") => kind.to_owned(),
            (None, key) => format!("{kind} (key {key:?})"),
        }
    }
}

/// What recovery shares of a device-sealed store are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum RecoveryForm {
    /// They approve acts; a keyed verifier is kept inside the barrier.
    #[n(0)]
    Authorise,
    /// They are a lock too, for when the device is gone.
    #[n(1)]
    Escrow,
}

#[derive(Debug, Clone, Encode, Decode)]
pub struct Recovery {
    #[n(0)]
    pub form: RecoveryForm,
    #[n(1)]
    pub shares: u8,
    #[n(2)]
    pub threshold: u8,
}

/// The least that a lock must be, set at initialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Minimum {
    #[n(0)]
    Any,
    #[n(1)]
    Device,
    #[n(2)]
    DeviceAndQuorum,
}

impl Minimum {
    const WORDS: [(Minimum, &str); 3] =
        [(Minimum::Any, "any"), (Minimum::Device, "device"), (Minimum::DeviceAndQuorum, "device+quorum")];

    /// As people write it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(of, _)| *of == self).map_or("any", |(_, word)| word)
    }

    /// By its word.
    pub fn parse(word: &str) -> Option<Minimum> {
        Self::WORDS.iter().find(|(_, of)| *of == word).map(|(minimum, _)| *minimum)
    }

    /// Why locks of a device of this type are less than that, whatever else they ask for.
    ///
    /// # Errors
    /// The reason.
    pub fn allows_backend(self, backend: &str) -> Result<(), String> {
        let (is_hardware, asks_custodians) = match backend {
            "tpm" => (true, true),
            "pkcs11" | "yubihsm" => (true, false),
            _ => (false, false),
        };
        match self {
            Minimum::Any => Ok(()),
            Minimum::Device if is_hardware => Ok(()),
            Minimum::Device => Err(format!(
                "the store was initialised with minimum_lock \"device\": a seal {backend:?} is no key in a device (pkcs11, tpm, \
                 yubihsm are)"
            )),
            Minimum::DeviceAndQuorum if asks_custodians => Ok(()),
            Minimum::DeviceAndQuorum => Err(format!(
                "the store was initialised with minimum_lock \"device+quorum\": a seal {backend:?} asks no custodians (a TPM \
                 does, with custodians in its stanza)"
            )),
        }
    }

    /// Why a lock is less than that.
    ///
    /// # Errors
    /// The reason.
    pub fn allows(self, lock: &Lock) -> Result<(), String> {
        self.allows_backend(lock.backend().unwrap_or("shamir"))?;
        match self {
            Minimum::DeviceAndQuorum if !lock.needs_custodians() => Err(format!(
                "the store was initialised with minimum_lock \"device+quorum\": the lock {} opens without custodians",
                lock.shown()
            )),
            _ => Ok(()),
        }
    }
}

/// All locks of a store.
#[derive(Debug, Clone, Encode, Decode)]
pub struct LockList {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub cluster_id: [u8; 16],
    #[n(1)]
    pub cluster_name: String,
    /// Rises with every change of the list.
    #[n(2)]
    pub generation: u64,
    #[n(3)]
    pub minimum: Minimum,
    #[n(4)]
    pub locks: Vec<Lock>,
    #[n(5)]
    pub recovery: Option<Recovery>,
}

#[derive(Encode, Decode)]
struct Record {
    #[cbor(n(0), with = "minicbor::bytes")]
    list: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    mac: Vec<u8>,
}

/// The list as it was read: usable for opening, trusted only after [`ReadList::verify`].
pub struct ReadList {
    bytes: Vec<u8>,
    mac: Vec<u8>,
    pub list: LockList,
}

fn list_mac(root: &Key, bytes: &[u8]) -> [u8; 32] {
    let mut key = mac(root.expose(), &[b"holdfast lock list"]);
    let tag = mac(&key, &[bytes]);
    zeroize::Zeroize::zeroize(&mut key);
    tag
}

impl LockList {
    /// The record that rests in the store.
    pub fn encode(&self, root: &Key) -> Result<Vec<u8>, SealError> {
        let list = minicbor::to_vec(self).map_err(|_| SealError::Encoding(WHAT))?;
        let mac = list_mac(root, &list).to_vec();
        let mut out = vec![FORMAT];
        out.extend(minicbor::to_vec(Record { list, mac }).map_err(|_| SealError::Encoding(WHAT))?);
        Ok(out)
    }

    pub fn decode(record: &[u8]) -> Result<ReadList, SealError> {
        let Some((format, body)) = record.split_first() else { return Err(SealError::Encoding(WHAT)) };
        if *format != FORMAT {
            return Err(SealError::Format { what: WHAT, found: *format, known: FORMAT });
        }
        let record: Record = minicbor::decode(body).map_err(|_| SealError::Encoding(WHAT))?;
        let list = minicbor::decode(&record.list).map_err(|_| SealError::Encoding(WHAT))?;
        Ok(ReadList { bytes: record.list, mac: record.mac, list })
    }

    /// The lock that shares open, if there is one.
    pub fn shares_lock(&self) -> Option<&Lock> {
        self.locks.iter().find(|l| matches!(l.kind, LockKind::Shares { .. }))
    }

    /// The lock of a device, lowest priority first.
    pub fn device_lock(&self) -> Option<&Lock> {
        self.locks.iter().filter(|l| matches!(l.kind, LockKind::Device { .. })).min_by_key(|l| l.priority)
    }

    /// The locks of devices that this node can have: its own before those of the cluster's, never another node's; each
    /// by its priority.
    pub fn device_locks_of(&self, node: Option<&str>) -> Vec<&Lock> {
        let mut locks: Vec<&Lock> = self.locks.iter().filter(|l| l.backend().is_some() && l.may_be_of(node)).collect();
        locks.sort_by_key(|l| (l.scope == Scope::Cluster, l.priority));
        locks
    }

    /// The first of them.
    pub fn device_lock_of(&self, node: Option<&str>) -> Option<&Lock> {
        self.device_locks_of(node).first().copied()
    }
}

impl ReadList {
    /// Whether the list is the one that the holder of the root key wrote.
    pub fn verify(&self, root: &Key) -> Result<(), SealError> {
        if bool::from(list_mac(root, &self.bytes).as_slice().ct_eq(&self.mac)) {
            Ok(())
        } else {
            Err(SealError::Tampered(WHAT))
        }
    }
}

/// What binds a wrapped root key to its lock: no ciphertext can stand in for another lock's.
pub fn wrap_context(cluster_id: &[u8; 16], lock_id: &[u8; 16]) -> Vec<u8> {
    [b"holdfast root key".as_slice(), cluster_id, lock_id].concat()
}

/// Make a lock of shares: a fresh key wraps the root key and is split.
pub fn lock_with_shares(
    root: &Key,
    cluster_id: &[u8; 16],
    count: u8,
    threshold: u8,
    priority: u32,
    now: u64,
) -> Result<(Lock, Vec<Secret<Vec<u8>>>), SealError> {
    let key = Key::random(xaes::KEY_BYTES)?;
    let lock = lock_with_key(root, &key, cluster_id, (count, threshold), priority, now)?;
    Ok((lock, shares::split(&key, count, threshold)?))
}

/// Make a lock of shares whose key is this one: `count` shares, of which `threshold` open it.
pub fn lock_with_key(
    root: &Key,
    key: &Key,
    cluster_id: &[u8; 16],
    (count, threshold): (u8, u8),
    priority: u32,
    now: u64,
) -> Result<Lock, SealError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| SealError::Share(e.to_string()))?;
    let ciphertext = xaes::seal(key.expose(), &wrap_context(cluster_id, &id), root.expose())?;
    Ok(Lock {
        id,
        kind: LockKind::Shares { shares: count, threshold },
        scope: Scope::Cluster,
        priority,
        key_label: String::new(),
        key_id: String::new(),
        mechanism: "XAES-256-GCM".into(),
        public_part: None,
        ciphertext,
        proved: true,
        created: now,
        name: None,
        stale_since: None,
    })
}

/// Lock a key with a device of the cluster's, which has not opened it yet.
pub fn lock_with_device(
    key: &Key,
    device: &dyn SealDevice,
    cluster_id: &[u8; 16],
    id: [u8; 16],
    now: u64,
) -> Result<Lock, DeviceRefusal> {
    let wrapped = device.wrap(key, &wrap_context(cluster_id, &id))?;
    Ok(Lock {
        id,
        kind: LockKind::Device { backend: device.backend().to_owned() },
        scope: Scope::Cluster,
        priority: 0,
        key_label: wrapped.key_label,
        key_id: wrapped.key_id,
        mechanism: wrapped.mechanism,
        public_part: wrapped.public_part,
        ciphertext: wrapped.ciphertext,
        proved: false,
        created: now,
        name: None,
        stale_since: None,
    })
}

/// Open a lock of shares.
pub fn open_with_shares(lock: &Lock, cluster_id: &[u8; 16], given: &[Secret<Vec<u8>>]) -> Result<Key, SealError> {
    let LockKind::Shares { threshold, .. } = lock.kind else { return Err(SealError::WrongShares) };
    open_with_key(lock, cluster_id, &shares::join(given, threshold)?)
}

/// Open a lock of shares with the key that they make.
pub fn open_with_key(lock: &Lock, cluster_id: &[u8; 16], key: &Key) -> Result<Key, SealError> {
    if !matches!(lock.kind, LockKind::Shares { .. }) || key.expose().len() != xaes::KEY_BYTES {
        return Err(SealError::WrongShares);
    }
    let mut root = xaes::unseal(key.expose(), &wrap_context(cluster_id, &lock.id), &lock.ciphertext, WHAT)
        .map_err(|_| SealError::WrongShares)?;
    Ok(Key::from_slice(&mut root)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_hsm::memory::allow_unlocked;

    fn list(root: &Key) -> (LockList, Vec<Secret<Vec<u8>>>) {
        let (lock, shares) = lock_with_shares(root, &[5; 16], 3, 2, 0, 1).unwrap();
        let list = LockList {
            cluster_id: [5; 16],
            cluster_name: "c".into(),
            generation: 1,
            minimum: Minimum::Any,
            locks: vec![lock],
            recovery: None,
        };
        (list, shares)
    }

    #[test]
    fn shares_open_the_list_and_shares_of_another_cluster_do_not() {
        allow_unlocked();
        let root = Key::random(32).unwrap();
        let (list, shares) = list(&root);
        let read = LockList::decode(&list.encode(&root).unwrap()).unwrap();
        let opened = open_with_shares(read.list.shares_lock().unwrap(), &[5; 16], &shares[..2]).unwrap();
        assert!(opened.ct_eq(root.expose()));
        read.verify(&opened).unwrap();
        let (_, foreign) = self::list(&Key::random(32).unwrap());
        let lock = read.list.shares_lock().unwrap();
        assert!(matches!(open_with_shares(lock, &[5; 16], &foreign[..2]), Err(SealError::WrongShares)));
        assert!(matches!(open_with_shares(lock, &[6; 16], &shares[..2]), Err(SealError::WrongShares)));
    }

    #[test]
    fn a_node_tries_its_own_lock_then_the_clusters_and_never_another_nodes() {
        allow_unlocked();
        let root = Key::random(32).unwrap();
        let (mut list, _) = list(&root);
        let device = |id: u8, scope| Lock {
            id: [id; 16],
            kind: LockKind::Device { backend: "pkcs11".into() },
            scope,
            ..list.locks[0].clone()
        };
        let more =
            [device(1, Scope::Cluster), device(2, Scope::Node("n2".into())), device(3, Scope::Node("n3".into()))];
        list.locks.extend(more);
        let of = |list: &LockList, node: Option<&str>| list.device_lock_of(node).map(|l| l.id[0]);
        assert_eq!(of(&list, Some("n3")), Some(3));
        assert_eq!(of(&list, Some("n1")), Some(1));
        assert_eq!(of(&list, None), Some(1));
        list.locks.retain(|l| l.scope != Scope::Cluster);
        assert_eq!(of(&list, Some("n1")), None);
    }

    /// A lock as programs wrote it that knew one seal alone.
    #[derive(Encode, Decode)]
    struct LockOfBefore {
        #[cbor(n(0), with = "minicbor::bytes")]
        id: [u8; 16],
        #[n(1)]
        kind: LockKind,
        #[n(2)]
        scope: Scope,
        #[n(3)]
        priority: u32,
        #[n(4)]
        key_label: String,
        #[n(5)]
        key_id: String,
        #[n(6)]
        mechanism: String,
        #[cbor(n(7), with = "minicbor::bytes")]
        public_part: Option<Vec<u8>>,
        #[cbor(n(8), with = "minicbor::bytes")]
        ciphertext: Vec<u8>,
        #[n(9)]
        proved: bool,
        #[n(10)]
        created: u64,
    }

    #[test]
    fn a_lock_without_a_name_is_written_as_before_and_one_of_before_is_read() {
        allow_unlocked();
        let (lock, _) = lock_with_shares(&Key::random(32).unwrap(), &[5; 16], 3, 2, 0, 1).unwrap();
        let bytes = minicbor::to_vec(&lock).unwrap();
        let before: LockOfBefore = minicbor::decode(&bytes).unwrap();
        assert_eq!(minicbor::to_vec(&before).unwrap(), bytes);
        let named = Lock { name: Some("a".into()), stale_since: Some(7), ..lock };
        let read: Lock = minicbor::decode(&minicbor::to_vec(&named).unwrap()).unwrap();
        assert_eq!((read.name.as_deref(), read.stale_since), (Some("a"), Some(7)));
        let read: Lock = minicbor::decode(&bytes).unwrap();
        assert_eq!((read.name, read.stale_since), (None, None));
    }

    #[test]
    fn a_lock_that_is_less_than_the_minimum_is_refused_with_the_reason() {
        allow_unlocked();
        let (shares, _) = lock_with_shares(&Key::random(32).unwrap(), &[5; 16], 3, 2, 0, 1).unwrap();
        let of = |backend: &str, mechanism: &str| Lock {
            kind: LockKind::Device { backend: backend.into() },
            mechanism: mechanism.into(),
            ..shares.clone()
        };
        let token = of("pkcs11", "CKM_AES_GCM");
        let asks = of("tpm", CipherMechanism::TpmSealSigned.name());
        let asks_nobody = of("tpm", CipherMechanism::TpmSeal.name());
        for lock in [&shares, &token, &asks, &asks_nobody] {
            assert_eq!(Minimum::Any.allows(lock), Ok(()));
        }
        let less = |minimum: Minimum, lock: &Lock| minimum.allows(lock).unwrap_err();
        for lock in [&token, &asks, &asks_nobody] {
            assert_eq!(Minimum::Device.allows(lock), Ok(()));
        }
        for lock in [&shares, &of("static", "XAES-256-GCM"), &of("software", "CKM_AES_GCM")] {
            let said = less(Minimum::Device, lock);
            assert!(said.contains("no key in a device") && said.contains(lock.backend().unwrap_or("shamir")), "{said}");
        }
        assert_eq!(Minimum::DeviceAndQuorum.allows(&asks), Ok(()));
        assert!(less(Minimum::DeviceAndQuorum, &asks_nobody).contains("opens without custodians"));
        assert!(less(Minimum::DeviceAndQuorum, &token).contains("asks no custodians"));
        for minimum in [Minimum::Any, Minimum::Device, Minimum::DeviceAndQuorum] {
            assert_eq!(Minimum::parse(minimum.word()), Some(minimum));
        }
        assert_eq!(Minimum::parse("weak"), None);
    }

    #[test]
    fn a_lock_slipped_into_the_list_is_noticed() {
        allow_unlocked();
        let root = Key::random(32).unwrap();
        let (mut list, _) = list(&root);
        let record = list.encode(&root).unwrap();
        list.locks.push(list.locks[0].clone());
        let foreign = LockList::decode(&list.encode(&Key::random(32).unwrap()).unwrap()).unwrap();
        assert!(matches!(foreign.verify(&root), Err(SealError::Tampered(_))));
        for i in 1..record.len() {
            let mut bad = record.clone();
            bad[i] ^= 1;
            let refused = match LockList::decode(&bad) {
                Ok(read) => read.verify(&root).is_err(),
                Err(_) => true,
            };
            assert!(refused, "byte {i}");
        }
    }
}
