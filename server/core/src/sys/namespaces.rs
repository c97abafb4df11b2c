//! `sys/namespaces/*`: the namespaces right below the caller's.

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};

use sha2::{Digest, Sha256};

use super::System;
use crate::namespaces::{self, Namespace};
use crate::tx::Tx;
use crate::{random, router};

/// Names that belong to the server.
const RESERVED: &[&str] = &["root", "sys", "auth", "audit", "cubbyhole", "identity"];

/// Letters and digits of an unlock key.
const UNLOCK_KEY_CHARS: usize = 24;

parameters! {
    pub struct Written {
        /// What operators want to know of it; the values are strings.
        custom_metadata: Option<Value>,
        /// A seal of its own.
        seal: Option<Value>,
        /// OpenPGP keys for the shares of that seal.
        pgp_keys: Option<Value>,
    }
}
parameters! {
    pub struct Unlock {
        /// The key that locking gave; not needed with sudo.
        unlock_key: Option<String>,
    }
}
parameters! {
    pub struct Page {
        /// Accepted and not looked at.
        after: Option<String>,
        /// Accepted and not looked at.
        limit: Option<i64>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("namespaces", "List the namespaces of this one.", |p| p.list(list).scan(scan))
        .path("namespaces/api-lock/lock", "Lock the API of this namespace.", |p| p.update(lock))
        .path("namespaces/api-lock/lock/{path+}", "Lock the API of a namespace.", |p| p.update(lock))
        .path("namespaces/api-lock/unlock", "Unlock the API of this namespace.", |p| p.update(unlock))
        .path("namespaces/api-lock/unlock/{path+}", "Unlock the API of a namespace.", |p| p.update(unlock))
        .path("namespaces/{path+}", "Make, read, change and delete a namespace.", |p| {
            p.read(read).update(write).patch(patch).delete(delete)
        })
}

/// The name that a route is about.
fn name<'c>(call: &'c Call<'_>) -> Result<&'c str> {
    let name = call.capture("path").trim_matches('/');
    match name.contains('/') {
        true => Err(Error::bad_request("namespace name cannot contain /")),
        false => Ok(name),
    }
}

/// From the root, with a slash at its end.
fn path(call: &Call<'_>) -> Result<String> {
    Ok(format!("{}{}/", call.request.namespace, name(call)?))
}

fn check_name(name: &str) -> Result<()> {
    if RESERVED.contains(&name) {
        return Err(Error::bad_request(format!(
            "\"{name}/\" is a reserved path and cannot be used as a namespace name"
        )));
    }
    if name.chars().any(char::is_whitespace) {
        return Err(Error::bad_request(format!(
            "{name:?} contains space characters that cannot be used in a namespace name"
        )));
    }
    match name.chars().find(|c| matches!(c, '+' | '*')) {
        Some(c) => Err(Error::bad_request(format!(
            "{name:?} contains wildcard characters that cannot be used in a namespace name: '{c}'"
        ))),
        None => Ok(()),
    }
}

/// The metadata of a request: a map and nothing that is read as one.
fn pairs(given: Option<&Value>) -> Result<Map<String, Value>> {
    match given {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(_) => Err(Error::bad_request("Field validation failed: field \"custom_metadata\": expected a map")),
    }
}

fn text_of(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(Error::bad_request("custom_metadata values must be strings")),
    }
}

fn write(_: &System, tx: &mut Tx, call: &Call<'_>, p: Written) -> Result<Response> {
    let name = name(call)?;
    check_name(name)?;
    // It must not look as if it were sealed by itself when it is not.
    if p.seal.is_some_and(|s| !s.is_null()) || p.pgp_keys.is_some_and(|k| !k.is_null()) {
        return Err(Error::bad_request("namespaces with a seal of their own are not offered by this version"));
    }
    let given = pairs(p.custom_metadata.as_ref())?;
    let metadata = given.iter().map(|(k, v)| Ok((k.clone(), text_of(v)?))).collect::<Result<Vec<_>>>()?;
    let path = path(call)?;
    if let Some(mut namespace) = namespaces::at(tx, &path)? {
        namespace.custom_metadata = sorted(metadata);
        namespaces::save(tx, &namespace)?;
        return Ok(Response::data(namespace.shown()));
    }
    let in_its_way = |m: &router::MountEntry| !m.auth && m.path.starts_with(&format!("{name}/"));
    if let Some(mount) = router::load(tx)?.into_iter().find(in_its_way) {
        return Err(Error::bad_request(format!("new namespace conflicts with existing mount: {}", mount.path)));
    }
    let made = namespaces::create(tx, path, sorted(metadata), call.now)?;
    Ok(Response::data(made.shown()))
}

