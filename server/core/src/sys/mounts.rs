//! `sys/mounts/*`, `sys/auth/*`: secret engines and auth methods.

use holdfast_sdk::parameters::{Seconds, StringMap};
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};

use super::System;
use crate::TtlLimits;
use crate::jobs;
use crate::router::{self, MountEntry};
use crate::tx::Tx;

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
        /// Accepted and ignored.
        external_entropy_access: Option<bool>,
        /// The name of a plugin; the same as type.
        plugin_name: Option<String>,
        /// Accepted where it is empty.
        plugin_version: Option<String>,
    }
}
parameters! {
    pub struct Tune {
        /// The TTL of leases that ask for none.
        default_lease_ttl: Option<Value>,
        /// The longest TTL.
        max_lease_ttl: Option<Value>,
        /// What people read in the list.
        description: Option<String>,
        /// Request keys that the audit log shows as they are.
        audit_non_hmac_request_keys: Option<Vec<String>>,
        /// Answer keys that the audit log shows as they are.
        audit_non_hmac_response_keys: Option<Vec<String>>,
        /// Whether the mount is shown without a token: unauth or hidden.
        listing_visibility: Option<String>,
        /// Request headers that the engine sees.
        passthrough_request_headers: Option<Vec<String>>,
        /// Headers that the engine may set.
        allowed_response_headers: Option<Vec<String>>,
        /// Options of the engine.
        options: Option<StringMap>,
        /// The kind of tokens that a method gives.
        token_type: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("mounts", "List the secret engines.", |p| p.read(list_secrets))
        .path("mounts/{path...}", "Enable, read, tune and disable a secret engine.", |p| {
            p.read(read_secret).update(write_secret).delete(disable_secret)
        })
        .path("auth", "List the auth methods.", |p| p.read(list_auth))
        .path("auth/{path...}", "Enable, read, tune and disable an auth method.", |p| {
            p.read(read_auth).update(write_auth).delete(disable_auth).root_protected()
        })
}

fn list(tx: &mut Tx, auth: bool) -> Result<Response> {
    let mut entries: Vec<MountEntry> = router::load(tx)?.into_iter().filter(|e| e.auth == auth).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Response::both(entries.iter().map(|e| (e.path.clone(), Value::Object(router::shown(e)))).collect()))
}

fn list_secrets(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    list(tx, false)
}

fn list_auth(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    list(tx, true)
}

fn find(tx: &mut Tx, path: &str, auth: bool) -> Result<MountEntry> {
    let path = router::mount_path(path)?;
    router::load(tx)?.into_iter().find(|e| e.auth == auth && e.path == path).ok_or_else(|| {
        let kind = if auth { "auth engine" } else { "secret engine mount" };
        Error::bad_request(format!("No {kind} at {path}"))
    })
}

fn read(sys: &System, tx: &mut Tx, call: &Call<'_>, auth: bool) -> Result<Response> {
    let path = call.capture("path");
    if path.is_empty() || path == "/" {
        return Err(Error::UnsupportedPath);
    }
    if let Some(of) = path.trim_end_matches('/').strip_suffix("/tune") {
        let e = find(tx, of, auth)?;
        return Ok(Response::both(tuning(sys.core()?.options.limits, &e)));
    }
    Ok(Response::both(router::shown(&find(tx, path, auth)?)))
}

/// What `…/tune` shows: effective TTLs and what was set.
fn tuning(system: TtlLimits, e: &MountEntry) -> Map<String, Value> {
    let mut m = Map::new();
    let or = |secs: u64, system: u64| if secs == 0 { system } else { secs };
    m.insert("default_lease_ttl".into(), or(e.default_ttl_secs, system.default_secs).into());
    m.insert("max_lease_ttl".into(), or(e.max_ttl_secs, system.max_secs).into());
    m.insert("description".into(), e.description.clone().into());
    m.insert("force_no_cache".into(), e.force_no_cache.into());
    if !e.options.is_empty() {
        m.insert("options".into(), router::options_value(e));
    }
    let mut list = |name: &str, values: &[String]| {
        if !values.is_empty() {
            m.insert(name.into(), values.to_vec().into());
        }
    };
    list("audit_non_hmac_request_keys", &e.plain_request_keys);
    list("audit_non_hmac_response_keys", &e.plain_response_keys);
    list("passthrough_request_headers", &e.passthrough_request_headers);
    list("allowed_response_headers", &e.allowed_response_headers);
    if !e.listing_visibility.is_empty() {
        m.insert("listing_visibility".into(), e.listing_visibility.clone().into());
    }
    if !e.token_type.is_empty() {
        m.insert("token_type".into(), e.token_type.clone().into());
    }
    m
}

