//! `sys/internal/inspect/*`: the router's tables, for who looks for a fault. Off unless the
//! configuration has `introspection_endpoint`.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value};
use serde_json::json;

use super::System;
use crate::layout::{NamespaceId, ROOT, SYSTEM, TOKENS};
use crate::namespaces;
use crate::random::uuid_text;
use crate::router::Mount;
use crate::tx::Tx;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("internal/inspect/router/{tag}", "A table of the router.", |p| p.read(router).root_protected())
}

fn router(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let core = sys.core()?;
    if !core.options.endpoints.introspection {
        return Err(Error::bad_request("introspection is off: introspection_endpoint = true turns it on"));
    }
    let tag = call.capture("tag");
    let with_storage = match tag {
        "root" | "storage" => true,
        "uuid" | "accessor" => false,
        _ => return Err(Error::UnsupportedPath),
    };
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let mut namespaces = vec![(ROOT, String::new())];
    namespaces.extend(namespaces::below(tx, "")?.into_iter().map(|n| (n.uuid, format!("{}/", n.path))));
    let mut entries = Vec::new();
    namespaces.retain(|(uuid, _)| !tx.is_sealed(uuid));
    for (uuid, path) in namespaces {
        let mut mounts: Vec<Arc<Mount>> = core.router_in(&open, uuid)?.mounts().cloned().collect();
        mounts.sort_by(|a, b| match tag {
            "uuid" => a.entry.uuid.cmp(&b.entry.uuid),
            "accessor" => a.entry.accessor.cmp(&b.entry.accessor),
            _ => a.full_path.cmp(&b.full_path),
        });
        entries.extend(mounts.iter().map(|mount| shown(mount, uuid, &path, with_storage)));
    }
    Ok(Response::data(Map::from_iter([(tag.to_owned(), Value::Array(entries))])))
}

fn shown(mount: &Mount, namespace: NamespaceId, path: &str, with_storage: bool) -> Value {
    let mut entry = json!({
        "accessor": mount.entry.accessor,
        "mount_namespace": path,
        "mount_path": mount.entry.path,
        "mount_type": mount.entry.shown_kind(namespace),
        "uuid": uuid_text(&mount.entry.uuid),
    });
    if with_storage {
        entry["storage_prefix"] = storage_prefix(mount, namespace).into();
        // A mount that is being removed is in no table.
        entry["tainted"] = false.into();
    }
    entry
}

/// Where `sys/raw` shows what a mount of the root namespace stores; it does not go into others.
fn storage_prefix(mount: &Mount, namespace: NamespaceId) -> String {
    let within = if namespace == ROOT { String::new() } else { format!("namespaces/{}/", uuid_text(&namespace)) };
    match mount.scope {
        s if s == SYSTEM.of(namespace) => format!("{within}sys/"),
        s if s == TOKENS.of(namespace) => format!("{within}sys/token/"),
        _ => format!("{within}logical/{}/", uuid_text(&mount.entry.uuid)),
    }
}
