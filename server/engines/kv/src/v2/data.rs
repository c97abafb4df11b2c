//! `data` and `subkeys`: the latest version, and any other to read.

use holdfast_sdk::parameters::Lenient;
use holdfast_sdk::{Body, Call, Error, Map, Place, Response, Result, Tx, Value, parameters};

use super::record::{Metadata, MountConfig, VersionState};
use super::{KvV2, METADATA, root_of_mount};

parameters! {
    pub struct Which {
        /// The version to read; the latest where none is named.
        version: Option<i64>,
    }
}
parameters! {
    pub struct Depth {
        /// The version to read; the latest where none is named.
        version: Option<i64>,
        /// Levels that are shown; 0 is all.
        depth: Option<i64>,
    }
}
parameters! {
    pub struct Data {
        /// The secret's keys and values.
        data: Option<Value>,
        /// cas: the version that must be the current one.
        options: Option<Value>,
        /// Kept for clients; not looked at.
        version: Option<Value>,
    }
}

/// A path of the request: none, a folder's, or a secret's.
pub(super) fn secret_path<'a>(call: &'a Call<'_>) -> Result<&'a str, Response> {
    match call.capture("path") {
        "" if call.path.ends_with('/') => Ok(""),
        "" => Err(root_of_mount()),
        path => Ok(path.strip_suffix('/').unwrap_or(path)),
    }
}

macro_rules! path_or_answer {
    ($call:expr) => {
        match $crate::v2::data::secret_path($call) {
            Ok("") => return Err(holdfast_sdk::Error::NotFound),
            Ok(path) => path,
            Err(answer) => return Ok(answer),
        }
    };
}
pub(super) use path_or_answer;

pub fn exists(_: &KvV2, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(tx.get(Place::Name(METADATA, call.capture("path")))?.is_some()))
}

/// A version without its data: 404 with its metadata.
fn gone(metadata: &Metadata, version: &VersionState) -> Response {
    let mut m = Map::new();
    m.insert("data".into(), Value::Null);
    m.insert("metadata".into(), Value::Object(version.shown(metadata)));
    Response::gone(Body::Data(m), Vec::new())
}

pub fn read(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Which) -> Result<Response> {
    let path = path_or_answer!(call);
    let metadata = Metadata::load(tx, path)?.ok_or(Error::NotFound)?;
    let version = metadata.wanted(p.version.unwrap_or(0)).ok_or(Error::NotFound)?;
    if version.destroyed || version.is_deleted(call.now) {
        return Ok(gone(&metadata, version));
    }
    let data = metadata.data(tx, version.version)?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    m.insert("data".into(), data);
    m.insert("metadata".into(), Value::Object(version.shown(&metadata)));
    Ok(Response::data(m))
}

fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An object; a list without anything is one, as PHP and Lua write it.
fn is_object(v: &Value) -> bool {
    v.is_object() || v.as_array().is_some_and(Vec::is_empty)
}

fn not_an_object(field: &str, v: &Value) -> Error {
    Error::bad_request(format!("error converting input for field {field:?}: expected an object, got {}", kind(v)))
}

/// The check-and-set number of `options`.
fn cas_of(options: Option<&Value>) -> Result<Option<i64>> {
    let unreadable = || Error::bad_request("error parsing check-and-set parameter");
    let options = match options {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(m)) => m,
        Some(other) if is_object(other) => return Ok(None),
        Some(other) => return Err(not_an_object("options", other)),
    };
    match options.get("cas") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(0)),
        Some(Value::Number(n)) => n.as_i64().map(Some).ok_or_else(unreadable),
        Some(v @ (Value::String(_) | Value::Bool(_))) => i64::lenient(v).map(Some).map_err(|_| unreadable()),
        Some(_) => Err(unreadable()),
    }
}

fn check_cas(cas: Option<i64>, current: u64, required: bool) -> Result<()> {
    match cas {
        None if required => Err(Error::bad_request("check-and-set parameter required for this call")),
        None => Ok(()),
        Some(n) if u64::try_from(n).ok() == Some(current) => Ok(()),
        Some(_) => Err(Error::bad_request("check-and-set parameter did not match the current version")),
    }
}

/// `data: null` is a secret without data; no `data` at all is a mistake.
fn given_data(call: &Call<'_>) -> Result<Value> {
    match call.request.data.get("data") {
        None => Err(Error::bad_request("no data provided")),
        Some(v @ (Value::Null | Value::Object(_))) => Ok(v.clone()),
        Some(v) if is_object(v) => Ok(Value::Object(Map::new())),
        Some(other) => Err(not_an_object("data", other)),
    }
}

