//! What is stored of a secret.

use holdfast_sdk::{Error, Map, Place, Result, Timestamp, Tx, Value, duration, record};
use minicbor::{Decode, Encode};

use super::{CONFIG, DATA, METADATA, upgrade};

/// Versions kept where nobody says how many.
const DEFAULT_MAX_VERSIONS: u64 = 10;

#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct MountConfig {
    #[n(0)]
    pub max_versions: u32,
    #[n(1)]
    pub cas_required: bool,
    /// Nanoseconds; negative: off, whatever a secret says.
    #[n(2)]
    pub delete_version_after_ns: i64,
    #[n(3)]
    pub metadata_cas_required: bool,
}
holdfast_sdk::record!(MountConfig);

/// One version of a secret. Times are Unix nanoseconds.
#[derive(Debug, Clone, Encode, Decode)]
pub struct VersionState {
    #[n(0)]
    pub version: u64,
    #[n(1)]
    pub created: u64,
    /// When it is, was, or will be deleted.
    #[n(2)]
    pub deletion: Option<u64>,
    #[n(3)]
    pub destroyed: bool,
    /// Its data lie in the order of their creation. Those of the first format of [`Metadata`] do not.
    #[n(4)]
    #[cbor(default)]
    pub by_time: bool,
}

/// Where a version's data are in [`DATA`]: when it was created, of which secret, which version. So what is written
/// together lies together, which costs the state machine half of what data spread by secret do. Keys of the first
/// format lack the time.
pub struct DataKey {
    bytes: [u8; 32],
    start: usize,
}

#[derive(Debug, Clone, Encode, Decode)]
pub struct Metadata {
    /// Part of the data's keys: random, so that a removed secret's data can never be mistaken for its successor's.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    #[n(1)]
    pub current: u64,
    #[n(2)]
    pub oldest: u64,
    #[n(3)]
    pub created: u64,
    #[n(4)]
    pub updated: u64,
    #[n(5)]
    pub max_versions: u32,
    #[n(6)]
    pub cas_required: bool,
    #[n(7)]
    pub delete_version_after_ns: i64,
    #[n(8)]
    pub custom: Option<Vec<(String, String)>>,
    /// Ascending.
    #[n(9)]
    pub versions: Vec<VersionState>,
    #[n(10)]
    pub metadata_version: u64,
    #[n(11)]
    pub metadata_cas_required: bool,
    /// The value that engine version 1 stored, until it is stored as version 1 of the secret.
    #[cbor(skip)]
    pub inherited: Option<Vec<u8>>,
}
holdfast_sdk::record!(Metadata, 2);

impl DataKey {
    pub fn place(&self) -> Place<'_> {
        Place::Ordered(DATA, &self.bytes[self.start..])
    }
}

impl VersionState {
    pub fn is_deleted(&self, now: Timestamp) -> bool {
        self.deletion.is_some_and(|at| at <= now.0)
    }

    pub fn deletion_text(&self) -> String {
        self.deletion.map_or(String::new(), |at| Timestamp(at).rfc3339())
    }

    /// The `metadata` of an answer.
    pub fn shown(&self, metadata: &Metadata) -> Map<String, Value> {
        let mut m = Map::new();
        m.insert("created_time".into(), Timestamp(self.created).rfc3339().into());
        m.insert("custom_metadata".into(), metadata.custom_value());
        m.insert("deletion_time".into(), self.deletion_text().into());
        m.insert("destroyed".into(), self.destroyed.into());
        m.insert("version".into(), self.version.into());
        m
    }
}

