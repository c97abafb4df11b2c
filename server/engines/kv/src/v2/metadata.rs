//! `metadata` and `detailed-metadata`: what is known of a secret beside its values.

use holdfast_sdk::parameters::Nanos;
use holdfast_sdk::{Body, Call, Error, Map, Place, Response, Result, Timestamp, Tx, Value, parameters};

use crate::all_below;

use super::data::{path_or_answer, secret_path};
use super::record::{Metadata, MountConfig};
use super::{KvV2, METADATA};

const CUSTOM_KEYS: usize = 64;
const CUSTOM_KEY_BYTES: usize = 128;
const CUSTOM_VALUE_BYTES: usize = 512;
/// What a write may set; one that names none of them changes nothing.
const SETTINGS: &[&str] =
    &["max_versions", "cas_required", "delete_version_after", "custom_metadata", "metadata_cas_required"];

parameters! {
    pub struct Settings {
        /// Versions that are kept; 0 means the mount's number.
        max_versions: Option<i64>,
        /// Every write must name the version that it replaces.
        cas_required: Option<bool>,
        /// How long a version lives.
        delete_version_after: Option<Nanos>,
        /// Texts of the user's own.
        custom_metadata: Option<Value>,
        /// Every write of metadata must name its version.
        metadata_cas_required: Option<bool>,
        /// The metadata version that must be the current one.
        metadata_cas: Option<i64>,
    }
}
parameters! {
    pub struct Page {
        /// Start behind this name.
        after: Option<String>,
        /// Names at most.
        limit: Option<i64>,
    }
}

pub fn exists(_: &KvV2, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(Metadata::load(tx, call.capture("path"))?.is_some()))
}

pub fn read(_: &KvV2, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let path = path_or_answer!(call);
    Ok(Response::data(Metadata::load(tx, path)?.ok_or(Error::NotFound)?.shown()))
}

fn invalid(text: String) -> Error {
    Error::bad_request(format!("custom_metadata validation failed: {text}"))
}

/// The pairs of `custom_metadata`, checked.
fn custom(value: &Value) -> Result<Option<Vec<(String, String)>>> {
    let map = match value {
        Value::Null => return Ok(None),
        Value::Object(m) => m,
        _ => {
            return Err(Error::bad_request(
                "error converting input for field \"custom_metadata\": expected an object of texts",
            ));
        }
    };
    if map.len() > CUSTOM_KEYS {
        return Err(invalid(format!("payload must contain at most {CUSTOM_KEYS} keys, provided {}", map.len())));
    }
    let mut pairs = Vec::with_capacity(map.len());
    for (key, value) in map {
        let text = match value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => if *b { "1" } else { "0" }.into(),
            Value::Null => String::new(),
            _ => return Err(invalid("expected texts".into())),
        };
        if key.is_empty() || key.len() > CUSTOM_KEY_BYTES {
            return Err(invalid(format!(
                "length of key {key:?} is {} but must be 0 < len(key) <= {CUSTOM_KEY_BYTES}",
                key.len()
            )));
        }
        if text.is_empty() || text.len() > CUSTOM_VALUE_BYTES {
            return Err(invalid(format!(
                "length of value for key {key:?} is {} but must be 0 < len(value) <= {CUSTOM_VALUE_BYTES}",
                text.len()
            )));
        }
        if key.chars().chain(text.chars()).any(char::is_control) {
            return Err(invalid(format!("key {key:?} or its value contains unprintable characters")));
        }
        pairs.push((key.clone(), text));
    }
    Ok(Some(pairs))
}

fn check_metadata_cas(p: &Settings, config: &MountConfig, metadata: &Metadata) -> Result<()> {
    match p.metadata_cas {
        None if config.metadata_cas_required || metadata.metadata_cas_required => {
            Err(Error::bad_request("metadata check-and-set parameter required for this call"))
        }
        Some(n) if u64::try_from(n).ok() != Some(metadata.metadata_version) => {
            Err(Error::bad_request("metadata check-and-set parameter did not match the current version"))
        }
        _ => Ok(()),
    }
}

fn warnings(p: &Settings, config: &MountConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.cas_required && p.cas_required == Some(false) {
        warnings.push(
            "\"cas_required\" set to false, but is mandated by backend config. This value will be ignored.".into(),
        );
    }
    if config.metadata_cas_required && p.metadata_cas_required == Some(false) {
        warnings.push(
            "\"metadata_cas_required\" set to false, but is mandated by backend config. This value will be ignored."
                .into(),
        );
    }
    warnings
}

fn live_ns(p: &Settings) -> Result<Option<i64>> {
    match p.delete_version_after {
        None => Ok(None),
        Some(Nanos(n)) if n < 0 => Err(Error::bad_request(
            "error converting input for field \"delete_version_after\": cannot provide a negative value",
        )),
        Some(Nanos(n)) => Ok(Some(i64::try_from(n).unwrap_or(i64::MAX))),
    }
}

fn loaded_or_new(tx: &mut Tx, path: &str, now: Timestamp) -> Result<Metadata> {
    match Metadata::load(tx, path)? {
        Some(m) => Ok(m),
        None => Metadata::new(now),
    }
}

