//! Which mount a path belongs to: an immutable table, made anew when a mount changes.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_sdk::{Backend, Error, Map, Place, Record, Result, Routes, Transaction, Value, record};
use holdfast_storage::Key;
use minicbor::{Decode, Encode};

use crate::identity::IdentityBackend;
use crate::layout::{BUSY_MOUNTS, MOUNTS, NamespaceId, ROOT, STORE, SYSTEM, Scope};
use crate::sys::System;
use crate::tokens::TokenBackend;
use crate::tx::Tx;
use crate::{TtlLimits, clock, random};

/// A mount as it is stored.
#[derive(Debug, Clone, Encode, Decode)]
pub struct MountEntry {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub uuid: [u8; 16],
    /// With a slash at its end; an auth mount's without `auth/`.
    #[n(1)]
    pub path: String,
    #[n(2)]
    pub auth: bool,
    #[n(3)]
    pub kind: String,
    #[n(4)]
    pub accessor: String,
    #[n(5)]
    pub description: String,
    #[n(6)]
    pub options: Vec<(String, String)>,
    #[n(7)]
    pub default_ttl_secs: u64,
    #[n(8)]
    pub max_ttl_secs: u64,
    #[n(9)]
    pub plain_request_keys: Vec<String>,
    #[n(10)]
    pub plain_response_keys: Vec<String>,
    #[n(11)]
    pub listing_visibility: String,
    #[n(12)]
    pub passthrough_request_headers: Vec<String>,
    #[n(13)]
    pub allowed_response_headers: Vec<String>,
    #[n(14)]
    pub local: bool,
    #[n(15)]
    pub seal_wrap: bool,
    #[n(16)]
    pub force_no_cache: bool,
    #[n(17)]
    pub token_type: String,
    #[n(18)]
    pub created: u64,
    #[n(19)]
    pub lockout: Option<Lockout>,
    /// Made with `options: null`, and shown so.
    #[n(20)]
    pub without_options: Option<bool>,
    #[n(21)]
    pub external_entropy_access: Option<bool>,
    /// How often it was moved. The tokens of an auth mount end with each move.
    #[n(22)]
    #[cbor(default)]
    pub moves: u32,
    /// It is on its way to another namespace, or from one: nobody is served from it.
    #[n(23)]
    #[cbor(default)]
    pub moving: bool,
    /// Names of managed keys that it may use.
    #[n(24)]
    #[cbor(default)]
    pub allowed_managed_keys: Vec<String>,
}
holdfast_sdk::record!(MountEntry);

/// What a request reads of an auth mount's record: the rest would be decoded for nothing.
#[derive(Decode)]
struct Moves {
    #[n(22)]
    #[cbor(default)]
    moves: u32,
}

/// When a login method locks a user out; 0 is the server's own setting. Times in seconds.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub struct Lockout {
    #[n(0)]
    pub threshold: u64,
    #[n(1)]
    pub duration_secs: u64,
    #[n(2)]
    pub counter_reset_secs: u64,
    #[n(3)]
    pub disabled: bool,
}

impl MountEntry {
    pub fn new(path: &str, auth: bool, kind: &str) -> Result<MountEntry> {
        let hex = hex::encode(random::bytes::<4>()?);
        let accessor = if auth { format!("auth_{kind}_{hex}") } else { format!("{kind}_{hex}") };
        Ok(MountEntry {
            uuid: random::uuid()?,
            path: path.to_owned(),
            auth,
            kind: kind.to_owned(),
            accessor,
            description: String::new(),
            options: Vec::new(),
            default_ttl_secs: 0,
            max_ttl_secs: 0,
            plain_request_keys: Vec::new(),
            plain_response_keys: Vec::new(),
            listing_visibility: String::new(),
            passthrough_request_headers: Vec::new(),
            allowed_response_headers: Vec::new(),
            local: false,
            seal_wrap: false,
            force_no_cache: false,
            token_type: if auth { "default-service".into() } else { String::new() },
            created: clock::now().secs(),
            lockout: None,
            without_options: None,
            external_entropy_access: None,
            moves: 0,
            moving: false,
            allowed_managed_keys: Vec::new(),
        })
    }

