//! What is stored of entities, aliases and groups.

use holdfast_sdk::{Error, Map, Result, Timestamp, Value};
use minicbor::{Decode, Encode};

use crate::tx::Tx;
use crate::{namespaces, random};

/// The bytes of a UUID.
pub type Id = [u8; 16];

#[derive(Debug, Clone, Encode, Decode)]
pub struct Entity {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: Id,
    #[n(1)]
    pub name: String,
    /// Sorted, lower case.
    #[n(2)]
    pub policies: Vec<String>,
    /// None: none was given.
    #[n(3)]
    pub metadata: Option<Vec<(String, String)>>,
    #[n(4)]
    pub disabled: bool,
    /// Unix time in nanoseconds, as all times here.
    #[n(5)]
    pub created: u64,
    #[n(6)]
    pub updated: u64,
    /// At most one of each mount.
    #[n(7)]
    pub aliases: Vec<Alias>,
    /// Ids of entities that became this one, one behind the other.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub merged: Vec<u8>,
}
holdfast_sdk::record!(Entity);

#[derive(Debug, Clone, Encode, Decode)]
pub struct Alias {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: Id,
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub mount_accessor: String,
    /// What the last login said.
    #[n(3)]
    pub metadata: Vec<(String, String)>,
    /// What operators say. None: nothing was given.
    #[n(4)]
    pub custom_metadata: Option<Vec<(String, String)>>,
    #[n(5)]
    pub created: u64,
    #[n(6)]
    pub updated: u64,
    /// Ids of entities that it belonged to before they were merged, one behind the other.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub merged_from: Vec<u8>,
}

#[derive(Debug, Clone, Encode, Decode)]
pub struct Group {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: Id,
    #[n(1)]
    pub name: String,
    /// Its members come from logins, not from operators.
    #[n(2)]
    pub external: bool,
    /// Sorted, lower case. None: none were given.
    #[n(3)]
    pub policies: Option<Vec<String>>,
    #[n(4)]
    pub metadata: Option<Vec<(String, String)>>,
    #[n(5)]
    pub created: u64,
    #[n(6)]
    pub updated: u64,
    #[n(7)]
    pub modify_index: u64,
    /// Of an external group.
    #[n(8)]
    pub alias: Option<Alias>,
    /// The last change was one of its members: an empty list is shown as such.
    #[n(9)]
    pub members_changed: bool,
}
holdfast_sdk::record!(Group);

impl Entity {
    pub fn new(tx: &mut Tx, name: Option<String>, now: Timestamp) -> Result<Entity> {
        let name = match name.filter(|n| !n.is_empty()) {
            Some(n) => n,
            None => made_name(tx, "entity")?,
        };
        Ok(Entity {
            id: random::uuid()?,
            name,
            policies: Vec::new(),
            metadata: None,
            disabled: false,
            created: now.0,
            updated: now.0,
            aliases: Vec::new(),
            merged: Vec::new(),
        })
    }
}

impl Alias {
    pub fn new(name: String, mount_accessor: String, now: Timestamp) -> Result<Alias> {
        Ok(Alias {
            id: random::uuid()?,
            name,
            mount_accessor,
            metadata: Vec::new(),
            custom_metadata: None,
            created: now.0,
            updated: now.0,
            merged_from: Vec::new(),
        })
    }

    pub fn is(&self, accessor: &str, name: &str) -> bool {
        self.mount_accessor == accessor && self.name.to_lowercase() == name.to_lowercase()
    }
}

impl Group {
    pub fn new(tx: &mut Tx, name: Option<String>, external: bool, now: Timestamp) -> Result<Group> {
        let name = match name.filter(|n| !n.is_empty()) {
            Some(n) => n,
            None => made_name(tx, "group")?,
        };
        Ok(Group {
            id: random::uuid()?,
            name,
            external,
            policies: None,
            metadata: None,
            created: now.0,
            updated: now.0,
            modify_index: 0,
            alias: None,
            members_changed: false,
        })
    }
}

fn made_name(tx: &mut Tx, kind: &str) -> Result<String> {
    Ok(format!("{kind}_{}.{}", hex::encode(random::bytes::<4>()?), namespaces::id(tx)?))
}

/// Ids that stand one behind the other.
pub fn ids(bytes: &[u8]) -> impl Iterator<Item = Id> + '_ {
    bytes.chunks_exact(16).filter_map(|c| c.try_into().ok())
}

/// Policies as an operator gave them: lower case, sorted, each once; `root` is for tokens alone.
pub fn policies(list: Vec<String>) -> Result<Vec<String>> {
    let mut list: Vec<String> = list.iter().map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect();
    list.sort();
    list.dedup();
    if list.iter().any(|n| n == "root") {
        return Err(Error::bad_request("policies cannot contain root"));
    }
    Ok(list)
}

/// Limits of an alias's own metadata, as the reference has them.
pub fn check_custom_metadata(pairs: &[(String, String)]) -> Result<()> {
    let refused = |why: String| Err(Error::bad_request(format!("custom_metadata validation failed: {why}")));
    if pairs.len() > 64 {
        return refused(format!("payload must contain at most 64 keys, provided {}", pairs.len()));
    }
    for (key, value) in pairs {
        if !(1..=128).contains(&key.len()) {
            return refused(format!("length of key {key:?} is {} but must be 0 < len(key) <= 128", key.len()));
        }
        if !(1..=512).contains(&value.len()) {
            let length = value.len();
            return refused(format!("length of value for key {key:?} is {length} but must be 0 < len(value) <= 512"));
        }
    }
    Ok(())
}

pub fn object(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect())
}

/// `null` where nothing was given.
pub fn metadata(pairs: Option<&Vec<(String, String)>>) -> Value {
    pairs.map_or(Value::Null, |p| object(p))
}

pub fn ids_or_null(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    ids(bytes).map(|id| random::uuid_text(&id)).collect::<Vec<_>>().into()
}

/// A map from names and values.
pub fn map<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}
