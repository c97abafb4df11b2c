//! `sys/mounts/*`, `sys/auth/*`: enabling, showing and disabling secret engines and auth methods.

use holdfast_sdk::parameters::StringMap;
use holdfast_sdk::{
    Call, Error, Map, Operation, Parameters, Preparation, Prepared, Response, Result, Routes, Value, parameters,
};

use super::System;
use super::leases::WHILE_ONE_WAITS;
use super::tune::{self, Tuning};
use crate::router::{self, MountEntry};
use crate::tx::Tx;
use crate::{jobs, leases, moves, namespaces, quotas};

parameters! {
    pub struct Enable {
        /// The type of the engine: kv, transit, …
        r#type: Option<String>,
        /// What people read in the list.
        description: Option<String>,
        /// TTLs and tuning of the mount.
        config: Option<Map<String, Value>>,
        /// Options of the engine; kv takes version.
        options: Option<StringMap>,
        /// Not replicated to other sites.
        local: Option<bool>,
        /// Accepted; every entry is sealed alike.
        seal_wrap: Option<bool>,
        /// Accepted and shown; randomness is the server's own.
        external_entropy_access: Option<bool>,
        /// The name of a plugin; the same as type.
        plugin_name: Option<String>,
        /// Accepted; every engine is part of the program.
        plugin_version: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("mounts", "List the secret engines.", |p| p.read(list_secrets))
        .path("mounts/{path+}/tune", "Read and change how a secret engine is tuned.", |p| {
            p.read(tune::read_secret).update(tune::secret)
        })
        .path("mounts/{path+}", "Enable, read and disable a secret engine.", |p| {
            p.read(read_secret).update(enable_secret).delete(disable_secret).prepared(Operation::Delete, end_leases)
        })
        .path("auth", "List the auth methods.", |p| p.read(list_auth))
        .path("auth/{path+}/tune", "Read and change how an auth method is tuned.", |p| {
            p.read(tune::read_auth).update(tune::auth).root_protected()
        })
        .path("auth/{path+}", "Enable, read and disable an auth method.", |p| {
            p.read(read_auth).update(enable_auth).delete(disable_auth).root_protected()
        })
}

fn list(tx: &mut Tx, auth: bool) -> Result<Response> {
    let namespace = tx.namespace();
    let mut entries: Vec<MountEntry> = router::load(tx)?.into_iter().filter(|e| e.auth == auth).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Response::both(entries.iter().map(|e| (e.path.clone(), Value::Object(router::shown(e, namespace)))).collect()))
}

fn list_secrets(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    list(tx, false)
}

fn list_auth(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    list(tx, true)
}

fn read(tx: &mut Tx, call: &Call<'_>, auth: bool) -> Result<Response> {
    let path = router::mount_path(call.capture("path"))?;
    match router::load(tx)?.iter().find(|e| e.auth == auth && e.path == path) {
        Some(entry) => Ok(Response::both(router::shown(entry, tx.namespace()))),
        None => {
            let kind = if auth { "auth engine" } else { "secret engine mount" };
            Err(Error::bad_request(format!("No {kind} at {path}")))
        }
    }
}

fn read_secret(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    read(tx, call, false)
}

fn read_auth(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    read(tx, call, true)
}

fn enable_secret(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Enable) -> Result<Response> {
    enable(sys, tx, call, p, false)
}

fn enable_auth(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Enable) -> Result<Response> {
    enable(sys, tx, call, p, true)
}

/// Whether a path of secret engines belongs to the server.
pub fn is_protected(path: &str) -> bool {
    ["auth/", "sys/", "cubbyhole/", "identity/", "audit/"].iter().any(|p| path.starts_with(p))
}

/// The mount that is in the way of a new one at `path`: there, above or below it.
pub fn in_the_way<'e>(entries: &'e [MountEntry], path: &str, auth: bool) -> Option<&'e MountEntry> {
    entries.iter().find(|e| e.auth == auth && (e.path.starts_with(path) || path.starts_with(&e.path)))
}

/// A mount and a namespace never share a path.
pub fn leave_namespaces_alone(tx: &mut Tx, namespace: &str, path: &str) -> Result<()> {
    let first = path.split('/').next().unwrap_or("");
    match namespaces::at(tx, &format!("{namespace}{first}/"))? {
        Some(namespace) => Err(Error::bad_request(format!("existing mount at {}", namespace.path))),
        None => Ok(()),
    }
}