    /// Below `/v1/`, with a slash at its end.
    pub fn full_path(&self) -> String {
        if self.auth { format!("auth/{}", self.path) } else { self.path.clone() }
    }

    /// One of those that every store has, and that nobody makes or removes.
    pub fn is_built_in(&self) -> bool {
        matches!((self.kind.as_str(), self.auth), ("system" | "identity" | "cubbyhole", false) | ("token", true))
    }

    /// The type, as clients see it: what every namespace has is told from the root's.
    pub fn shown_kind(&self, namespace: NamespaceId) -> String {
        if namespace != ROOT && self.is_built_in() { format!("ns_{}", self.kind) } else { self.kind.clone() }
    }

    /// The TTLs that count for the mount: its own, or else the system's.
    pub fn limits(&self, system: TtlLimits) -> TtlLimits {
        let or = |own: u64, system: u64| if own == 0 { system } else { own };
        TtlLimits {
            default_secs: or(self.default_ttl_secs, system.default_secs),
            max_secs: or(self.max_ttl_secs, system.max_secs),
        }
    }

    /// The storage key of the entry itself, as a mount of a namespace.
    pub fn key(&self, namespace: NamespaceId) -> Vec<u8> {
        [&SYSTEM.of(namespace).prefix()[..], &[MOUNTS.0], &self.uuid].concat()
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

/// Makes a backend for a mount of its kind. The entry's TTLs are the effective ones.
pub type Factory = fn(&MountEntry) -> Result<Arc<dyn Backend>, String>;

/// The engines and auth methods that this program has.
#[derive(Clone, Copy)]
pub struct EngineTable {
    pub secrets: &'static [(&'static str, Factory)],
    pub auth: &'static [(&'static str, Factory)],
    /// Names of the plugins of the engine `database`.
    pub databases: &'static [&'static str],
}

impl EngineTable {
    pub fn factory(&self, auth: bool, kind: &str) -> Option<Factory> {
        let table = if auth { self.auth } else { self.secrets };
        table.iter().find(|(name, _)| *name == kind).map(|(_, f)| *f)
    }
}

/// What answers for a mount.
pub enum Handler {
    Engine(Arc<dyn Backend>),
    System(Arc<System>, Arc<Routes<System, Tx>>),
    Token(Arc<TokenBackend>, Arc<Routes<TokenBackend, Tx>>),
    Identity(Arc<IdentityBackend>, Arc<Routes<IdentityBackend, Tx>>),
}

/// A mount in service.
pub struct Mount {
    pub entry: MountEntry,
    pub full_path: String,
    /// The storage key of the entry.
    pub key: Key,
    pub scope: Scope,
    /// Its type, as clients see it.
    pub kind: String,
    pub handler: Handler,
}

impl Handler {
    /// Whether it is what answers at `sys/`.
    pub fn is_system(&self) -> bool {
        matches!(self, Handler::System(..))
    }

    /// Whether both are the same backend, so that what one route found counts for the other.
    pub fn is(&self, other: &Handler) -> bool {
        match (self, other) {
            (Handler::Engine(a), Handler::Engine(b)) => Arc::ptr_eq(a, b),
            (Handler::System(..), Handler::System(..))
            | (Handler::Token(..), Handler::Token(..))
            | (Handler::Identity(..), Handler::Identity(..)) => true,
            _ => false,
        }
    }
}

pub struct Router {
    /// By path without the slash at its end.
    by_path: HashMap<String, Arc<Mount>>,
    /// The state of the store that it was read from.
    pub version: u64,
}

impl Router {
    pub fn new(mounts: impl Iterator<Item = Arc<Mount>>, version: u64) -> Router {
        let by_path = mounts.map(|m| (m.full_path.trim_end_matches('/').to_owned(), m)).collect();
        Router { by_path, version }
    }