fn sorted(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    pairs.sort();
    pairs
}

fn patch(_: &System, tx: &mut Tx, call: &Call<'_>, p: Written) -> Result<Response> {
    let mut namespace = namespaces::at(tx, &path(call)?)?.ok_or_else(|| Error::bad_request("namespace not found"))?;
    let clears = matches!(call.request.data.get("custom_metadata"), Some(Value::Null));
    if clears {
        namespace.custom_metadata.clear();
    }
    for (key, value) in pairs(p.custom_metadata.as_ref())? {
        namespace.custom_metadata.retain(|(k, _)| *k != key);
        if !value.is_null() {
            namespace.custom_metadata.push((key, text_of(&value)?));
        }
    }
    namespace.custom_metadata = sorted(namespace.custom_metadata);
    namespaces::save(tx, &namespace)?;
    Ok(Response::data(namespace.shown()))
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let namespace = namespaces::at(tx, &path(call)?)?.ok_or(Error::NotFound)?;
    Ok(Response::data(namespace.shown()))
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let Some(namespace) = namespaces::at(tx, &path(call)?)? else {
        return Ok(Response::empty().warn("requested namespace does not exist"));
    };
    namespaces::begin_to_end(tx, namespace)?;
    let mut m = Map::new();
    m.insert("status".into(), "in-progress".into());
    Ok(Response::data(m))
}

fn list(_: &System, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
    shown(call, namespaces::children(tx, &call.request.namespace)?)
}

fn scan(_: &System, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
    shown(call, namespaces::below(tx, &call.request.namespace)?)
}

/// The namespace that is to be locked or unlocked: this one, or one below it.
fn lockable(tx: &mut Tx, call: &Call<'_>) -> Result<Namespace> {
    let below = call.capture("path").trim_matches('/');
    let path = match below {
        "" => call.request.namespace.clone(),
        below => format!("{}{below}/", call.request.namespace),
    };
    if path.is_empty() {
        return Err(Error::bad_request("root namespace cannot be locked/unlocked"));
    }
    namespaces::at(tx, &path)?.ok_or_else(|| Error::bad_request("requested namespace does not exist"))
}

fn lock(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let mut namespace = lockable(tx, call)?;
    if namespace.lock.is_some() {
        return Err(Error::bad_request(format!("cannot lock namespace {:?}: is already locked", namespace.path)));
    }
    let key = random::alphanumeric(UNLOCK_KEY_CHARS)?;
    namespace.lock = Some(Sha256::digest(&key).to_vec());
    namespaces::save(tx, &namespace)?;
    let mut m = Map::new();
    m.insert("unlock_key".into(), key.into());
    Ok(Response::data(m))
}

fn unlock(_: &System, tx: &mut Tx, call: &Call<'_>, p: Unlock) -> Result<Response> {
    let mut namespace = lockable(tx, call)?;
    let Some(hash) = namespace.lock.take() else {
        return Err(Error::bad_request(format!("namespace {:?} is not locked", namespace.path)));
    };
    let key = p.unlock_key.unwrap_or_default();
    // A hash of a random key tells nothing by how long comparing takes.
    if (!key.is_empty() || !call.caller.sudo) && Sha256::digest(&key).as_slice() != hash {
        return Err(Error::bad_request("incorrect unlock key"));
    }
    namespaces::save(tx, &namespace)?;
    Ok(match key.is_empty() {
        true => Response::empty().warn("Namespace unlocked using sudo capabilities"),
        false => Response::empty(),
    })
}

/// Names from the caller's namespace on, and what is known of each.
fn shown(call: &Call<'_>, found: Vec<Namespace>) -> Result<Response> {
    if found.is_empty() {
        return Err(Error::NotFound);
    }
    let (mut keys, mut info) = (Vec::with_capacity(found.len()), Map::new());
    for namespace in found {
        let name = namespace.path.strip_prefix(&call.request.namespace).unwrap_or(&namespace.path).to_owned();
        keys.push(Value::from(name.clone()));
        info.insert(name, Value::Object(namespace.shown()));
    }
    let mut m = Map::new();
    m.insert("keys".into(), keys.into());
    m.insert("key_info".into(), Value::Object(info));
    Ok(Response::data(m))
}