fn read_secret(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    read(sys, tx, call, false)
}

fn read_auth(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    read(sys, tx, call, true)
}

fn write_secret(sys: &System, tx: &mut Tx, call: &Call<'_>, p: EnableOrTune) -> Result<Response> {
    write(sys, tx, call, p, false)
}

fn write_auth(sys: &System, tx: &mut Tx, call: &Call<'_>, p: EnableOrTune) -> Result<Response> {
    write(sys, tx, call, p, true)
}

/// Both sets of parameters: the path tells which of them counts.
pub struct EnableOrTune(Map<String, Value>);

impl holdfast_sdk::Parameters for EnableOrTune {
    const FIELDS: &'static [holdfast_sdk::Field] = &{
        let (a, b) = (<Enable as holdfast_sdk::Parameters>::FIELDS, <Tune as holdfast_sdk::Parameters>::FIELDS);
        let mut all = [a[0]; 19];
        let mut i = 0;
        while i < a.len() {
            all[i] = a[i];
            i += 1;
        }
        let mut j = 0;
        while j < b.len() {
            all[i + j] = b[j];
            j += 1;
        }
        all
    };
    fn parse(data: &Map<String, Value>) -> Result<Self> {
        Ok(EnableOrTune(data.clone()))
    }
}

fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: EnableOrTune, auth: bool) -> Result<Response> {
    use holdfast_sdk::Parameters;
    let path = call.capture("path");
    match path.strip_suffix("/tune") {
        Some(of) => tune(sys, tx, of, auth, &Tune::parse(&p.0)?),
        None => enable(sys, tx, path, auth, Enable::parse(&p.0)?),
    }
}

fn enable(sys: &System, tx: &mut Tx, path: &str, auth: bool, p: Enable) -> Result<Response> {
    let path = router::mount_path(path)?;
    let kind = p.r#type.or(p.plugin_name).unwrap_or_default();
    if kind.is_empty() {
        return Err(Error::bad_request("backend type must be specified as a string"));
    }
    let core = sys.core()?;
    let (kind, version) = match kind.as_str() {
        "kv" | "kv-v1" | "generic" => ("kv".to_owned(), Some("1")),
        "kv-v2" => ("kv".to_owned(), Some("2")),
        other => (other.to_owned(), None),
    };
    let factory = core
        .options
        .engines
        .factory(auth, &kind)
        .ok_or_else(|| Error::bad_request(format!("plugin not found in the catalog: {kind}")))?;
    if !auth && (path == "auth/" || path.starts_with("auth/") || path.starts_with("sys/")) {
        return Err(Error::bad_request(format!("cannot mount at {path:?}: the path belongs to the server")));
    }
    for other in router::load(tx)?.iter().filter(|e| e.auth == auth) {
        if other.path.starts_with(&path) || path.starts_with(&other.path) {
            return Err(Error::bad_request(format!("path is already in use at {}", other.full_path())));
        }
    }
    let mut entry = MountEntry::new(&path, auth, &kind)?;
    entry.description = p.description.unwrap_or_default();
    entry.options = p.options.unwrap_or_default().0;
    if let Some(v) = version
        && entry.option("version").is_none_or(str::is_empty)
        && !auth
    {
        entry.options.retain(|(k, _)| k != "version");
        entry.options.push(("version".into(), v.into()));
    }
    if p.local.unwrap_or(false) {
        entry.local = true;
    }
    entry.seal_wrap = p.seal_wrap.unwrap_or(false);
    if let Some(config) = p.config {
        use holdfast_sdk::Parameters;
        apply_tuning(core.options.limits, &mut entry, &Tune::parse(&config)?)?;
        entry.force_no_cache = config.get("force_no_cache").and_then(Value::as_bool).unwrap_or(false);
    }
    let backend = factory(&entry).map_err(Error::bad_request)?;
    router::save(tx, &entry)?;
    tx.within(crate::layout::Scope::mount(entry.uuid), |tx| backend.mounted(tx))?;
    Ok(Response::empty())
}