    /// What stands for mounts that nobody has asked for yet.
    pub fn unread() -> Router {
        Router { by_path: HashMap::new(), version: 0 }
    }

    pub fn is_unread(&self) -> bool {
        self.version == 0
    }

    /// The mount with the longest path that `path` starts with, and where the rest begins. A mount's
    /// path may be asked for without its slash.
    pub fn find(&self, path: &str) -> Option<(&Arc<Mount>, usize)> {
        let mut end = path.len();
        loop {
            if let Some(m) = self.by_path.get(&path[..end]) {
                return Some((m, path.len().min(end + 1)));
            }
            end = path[..end].rfind('/')?;
        }
    }

    pub fn mounts(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.by_path.values()
    }
}

/// All stored mounts.
pub fn load(tx: &mut Tx) -> Result<Vec<MountEntry>> {
    let found = tx.within(SYSTEM, |tx| tx.ordered(MOUNTS, &[], &[], usize::MAX))?;
    found.into_iter().map(|(_, bytes)| record::read(&bytes)).collect()
}

pub fn save(tx: &mut Tx, entry: &MountEntry) -> Result<()> {
    if let Some(place) = busy_place(tx, entry) {
        tx.within(STORE, |tx| tx.put(Place::Ordered(BUSY_MOUNTS, &place), Vec::new()))?;
    }
    tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(MOUNTS, &entry.uuid), entry))
}

/// Engines that do things by themselves ([`Backend::chores`]). Their mounts in other namespaces than the root are
/// listed, so that no other of these has to be looked at.
const BUSY_KINDS: &[&str] = &["database"];

fn busy_place(tx: &Tx, entry: &MountEntry) -> Option<Vec<u8>> {
    let is_busy = tx.namespace() != ROOT && !entry.auth && BUSY_KINDS.contains(&entry.kind.as_str());
    is_busy.then(|| [tx.namespace(), entry.uuid].concat())
}

/// The mounts in other namespaces than the root that may have something to do by themselves.
pub fn busy(tx: &mut Tx) -> Result<Vec<(NamespaceId, [u8; 16])>> {
    let found = tx.within(STORE, |tx| tx.ordered(BUSY_MOUNTS, &[], &[], usize::MAX))?;
    let place = |(key, _): (Vec<u8>, Vec<u8>)| {
        let (namespace, mount) = key.split_first_chunk::<16>()?;
        Some((*namespace, mount.try_into().ok()?))
    };
    Ok(found.into_iter().filter_map(place).collect())
}

/// How often a mount was moved; `None` if it is not there any more.
pub fn moves_of(tx: &mut Tx, namespace: NamespaceId, mount: &[u8; 16]) -> Result<Option<u32>> {
    let Some(bytes) = tx.within(SYSTEM.of(namespace), |tx| tx.get(Place::Ordered(MOUNTS, mount)))? else {
        return Ok(None);
    };
    let (version, rest) = bytes.split_first().ok_or_else(|| Error::Internal("a mount's record is empty".into()))?;
    let found: Moves = record::decode(*version, MountEntry::VERSION, rest)?;
    Ok(Some(found.moves))
}

/// Whether a mount is there still.
pub fn is_stored(tx: &mut Tx, entry: &MountEntry) -> Result<bool> {
    Ok(tx.within(SYSTEM, |tx| tx.get(Place::Ordered(MOUNTS, &entry.uuid)))?.is_some())
}

/// Whether a mount serves requests, as this transaction reads it.
pub fn is_in_service(tx: &mut Tx, entry: &MountEntry) -> Result<bool> {
    let found: Option<MountEntry> = tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(MOUNTS, &entry.uuid)))?;
    Ok(found.is_some_and(|entry| !entry.moving))
}

pub fn forget(tx: &mut Tx, entry: &MountEntry) -> Result<()> {
    if let Some(place) = busy_place(tx, entry) {
        tx.within(STORE, |tx| tx.delete(Place::Ordered(BUSY_MOUNTS, &place)))?;
    }
    tx.within(SYSTEM, |tx| tx.delete(Place::Ordered(MOUNTS, &entry.uuid)))
}

