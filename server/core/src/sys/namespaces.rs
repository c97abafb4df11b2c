//! `sys/namespaces/*`: the namespaces right below the caller's.

use std::sync::Arc;

use holdfast_hsm::memory::Secret;
use holdfast_pgp::PublicKey;
use holdfast_sdk::parameters::Names;
use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters};

use sha2::{Digest, Sha256};

use super::System;
use crate::namespaces::{self, Namespace, seal};
use crate::tx::Tx;
use crate::{Core, Open, jobs, random, router};

/// Names that belong to the server.
const RESERVED: &[&str] = &["root", "sys", "auth", "audit", "cubbyhole", "identity"];

/// Letters and digits of an unlock key.
const UNLOCK_KEY_CHARS: usize = 24;

parameters! {
    pub struct Written {
        /// What operators want to know of it; the values are strings.
        custom_metadata: Option<Value>,
        /// A seal of its own, in HCL or JSON: `seal "shamir" { shares = 5 threshold = 3 }`.
        seal: Option<String>,
        /// OpenPGP public keys in base64 that the shares of that seal are encrypted to, in order.
        pgp_keys: Option<Names>,
    }
}
parameters! {
    pub struct Unlock {
        /// The key that locking gave; not needed with sudo.
        unlock_key: Option<String>,
    }
}
parameters! {
    pub struct Unseal {
        /// A share, in hex or base64.
        key: Option<String>,
        /// Forget the shares that were given.
        reset: Option<bool>,
    }
}
parameters! {
    pub struct Forced {
        /// With all that are in it.
        force: Option<bool>,
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
        .path("namespaces/{path}/seal-status", "How sealed a namespace is.", |p| p.read(seal_status))
        .path("namespaces/{path}/seal", "Seal a namespace that has a seal of its own.", |p| p.update(seal_one))
        .path("namespaces/{path}/unseal", "Give a share of a namespace's own seal.", |p| {
            p.update(unsealed).prepared(Operation::Update, unseal)
        })
        .path("namespaces/{path}/delete-sealed", "Delete a sealed namespace, unread.", |p| {
            p.delete(delete_sealed).root_protected()
        })
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

fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Written) -> Result<Response> {
    let name = name(call)?;
    check_name(name)?;
    let given = pairs(p.custom_metadata.as_ref())?;
    let metadata = given.iter().map(|(k, v)| Ok((k.clone(), text_of(v)?))).collect::<Result<Vec<_>>>()?;
    let path = path(call)?;
    if let Some(mut namespace) = namespaces::at(tx, &path)? {
        if p.seal.is_some() {
            return Err(Error::bad_request("cannot modify existing namespace seal config"));
        }
        namespace.custom_metadata = sorted(metadata);
        namespaces::save(tx, &namespace)?;
        return Ok(Response::data(namespace.shown()));
    }
    let in_its_way = |m: &router::MountEntry| !m.auth && m.path.starts_with(&format!("{name}/"));
    if let Some(mount) = router::load(tx)?.into_iter().find(in_its_way) {
        return Err(Error::bad_request(format!("new namespace conflicts with existing mount: {}", mount.path)));
    }
    let counts = p.seal.as_deref().map(seal::counts_of).transpose()?;
    if counts.is_some() {
        sys.core()?.allows_own_seals()?;
    }
    let recipients = match counts {
        Some((shares, _)) => recipients(p.pgp_keys.unwrap_or_default().0, shares)?,
        None => Vec::new(),
    };
    let (made, shares) = namespaces::create(tx, path, sorted(metadata), counts, call.now)?;
    let mut m = made.shown();
    if let Some((_, threshold)) = counts {
        m.insert("key_shares".into(), handed_out(&shares, &recipients)?.into());
        m.insert("key_threshold".into(), threshold.into());
    }
    Ok(Response::data(m))
}

/// The OpenPGP keys that shares are encrypted to, in their order; none: they are handed out as they are.
fn recipients(keys: Vec<String>, shares: u8) -> Result<Vec<PublicKey>> {
    if !keys.is_empty() && usize::from(shares) != keys.len() {
        return Err(Error::bad_request(
            "invalid seal config: count mismatch between number of provided PGP keys and number of shares",
        ));
    }
    let read = |key: &String| {
        PublicKey::parse(key)
            .map_err(|e| Error::bad_request(format!("invalid seal config: error decoding given PGP key: {e}")))
    };
    keys.iter().map(read).collect()
}

/// Shares as they are given to the caller, this once.
fn handed_out(shares: &[Secret<Vec<u8>>], recipients: &[PublicKey]) -> Result<Vec<String>> {
    let shown = |(n, share): (usize, &Secret<Vec<u8>>)| {
        let text = Secret::new(hex::encode(share.expose()));
        match recipients.get(n) {
            None => Ok(text.expose().clone()),
            Some(key) => key.encrypt(text.expose().as_bytes()).map(hex::encode).map_err(Error::internal),
        }
    };
    shares.iter().enumerate().map(shown).collect()
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
    let path = path(call)?;
    match namespaces::at(tx, &path)? {
        Some(namespace) => namespaces::begin_to_end(tx, namespace)?,
        // Nobody is told that it is gone while something that it made outside is left.
        None if is_ending(tx, &path)? => {}
        None => return Ok(Response::empty().warn("requested namespace does not exist")),
    }
    let mut m = Map::new();
    m.insert("status".into(), "in-progress".into());
    Ok(Response::data(m))
}

/// Whether one of this path was deleted, and something of it is left.
fn is_ending(tx: &mut Tx, path: &str) -> Result<bool> {
    let of_path = |kind: &jobs::Kind| match kind {
        jobs::Kind::EndNamespace { path: of } | jobs::Kind::WipeNamespace { path: of } => of == path,
        _ => false,
    };
    Ok(jobs::list(tx)?.iter().any(|(_, job)| of_path(&job.kind)))
}

fn list(_: &System, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
    shown(call, namespaces::children(tx, &call.request.namespace)?)
}

fn scan(_: &System, tx: &mut Tx, call: &Call<'_>, _: Page) -> Result<Response> {
    shown(call, namespaces::below(tx, &call.request.namespace)?)
}

/// The namespace of a route, or the one of that path which is on its way out.
fn there(tx: &mut Tx, call: &Call<'_>) -> Result<Option<Namespace>> {
    check_name(name(call)?)?;
    let path = path(call)?;
    if let Some(found) = namespaces::at(tx, &path)? {
        return Ok(Some(found));
    }
    for (_, job) in jobs::list(tx)? {
        if matches!(&job.kind, jobs::Kind::EndNamespace { path: of } if *of == path) {
            return namespaces::load(tx, &job.namespace());
        }
    }
    Ok(None)
}

fn is_there(tx: &mut Tx, call: &Call<'_>) -> Result<Namespace> {
    let found = there(tx, call)?;
    found.ok_or_else(|| Error::bad_request(format!("namespace \"{}/\" doesn't exist", name(call).unwrap_or_default())))
}

/// What sealing and unsealing need of the server.
fn opened(sys: &System) -> Result<(Arc<Core>, Arc<Open>)> {
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    Ok((core, open))
}

fn seal_status(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let namespace = is_there(tx, call)?;
    Ok(Response::data(seal::status(&opened(sys)?.1, &namespace)?))
}

fn seal_one(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let namespace = there(tx, call)?.ok_or_else(|| Error::bad_request("namespace doesn't exist"))?;
    seal::seal(tx, &namespace)?;
    Ok(Response::empty())
}

fn unseal(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Unseal) -> Result<Option<Preparation>> {
    let namespace = is_there(tx, call)?;
    let own = seal::sealable(&namespace)?.number;
    let (core, open) = opened(sys)?;
    let key = Secret::new(p.key.unwrap_or_default());
    Ok(Some(Box::pin(async move {
        match p.reset.unwrap_or(false) {
            true => open.unseals.forget(own),
            false if key.expose().is_empty() => return Err(Error::bad_request("provided key is empty")),
            false => seal::unseal(&core, &open, &namespace, key.expose()).await?,
        }
        Ok(Arc::new(seal::status(&open, &namespace)?) as Prepared)
    })))
}

fn unsealed(_: &System, _: &mut Tx, call: &Call<'_>, _: Unseal) -> Result<Response> {
    let status = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    status.cloned().map(Response::data).ok_or_else(|| Error::Internal("nothing was unsealed".into()))
}

fn delete_sealed(_: &System, tx: &mut Tx, call: &Call<'_>, p: Forced) -> Result<Response> {
    let Some(namespace) = there(tx, call)? else {
        return Ok(Response::empty().warn("requested namespace does not exist"));
    };
    let left = seal::begin_to_wipe(tx, &namespace, p.force.unwrap_or(false))?;
    let mut m = Map::new();
    m.insert("status".into(), "in-progress".into());
    if left.is_empty() {
        return Ok(Response::data(m));
    }
    let sum: u64 = left.values().filter_map(Value::as_u64).sum();
    m.insert("leases_left_outside".into(), Value::Object(left));
    Ok(Response::data(m).warn(format!(
        "What {sum} leases stand for outside was not ended and stays there: leases_left_outside has their numbers by \
         the UUIDs of their mounts."
    )))
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
