//! `sys/locked-users`.

use std::collections::BTreeMap;

use holdfast_sdk::{Call, Map, Response, Result, Routes, Value, parameters};
use serde_json::json;

use super::System;
use crate::tx::Tx;
use crate::{namespaces, router};

parameters! {
    pub struct Asked {
        /// Only of the mount with this accessor.
        mount_accessor: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("locked-users", "The users that failed to log in too often.", |p| p.read(read)).path(
        "locked-users/{mount_accessor}/unlock/{alias_identifier+}",
        "Let a user try again.",
        |p| p.update(unlock),
    )
}

/// Whether a mount is one of this namespace.
fn is_here(tx: &mut Tx, accessor: &str) -> Result<bool> {
    Ok(router::load(tx)?.iter().any(|m| m.accessor == accessor))
}

fn read(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    let mut by_mount: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let here: Vec<String> = router::load(tx)?.into_iter().map(|m| m.accessor).collect();
    for (accessor, name) in sys.core()?.lockouts.locked(call.now) {
        if !here.contains(&accessor) {
            continue;
        }
        by_mount.entry(accessor).or_default().push(name);
    }
    if let Some(only) = p.mount_accessor.filter(|a| !a.is_empty()) {
        let names = by_mount.remove(&only).unwrap_or_default();
        by_mount = BTreeMap::from([(only, names)]);
    }
    let total: usize = by_mount.values().map(Vec::len).sum();
    let mounts: Vec<Value> = by_mount
        .into_iter()
        .map(|(accessor, names)| {
            let counts = names.len();
            let names = if names.is_empty() { Value::Null } else { names.into() };
            json!({"mount_accessor": accessor, "counts": counts, "alias_identifiers": names})
        })
        .collect();
    let mut m = Map::new();
    m.insert("total".into(), total.into());
    m.insert(
        "by_namespace".into(),
        json!([{
            "namespace_id": namespaces::id(tx)?,
            "namespace_path": call.request.namespace,
            "counts": total,
            "mount_accessors": mounts,
        }]),
    );
    Ok(Response::data(m))
}

fn unlock(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if !is_here(tx, call.capture("mount_accessor"))? {
        return Ok(Response::empty());
    }
    sys.core()?.lockouts.forget(call.capture("mount_accessor"), call.capture("alias_identifier"));
    Ok(Response::empty())
}
