//! Namespaces: parts of the house with mounts, policies, tokens, identity and leases of their own.
//!
//! A namespace is found by its path, or by the short id that its tokens and leases end in; what it keeps lies
//! below its UUID, so that nobody reaches it by forgetting a check. One that nobody uses costs its records
//! alone; what those in use need in memory is in [`spaces`].

mod ending;
pub(crate) mod own_keys;
pub mod seal;
mod spaces;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Error, Map, Place, Result, Timestamp, Transaction, Value, record};
use minicbor::{Decode, Encode};

pub use ending::{Ended, begin_to_end, end_some};
pub use spaces::{Space, Spaces};

use self::seal::{OwnSeal, Sealed};
use crate::layout::{NAMESPACE_IDS, NAMESPACE_PATHS, NAMESPACES, NamespaceId, ROOT, STORE, SYSTEM};
use crate::router::{self, MountEntry};
use crate::tx::Tx;
use crate::{policies, random};

/// The one route that a locked namespace has.
pub const UNLOCK: &str = "sys/namespaces/api-lock/unlock";

/// Letters and digits of a short id.
const ID_CHARS: usize = 6;

/// A namespace as it is stored; the root is not.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Namespace {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub uuid: NamespaceId,
    /// What its tokens and leases end in.
    #[n(1)]
    pub id: String,
    /// From the root, with a slash at its end.
    #[n(2)]
    pub path: String,
    #[n(3)]
    pub custom_metadata: Vec<(String, String)>,
    #[n(4)]
    pub created: u64,
    /// It was deleted, and a job ends what is in it.
    #[n(5)]
    pub ending: bool,
    /// The hash of the key that unlocks its API; none: it is not locked.
    #[cbor(n(6), with = "minicbor::bytes")]
    #[cbor(default)]
    pub lock: Option<Vec<u8>>,
    /// A seal of its own; none: it is open with what it is in.
    #[n(7)]
    #[cbor(default)]
    pub seal: Option<OwnSeal>,
}
holdfast_sdk::record!(Namespace);

impl Namespace {
    /// As `sys/namespaces` shows it.
    pub fn shown(&self) -> Map<String, Value> {
        let metadata = self.custom_metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let mut m = Map::new();
        m.insert("custom_metadata".into(), Value::Object(metadata));
        m.insert("id".into(), self.id.clone().into());
        m.insert("locked".into(), self.lock.is_some().into());
        m.insert("path".into(), self.path.clone().into());
        m.insert("tainted".into(), false.into());
        m.insert("uuid".into(), random::uuid_text(&self.uuid).into());
        m
    }
}

pub fn load(tx: &mut Tx, uuid: &NamespaceId) -> Result<Option<Namespace>> {
    tx.within(STORE, |tx| record::get(tx, Place::Ordered(NAMESPACES, uuid)))
}

pub fn save(tx: &mut Tx, namespace: &Namespace) -> Result<()> {
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(NAMESPACES, &namespace.uuid), namespace))
}

/// The storage key of a namespace's record.
pub fn key(uuid: &NamespaceId) -> Vec<u8> {
    [&STORE.prefix()[..], &[NAMESPACES.0], uuid].concat()
}

fn uuid_at(tx: &mut Tx, place: Place<'_>) -> Result<Option<NamespaceId>> {
    let found = tx.within(STORE, |tx| tx.get(place))?;
    found.map(|b| b.try_into().map_err(|_| Error::Internal("a namespace's record is broken".into()))).transpose()
}

/// The namespace at a path from the root, with a slash at its end.
pub fn at(tx: &mut Tx, path: &str) -> Result<Option<Namespace>> {
    match uuid_at(tx, Place::Name(NAMESPACE_PATHS, path.trim_end_matches('/')))? {
        Some(uuid) => load(tx, &uuid),
        None => Ok(None),
    }
}

/// The UUID of the namespace with a short id.
pub fn by_id(tx: &mut Tx, id: &str) -> Result<Option<NamespaceId>> {
    match id.len() {
        ID_CHARS => uuid_at(tx, Place::Id(NAMESPACE_IDS, id)),
        _ => Ok(None),
    }
}

/// The part of a token's text that names its namespace; none: it is the root's.
pub fn suffix_of_token(token: &str) -> Option<&str> {
    // The dot behind what every service or batch token starts with is none.
    let text = token.strip_prefix("hvs.").or_else(|| token.strip_prefix("hvb.")).unwrap_or(token);
    text.rsplit_once('.').map(|(_, suffix)| suffix)
}

/// The part of a lease's id that names its namespace.
pub fn suffix_of_lease(lease: &str) -> Option<&str> {
    let last = lease.rsplit_once('/').map_or(lease, |(_, last)| last);
    last.rsplit_once('.').map(|(_, suffix)| suffix)
}

/// What tokens, accessors and leases of the present namespace end in.
pub fn suffix(tx: &mut Tx) -> Result<String> {
    match tx.namespace() {
        ROOT => Ok(String::new()),
        uuid => Ok(format!(".{}", known(tx, &uuid)?.id)),
    }
}

/// The short id of the present namespace; `root` is the root's.
pub fn id(tx: &mut Tx) -> Result<String> {
    match tx.namespace() {
        ROOT => Ok("root".into()),
        uuid => Ok(known(tx, &uuid)?.id),
    }
}