fn ttl(value: &Option<Value>, name: &str) -> Result<Option<u64>> {
    use holdfast_sdk::parameters::Lenient;
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s == "system" || s.is_empty() => Ok(Some(0)),
        Some(v) => match Seconds::lenient(v) {
            Ok(Seconds(s)) if s >= 0 => Ok(Some(s as u64)),
            _ => Err(Error::bad_request(format!("unable to parse {name}: {v} is no duration"))),
        },
    }
}

fn apply_tuning(system: TtlLimits, e: &mut MountEntry, t: &Tune) -> Result<()> {
    if let Some(secs) = ttl(&t.default_lease_ttl, "default_lease_ttl")? {
        e.default_ttl_secs = secs;
    }
    if let Some(secs) = ttl(&t.max_lease_ttl, "max_lease_ttl")? {
        e.max_ttl_secs = secs;
    }
    let max = if e.max_ttl_secs == 0 { system.max_secs } else { e.max_ttl_secs };
    if e.default_ttl_secs > max {
        return Err(Error::bad_request("default lease TTL is greater than the maximum lease TTL"));
    }
    if let Some(d) = &t.description {
        e.description.clone_from(d);
    }
    let list = |to: &mut Vec<String>, from: &Option<Vec<String>>| {
        if let Some(f) = from {
            to.clone_from(f);
        }
    };
    list(&mut e.plain_request_keys, &t.audit_non_hmac_request_keys);
    list(&mut e.plain_response_keys, &t.audit_non_hmac_response_keys);
    list(&mut e.passthrough_request_headers, &t.passthrough_request_headers);
    list(&mut e.allowed_response_headers, &t.allowed_response_headers);
    if let Some(v) = &t.listing_visibility {
        if !matches!(v.as_str(), "" | "unauth" | "hidden") {
            return Err(Error::bad_request(format!("invalid listing_visibility {v:?}")));
        }
        e.listing_visibility.clone_from(v);
    }
    if let Some(v) = &t.token_type
        && e.auth
    {
        e.token_type.clone_from(v);
    }
    Ok(())
}

fn tune(sys: &System, tx: &mut Tx, path: &str, auth: bool, t: &Tune) -> Result<Response> {
    let mut entry = find(tx, path, auth)?;
    apply_tuning(sys.core()?.options.limits, &mut entry, t)?;
    if let Some(options) = &t.options {
        for (k, v) in &options.0 {
            if k == "version" && entry.option("version").unwrap_or("1") != v {
                return Err(Error::bad_request("changing the version of a kv mount is not offered by this version"));
            }
            entry.options.retain(|(name, _)| name != k);
            entry.options.push((k.clone(), v.clone()));
        }
    }
    router::save(tx, &entry)?;
    Ok(Response::empty())
}

fn disable(tx: &mut Tx, call: &Call<'_>, auth: bool) -> Result<Response> {
    let path = router::mount_path(call.capture("path"))?;
    let entries = router::load(tx)?;
    let Some(entry) = entries.into_iter().find(|e| e.auth == auth && e.path == path) else {
        return Ok(Response::empty());
    };
    if matches!((entry.kind.as_str(), auth), ("system", false) | ("token", true) | ("cubbyhole" | "identity", false)) {
        return Err(Error::bad_request(format!("cannot unmount {:?}: the server needs it", entry.full_path())));
    }
    router::forget(tx, &entry)?;
    jobs::add(tx, jobs::Kind::CleanMount { mount: entry.uuid, path: entry.full_path() })?;
    Ok(Response::empty())
}

fn disable_secret(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    disable(tx, call, false)
}

fn disable_auth(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    disable(tx, call, true)
}
