//! `sys/plugins/*`: engines and auth methods are part of the program; the catalog lists them, and none can
//! be added.

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};
use serde_json::json;

use super::System;
use crate::router::{self, BUILTIN_VERSION, EngineTable};
use crate::tx::Tx;
use crate::{Core, random};

parameters! {
    pub struct Which {
        /// The version that is asked for.
        version: Option<String>,
    }
}
parameters! {
    pub struct Register {
        /// SHA-256 of the program, in hex.
        sha256: Option<String>,
        /// SHA-256 of the program, in hex (old name).
        sha_256: Option<String>,
        /// The program.
        command: Option<String>,
        /// Its arguments.
        args: Option<Vec<String>>,
        /// Its environment.
        env: Option<Vec<String>>,
        /// Its version.
        version: Option<String>,
        /// It is an image.
        oci: Option<bool>,
    }
}
parameters! {
    pub struct Reload {
        /// The engine whose mounts are made anew.
        plugin: Option<String>,
        /// The mounts that are made anew.
        mounts: Option<Vec<String>>,
        /// Nothing, or global.
        scope: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("plugins/catalog", "List the engines and auth methods.", |p| p.read(catalog).may_end_in_slash())
        .path("plugins/catalog/{type}", "List those of a type: auth, database or secret.", |p| {
            p.read(without_type).list(of_type).root_protected()
        })
        .path("plugins/catalog/{type}/{name}", "An engine or auth method.", |p| {
            p.read(read).update(register).delete(deregister).root_protected()
        })
        .path("plugins/reload/backend", "Make mounts anew.", |p| p.update(reload))
}

/// The names of a type; `None` if there is no such type.
fn names(table: &EngineTable, kind: &str) -> Option<Vec<&'static str>> {
    let mut names: Vec<&str> = match kind {
        "auth" => table.auth.iter().map(|(n, _)| *n).collect(),
        "secret" => table.secrets.iter().map(|(n, _)| *n).filter(|n| *n != "generic").collect(),
        "database" => table.databases.to_vec(),
        _ => return None,
    };
    names.sort_unstable();
    Some(names)
}

fn catalog(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let core = sys.core()?;
    let mut m = Map::new();
    let mut detailed = Vec::new();
    for kind in ["auth", "database", "secret"] {
        let of_kind = names(&core.options.engines, kind).unwrap_or_default();
        detailed.extend(of_kind.iter().map(|name| {
            json!({
                "builtin": true,
                "deprecation_status": "supported",
                "name": name,
                "type": kind,
                "version": BUILTIN_VERSION,
            })
        }));
        m.insert(kind.into(), of_kind.into());
    }
    m.insert("detailed".into(), detailed.into());
    Ok(Response::both(m))
}

fn of_type(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let kind = call.capture("type").trim_end_matches('/');
    let found = names(&sys.core()?.options.engines, kind).ok_or(Error::UnsupportedOperation)?;
    let mut m = Map::new();
    m.insert("keys".into(), found.into());
    Ok(Response::both(m))
}

/// An old form of the path, whose answers have nothing. A type is only listed.
fn without_type(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = call.capture("type");
    match names(&sys.core()?.options.engines, name) {
        Some(_) => Err(Error::UnsupportedOperation),
        None => Ok(nothing_about(name)),
    }
}

fn nothing_about(what: &str) -> Response {
    let text = format!("Deprecated API endpoint, cannot read plugin information from catalog for {what:?}");
    Response { status: Some(200), ..Response::empty() }.warn(text)
}

fn read(sys: &System, _: &mut Tx, call: &Call<'_>, p: Which) -> Result<Response> {
    let (kind, name) = (call.capture("type"), call.capture("name"));
    let Some(known) = names(&sys.core()?.options.engines, kind) else {
        return Ok(nothing_about(&format!("{kind}/{name}")));
    };
    let version = p.version.unwrap_or_default();
    check_version(&version)?;
    if !known.contains(&name) || !(version.is_empty() || version == BUILTIN_VERSION) {
        return Err(Error::NotFound);
    }
    let mut m = Map::new();
    m.insert("args".into(), Value::Null);
    m.insert("builtin".into(), true.into());
    m.insert("command".into(), "".into());
    m.insert("declarative".into(), false.into());
    m.insert("deprecation_status".into(), "supported".into());
    m.insert("name".into(), name.into());
    m.insert("oci".into(), false.into());
    m.insert("sha256".into(), "".into());
    m.insert("version".into(), BUILTIN_VERSION.into());
    Ok(Response::both(m))
}

/// A version has three numbers, and a `v` before them or not.
fn check_version(version: &str) -> Result<()> {
    let core = version.strip_prefix('v').unwrap_or(version).split(['-', '+']).next().unwrap_or("");
    let numbers = core.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if version.is_empty() || (numbers && core.split('.').count() <= 3) {
        return Ok(());
    }
    Err(Error::bad_request(format!("version {version:?} is not a valid semantic version")))
}

fn register(_: &System, _: &mut Tx, _: &Call<'_>, p: Register) -> Result<Response> {
    let sum = p.sha256.or(p.sha_256).filter(|s| !s.is_empty());
    let sum = sum.ok_or_else(|| Error::bad_request("missing SHA-256 value"))?;
    check_version(&p.version.unwrap_or_default())?;
    if p.command.is_none_or(|c| c.is_empty()) {
        return Err(Error::bad_request("missing command value"));
    }
    if hex::decode(sum).is_err() {
        return Err(Error::bad_request("Could not decode SHA-256 value from Hex"));
    }
    Err(Error::bad_request("engines and auth methods are part of the program: no plugin can be added"))
}

/// There is none that could be removed.
fn deregister(_: &System, _: &mut Tx, _: &Call<'_>, _: Which) -> Result<Response> {
    Ok(Response::empty())
}

/// What is built in is always what it would be made to: only the request is checked.
fn reload(sys: &System, tx: &mut Tx, _: &Call<'_>, p: Reload) -> Result<Response> {
    let (plugin, mounts) = (p.plugin.unwrap_or_default(), p.mounts.unwrap_or_default());
    match (plugin.is_empty(), mounts.is_empty()) {
        (true, true) => return Err(Error::bad_request("plugin or mounts must be provided")),
        (false, false) => return Err(Error::bad_request("plugin and mounts cannot be set at the same time")),
        _ => {}
    }
    if !matches!(p.scope.as_deref(), None | Some("" | "global")) {
        return Err(Error::bad_request("scope must be unset or \"global\""));
    }
    if !plugin.is_empty() && !is_known(&*sys.core()?, &plugin) {
        return Err(Error::bad_request(format!("plugin not found in the catalog: {plugin:?}")));
    }
    let entries = router::load(tx)?;
    for mount in mounts {
        let path = router::mount_path(&mount)?;
        if !entries.iter().any(|e| e.full_path() == path) {
            return Err(Error::bad_request(format!("cannot fetch mount entry on {path:?}")));
        }
    }
    let mut m = Map::new();
    m.insert("reload_id".into(), random::uuid_text(&random::uuid()?).into());
    Ok(Response::both(m))
}

fn is_known(core: &Core, name: &str) -> bool {
    ["auth", "database", "secret"].iter().filter_map(|k| names(&core.options.engines, k)).any(|n| n.contains(&name))
}