impl Metadata {
    pub fn new(now: Timestamp) -> Result<Metadata> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(Error::internal)?;
        Ok(Metadata {
            id,
            current: 0,
            oldest: 0,
            created: now.0,
            updated: now.0,
            max_versions: 0,
            cas_required: false,
            delete_version_after_ns: 0,
            custom: None,
            versions: Vec::new(),
            metadata_version: 0,
            metadata_cas_required: false,
            inherited: None,
        })
    }

    pub fn load(tx: &mut Tx, path: &str) -> Result<Option<Metadata>> {
        match tx.get(Place::Name(METADATA, path))? {
            None => Ok(None),
            Some(value) if upgrade::is_version_1(&value) => upgrade::inherited(tx, value).map(Some),
            Some(stored) => record::read(&stored).map(Some),
        }
    }

    pub fn save(&self, tx: &mut Tx, path: &str) -> Result<()> {
        self.save_at(tx, Place::Name(METADATA, path))
    }

    /// Save under a name that is known by its stored form.
    pub fn save_at(&self, tx: &mut Tx, place: Place<'_>) -> Result<()> {
        if let Some(value) = &self.inherited
            && let Some(first) = self.version(1).filter(|v| !v.destroyed)
        {
            tx.put(self.data_key(first).place(), [&[1], value.as_slice()].concat())?;
        }
        record::put(tx, place, self)
    }

    pub fn data_key(&self, of: &VersionState) -> DataKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&of.created.to_be_bytes());
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..].copy_from_slice(&of.version.to_be_bytes());
        DataKey { bytes, start: if of.by_time { 0 } else { 8 } }
    }

    pub fn version(&self, n: u64) -> Option<&VersionState> {
        self.versions.iter().find(|v| v.version == n)
    }

    pub fn version_mut(&mut self, n: u64) -> Option<&mut VersionState> {
        self.versions.iter_mut().find(|v| v.version == n)
    }

    /// The version that a number means: 0 and below are the current one.
    pub fn wanted(&self, n: i64) -> Option<&VersionState> {
        match u64::try_from(n) {
            Ok(0) | Err(_) => self.version(self.current),
            Ok(n) => self.version(n),
        }
    }

    pub fn custom_value(&self) -> Value {
        match &self.custom {
            Some(pairs) if !pairs.is_empty() => {
                Value::Object(pairs.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect())
            }
            _ => Value::Null,
        }
    }

    /// When a version that begins to live now ends by itself.
    pub fn end_of_version(&self, config: &MountConfig, now: Timestamp) -> Option<u64> {
        let after = match (config.delete_version_after_ns, self.delete_version_after_ns) {
            (mount, _) if mount < 0 => 0,
            (0, own) => own,
            (mount, 0) => mount,
            (mount, own) => mount.min(own),
        };
        (after > 0).then(|| now.0.saturating_add(after as u64))
    }

    /// Add a version and drop those that are too many.
    pub fn add_version(&mut self, tx: &mut Tx, config: &MountConfig, data: &[u8], now: Timestamp) -> Result<u64> {
        let version = self.current + 1;
        let deletion = self.end_of_version(config, now);
        let state = VersionState { version, created: now.0, deletion, destroyed: false, by_time: true };
        tx.put(self.data_key(&state).place(), [&[1], data].concat())?;
        self.versions.push(state);
        self.current = version;
        self.updated = now.0;
        let keep = match self.max_versions.max(config.max_versions) {
            0 => DEFAULT_MAX_VERSIONS,
            n => n.into(),
        };
        if self.current - self.oldest >= keep {
            self.oldest = self.current - keep + 1;
            while self.versions.first().is_some_and(|v| v.version < self.oldest) {
                let old = self.versions.remove(0);
                tx.delete(self.data_key(&old).place())?;
            }
        }
        Ok(version)
    }

    /// The stored JSON of a version.
    pub fn data(&self, tx: &mut Tx, version: u64) -> Result<Option<Value>> {
        if let (1, Some(value)) = (version, &self.inherited) {
            return holdfast_sdk::json::read_value(value).map(Some);
        }
        let Some(state) = self.version(version) else { return Ok(None) };
        let Some(stored) = tx.get(self.data_key(state).place())? else { return Ok(None) };
        match stored.split_first() {
            Some((1, json)) => holdfast_sdk::json::read_value(json).map(Some),
            _ => Err(Error::Internal("a version's data has a format that this program does not know".into())),
        }
    }

    /// What `metadata` shows.
    pub fn shown(&self) -> Map<String, Value> {
        let mut m = Map::new();
        let mut set = |k: &str, v: Value| {
            m.insert(k.into(), v);
        };
        set("cas_required", self.cas_required.into());
        set("created_time", Timestamp(self.created).rfc3339().into());
        set("current_metadata_version", self.metadata_version.into());
        set("current_version", self.current.into());
        set("custom_metadata", self.custom_value());
        set("delete_version_after", duration::go_text(self.delete_version_after_ns.into()).into());
        set("max_versions", self.max_versions.into());
        set("metadata_cas_required", self.metadata_cas_required.into());
        set("oldest_version", self.oldest.into());
        set("updated_time", Timestamp(self.updated).rfc3339().into());
        let mut versions = Map::new();
        for v in &self.versions {
            let mut one = Map::new();
            one.insert("created_time".into(), Timestamp(v.created).rfc3339().into());
            one.insert("deletion_time".into(), v.deletion_text().into());
            one.insert("destroyed".into(), v.destroyed.into());
            versions.insert(v.version.to_string(), Value::Object(one));
        }
        set("versions", Value::Object(versions));
        m
    }
}

impl MountConfig {
    pub fn load(tx: &mut Tx) -> Result<MountConfig> {
        Ok(record::get(tx, Place::Ordered(CONFIG, &[]))?.unwrap_or_default())
    }

    pub fn save(&self, tx: &mut Tx) -> Result<()> {
        record::put(tx, Place::Ordered(CONFIG, &[]), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores that were written before have their data where only the secret and the version say.
    #[test]
    fn data_of_the_first_format_are_looked_for_where_they_are() {
        #[derive(Encode)]
        #[cbor(array)]
        struct First(#[n(0)] u64, #[n(1)] u64, #[n(2)] Option<u64>, #[n(3)] bool);
        let stored = minicbor::to_vec(First(3, 77, None, false)).unwrap();
        let first: VersionState = minicbor::decode(&stored).unwrap();
        let metadata = Metadata { id: [9; 16], ..Metadata::new(Timestamp(5)).unwrap() };
        let place = |v: &VersionState| match metadata.data_key(v).place() {
            Place::Ordered(DATA, bytes) => bytes.to_vec(),
            _ => panic!("another place"),
        };
        let of_secret = [&[9; 16][..], &3u64.to_be_bytes()].concat();
        assert_eq!(place(&first), of_secret);
        let now = VersionState { by_time: true, ..first };
        assert_eq!(place(&now), [&77u64.to_be_bytes()[..], &of_secret].concat());
        assert!(minicbor::decode::<VersionState>(&minicbor::to_vec(&now).unwrap()).unwrap().by_time);
    }
}