/// The path of a namespace, with a slash at its end unless it is the root.
pub fn path_of(tx: &mut Tx, uuid: NamespaceId) -> Result<String> {
    match uuid {
        ROOT => Ok(String::new()),
        uuid => Ok(known(tx, &uuid)?.path),
    }
}

/// The present namespace and those that it is in, the nearest first; the root is the last.
pub fn upwards(tx: &mut Tx) -> Result<Vec<NamespaceId>> {
    let path = path_of(tx, tx.namespace())?;
    let mut found = vec![ROOT];
    for (end, _) in path.match_indices('/') {
        found.extend(at(tx, &path[..=end])?.map(|n| n.uuid));
    }
    found.reverse();
    Ok(found)
}

fn known(tx: &mut Tx, uuid: &NamespaceId) -> Result<Namespace> {
    load(tx, uuid)?.ok_or_else(gone)
}

/// What is asked of a namespace that is not there.
pub fn gone() -> Error {
    Error::Status(404, vec!["namespace not found".into()])
}

/// Whether a namespace is the one of a path, or below it.
pub fn is_within(tx: &mut Tx, uuid: NamespaceId, path: &str) -> Result<bool> {
    Ok(path.is_empty() || (uuid != ROOT && load(tx, &uuid)?.is_some_and(|n| n.path.starts_with(path))))
}

/// The namespaces right below a path, sorted.
pub fn children(tx: &mut Tx, path: &str) -> Result<Vec<Namespace>> {
    let mut names = tx.within(STORE, |tx| tx.names(NAMESPACE_PATHS, path, "", 0))?;
    names.iter_mut().for_each(|n| n.truncate(n.trim_end_matches('/').len()));
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        found.extend(at(tx, &format!("{path}{name}"))?);
    }
    Ok(found)
}

pub fn has_children(tx: &mut Tx, path: &str) -> Result<bool> {
    Ok(!tx.within(STORE, |tx| tx.names(NAMESPACE_PATHS, path, "", 1))?.is_empty())
}

/// All namespaces below a path, sorted.
pub fn below(tx: &mut Tx, path: &str) -> Result<Vec<Namespace>> {
    let (mut found, mut cursor) = (Vec::new(), Vec::new());
    loop {
        let batch = tx.within(STORE, |tx| tx.below(NAMESPACE_PATHS, path, &cursor, 256))?;
        for (_, uuid) in batch.entries {
            let uuid = uuid.try_into().map_err(|_| Error::Internal("a namespace's record is broken".into()))?;
            found.extend(load(tx, &uuid)?);
        }
        match batch.after {
            Some(after) => cursor = after,
            None => break,
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// What a namespace was made with: itself, and the shares of its own seal.
pub type Made = (Namespace, Vec<Secret<Vec<u8>>>);

/// Make a namespace with what every one has: its mounts and the default policy. `counts`: with a seal of its own, of
/// so many shares, of which so many open it.
pub fn create(
    tx: &mut Tx,
    path: String,
    metadata: Vec<(String, String)>,
    counts: Option<(u8, u8)>,
    now: Timestamp,
) -> Result<Made> {
    let uuid = random::uuid()?;
    let (own, shares) = match counts {
        Some(counts) => {
            let (own, shares): Sealed = seal::new_seal(tx, uuid, counts, now)?;
            (Some(own), shares)
        }
        None => {
            if let Some(number) = tx.barrier().number_of(&tx.namespace()) {
                let above = tx.barrier().ring(number);
                seal::adopt(tx, uuid, above.ok_or_else(seal::is_sealed)?)?;
            }
            (None, Vec::new())
        }
    };
    let namespace = Namespace {
        uuid,
        id: new_id(tx)?,
        path,
        custom_metadata: metadata,
        created: now.secs(),
        ending: false,
        lock: None,
        seal: own,
    };
    let uuid = namespace.uuid.to_vec();
    tx.within(STORE, |tx| {
        tx.put(Place::Name(NAMESPACE_PATHS, namespace.path.trim_end_matches('/')), uuid.clone())?;
        tx.put(Place::Id(NAMESPACE_IDS, &namespace.id), uuid)
    })?;
    save(tx, &namespace)?;
    tx.within(SYSTEM.of(namespace.uuid), |tx| {
        for mount in first_mounts()? {
            router::save(tx, &mount)?;
        }
        policies::first(tx, now)
    })?;
    Ok((namespace, shares))
}

/// Few ids are possible, and many are taken in a large house.
fn new_id(tx: &mut Tx) -> Result<String> {
    for _ in 0..64 {
        let id = random::alphanumeric(ID_CHARS)?;
        if by_id(tx, &id)?.is_none() {
            return Ok(id);
        }
    }
    Err(Error::Internal("no free id was found for a namespace".into()))
}

/// The mounts of a new namespace.
fn first_mounts() -> Result<Vec<MountEntry>> {
    let mut system = MountEntry::new("sys/", false, "system")?;
    system.description = "system endpoints used for control, policy and debugging".into();
    system.seal_wrap = true;
    system.passthrough_request_headers = vec!["Accept".into()];
    let mut token = MountEntry::new("token/", true, "token")?;
    token.description = "token based credentials".into();
    token.token_type = "default".into();
    Ok([vec![system, token], router::later_mounts()?].concat())
}