pub fn write(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Settings) -> Result<Response> {
    let path = path_or_answer!(call);
    let given = |name: &str| call.request.data.contains_key(name);
    if !SETTINGS.iter().any(|s| given(s)) {
        return Ok(Response::empty());
    }
    let config = MountConfig::load(tx)?;
    let live = live_ns(&p)?;
    let mut metadata = loaded_or_new(tx, path, call.now)?;
    check_metadata_cas(&p, &config, &metadata)?;
    if given("max_versions") {
        metadata.max_versions = p.max_versions.unwrap_or(0) as u32;
    }
    if given("cas_required") {
        metadata.cas_required = p.cas_required.unwrap_or(false);
    }
    if given("metadata_cas_required") {
        metadata.metadata_cas_required = p.metadata_cas_required.unwrap_or(false);
    }
    if let Some(n) = live {
        metadata.delete_version_after_ns = n;
    }
    if let Some(value) = &p.custom_metadata {
        metadata.custom = custom(value)?.filter(|c| !c.is_empty());
    }
    finish(tx, path, metadata, warnings(&p, &config), call.now)
}

fn finish(tx: &mut Tx, path: &str, mut metadata: Metadata, warnings: Vec<String>, now: Timestamp) -> Result<Response> {
    metadata.metadata_version += 1;
    metadata.updated = now.0;
    metadata.save(tx, path)?;
    Ok(Response { warnings, ..Response::empty() })
}

pub fn patch(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Settings) -> Result<Response> {
    let path = path_or_answer!(call);
    let given = |name: &str| call.request.data.contains_key(name);
    if !SETTINGS.iter().any(|s| given(s)) {
        return Ok(Response::empty());
    }
    let config = MountConfig::load(tx)?;
    let live = live_ns(&p)?;
    let changes = call.request.data.get("custom_metadata");
    let checked = match changes {
        None => None,
        // What is null is taken away.
        Some(Value::Object(changes)) => {
            let kept = changes.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
            custom(&Value::Object(kept))?
        }
        Some(other) => custom(other)?,
    };
    let Some(mut metadata) = Metadata::load(tx, path)? else { return Ok(super::data::nothing_to_patch()) };
    check_metadata_cas(&p, &config, &metadata)?;
    if given("max_versions") {
        metadata.max_versions = p.max_versions.unwrap_or(0) as u32;
    }
    if given("cas_required") {
        metadata.cas_required = p.cas_required.unwrap_or(false);
    }
    if given("metadata_cas_required") {
        metadata.metadata_cas_required = p.metadata_cas_required.unwrap_or(false);
    }
    if let Some(n) = live {
        metadata.delete_version_after_ns = n;
    }
    match changes {
        Some(Value::Object(changes)) => {
            let mut pairs = metadata.custom.take().unwrap_or_default();
            pairs.retain(|(k, _)| !changes.contains_key(k));
            pairs.extend(checked.unwrap_or_default());
            metadata.custom = Some(pairs).filter(|c| !c.is_empty());
        }
        Some(_) => metadata.custom = None,
        None => {}
    }
    finish(tx, path, metadata, warnings(&p, &config), call.now)
}

pub fn delete(_: &KvV2, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let path = path_or_answer!(call);
    if let Some(metadata) = Metadata::load(tx, path)? {
        for v in &metadata.versions {
            tx.delete(metadata.data_key(v).place())?;
        }
        tx.delete(Place::Name(METADATA, path))?;
    }
    Ok(Response::empty())
}

/// A folder's path for listing.
fn folder(call: &Call<'_>) -> String {
    match secret_path(call) {
        Ok(path) if !path.is_empty() => format!("{path}/"),
        _ => String::new(),
    }
}

fn page(p: &Page) -> (&str, usize) {
    (p.after.as_deref().unwrap_or(""), p.limit.filter(|l| *l > 0).unwrap_or(0) as usize)
}

pub fn list(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Page) -> Result<Response> {
    let (after, limit) = page(&p);
    Response::list(tx.names(METADATA, &folder(call), after, limit)?)
}

pub fn scan(_: &KvV2, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
    let keys = all_below(tx, METADATA, &folder(call))?;
    let mut m = Map::new();
    if !keys.is_empty() {
        m.insert("keys".into(), keys.into());
    }
    Ok(Response { body: Body::Data(m), ..Response::default() })
}

fn detailed(tx: &mut Tx, base: &str, keys: Vec<String>) -> Result<Map<String, Value>> {
    let mut info = Map::new();
    for key in &keys {
        let shown = match Metadata::load(tx, &format!("{base}{key}"))? {
            Some(m) => m.shown(),
            None => Map::new(),
        };
        info.insert(key.clone(), Value::Object(shown));
    }
    let mut m = Map::new();
    if !keys.is_empty() {
        m.insert("keys".into(), keys.into());
        m.insert("key_info".into(), Value::Object(info));
    }
    Ok(m)
}

pub fn list_detailed(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Page) -> Result<Response> {
    let (after, limit) = page(&p);
    let base = folder(call);
    let keys = tx.names(METADATA, &base, after, limit)?;
    if keys.is_empty() {
        return Err(Error::NotFound);
    }
    Ok(Response::data(detailed(tx, &base, keys)?))
}

pub fn scan_detailed(_: &KvV2, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
    let base = folder(call);
    let keys = all_below(tx, METADATA, &base)?;
    Ok(Response { body: Body::Data(detailed(tx, &base, keys)?), ..Response::default() })
}