pub fn write(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Data) -> Result<Response> {
    let path = path_or_answer!(call);
    let data = given_data(call)?;
    let config = MountConfig::load(tx)?;
    let cas = cas_of(p.options.as_ref())?;
    let mut metadata = match Metadata::load(tx, path)? {
        Some(m) => m,
        None => Metadata::new(call.now)?,
    };
    check_cas(cas, metadata.current, config.cas_required || metadata.cas_required)?;
    store(tx, path, &config, &mut metadata, &data, call)
}

fn store(
    tx: &mut Tx,
    path: &str,
    config: &MountConfig,
    metadata: &mut Metadata,
    data: &Value,
    call: &Call<'_>,
) -> Result<Response> {
    let bytes = serde_json::to_vec(data).map_err(Error::internal)?;
    let version = metadata.add_version(tx, config, &bytes, call.now)?;
    metadata.save(tx, path)?;
    let state = metadata.version(version).ok_or_else(|| Error::Internal("the new version is missing".into()))?;
    Ok(Response::data(state.shown(metadata)))
}

/// 404 without a body, as the reference answers a patch of what is not there.
pub(super) fn nothing_to_patch() -> Response {
    Response {
        status: Some(404),
        ..Response {
            body: Body::Raw { content_type: "application/json".into(), bytes: Vec::new() },
            ..Response::default()
        }
    }
}

/// RFC 7396.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

pub fn patch(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Data) -> Result<Response> {
    let path = path_or_answer!(call);
    let patch = given_data(call)?;
    let config = MountConfig::load(tx)?;
    let cas = cas_of(p.options.as_ref())?;
    let Some(mut metadata) = Metadata::load(tx, path)? else { return Ok(nothing_to_patch()) };
    let Some(current) = metadata.version(metadata.current) else { return Ok(nothing_to_patch()) };
    check_cas(cas, metadata.current, config.cas_required || metadata.cas_required)?;
    if current.destroyed || current.is_deleted(call.now) {
        return Ok(Response::gone(Body::Data(current.shown(&metadata)), Vec::new()));
    }
    let mut data = metadata.data(tx, current.version)?.ok_or(Error::NotFound)?;
    merge(&mut data, &patch);
    store(tx, path, &config, &mut metadata, &data, call)
}

pub fn delete_latest(_: &KvV2, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let path = path_or_answer!(call);
    let Some(mut metadata) = Metadata::load(tx, path)? else { return Ok(Response::empty()) };
    let (now, cluster_now) = (call.now, call.cluster_now);
    let current = metadata.current;
    let Some(version) = metadata.version_mut(current) else { return Ok(Response::empty()) };
    if version.destroyed || version.is_deleted(now) {
        return Ok(Response::empty());
    }
    // By a clock that is wrong for a while it would be deleted only then.
    version.deletion = Some(cluster_now.0);
    metadata.updated = now.0;
    metadata.save(tx, path)?;
    Ok(Response::empty())
}

/// The same structure with null for every value; below `depth` levels nothing is shown.
fn structure(value: &Value, depth: i64) -> Value {
    match value {
        Value::Object(m) if !m.is_empty() && depth != 0 => {
            Value::Object(m.iter().map(|(k, v)| (k.clone(), structure(v, depth - 1))).collect())
        }
        _ => Value::Null,
    }
}

pub fn subkeys(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Depth) -> Result<Response> {
    let path = path_or_answer!(call);
    let metadata = Metadata::load(tx, path)?.ok_or(Error::NotFound)?;
    let version = metadata.wanted(p.version.unwrap_or(0)).ok_or(Error::NotFound)?;
    let mut m = Map::new();
    if version.destroyed || version.is_deleted(call.now) {
        m.insert("metadata".into(), Value::Object(version.shown(&metadata)));
        m.insert("subkeys".into(), Value::Null);
        return Ok(Response::gone(Body::Data(m), Vec::new()));
    }
    let depth = match p.depth.unwrap_or(0) {
        0 => -1,
        d if d < 0 => 1,
        d => d,
    };
    let data = metadata.data(tx, version.version)?.ok_or(Error::NotFound)?;
    m.insert("metadata".into(), Value::Object(version.shown(&metadata)));
    let subkeys = match &data {
        Value::Object(o) if o.is_empty() => Value::Object(Map::new()),
        other => structure(other, depth),
    };
    m.insert("subkeys".into(), subkeys);
    Ok(Response::data(m))
}
