//! `sys/internal/inspect/*`: the router's tables, for who looks for a fault. Off unless the
//! configuration has `introspection_endpoint`.

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value};
use serde_json::json;

use super::System;
use crate::layout::{ROOT_TOKENS, STORE};
use crate::random::uuid_text;
use crate::router::Mount;
use crate::tx::Tx;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("internal/inspect/router/{tag}", "A table of the router.", |p| p.read(router).root_protected())
}

fn router(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
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
    let router = core.router(&open)?;
    let mut mounts: Vec<&Mount> = router.mounts().map(|m| &**m).collect();
    mounts.sort_by(|a, b| match tag {
        "uuid" => a.entry.uuid.cmp(&b.entry.uuid),
        "accessor" => a.entry.accessor.cmp(&b.entry.accessor),
        _ => a.full_path.cmp(&b.full_path),
    });
    let mut m = Map::new();
    m.insert(tag.into(), mounts.into_iter().map(|mount| shown(mount, with_storage)).collect());
    Ok(Response::data(m))
}

fn shown(mount: &Mount, with_storage: bool) -> Value {
    let mut entry = json!({
        "accessor": mount.entry.accessor,
        "mount_namespace": "",
        "mount_path": mount.entry.path,
        "mount_type": mount.entry.kind,
        "uuid": uuid_text(&mount.entry.uuid),
    });
    if with_storage {
        entry["storage_prefix"] = storage_prefix(mount).into();
        // A mount that is being removed is in no table.
        entry["tainted"] = false.into();
    }
    entry
}

/// Where `sys/raw` shows what a mount stores.
fn storage_prefix(mount: &Mount) -> String {
    match mount.scope {
        STORE => "sys/".into(),
        ROOT_TOKENS => "sys/token/".into(),
        _ => format!("logical/{}/", uuid_text(&mount.entry.uuid)),
    }
}