fn enable(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Enable, auth: bool) -> Result<Response> {
    let path = router::mount_path(call.capture("path"))?;
    let kind = match p.r#type.unwrap_or_default() {
        t if t == "plugin" => p.plugin_name.unwrap_or_default(),
        t => t,
    };
    let (kind, version) = match kind.as_str() {
        "" => return Err(Error::bad_request("backend type must be specified as a string")),
        "token" if auth => return Err(Error::bad_request("token credential backend cannot be instantiated")),
        "cubbyhole" | "identity" | "system" | "token" if !auth => {
            return Err(Error::bad_request(format!("mount type of {kind:?} is not mountable")));
        }
        "kv-v1" => ("kv".to_owned(), Some("1")),
        "kv-v2" => ("kv".to_owned(), Some("2")),
        _ => (kind, None),
    };
    let core = sys.core()?;
    let not_there = || Error::bad_request(format!("plugin not found in the catalog: {kind}"));
    let factory = core.options.engines.factory(auth, &kind).ok_or_else(not_there)?;
    if !auth && is_protected(&path) {
        return Err(Error::bad_request(format!("cannot mount {path:?}: the path belongs to the server")));
    }
    if let Some(other) = in_the_way(&router::load(tx)?, &path, auth) {
        return Err(Error::bad_request(format!("path is already in use at {}", other.path)));
    }
    if !auth {
        leave_namespaces_alone(tx, &call.request.namespace, &path)?;
    }
    let mut entry = MountEntry::new(&path, auth, &kind)?;
    entry.description = p.description.unwrap_or_default();
    entry.without_options = matches!(call.request.data.get("options"), Some(Value::Null)).then_some(true);
    entry.options = p.options.unwrap_or_default().0;
    if let Some(version) = version
        && !auth
    {
        entry.options.retain(|(k, _)| k != "version");
        entry.options.push(("version".into(), version.into()));
    }
    entry.local = p.local.unwrap_or(false);
    entry.seal_wrap = p.seal_wrap.unwrap_or(false);
    entry.external_entropy_access = p.external_entropy_access;
    if let Some(config) = p.config {
        Tuning::parse(&config)?.of_new_mount(&core, &mut entry)?;
    }
    let backend = factory(&core.with_effective_limits(&entry)).map_err(Error::bad_request)?;
    router::save(tx, &entry)?;
    tx.within(tx.mount(entry.uuid), |tx| backend.mounted(tx))?;
    Ok(Response::empty())
}

/// What the mount made outside goes first, where that can be waited for: if it does not go, the mount stays, whole
/// and to be mended. Of more leases than that a job takes care.
fn end_leases(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let path = router::mount_path(call.capture("path"))?;
    let Some(entry) = router::load(tx)?.into_iter().find(|e| !e.auth && e.path == path) else { return Ok(None) };
    let found = leases::of_mount(tx, &entry.uuid, WHILE_ONE_WAITS + 1)?;
    if found.is_empty() || found.len() > WHILE_ONE_WAITS {
        return Ok(None);
    }
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let space = tx.namespace();
    Ok(Some(Box::pin(async move {
        match leases::revoke_all(&core, &open, space, found).await.first() {
            None => Ok(std::sync::Arc::new(()) as Prepared),
            Some((id, e)) => Err(Error::bad_request(format!(
                "{path:?} stays: its lease {id:?} cannot be revoked (sys/leases/revoke-force forgets it): {e}"
            ))),
        }
    })))
}

fn disable(tx: &mut Tx, call: &Call<'_>, auth: bool) -> Result<Response> {
    let path = router::mount_path(call.capture("path"))?;
    let Some(entry) = router::load(tx)?.into_iter().find(|e| e.auth == auth && e.path == path) else {
        return Ok(Response::empty());
    };
    if entry.is_built_in() {
        return Err(Error::bad_request(format!("cannot unmount {:?}: the server needs it", entry.full_path())));
    }
    moves::refuse_while_under_way(&entry)?;
    router::forget(tx, &entry)?;
    quotas::forget_of_mount(tx, &call.request.namespace, &entry.full_path())?;
    jobs::add(tx, jobs::Kind::clean_mount(&entry))?;
    if entry.auth {
        // Its tokens are no good from here on; what is stored of them goes by and by.
        jobs::add(tx, jobs::Kind::tidy_tokens())?;
    }
    Ok(Response::empty())
}

fn disable_secret(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    disable(tx, call, false)
}

fn disable_auth(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    disable(tx, call, true)
}
