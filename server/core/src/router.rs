//! Which mount a path belongs to: an immutable table, made anew when a mount changes.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_sdk::{Backend, Error, Map, Place, Result, Routes, Transaction, Value, record};
use minicbor::{Decode, Encode};

use crate::layout::{MOUNTS, SYSTEM, Scope};
use crate::sys::System;
use crate::tokens::TokenBackend;
use crate::tx::Tx;
use crate::{clock, random};

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
}
holdfast_sdk::record!(MountEntry);

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
        })
    }

    /// Below `/v1/`, with a slash at its end.
    pub fn full_path(&self) -> String {
        if self.auth { format!("auth/{}", self.path) } else { self.path.clone() }
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

/// Makes a backend for a mount of its kind.
pub type Factory = fn(&MountEntry) -> Result<Arc<dyn Backend>, String>;

/// The engines and auth methods that this program has.
#[derive(Clone, Copy)]
pub struct EngineTable {
    pub secrets: &'static [(&'static str, Factory)],
    pub auth: &'static [(&'static str, Factory)],
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
}

/// A mount in service.
pub struct Mount {
    pub entry: MountEntry,
    pub full_path: String,
    pub scope: Scope,
    pub handler: Handler,
}

pub struct Router {
    /// By path without the slash at its end.
    by_path: HashMap<String, Arc<Mount>>,
    /// The change of the mount table that this router knows.
    pub version: u64,
}

impl Router {
    pub fn new(mounts: impl Iterator<Item = Arc<Mount>>, version: u64) -> Router {
        let by_path = mounts.map(|m| (m.full_path.trim_end_matches('/').to_owned(), m)).collect();
        Router { by_path, version }
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
    tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(MOUNTS, &entry.uuid), entry))
}

pub fn forget(tx: &mut Tx, entry: &MountEntry) -> Result<()> {
    tx.within(SYSTEM, |tx| tx.delete(Place::Ordered(MOUNTS, &entry.uuid)))
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
pub fn shown(e: &MountEntry) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("default_lease_ttl".into(), e.default_ttl_secs.into());
    config.insert("max_lease_ttl".into(), e.max_ttl_secs.into());
    config.insert("force_no_cache".into(), e.force_no_cache.into());
    let mut list = |name: &str, values: &[String]| {
        if !values.is_empty() {
            config.insert(name.into(), values.to_vec().into());
        }
    };
    list("audit_non_hmac_request_keys", &e.plain_request_keys);
    list("audit_non_hmac_response_keys", &e.plain_response_keys);
    list("passthrough_request_headers", &e.passthrough_request_headers);
    list("allowed_response_headers", &e.allowed_response_headers);
    if !e.listing_visibility.is_empty() {
        config.insert("listing_visibility".into(), e.listing_visibility.clone().into());
    }
    if !e.token_type.is_empty() {
        config.insert("token_type".into(), e.token_type.clone().into());
    }
    let mut d = Map::new();
    let mut set = |k: &str, v: Value| {
        d.insert(k.into(), v);
    };
    set("accessor", e.accessor.clone().into());
    set("config", Value::Object(config));
    set("description", e.description.clone().into());
    if !matches!(e.kind.as_str(), "system" | "identity" | "cubbyhole" | "token") {
        set("deprecation_status", "supported".into());
    }
    set("external_entropy_access", false.into());
    set("local", e.local.into());
    set("options", options_value(e));
    set("plugin_version", "".into());
    set("running_plugin_version", format!("v{}+builtin.holdfast", env!("CARGO_PKG_VERSION")).into());
    set("running_sha256", "".into());
    set("seal_wrap", e.seal_wrap.into());
    set("type", e.kind.clone().into());
    set("uuid", random::uuid_text(&e.uuid).into());
    d
}

pub fn options_value(e: &MountEntry) -> Value {
    if e.options.is_empty() {
        return Value::Null;
    }
    Value::Object(e.options.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect())
}