/// Mounts that every namespace has, and that stores of earlier versions may miss.
pub fn later_mounts() -> Result<Vec<MountEntry>> {
    let mut cubbyhole = MountEntry::new("cubbyhole/", false, "cubbyhole")?;
    cubbyhole.description = "per-token private secret storage".into();
    cubbyhole.local = true;
    let mut identity = MountEntry::new("identity/", false, "identity")?;
    identity.description = "identity store".into();
    identity.passthrough_request_headers = vec!["Authorization".into()];
    Ok(vec![cubbyhole, identity])
}

/// A path for a mount: without a slash at its front, with one at its end.
pub fn mount_path(text: &str) -> Result<String> {
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() || trimmed.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
        return Err(Error::bad_request(format!("invalid mount path {text:?}")));
    }
    if trimmed.chars().any(char::is_control) {
        return Err(Error::bad_request("the mount path holds characters that cannot be printed"));
    }
    Ok(format!("{trimmed}/"))
}

/// A mount as `sys/mounts` and `sys/auth` show it.
pub fn shown(e: &MountEntry, namespace: NamespaceId) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("default_lease_ttl".into(), e.default_ttl_secs.into());
    config.insert("max_lease_ttl".into(), e.max_ttl_secs.into());
    config.insert("force_no_cache".into(), e.force_no_cache.into());
    config.extend(shown_tuning(e));
    if let Some(lockout) = &e.lockout {
        config.insert("user_lockout_config".into(), Value::Object(shown_lockout(lockout)));
    }
    let mut d = Map::new();
    let mut set = |k: &str, v: Value| {
        d.insert(k.into(), v);
    };
    set("accessor", e.accessor.clone().into());
    set("config", Value::Object(config));
    set("description", e.description.clone().into());
    // `generic` is what the first kv engine was called.
    if !e.is_built_in() && e.kind != "generic" {
        set("deprecation_status", "supported".into());
    }
    set("external_entropy_access", e.external_entropy_access.unwrap_or(false).into());
    set("local", e.local.into());
    set("options", options_value(e));
    set("plugin_version", "".into());
    set("running_plugin_version", BUILTIN_VERSION.into());
    set("running_sha256", "".into());
    set("seal_wrap", e.seal_wrap.into());
    set("type", e.shown_kind(namespace).into());
    set("uuid", random::uuid_text(&e.uuid).into());
    d
}

/// The version of every engine and auth method: they are part of the program.
pub const BUILTIN_VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+builtin.holdfast");

/// What was tuned, and is shown only then.
pub fn shown_tuning(e: &MountEntry) -> Map<String, Value> {
    let mut m = Map::new();
    let lists = [
        ("audit_non_hmac_request_keys", &e.plain_request_keys),
        ("audit_non_hmac_response_keys", &e.plain_response_keys),
        ("passthrough_request_headers", &e.passthrough_request_headers),
        ("allowed_response_headers", &e.allowed_response_headers),
        ("allowed_managed_keys", &e.allowed_managed_keys),
    ];
    for (name, values) in lists {
        if !values.is_empty() {
            m.insert(name.into(), values.clone().into());
        }
    }
    for (name, value) in [("listing_visibility", &e.listing_visibility), ("token_type", &e.token_type)] {
        if !value.is_empty() {
            m.insert(name.into(), value.clone().into());
        }
    }
    m
}

pub fn shown_lockout(l: &Lockout) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("user_lockout_counter_reset_duration".into(), l.counter_reset_secs.into());
    m.insert("user_lockout_disable".into(), l.disabled.into());
    m.insert("user_lockout_duration".into(), l.duration_secs.into());
    m.insert("user_lockout_threshold".into(), l.threshold.into());
    m
}

pub fn options_value(e: &MountEntry) -> Value {
    if e.is_built_in() || (e.options.is_empty() && e.without_options == Some(true)) {
        return Value::Null;
    }
    Value::Object(e.options.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect())
}
